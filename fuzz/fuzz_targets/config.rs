//! libFuzzer's entry to `config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| braid_fuzz::config::run(data));
