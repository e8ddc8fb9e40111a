//! The same with braid in the boxes, over all paths and with no other way.

use anyhow::Result;

use super::times::{best_path, measure_times};
use super::{Plan, Session, black_hole, meter, proofs, storm};
use crate::boxes::{Boxes, Setup};
use crate::report::figure::Goodput;
use crate::topology::{Topology, lan_prefixes};

impl Session<'_> {
    pub(super) fn bonded(&mut self) -> Result<()> {
        let topology = self.topology()?;
        for link in &topology.links {
            link.forbid(&lan_prefixes()?)?;
        }
        let boxes = Boxes::start(&topology, &Setup::new(&self.plan.braid))?;
        self.setting.mptcp = proofs::mptcp_settings(&topology)?;
        for number in 0..self.setting.throughput.len() {
            let goodput = self.braid_goodput(&topology, number);
            self.setting.throughput[number].braid = goodput;
            self.figure_done(number, "braid");
        }
        let proofs = proofs::gather(&topology);
        self.keep("proofs", proofs, |setting, proofs| setting.proofs = Some(proofs));
        if self.plan.times {
            self.braid_times(&topology);
        }
        if self.plan.black_hole {
            for path in 0..topology.links.len() {
                let hole = black_hole::measure(&topology, path);
                self.keep("black hole", hole, |setting, hole| setting.black_holes.push(hole));
            }
        }
        if self.plan.has_storm(self.profile) {
            let storm = storm::measure(&topology, &boxes, self.plan);
            self.keep("storm", storm, |setting, storm| setting.storm = Some(storm));
        }
        // What has been seen since counts too.
        if let Some(proofs) = &mut self.setting.proofs {
            proofs.paths = proofs::watched_paths(&topology);
        }
        boxes.stop()
    }

    fn braid_goodput(&mut self, topology: &Topology, number: usize) -> Goodput {
        let mut goodput = Goodput::default();
        for _ in 0..self.plan.repeat {
            let figure = &self.setting.throughput[number];
            let direction = figure.direction;
            let measured =
                meter::plan(self.plan, figure, Plan::omit(self.profile)).and_then(|plan| {
                    let work = || meter::iperf(topology, &plan);
                    let (result, series) = meter::while_watching(&topology.links, direction, work);
                    Ok((result?, series))
                });
            match measured {
                Ok((result, series)) => {
                    meter::add(&mut goodput, &result);
                    self.setting.throughput[number].series = Some(series);
                }
                Err(error) => self.failed("throughput of braid", &error),
            }
        }
        goodput
    }

    fn braid_times(&mut self, topology: &Topology) {
        let best = topology.links[best_path(&self.setting)].name().to_owned();
        let measured = measure_times(topology, self.plan.seed);
        self.keep("flow times of braid", measured, |setting, measured| {
            for (size, times) in measured {
                super::times::figure(setting, size, &best).braid = Some(times);
            }
        });
    }

    fn keep<T>(
        &mut self,
        step: &str,
        outcome: Result<T>,
        keep: impl FnOnce(&mut super::Setting, T),
    ) {
        match outcome {
            Ok(figure) => {
                keep(&mut self.setting, figure);
                self.step(step, "done");
            }
            Err(error) => {
                self.failed(step, &error);
                self.step(step, "failed");
            }
        }
    }
}
