//! Times of flows of four sizes, one after the other.

use std::time::Duration;

use anyhow::Result;

use crate::generator::{self, Percentiles, Server, Summary};
use crate::report::figure::{Direction, Family, FlowTimes, Quantiles, Times};
use crate::report::model::Setting;
use crate::topology::{Topology, sink_address};

/// Where the generator listens at the sink.
pub(super) const PORT: u16 = 4242;

/// Sizes in bytes, and how many flows of each are timed.
const SIZES: [(u64, usize); 4] = [(1_000, 100), (100_000, 40), (1_000_000, 15), (10_000_000, 5)];

/// Flows before, not timed: they find the neighbours' addresses.
const FIRST: usize = 2;

/// A flow that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// Times flows of each size from the sink to the host, over whatever leads there now.
pub(super) fn measure_times(topology: &Topology) -> Result<Vec<(u64, Times)>> {
    let address = sink_address(Family::V4, PORT)?;
    let _server = topology.sink.run(move || Server::start(&[address]))??;
    topology.host.run(move || generator::measure(address, 1_000, FIRST, LIMIT))??;
    let mut all = Vec::new();
    for (size, count) in SIZES {
        let flows =
            topology.host.run(move || generator::measure(address, size, count, LIMIT))??;
        if let Some(summary) = generator::summarize(&flows) {
            all.push((size, times(count, &summary)));
        }
    }
    Ok(all)
}

/// The path that plain routing is best off with: the most goodput down.
pub(super) fn best_path(setting: &Setting) -> usize {
    let first = setting.throughput_of(Direction::Down).next();
    let paths = first.map_or(&[][..], |figure| &figure.alone);
    let goodput = |path: usize| paths[path].goodput.median().unwrap_or(0.0);
    (0..paths.len()).max_by(|a, b| goodput(*a).total_cmp(&goodput(*b)).then(b.cmp(a))).unwrap_or(0)
}

/// The figure of a size, made if it is not there yet.
pub(super) fn figure<'a>(setting: &'a mut Setting, size: u64, best: &str) -> &'a mut FlowTimes {
    let place = setting.flow_times.iter().position(|figure| figure.size == size);
    let place = place.unwrap_or_else(|| {
        let best_path = best.to_owned();
        setting.flow_times.push(FlowTimes { size, best_path, plain: None, braid: None });
        setting.flow_times.len() - 1
    });
    &mut setting.flow_times[place]
}

fn times(n: usize, summary: &Summary) -> Times {
    let quantiles = |of: &Percentiles| {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        Quantiles {
            p50: milliseconds(of.p50),
            p90: milliseconds(of.p90),
            p99: milliseconds(of.p99),
        }
    };
    Times {
        n,
        connect: quantiles(&summary.connect),
        first_byte: quantiles(&summary.first_byte),
        complete: quantiles(&summary.complete),
    }
}
