//! The experiment: hosts in network namespaces, a link emulator, measurements, the report.
//!
//! `link` emulates a link between two namespaces, `profile` names links by their shapes,
//! `generator`, `iperf` and `capture` measure, `report` shows what was measured.

pub mod capture;
pub mod generator;
pub mod iperf;
pub mod link;
pub mod profile;
pub mod report;
