//! Plain routing over each path alone: what the links allow.

use anyhow::Result;

use super::times::{best_path, measure_times};
use super::{Part, Plan, Session, meter};
use crate::iperf::IperfResult;
use crate::report::figure::{Alone, Goodput, Throughput};

impl Session<'_> {
    /// Fills in `alone` of every figure, and the plain flow times over the best path.
    pub(super) fn baseline(&mut self) -> Result<()> {
        for path in 0..self.profile.paths.len() {
            for number in 0..self.setting.throughput.len() {
                let goodput = self.plain_goodput(path, number);
                let name = self.setting.paths[path].name.clone();
                let outcome = goodput.median().map(|mbit| format!("{mbit:7.1} Mbit/s"));
                let figure = &mut self.setting.throughput[number];
                let what = format!("{} plain over {name}", figure.label());
                figure.alone.push(Alone { path: name, goodput });
                self.step(&what, &outcome.unwrap_or_else(|| "failed".to_owned()));
            }
        }
        if self.has(Part::Times) {
            self.plain_times()?;
        }
        self.plain_bursts();
        Ok(())
    }

    fn plain_goodput(&mut self, path: usize, number: usize) -> Goodput {
        let mut goodput = Goodput::default();
        for repeat in 0..self.plan.repeat {
            match self.plain_run(path, &self.setting.throughput[number], repeat) {
                Ok(result) => meter::add(&mut goodput, &result),
                Err(error) => self.failed("plain throughput", &error),
            }
        }
        goodput
    }

    fn plain_run(&self, path: usize, figure: &Throughput, repeat: usize) -> Result<IperfResult> {
        let topology = self.topology(repeat)?;
        topology.route_over(path)?;
        let plan = meter::plan(self.plan, meter::choice(figure)?, Plan::omit(self.profile))?;
        topology.restart_wander()?;
        let result = meter::iperf(&topology, &plan)?;
        self.check(&topology, &result)?;
        Ok(result)
    }

    fn plain_times(&mut self) -> Result<()> {
        let measured = self.repeated_times(|session, repeat| {
            let (topology, _) = session.plain_topology(repeat)?;
            measure_times(&topology)
        })?;
        let name = self.setting.paths[best_path(&self.setting)].name.clone();
        for (size, times) in measured {
            let figure = super::times::figure(&mut self.setting, size, &name);
            figure.plain = Some(times);
        }
        self.step(&format!("flow times plain over {name}"), "done");
        Ok(())
    }
}
