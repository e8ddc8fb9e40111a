//! That the figures were reached by braid and not by going round it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use braid_sys::sysctl;

use super::meter;
use crate::capture::{Capture, Counts};
use crate::iperf::{Direction, IperfPlan};
use crate::link::Direction as LinkDirection;
use crate::report::figure::{Family, Proofs, Watched};
use crate::topology::{Topology, sink_address, spawner};

/// Captures at host and sink while a short transfer goes each way in each family, and looks for
/// plain ways in the boxes.
///
/// # Errors
/// When a capture or a transfer fails.
pub fn gather(topology: &Topology) -> Result<Proofs> {
    let lan_routes = topology.plain_ways()?;
    let host = Capture::start("lan0", "tcp", &spawner(&topology.host))?;
    let sink = Capture::start("lan0", "tcp", &spawner(&topology.sink))?;
    for family in [Family::V4, Family::V6] {
        for direction in [Direction::Down, Direction::Up] {
            let plan = IperfPlan {
                server: sink_address(family, 5201)?,
                direction,
                streams: 1,
                duration: Duration::from_secs(1),
                omit: Duration::ZERO,
                interval: Duration::from_secs(1),
            };
            meter::iperf(topology, &plan)?;
        }
    }
    let (host, sink) = (host.stop()?, sink.stop()?);
    Ok(Proofs {
        paths: watched_paths(topology),
        lan_routes,
        host: watched("host", &host)?,
        sink: watched("sink", &sink)?,
    })
}

/// What the links have seen so far of the LANs' addresses.
pub(super) fn watched_paths(topology: &Topology) -> Vec<Watched> {
    let sum = |link: &crate::link::Link, of: fn(&crate::link::Counters) -> u64| {
        [LinkDirection::Up, LinkDirection::Down].iter().map(|way| of(&link.counters(*way))).sum()
    };
    topology
        .links
        .iter()
        .map(|link| Watched {
            wire: link.name().to_owned(),
            examined: sum(link, |counters| counters.tally.frames_in),
            forbidden: sum(link, |counters| counters.forbidden),
        })
        .collect()
}

/// The boxes' MPTCP settings, by box and name.
pub(super) fn mptcp_settings(topology: &Topology) -> Result<BTreeMap<String, String>> {
    const NAMES: [&str; 3] =
        ["net.mptcp.path_manager", "net.mptcp.scheduler", "net.ipv4.tcp_congestion_control"];
    let mut settings = BTreeMap::new();
    for node in [&topology.ingress, &topology.egress] {
        for name in NAMES {
            let value = node.run(move || sysctl::read(name))??;
            settings.insert(format!("{} {name}", node.label()), value.unwrap_or_default());
        }
    }
    Ok(settings)
}

fn watched(wire: &str, counts: &Counts) -> Result<Watched> {
    ensure!(
        counts.mptcp > 0 || counts.is_plain_tcp(),
        "the capture at the {wire} is not whole: {counts:?}"
    );
    Ok(Watched { wire: wire.to_owned(), examined: counts.tcp, forbidden: counts.mptcp })
}
