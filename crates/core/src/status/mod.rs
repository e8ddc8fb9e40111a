//! What a running box says of itself: one value, with stable names, for scripts (as JSON), for people
//! ([`text`]) and for whatever shows more of it later.
//!
//! Gathering it is the engine's. docs/status.md is its contract: a name or unit that changes there
//! takes a new [`VERSION`]. What is not known is `None`, never a guess.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::control::Protection;
use crate::path::Role;

mod text;

/// The version of this form. New fields do not change it, other meanings do.
pub const VERSION: u32 = 1;

/// A running box.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// The program's version.
    pub braid: String,
    /// Its process number.
    pub process: u32,
    /// The box's public key, as text.
    pub public_key: String,
    /// Seconds since it has started.
    pub up_s: u64,
    /// The paths, in the order of the configuration.
    pub paths: Vec<PathStatus>,
    /// The peers, in the order of the configuration.
    pub peers: Vec<PeerStatus>,
    /// How often a bound of the whole box was met.
    pub bounds_met: BoxBounds,
    /// What was done to the kernel's state beside our own.
    pub kernel: KernelStatus,
}

/// A path, whoever it leads to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathStatus {
    /// The interface's name.
    pub interface: String,
    /// What it is used for.
    pub role: Role,
    /// Whether nobody but the boxes can read or write on it, as configured.
    pub trusted: bool,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its public key, as text.
    pub public_key: String,
    /// The session in use, if there is one.
    pub session: Option<SessionStatus>,
    /// The ways to it, those of the configuration first; then those that only its carriers show.
    pub ways: Vec<WayStatus>,
    /// The carriers between it and this box.
    pub carriers: CarriersStatus,
    /// The flows on them.
    pub flows: FlowsStatus,
    /// How often a bound of this peer was met.
    pub bounds_met: PeerBounds,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// How the payloads of flows are protected.
    pub protection: Protection,
    /// The name of the suite that seals.
    pub suite: String,
    /// Whether this box has dialled it.
    pub dialled_here: bool,
    /// Seconds since it is up.
    pub up_s: u64,
}

/// How well a way works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WayState {
    /// As it should.
    Up,
    /// It carries, and badly.
    Degraded,
    /// It carries nothing.
    Down,
}

/// A way to a peer: a path of this box, and the peer's address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WayStatus {
    /// The interface of its path; none where the peer has dialled in without a path of ours.
    pub path: Option<String>,
    /// The address that it leaves from.
    pub local: IpAddr,
    /// The peer's address, as it shows here.
    pub remote: IpAddr,
    /// What its path is used for; none as with `path`.
    pub role: Option<Role>,
    /// How well it works, where heartbeats judge that.
    pub state: Option<WayState>,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// Seconds since it is in that state.
    pub state_s: Option<u64>,
    /// Round trip, smoothed, of the carrier that heard from the peer last, milliseconds.
    pub rtt_ms: Option<f64>,
    /// The least round trip of the last minutes, milliseconds.
    pub least_rtt_ms: Option<f64>,
    /// By how much the round trips of heartbeats wander, milliseconds.
    pub jitter_ms: Option<f64>,
    /// Of the last heartbeats, those that were lost, per cent.
    pub loss_percent: Option<f64>,
    /// The highest rate at which a single carrier's data arrived at the peer, as the kernel measured it
    /// last for each, Mbit/s. A carrier with little to send shows little.
    pub delivery_rate_mbit: Option<f64>,
    /// Bytes that carriers have sent again, of all that they have sent, per cent.
    pub resent_percent: Option<f64>,
    /// Carriers that have a subflow over it.
    pub carriers: usize,
}

/// The carriers between two boxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriersStatus {
    /// Those on which flows of this box's hosts are opened.
    pub ours: CarrierCounts,
    /// Those on which the peer opens flows of its hosts.
    pub theirs: CarrierCounts,
    /// Being dialled by this box.
    pub dialling: usize,
    /// The most there may be of `peer.carriers`.
    pub bound: u16,
}

/// Carriers by what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarrierCounts {
    /// Single ones without a flow.
    pub idle: usize,
    /// Single ones with a flow, or that still drain.
    pub busy: usize,
    /// Shared ones.
    pub shared: usize,
}

/// Flows between two boxes that have a seat on a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsStatus {
    /// Of this box's hosts.
    pub ours: usize,
    /// Of the peer's hosts.
    pub theirs: usize,
    /// The most there may be of each.
    pub bound: usize,
}

/// How often each bound of a peer was met, and something turned away for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerBounds {
    /// Carriers accepted from it.
    pub carriers: u64,
    /// Flows, either way.
    pub flows: u64,
    /// Connections to sinks that it asked for and did not fetch.
    pub unfetched_connections: u64,
}

/// How often each bound of the box was met, and something turned away for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxBounds {
    /// Connections to the listening port that have not proved a key.
    pub unproved_connections: u64,
    /// Flows of one host.
    pub flows_of_one_host: u64,
}

/// What was done to the kernel's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelStatus {
    /// Sysctls of others that stand as braid wants them while it runs.
    pub changed: Vec<ChangedSysctl>,
    /// Sysctls that the kernel did not let braid set; it goes on without.
    pub refused: Vec<RefusedSysctl>,
    /// State of ours that others took away and braid has put back.
    pub restored: Vec<Restored>,
}

/// A sysctl that is to be put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedSysctl {
    /// Its name.
    pub sysctl: String,
    /// Its value before.
    pub before: String,
    /// The value that braid gave it.
    pub now: String,
}

/// A sysctl that could not be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSysctl {
    /// Its name.
    pub sysctl: String,
    /// The value that it should have.
    pub wanted: String,
    /// The kernel's words.
    pub reason: String,
}

/// State of ours that was put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// What it is, as `nftables table`.
    pub what: String,
    /// How often.
    pub times: u64,
}

#[cfg(test)]
mod tests;
