//! The same with braid in the boxes, over all paths and with no other way.

use anyhow::{Result, ensure};

use super::times::{best_path, measure_times};
use super::{Part, Plan, Session, black_hole, idle, meter, proofs, storm, tap};
use crate::boxes::{Boxes, Setup};
use crate::iperf::IperfResult;
use crate::report::figure::{Direction, Goodput, Series, Throughput, Watched};
use crate::topology::{Topology, lan_prefixes};

/// Host to sink with braid in the boxes, and the links on the watch for what goes round it.
pub(super) struct Bond {
    pub(super) topology: Topology,
    boxes: Boxes,
}

impl Session<'_> {
    pub(super) fn bonded(&mut self) -> Result<()> {
        let mut seen = Vec::new();
        for number in 0..self.setting.throughput.len() {
            let goodput = self.braid_goodput(number, &mut seen);
            self.setting.throughput[number].braid = goodput;
            self.figure_done(number, "braid");
        }
        if self.has(Part::Proofs) {
            self.proofs(&mut seen)?;
        }
        if self.has(Part::Times) {
            self.braid_times(&mut seen);
        }
        self.braid_bursts(&mut seen);
        if self.has(Part::Flap) {
            self.flaps(&mut seen)?;
        }
        if self.has(Part::Idle) {
            let bond = self.bond(0)?;
            let idle = idle::measure(&bond.topology, self.plan.idle);
            bond.stop(&mut seen)?;
            self.keep("idle", idle, |setting, idle| setting.idle = Some(idle));
        }
        if self.has(Part::BlackHole) {
            self.black_holes(&mut seen)?;
        }
        if self.has(Part::Outages) {
            self.outages(&mut seen)?;
        }
        if self.has(Part::Flapping) {
            self.flapping(&mut seen)?;
        }
        if self.has(Part::Degrade) {
            self.degraded(&mut seen)?;
        }
        if self.has(Part::Beyond) {
            self.beyond(&mut seen);
        }
        if self.has(Part::Storm) {
            self.storm(&mut seen)?;
        }
        if let Some(proofs) = &mut self.setting.proofs {
            proofs.paths = seen;
        }
        Ok(())
    }

    fn proofs(&mut self, seen: &mut Vec<Watched>) -> Result<()> {
        let bond = self.bond(0)?;
        self.setting.mptcp = proofs::mptcp_settings(&bond.topology)?;
        let proofs = proofs::gather(&bond.topology);
        let taps = tap(&bond.topology);
        bond.stop(seen)?;
        self.keep("proofs", proofs, |setting, proofs| setting.proofs = Some(proofs));
        self.keep("taps", taps, |setting, taps| setting.taps = Some(taps));
        Ok(())
    }

    fn black_holes(&mut self, seen: &mut Vec<Watched>) -> Result<()> {
        let whole = self.setting.throughput.iter().find(|f| f.direction == Direction::Down);
        let whole = whole.and_then(|figure| figure.braid.median()).unwrap_or(0.0);
        for path in 0..self.profile.paths.len() {
            let bond = self.bond(path)?;
            let hole = black_hole::measure(&bond.topology, path, whole);
            bond.stop(seen)?;
            self.keep("black hole", hole, |setting, hole| setting.black_holes.push(hole));
        }
        Ok(())
    }

    fn storm(&mut self, seen: &mut Vec<Watched>) -> Result<()> {
        let bond = self.bond(0)?;
        let measured = storm::measure(&bond.topology, &bond.boxes, self.plan);
        bond.stop(seen)?;
        if let Ok((_, Some(problem))) = &measured {
            self.failed("storm", &anyhow::anyhow!("{problem}"));
        }
        self.keep("storm", measured, |setting, (storm, _)| setting.storm = Some(storm));
        Ok(())
    }

    pub(super) fn bond(&self, repeat: usize) -> Result<Bond> {
        self.bond_with(repeat, None)
    }

    /// With a bound of carriers in both boxes.
    pub(super) fn bond_with(&self, repeat: usize, carriers: Option<u16>) -> Result<Bond> {
        let topology = self.topology(repeat)?;
        for link in &topology.links {
            link.forbid(&lan_prefixes()?)?;
        }
        let protection = self.plan.unsealed.then_some("none");
        let setup = Setup { protection, carriers, ..Setup::new(&self.plan.braid) };
        let boxes = Boxes::start(&topology, &setup)?;
        Ok(Bond { topology, boxes })
    }

    fn braid_goodput(&mut self, number: usize, seen: &mut Vec<Watched>) -> Goodput {
        let mut goodput = Goodput::default();
        for repeat in 0..self.plan.repeat {
            match self.braid_run(&self.setting.throughput[number], repeat, seen) {
                Ok((result, series)) => {
                    meter::add(&mut goodput, &result);
                    self.setting.throughput[number].series = Some(series);
                }
                Err(error) => self.failed("throughput of braid", &error),
            }
        }
        goodput
    }

    fn braid_run(
        &self,
        figure: &Throughput,
        repeat: usize,
        seen: &mut Vec<Watched>,
    ) -> Result<(IperfResult, Series)> {
        let bond = self.bond(repeat)?;
        let ways = bond.topology.plain_ways()?;
        ensure!(ways.is_empty(), "a box has a way round braid: {}", ways.join("; "));
        let plan = meter::plan(self.plan, meter::choice(figure)?, Plan::omit(self.profile))?;
        bond.topology.restart_wander()?;
        let work = || meter::iperf(&bond.topology, &plan);
        let (result, series) = meter::while_watching(&bond.topology.links, figure.direction, work);
        let result = result?;
        self.check(&bond.topology, &result)?;
        bond.stop(seen)?;
        Ok((result, series))
    }

    fn braid_times(&mut self, seen: &mut Vec<Watched>) {
        let best = self.setting.paths[best_path(&self.setting)].name.clone();
        let measured = self.repeated_times(|session, repeat| {
            let bond = session.bond(repeat)?;
            let times = measure_times(&bond.topology);
            bond.stop(seen)?;
            times
        });
        self.keep("flow times of braid", measured, |setting, measured| {
            for (size, times) in measured {
                super::times::figure(setting, size, &best).braid = Some(times);
            }
        });
    }
}

impl Bond {
    /// Stops the boxes and adds what the links have seen of the LANs to what was seen before.
    pub(super) fn stop(self, seen: &mut Vec<Watched>) -> Result<()> {
        let now = proofs::watched_paths(&self.topology);
        if seen.is_empty() {
            seen.clone_from(&now);
        } else {
            for (sum, now) in seen.iter_mut().zip(&now) {
                sum.examined += now.examined;
                sum.forbidden += now.forbidden;
            }
        }
        self.boxes.stop()
    }
}
