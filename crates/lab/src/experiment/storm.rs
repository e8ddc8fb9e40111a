//! Many flows at once with every kind of ending, each byte checked at both ends.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Plan, times::PORT};
use crate::boxes::Boxes;
use crate::generator::{Server, StormPlan, storm};
use crate::report::figure::{Family, Storm};
use crate::topology::{Topology, sink_address};

/// Bytes of each flow.
const BYTES: u64 = 10_000_000;

/// Flows under way at once.
const AT_ONCE: usize = 50;

/// A flow that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// How long the boxes may take to close what belonged to flows that have ended.
const SETTLE: Duration = Duration::from_secs(20);

/// On boxes that have carried nothing yet; also what went wrong, if anything did.
pub(super) fn measure(
    topology: &Topology,
    boxes: &Boxes,
    plan: &Plan,
) -> Result<(Storm, Option<String>)> {
    let addresses = [sink_address(Family::V4, PORT)?, sink_address(Family::V6, PORT)?];
    let server = topology.sink.run(move || Server::start(&addresses))??;
    let (ledger, seed, flows) = (server.ledger(), plan.seed, plan.storm_flows);
    let before = boxes.descriptors()?;
    let storm_plan =
        StormPlan { flows, bytes_each: BYTES, concurrency: AT_ONCE, seed, deadline: DEADLINE };
    let report = topology.host.run(move || storm(&addresses, &storm_plan, &ledger))??;
    let after = settled(boxes, before)?;
    let problem = (!report.passed())
        .then(|| format!("{} flows went wrong: {}", report.failed, report.failures.join("; ")));
    let storm = Storm {
        flows: report.flows,
        bytes: report.bytes,
        wrong_bytes: report.wrong,
        hung_flows: report.hung,
        descriptors_before: before,
        descriptors_after: after,
        resets: report.resets_ok,
        half_closes: report.half_closes_ok,
    };
    Ok((storm, problem))
}

/// Descriptors once they are as few as before, or when the time for that is over.
fn settled(boxes: &Boxes, before: u64) -> Result<u64> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let now = boxes.descriptors()?;
        if now <= before || Instant::now() > deadline {
            return Ok(now);
        }
        thread::sleep(Duration::from_millis(50));
    }
}
