//! The Linux edge: one file per kernel facility, and the only unsafe code of the workspace.

// Unsafe is what this crate is for; that every block says why it is sound is checked by clippy.
#![allow(unsafe_code)]

mod ifreq;
pub mod netns;
pub mod process;
pub mod sched;
pub mod tap;
