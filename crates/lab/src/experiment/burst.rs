//! Many flows at once, on boxes that have had nothing to do.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::times::{LIMIT, PORT, best_path, summed_up};
use super::{Part, Session};
use crate::generator::{self, Server};
use crate::report::figure::{Burst, Family, Times, Watched};
use crate::report::model::Setting;
use crate::topology::{Topology, sink_address};

/// What is started at once.
#[derive(Clone, Copy)]
struct Load {
    part: Part,
    flows: usize,
    size: u64,
    name: &'static str,
}

/// The one after an idle time, and the one that would queue behind handshakes.
const LOADS: [Load; 2] = [
    Load { part: Part::Burst, flows: 30, size: 100_000, name: "burst" },
    Load { part: Part::Crowd, flows: 200, size: 10_000, name: "crowd" },
];

/// The 90th percentile of the first, as a part of plain routing's.
const TARGET: f64 = 0.7;

/// What boxes that need not idle have had since their start.
const SETTLE: Duration = Duration::from_secs(2);

impl Session<'_> {
    /// Plain routing over the best path: nothing there gets cold, so nothing waits.
    pub(super) fn plain_bursts(&mut self) {
        for load in self.loads() {
            let times = self.repeated(|session, repeat| {
                let (topology, _) = session.plain_topology(repeat)?;
                start(&topology, load)
            });
            let idle = self.idle(load);
            self.keep(&format!("{} plain", load.name), times, |setting, times| {
                figure(setting, load, idle).plain = times;
            });
        }
    }

    pub(super) fn braid_bursts(&mut self, seen: &mut Vec<Watched>) {
        for load in self.loads() {
            let idle = self.idle(load);
            let times = self.repeated(|session, repeat| {
                let bond = session.bond(repeat)?;
                thread::sleep(idle.max(SETTLE));
                let times = start(&bond.topology, load);
                bond.stop(seen)?;
                times
            });
            self.keep(&format!("{} braid", load.name), times, |setting, times| {
                figure(setting, load, idle).braid = times;
            });
        }
    }

    fn loads(&self) -> Vec<Load> {
        LOADS.into_iter().filter(|load| self.has(load.part)).collect()
    }

    fn idle(&self, load: Load) -> Duration {
        if load.part == Part::Burst { self.plan.idle } else { Duration::ZERO }
    }

    /// The median of the plan's repeats.
    fn repeated(
        &self,
        mut measure: impl FnMut(&Self, usize) -> Result<Times>,
    ) -> Result<Option<Times>> {
        let all = (0..self.plan.repeat).map(|repeat| measure(self, repeat));
        Ok(Times::median(&all.collect::<Result<Vec<_>>>()?))
    }
}

/// One small flow, which finds the neighbours' addresses, then all at once.
fn start(topology: &Topology, load: Load) -> Result<Times> {
    let address = sink_address(Family::V4, PORT)?;
    let _server = topology.sink.run(move || Server::start(&[address]))??;
    topology.host.run(move || generator::measure(address, 1_000, 1, LIMIT))??;
    let burst = move || generator::burst(address, load.size, load.flows, LIMIT);
    summed_up(&topology.host.run(burst)??)
}

/// The figure of a load, made if it is not there yet.
fn figure(setting: &mut Setting, load: Load, idle: Duration) -> &mut Burst {
    let Load { part, flows, size, .. } = load;
    let same = |burst: &Burst| (burst.flows, burst.size) == (flows, size);
    let place = setting.bursts.iter().position(same).unwrap_or_else(|| {
        let best_path = setting.paths[best_path(setting)].name.clone();
        let judged = part == Part::Burst && ["eq", "dsl"].contains(&setting.profile.as_str());
        let (idle_s, target) = (idle.as_secs_f64(), judged.then_some(TARGET));
        let new = Burst { flows, size, idle_s, best_path, plain: None, braid: None, target };
        setting.bursts.push(new);
        setting.bursts.len() - 1
    });
    &mut setting.bursts[place]
}
