//! libFuzzer's entry to `opening`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| braid_fuzz::opening::run(data));
