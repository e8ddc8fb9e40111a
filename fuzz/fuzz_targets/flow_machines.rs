//! libFuzzer's entry to `flow_machines`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| braid_fuzz::flow_machines::run(data));
