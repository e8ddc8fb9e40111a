//! The async shell around `braid_core`: what happens when a box runs.
//!
//! [`run`] asks the machine for what the configuration takes ([`survey`]; [`check()`] does, too), puts
//! the plan into the kernel ([`kernel`]), and then serves ([`start`]), while [`watch`] has kernel state
//! and ways follow the paths. There is one [`peering`] for each peer: its [`session`] (secured by
//! [`tls`]) and the carriers that either box opens flows on. The [`gate`] lets in peers' sessions and
//! carriers, [`dial`] makes ours, [`steering`] joins both over all paths, and off those that
//! `heartbeats` finds dead; `echo` answers the peer's. The [`ingress`] takes hosts' flows and finds each
//! a seat in the [`pool`] of carriers, which [`upkeep`] fills; the [`egress`] connects them to their
//! sinks; [`flow`] moves the bytes, on a carrier of its own ([`single`]) or one that it shares
//! ([`shared`]). [`status`] says how all of that is.

pub mod ask;
pub mod buffer;
pub mod carrier;
pub mod census;
pub mod check;
pub mod counter;
pub mod dial;
pub mod directory;
mod echo;
pub mod egress;
pub mod error;
pub mod flow;
pub mod gate;
mod heartbeats;
pub mod identity;
pub mod ingress;
pub mod kernel;
pub mod mailbox;
pub mod peering;
pub mod pool;
mod pulse;
pub mod records;
pub mod session;
pub mod shared;
pub mod single;
pub mod start;
pub mod state_file;
pub mod status;
pub mod steering;
pub mod survey;
pub mod tasks;
pub mod throttle;
pub mod tls;
pub mod upkeep;
pub mod warning;
pub mod watch;

pub use check::check;
pub use error::{Kind, StartError};
pub use start::run;
