//! Plain routing over each path alone: what the links allow.

use anyhow::Result;

use super::times::{best_path, measure_times};
use super::{Plan, Session, meter};
use crate::report::figure::{Alone, Goodput};
use crate::topology::Topology;

impl Session<'_> {
    /// Fills in `alone` of every figure, and the plain flow times over the best path.
    pub(super) fn baseline(&mut self) -> Result<()> {
        let topology = self.topology()?;
        for path in 0..topology.links.len() {
            topology.route_over(path)?;
            for number in 0..self.setting.throughput.len() {
                let goodput = self.plain_goodput(&topology, number);
                let path = topology.links[path].name().to_owned();
                let figure = &mut self.setting.throughput[number];
                figure.alone.push(Alone { path: path.clone(), goodput });
                let alone = figure.alone.last().and_then(|alone| alone.goodput.median());
                let outcome =
                    alone.map_or("failed".to_owned(), |mbit| format!("{mbit:7.1} Mbit/s"));
                let what = format!("{} plain over {path}", figure.label());
                self.step(&what, &outcome);
            }
            topology.route_nowhere(path)?;
        }
        if self.plan.times {
            self.plain_times(&topology)?;
        }
        Ok(())
    }

    fn plain_goodput(&mut self, topology: &Topology, number: usize) -> Goodput {
        let figure = &self.setting.throughput[number];
        let plan = meter::plan(self.plan, figure, Plan::omit(self.profile));
        let mut goodput = Goodput::default();
        for _ in 0..self.plan.repeat {
            match plan
                .as_ref()
                .map_err(|e| anyhow::anyhow!("{e}"))
                .and_then(|plan| meter::iperf(topology, plan))
            {
                Ok(result) => meter::add(&mut goodput, &result),
                Err(error) => self.failed("plain throughput", &error),
            }
        }
        goodput
    }

    fn plain_times(&mut self, topology: &Topology) -> Result<()> {
        let path = best_path(&self.setting);
        topology.route_over(path)?;
        let name = topology.links[path].name().to_owned();
        let measured = measure_times(topology, self.plan.seed);
        topology.route_nowhere(path)?;
        for (size, times) in measured? {
            let figure = super::times::figure(&mut self.setting, size, &name);
            figure.plain = Some(times);
        }
        self.step(&format!("flow times plain over {name}"), "done");
        Ok(())
    }
}
