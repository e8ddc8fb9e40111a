//! Paths that die without a word, and come back: what the boxes notice, and that no flow does.

mod common;

use anyhow::{Result, ensure};
use braid_lab::boxes::Running;
use braid_lab::link::Direction;
use braid_lab::topology::Topology;
use common::talk::{downloading, says_times, serve};
use common::{boxes, profile, shell, until};

/// At 40 Mbit/s a path 8 s and longer.
const BYTES: u64 = 80_000_000;

/// So much over a path is no handshake any more.
const CARRIES: u64 = 500_000;

/// Waits until so much more has come over a path.
fn until_carries(topology: &Topology, path: usize) -> Result<()> {
    let carried = || topology.links[path].counters(Direction::Down).tally.bytes_delivered;
    let before = carried();
    until(&format!("path {path} carries"), || Ok(carried() > before + CARRIES))
}

/// The path is silent until the box has noticed, and then back until it has noticed that.
fn dies_and_returns(
    topology: &Topology,
    ingress: &mut Running,
    path: usize,
    times: usize,
) -> Result<()> {
    until_carries(topology, path)?;
    topology.links[path].black_hole(true)?;
    says_times(ingress, "way is down", times)?;
    until_carries(topology, 1 - path)?;
    topology.links[path].black_hole(false)?;
    says_times(ingress, "way is up", times)?;
    until_carries(topology, path)
}

#[test]
fn path_goes_silent() -> Result<()> {
    let topology = Topology::build(&profile(40.0)?, "cubic", 1)?;
    let mut boxes = boxes(&topology)?;
    let server = serve(&topology)?;
    downloading(&topology, &server, BYTES, || {
        dies_and_returns(&topology, &mut boxes.ingress, 0, 1)?;
        dies_and_returns(&topology, &mut boxes.ingress, 1, 2)
    })?;
    boxes.stop()
}

/// A firewall lets no datagram through: nothing is blamed on the paths, both carry.
#[test]
fn udp_is_blocked() -> Result<()> {
    let topology = Topology::build(&profile(40.0)?, "cubic", 1)?;
    let mut boxes = boxes(&topology)?;
    let server = serve(&topology)?;
    let filter = "nft add table inet f; \
                  nft 'add chain inet f in { type filter hook input priority 0; }'; \
                  nft add rule inet f in udp dport 4770 counter drop";
    downloading(&topology, &server, BYTES / 2, || {
        until_carries(&topology, 1)?;
        shell(&topology.egress, filter)?;
        let dropped = || -> Result<bool> {
            Ok(!shell(&topology.egress, "nft list table inet f")?.contains("packets 0 "))
        };
        until("heartbeats are dropped", dropped)?;
        until_carries(&topology, 0)?;
        until_carries(&topology, 1)
    })?;
    ensure!(!boxes.ingress.log().iter().any(|line| line.contains("way is down")));
    boxes.stop()
}
