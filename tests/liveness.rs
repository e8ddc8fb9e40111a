//! Paths that die without a word, and come back: what the boxes notice, and that no flow does.

mod common;

use anyhow::{Result, ensure};
use braid_lab::boxes::Running;
use braid_lab::topology::Topology;
use common::carry::{downloading, slow, until_carry};
use common::talk::says_times;
use common::{boxes, shell, until};

/// The path is silent until the box has noticed, and then back until it has noticed that.
fn dies_and_returns(
    topology: &Topology,
    ingress: &mut Running,
    path: usize,
    times: usize,
) -> Result<()> {
    until_carry(topology, &[path])?;
    topology.links[path].black_hole(true)?;
    says_times(ingress, "way is down", times)?;
    until_carry(topology, &[1 - path])?;
    topology.links[path].black_hole(false)?;
    says_times(ingress, "way is up", times)?;
    until_carry(topology, &[path])
}

#[test]
fn path_goes_silent() -> Result<()> {
    let topology = slow()?;
    let mut boxes = boxes(&topology)?;
    downloading(&topology, &mut boxes.ingress, |ingress| {
        dies_and_returns(&topology, ingress, 0, 1)?;
        dies_and_returns(&topology, ingress, 1, 2)
    })?;
    boxes.stop()
}

/// A firewall lets no datagram through: nothing is blamed on the paths, both carry.
#[test]
fn udp_is_blocked() -> Result<()> {
    let topology = slow()?;
    let mut boxes = boxes(&topology)?;
    let filter = "nft add table inet f; \
                  nft 'add chain inet f in { type filter hook input priority 0; }'; \
                  nft add rule inet f in udp dport 4770 counter drop";
    downloading(&topology, &mut boxes.ingress, |_| {
        until_carry(&topology, &[1])?;
        shell(&topology.egress, filter)?;
        let dropped = || -> Result<bool> {
            Ok(!shell(&topology.egress, "nft list table inet f")?.contains("packets 0 "))
        };
        until("heartbeats are dropped", dropped)?;
        until_carry(&topology, &[0, 1])
    })?;
    ensure!(!boxes.ingress.log().iter().any(|line| line.contains("way is down")));
    boxes.stop()
}
