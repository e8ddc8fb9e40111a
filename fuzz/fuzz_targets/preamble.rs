//! libFuzzer's entry to `preamble`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| braid_fuzz::preamble::run(data));
