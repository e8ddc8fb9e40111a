//! The pure part of braid: no I/O, no clock, no unsafe.
//!
//! A box's configuration ([`config`]) names its peers by their keys ([`key`]), its paths and what
//! it intercepts. From that and from what the kernel shows, [`path`] pairs the paths with the
//! peers' endpoints and [`kernel`] states what the kernel should hold.
//!
//! Two boxes speak as PROTOCOL.md says. They agree on the control connection ([`control`]), and
//! its secret makes the keys of their carriers ([`keys`]). A carrier begins and takes its turns as
//! [`carrier`] says; what it carries are records ([`record`]), sealed ([`seal`]). A flow begins with
//! an opening ([`opening`]), [`flow`] decides what each of its endings means, and [`credit`] how
//! much of it may be on its way on a shared carrier. [`policy`] says which sinks a peer may reach,
//! from which source, [`backoff`] when a lost session is dialled again, [`demand`] and [`stock`] how
//! many carriers there should be, [`heartbeat`] and [`health`] which ways to a peer live ([`far_ways`]:
//! as the other box sees it), and [`destinations`] which sinks a flow is opened to without asking.
//! [`watch`] says when a box looks at its paths again, and [`status`] is what it says of itself.

pub mod addr;
pub mod backoff;
pub mod bounded;
pub mod carrier;
pub mod config;
pub mod control;
pub mod credit;
pub mod demand;
pub mod destinations;
pub mod far_ways;
pub mod flow;
pub mod health;
pub mod heartbeat;
pub mod joins;
pub mod kernel;
pub mod key;
pub mod keys;
pub mod opening;
pub mod path;
pub mod policy;
pub mod record;
pub mod seal;
pub mod status;
pub mod stock;
pub mod watch;
pub mod ways;

#[cfg(test)]
mod tests;
