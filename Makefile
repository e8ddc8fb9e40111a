# What is done to this tree, by name. Lab and tests need root: they make network namespaces.

# Arguments for the experiment, e.g. `make lab LAB_ARGS="--quick --profile eq"`.
LAB_ARGS ?=

# How long each target is fuzzed, e.g. `make fuzz FUZZ_SECONDS=600 FUZZ_TARGETS=records`.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= config control flow_machines heartbeat opening preamble records

TARGET := $(or $(CARGO_TARGET_DIR),target)
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH):/usr/sbin:/sbin

.PHONY: help lab link test check fuzz

help: ## list these targets
	@grep -E '^[a-z]+: ## ' $(MAKEFILE_LIST) | sed 's/^/make /; s/: ## /	/'

lab: ## run the experiment; the last lines say where its report is
	scripts/setup --lab
	cargo build --release --locked --workspace
	$(TARGET)/release/braid-lab run $(LAB_ARGS)

link: ## measure what the link emulator itself can carry on this machine
	scripts/setup --lab
	cargo build --release --locked --package braid-lab
	$(TARGET)/release/braid-lab link

test: ## run every test
	scripts/setup
	cargo test --locked --workspace --doc
	cargo nextest run --locked --workspace --no-fail-fast

check: ## check form, lints, licences and sources of dependencies
	scripts/check

fuzz: ## fuzz every target for FUZZ_SECONDS, one after the other; what fails is in fuzz/artifacts
	scripts/setup --fuzz
	for target in $(FUZZ_TARGETS); do \
	    mkdir -p fuzz/finds/$$target; \
	    cargo +nightly fuzz run $$target fuzz/finds/$$target fuzz/corpus/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -timeout=10 -print_final_stats=1 \
	        $$(ls fuzz/$$target.dict 2>/dev/null | sed 's/^/-dict=/') || exit; \
	done
