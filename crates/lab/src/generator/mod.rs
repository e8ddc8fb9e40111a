//! Flows whose every byte is checked at both ends, and the times they took.
//!
//! `server` answers at the sink, `client` fetches and times, `burst` does so many times at once, `steady` at a pace, `storm` runs many flows with every kind
//! of ending, `watch` follows one bulk flow for its stalls. All of it runs on the calling thread and
//! threads started from it, and so in that thread's network namespace; which namespaces there are,
//! and what lies between them, is the caller's business.
//!
//! Below them: `pattern` makes and checks bytes, `wire` is the request a flow opens with, `script`
//! says what each end then does, `endpoint` does it on a socket, `ledger` hands the sink's outcome to
//! the client's side and `judge` compares the two.

mod burst;
mod client;
mod endpoint;
mod judge;
mod ledger;
mod pattern;
mod script;
mod server;
mod steady;
mod storm;
mod watch;
mod wire;

#[cfg(test)]
mod relay;

pub use burst::burst;
pub use client::{FlowTimes, Percentiles, Summary, fetch, measure, percentiles, summarize};
pub use ledger::Ledger;
pub use pattern::{Mismatch, Pattern};
pub use server::{Server, ServerStats};
pub use steady::steady;
pub use storm::{StormPlan, StormReport, storm};
pub use watch::{Watch, download_watch, upload_watch};
