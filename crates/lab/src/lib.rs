//! The experiment: hosts in network namespaces, a link emulator, measurements, the report.
//!
//! `link` emulates a link between two namespaces and `profile` names sets of links; `topology`
//! builds host, boxes and sink around them, and `boxes` runs braid in it. `generator`, `iperf` and
//! `capture` measure; `experiment` says what is measured in which order, `report` shows it.

pub mod boxes;
pub mod capture;
pub mod experiment;
pub mod generator;
pub mod iperf;
pub mod link;
pub mod profile;
pub mod report;
pub mod topology;
