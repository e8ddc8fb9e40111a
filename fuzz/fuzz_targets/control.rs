//! libFuzzer's entry to `control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| braid_fuzz::control::run(data));
