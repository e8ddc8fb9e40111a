//! One iperf3 measurement, and what the paths carried meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::plan::{Choice, Plan};
use crate::iperf::{self, IperfPlan, IperfResult};
use crate::link::{Direction as LinkDirection, Link};
use crate::report::figure::{Direction, Goodput, PathSeries, Series, Throughput};
use crate::topology::{Topology, sink_address, spawner};

/// iperf3's own port.
const PORT: u16 = 5201;

/// The time between two values of a series.
pub(super) const INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn plan(plan: &Plan, choice: Choice, omit: Duration) -> Result<IperfPlan> {
    let (direction, family, streams) = choice;
    Ok(IperfPlan {
        server: sink_address(family, PORT)?,
        direction: match direction {
            Direction::Down => iperf::Direction::Down,
            Direction::Up => iperf::Direction::Up,
        },
        streams,
        duration: plan.duration,
        omit,
        interval: Duration::from_secs(1),
    })
}

/// What a figure of the plan was made for.
pub(super) fn choice(figure: &Throughput) -> Result<Choice> {
    Ok((figure.direction, figure.family, figure.streams.try_into()?))
}

pub(super) fn iperf(topology: &Topology, plan: &IperfPlan) -> Result<IperfResult> {
    Ok(iperf::measure(plan, &spawner(&topology.sink), &spawner(&topology.host))?)
}

pub(super) fn add(goodput: &mut Goodput, result: &IperfResult) {
    goodput.mbit.push(result.goodput_mbit);
    goodput.retransmits = Some(goodput.retransmits.unwrap_or(0) + result.retransmits);
}

/// What each path delivers while `work` runs, in the direction of interest.
pub(super) fn while_watching<T: Send>(
    links: &[Link],
    direction: Direction,
    work: impl FnOnce() -> T,
) -> (T, Series) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(links, direction, &over));
        let end = End(&over);
        let result = work();
        drop(end);
        let paths = watcher.join().unwrap_or_default();
        (result, Series { interval_ms: INTERVAL.as_millis() as u32, paths })
    })
}

/// Ends the watch, also when the work panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn watch(links: &[Link], direction: Direction, over: &AtomicBool) -> Vec<PathSeries> {
    let way = match direction {
        Direction::Down => LinkDirection::Down,
        Direction::Up => LinkDirection::Up,
    };
    let delivered = |link: &Link| link.counters(way).tally.bytes_delivered;
    let mut last: Vec<(u64, Instant)> =
        links.iter().map(|l| (delivered(l), Instant::now())).collect();
    let mut series: Vec<PathSeries> = links
        .iter()
        .map(|link| PathSeries { path: link.name().to_owned(), mbit: Vec::new() })
        .collect();
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        next += INTERVAL;
        thread::sleep(next.saturating_duration_since(Instant::now()));
        for ((link, last), series) in links.iter().zip(&mut last).zip(&mut series) {
            let (bytes, now) = (delivered(link), Instant::now());
            let seconds = (now - last.1).as_secs_f64().max(1e-3);
            series.mbit.push((bytes - last.0) as f64 * 8.0 / 1e6 / seconds);
            *last = (bytes, now);
        }
    }
    series
}
