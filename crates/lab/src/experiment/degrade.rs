//! A bulk download in which one path turns bad, but not silent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Session;
use super::bulk::{self, since, sleep_until};
use crate::link::{Direction, Duplex, Link, Loss, Probability, Shape};
use crate::report::figure::{Degraded, PathAlone, Trouble, Watched};
use crate::topology::Topology;

/// When the path turns bad, and how long goodput is looked at from then on.
const TURNS: Duration = Duration::from_secs(8);
const LASTS: Duration = Duration::from_secs(20);

/// Goodput before is taken over this much.
const BEFORE: Duration = Duration::from_secs(2);

/// What a bad path loses of what is sent either way, and by how much a full one holds back what is
/// sent towards the host: the emulator has that as delay, since others' traffic in the queue ahead
/// of ours is nothing else to us.
const LOST: f64 = 0.2;
const HELD_BACK: Duration = Duration::from_secs(2);

/// What has to be reached, in per cent of what the other paths carry.
const TARGET: f64 = 95.0;

impl Session<'_> {
    pub(super) fn degraded(&mut self, seen: &mut Vec<Watched>) -> Result<()> {
        let alone = self.paths_alone()?;
        for trouble in [Trouble::Loss, Trouble::Queueing] {
            for path in 0..self.profile.paths.len() {
                let bond = self.bond(path)?;
                let duplex = &self.profile.paths[path];
                let figure = measure(&bond.topology, path, duplex, trouble, &alone);
                bond.stop(seen)?;
                let step = format!("{trouble} on wan{}", path + 1);
                self.keep(&step, figure, |setting, figure| setting.degraded.push(figure));
            }
        }
        Ok(())
    }
}

fn measure(
    topology: &Topology,
    path: usize,
    duplex: &Duplex,
    trouble: Trouble,
    alone: &[PathAlone],
) -> Result<Degraded> {
    let (up, down) = troubled(duplex, trouble).context("20 % is no probability")?;
    let link = &topology.links[path];
    let (watch, turned) =
        bulk::while_downloading(topology, TURNS + LASTS + 2 * bulk::SAMPLE, |began| {
            turn_bad(link, up, down, began)
        })?;
    bulk::check(&watch)?;
    let turned = since(&watch, turned);
    let others = alone.iter().filter(|other| other.path != link.name());
    Ok(Degraded {
        path: link.name().to_owned(),
        trouble,
        others_mbit: others.map(|other| other.mbit).sum(),
        before_mbit: watch.mbit(turned.saturating_sub(BEFORE), BEFORE),
        seconds: LASTS.as_secs_f64(),
        mbit: watch.mbit(turned, LASTS),
        stall_ms: watch.longest_gap(turned, turned + LASTS).as_secs_f64() * 1e3,
        target_percent: TARGET,
    })
}

fn turn_bad(link: &Link, up: Shape, down: Shape, began: Instant) -> Result<Instant> {
    sleep_until(began, TURNS);
    let turned = Instant::now();
    link.set_shape(Direction::Up, up)?;
    link.set_shape(Direction::Down, down)?;
    Ok(turned)
}

/// What the path is like from then on, up and down.
fn troubled(duplex: &Duplex, trouble: Trouble) -> Option<(Shape, Shape)> {
    let (up, down) = (duplex.up, duplex.down);
    Some(match trouble {
        Trouble::Loss => {
            let random = Probability::new(LOST)?;
            let lossy = |shape: Shape| Shape { loss: Loss { random, ..shape.loss }, ..shape };
            (lossy(up), lossy(down))
        }
        Trouble::Queueing => (up, Shape { delay: down.delay + HELD_BACK, ..down }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profiles;

    #[test]
    fn loss_hits_both_ways_and_queueing_what_comes_down() {
        let profiles = Profiles::load(None).unwrap();
        let path = &profiles.get("dsl").unwrap().paths[0];
        let (up, down) = troubled(path, Trouble::Loss).unwrap();
        assert_eq!((up.loss.random.get(), down.loss.random.get()), (0.2, 0.2));
        assert_eq!((up.rate, down.queue), (path.up.rate, path.down.queue));
        let (up, down) = troubled(path, Trouble::Queueing).unwrap();
        assert_eq!((up, down.loss), (path.up, path.down.loss));
        assert_eq!(down.delay, path.down.delay + Duration::from_secs(2));
    }
}
