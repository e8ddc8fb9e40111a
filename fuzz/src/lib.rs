//! What each fuzz target does with its bytes: a function by the target's name.
//!
//! Included twice: by `fuzz_targets/`, where libFuzzer makes the bytes, and by the core's tests,
//! where they are the files of `corpus/`. Each asks that nothing panics and states in asserts what
//! has to hold besides, from PROTOCOL.md and not from the code.

/// Reading a box's configuration.
pub mod config;
/// Reading control messages, in whatever pieces they come.
pub mod control;
/// One end of a carrier, with a far end that sends what it likes.
pub mod flow_machines;
/// Opening heartbeats, and judging ways by what comes back.
pub mod heartbeat;
mod input;
/// Reading the payloads of `open` and `failed`.
pub mod opening;
/// Reading preambles, and which carrier numbers are taken.
pub mod preamble;
/// Opening records, in whatever pieces they come and whatever was done to them.
pub mod records;
