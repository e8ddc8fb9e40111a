//! The async shell around `braid_core`: what happens when a box runs.
//!
//! [`run`] checks the machine ([`start`]), puts the plan into the kernel ([`kernel`]), and then
//! serves: [`ingress`] takes hosts' flows and dials carriers ([`carrier`]), [`steering`] joins
//! them over all paths, [`egress`] accepts them and connects to sinks, [`flow`] moves the bytes.

pub mod buffer;
pub mod carrier;
pub mod egress;
pub mod error;
pub mod flow;
pub mod identity;
pub mod ingress;
pub mod kernel;
pub mod start;
pub mod steering;
pub mod throttle;
pub mod tls;

pub use error::{Kind, StartError};
pub use start::run;
