//! What braid wants the kernel to hold, as a value with a text form.
//!
//! The engine compares a [`Plan`] with what the kernel has, applies the difference, verifies it
//! and takes it away again. `numbers` has every number by which our state is told from others'.

mod nft;
pub mod numbers;
mod plan;

pub use nft::{Ruleset, TproxyPorts};
pub use plan::{Plan, Route, RouteKind, Rule, Selector, Sysctl, Want};
