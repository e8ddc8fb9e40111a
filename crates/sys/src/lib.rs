//! The Linux edge: one file per kernel facility, and the only unsafe code of the workspace.

pub mod netns;
pub mod process;
pub mod sched;
pub mod tap;
