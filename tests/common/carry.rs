//! Slow links, a long download over them while something happens to paths, and which paths carry.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use braid_lab::boxes::Running;
use braid_lab::generator::fetch;
use braid_lab::link::Direction;
use braid_lab::topology::{Topology, sink_address};

use super::talk::{PORT, serve};
use super::{Family, profile, shell, until};

/// At 40 Mbit/s a path 8 s and longer.
const BYTES: u64 = 80_000_000;

/// A bound for a broken program; the machine may be busy.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(100);

/// So much over a path is no handshake any more.
pub(crate) const CARRIES: u64 = 500_000;

pub(crate) fn slow() -> Result<Topology> {
    let topology = Topology::build(&profile(40.0)?, "cubic", 1)?;
    for node in [&topology.ingress, &topology.egress] {
        // Else an address takes those that came after it in its prefix with it.
        shell(node, "sysctl -qw net.ipv4.conf.all.promote_secondaries=1")?;
    }
    Ok(topology)
}

/// Downloads while something else happens; every byte is right.
pub(crate) fn downloading(
    topology: &Topology,
    running: &mut Running,
    meanwhile: impl FnOnce(&mut Running) -> Result<()>,
) -> Result<()> {
    let server = serve(topology)?;
    let address = sink_address(Family::V4, PORT)?;
    let fetch = move || fetch(address, BYTES, 5, DOWNLOAD_LIMIT);
    let outcome = thread::scope(|scope| {
        let download = scope.spawn(|| topology.host.run(fetch));
        until("the download runs", || Ok(server.stats().accepted > 0))?;
        let happened = meanwhile(running);
        download.join().expect("the download's thread")??;
        happened
    });
    outcome.map_err(|error| error.context(running.log().join("\n")))
}

pub(crate) fn carried(topology: &Topology, path: usize) -> u64 {
    topology.links[path].counters(Direction::Down).tally.bytes_delivered
}

/// Waits until so much more has come over each of these paths.
pub(crate) fn until_carry(topology: &Topology, paths: &[usize]) -> Result<()> {
    for path in paths {
        let before = carried(topology, *path);
        until(&format!("path {path} carries"), || Ok(carried(topology, *path) > before + CARRIES))?;
    }
    Ok(())
}
