//! Times of flows of four sizes, one after the other.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Session;
use crate::generator::{self, Percentiles, Server, Summary};
use crate::report::figure::{Direction, Family, FlowTimes, Quantiles, Times};
use crate::report::model::Setting;
use crate::topology::{Topology, sink_address};

/// Where the generator listens at the sink.
pub(super) const PORT: u16 = 4242;

/// Sizes in bytes, and how many flows of each are timed.
const SIZES: [(u64, usize); 4] = [SMALL, MIDDLE, (1_000_000, 15), (10_000_000, 5)];

/// The least of them.
pub(super) const SMALL: (u64, usize) = (1_000, 100);

/// The size of a page's picture.
pub(super) const MIDDLE: (u64, usize) = (100_000, 40);

/// Flows before, not timed: they find the neighbours' addresses.
const FIRST: usize = 2;

/// A flow that takes longer has failed.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Times flows of each size from the sink to the host, over whatever leads there now.
pub(super) fn measure_times(topology: &Topology) -> Result<Vec<(u64, Times)>> {
    measure_sizes(topology, &SIZES)
}

/// Times flows of 1 kB alone.
pub(super) fn measure_small(topology: &Topology) -> Result<Times> {
    let measured = measure_sizes(topology, &[SMALL])?;
    measured.first().map(|(_, times)| *times).context("no size was timed")
}

/// Times so many flows of each size, one after the other.
pub(super) fn measure_sizes(
    topology: &Topology,
    sizes: &[(u64, usize)],
) -> Result<Vec<(u64, Times)>> {
    let address = sink_address(Family::V4, PORT)?;
    let _server = topology.sink.run(move || Server::start(&[address]))??;
    topology.host.run(move || generator::measure(address, 1_000, FIRST, LIMIT))??;
    let mut all = Vec::new();
    for (size, count) in sizes.iter().copied() {
        let flows =
            topology.host.run(move || generator::measure(address, size, count, LIMIT))??;
        all.push((size, summed_up(&flows)?));
    }
    Ok(all)
}

impl Session<'_> {
    /// Each size's median over the plan's repeats.
    pub(super) fn repeated_times(
        &self,
        mut measure: impl FnMut(&Self, usize) -> Result<Vec<(u64, Times)>>,
    ) -> Result<Vec<(u64, Times)>> {
        let all = (0..self.plan.repeat).map(|repeat| measure(self, repeat));
        Ok(medians(&all.collect::<Result<Vec<_>>>()?))
    }
}

/// Each size's median over the repeats.
pub(super) fn medians(repeats: &[Vec<(u64, Times)>]) -> Vec<(u64, Times)> {
    let sizes = repeats.first().into_iter().flatten().map(|(size, _)| *size);
    let of = |size: u64| {
        let same = repeats.iter().flatten().filter(|(other, _)| *other == size);
        let same: Vec<Times> = same.map(|(_, times)| *times).collect();
        Times::median(&same).map(|times| (size, times))
    };
    sizes.filter_map(of).collect()
}

/// What is known of flows that were timed.
pub(super) fn summed_up(flows: &[generator::FlowTimes]) -> Result<Times> {
    let summary = generator::summarize(flows).context("no flow was timed")?;
    Ok(times(flows.len(), &summary))
}

/// What part of plain routing's median time braid's may take.
pub(super) fn target(profile: &str, size: u64) -> Option<f64> {
    match (profile, size) {
        ("dsl" | "eq", 1_000) => Some(0.55),
        ("dsl", 100_000) => Some(0.40),
        ("dsl", 1_000_000) => Some(0.60),
        ("eq", 100_000) => Some(0.35),
        ("eq", 1_000_000) => Some(0.50),
        _ => None,
    }
}

/// The path that plain routing is best off with: the most goodput down, or without that figure the
/// highest rate; of equals the shortest.
pub(super) fn best_path(setting: &Setting) -> usize {
    let first = setting.throughput_of(Direction::Down).next();
    let goodput = |path: usize| first.and_then(|figure| figure.alone.get(path)?.goodput.median());
    let link = |path: usize| &setting.paths[path].down;
    let worth = |path: usize| goodput(path).unwrap_or(link(path).rate_mbit);
    let order = |a: &usize, b: &usize| {
        let shorter = || link(*b).delay_ms.total_cmp(&link(*a).delay_ms);
        worth(*a).total_cmp(&worth(*b)).then_with(shorter).then(b.cmp(a))
    };
    (0..setting.paths.len()).max_by(order).unwrap_or(0)
}

/// The figure of a size, made if it is not there yet.
pub(super) fn figure<'a>(setting: &'a mut Setting, size: u64, best: &str) -> &'a mut FlowTimes {
    let same = |figure: &FlowTimes| figure.size == size && figure.after.is_none();
    let place = setting.flow_times.iter().position(same).unwrap_or_else(|| {
        let target = target(&setting.profile, size);
        setting.flow_times.push(FlowTimes { target, ..FlowTimes::new(size, best) });
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

#[cfg(test)]
mod tests {
    use super::super::describe;
    use super::*;
    use crate::profile::Profiles;

    #[test]
    fn the_best_path_is_the_fastest_and_of_equals_the_shortest() {
        let profiles = Profiles::load(None).unwrap();
        let of = |name| describe(profiles.get(name).unwrap(), "cubic");
        let mut dsl = of("dsl");
        assert_eq!((best_path(&dsl), best_path(&of("eq"))), (0, 0));
        dsl.paths.swap(0, 1);
        assert_eq!(best_path(&dsl), 1);
        dsl.paths[0].down.rate_mbit = dsl.paths[1].down.rate_mbit;
        assert_eq!(best_path(&dsl), 1);
    }

    #[test]
    fn each_size_has_its_median_of_the_repeats() {
        let times = |ms: f64| {
            let all = Quantiles { p50: ms, p90: ms, p99: ms };
            Times { n: 9, connect: all, first_byte: all, complete: all }
        };
        let repeat = |small, large| vec![(1_000, times(small)), (100_000, times(large))];
        let medians = medians(&[repeat(3.0, 50.0), repeat(90.0, 40.0), repeat(4.0, 60.0)]);
        assert_eq!(medians, repeat(4.0, 50.0));
    }

    #[test]
    fn a_flap_is_a_figure_of_its_own() {
        let mut setting = Setting { profile: "dsl".into(), ..Setting::default() };
        let after = Some(crate::report::figure::Flap::Silence);
        setting.flow_times.push(FlowTimes { after, ..FlowTimes::new(1_000, "wan1") });
        assert_eq!(figure(&mut setting, 1_000, "wan1").target, Some(0.55));
        assert_eq!(setting.flow_times.len(), 2);
    }
}
