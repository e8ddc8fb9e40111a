//! Flow times after the best path was away for a while: they must be as before.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::Session;
use super::times::{SMALL, best_path, measure_small, target};
use crate::link::Link;
use crate::report::figure::{Flap, FlowTimes, Times, Watched};
use crate::topology::Topology;

/// How long the path is away, and how long it is back before flows are timed.
const AWAY: Duration = Duration::from_secs(3);
const BACK: Duration = Duration::from_secs(5);

impl Session<'_> {
    /// Adds a figure for each way in which a path can go. Plain routing is timed with no flap.
    pub(super) fn flaps(&mut self, seen: &mut Vec<Watched>) -> Result<()> {
        let size = SMALL.0;
        let plain = self.plain_small()?;
        let path = best_path(&self.setting);
        for flap in [Flap::Silence, Flap::CarrierLoss] {
            let bond = self.bond(0)?;
            let braid = measure(&bond.topology, path, flap);
            bond.stop(seen)?;
            self.keep(&format!("1 kB after {flap}"), braid, |setting, braid| {
                setting.flow_times.push(FlowTimes {
                    plain: Some(plain),
                    braid: Some(braid),
                    target: target(&setting.profile, size),
                    after: Some(flap),
                    ..FlowTimes::new(size, &setting.paths[path].name)
                });
            });
        }
        Ok(())
    }

    /// Those of the run's flow times, if they were taken.
    fn plain_small(&self) -> Result<Times> {
        let flow = self.setting.flow_times.iter().find(|flow| flow.size == SMALL.0);
        match flow.and_then(|flow| flow.plain) {
            Some(times) => Ok(times),
            None => measure_small(&self.plain_topology(0)?.0),
        }
    }
}

fn measure(topology: &Topology, path: usize, flap: Flap) -> Result<Times> {
    let link = &topology.links[path];
    measure_small(topology)?;
    set_away(link, flap, true)?;
    thread::sleep(AWAY);
    set_away(link, flap, false)?;
    thread::sleep(BACK);
    measure_small(topology)
}

/// Takes a path away in one way or the other, or gives it back.
pub(super) fn set_away(link: &Link, flap: Flap, away: bool) -> Result<()> {
    match flap {
        Flap::Silence => link.black_hole(away)?,
        Flap::CarrierLoss => link.carrier(!away)?,
    }
    Ok(())
}
