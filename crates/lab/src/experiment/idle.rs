//! What crosses the paths while nobody has anything to say.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::times::measure_small;
use crate::link::{Direction, Link};
use crate::report::figure::{Idle, IdlePath};
use crate::topology::Topology;

/// Between the last flow and the first byte that counts: what belonged to flows is over then, and
/// the kernel has asked its neighbours whether they are still there.
const SETTLE: Duration = Duration::from_secs(10);

/// On boxes that have carried some flows, so that they have whatever they keep between flows.
pub(super) fn measure(topology: &Topology, time: Duration) -> Result<Idle> {
    measure_small(topology)?;
    thread::sleep(SETTLE.min(time));
    let (before, began) = (sent(&topology.links), Instant::now());
    thread::sleep(time);
    let (after, seconds) = (sent(&topology.links), began.elapsed().as_secs_f64());
    let path = |((link, before), after): ((&Link, &[u64; 2]), [u64; 2])| IdlePath {
        path: link.name().to_owned(),
        up_bytes: after[0] - before[0],
        down_bytes: after[1] - before[1],
    };
    Ok(Idle { seconds, paths: topology.links.iter().zip(&before).zip(after).map(path).collect() })
}

/// Bytes that entered each path, up and down.
fn sent(links: &[Link]) -> Vec<[u64; 2]> {
    let bytes = |link: &Link, way| link.counters(way).tally.bytes_in;
    links.iter().map(|link| [Direction::Up, Direction::Down].map(|way| bytes(link, way))).collect()
}
