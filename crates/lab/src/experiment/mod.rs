//! What is measured in which order, and how it becomes results.
//!
//! For each setting (a profile under one congestion control): `baseline` over each path alone by
//! plain routing, then `bonded` with braid in the boxes. `plan` says which of it is wanted. Showing
//! results is `report`'s.

mod baseline;
mod beyond;
mod black_hole;
mod bonded;
mod bulk;
mod burst;
mod degrade;
mod flap;
mod flapping;
mod idle;
mod machine;
mod meter;
mod outages;
mod plan;
mod proofs;
mod storm;
mod tap;
mod times;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::iperf::IperfResult;
use crate::link::{Direction as LinkDirection, Duplex, Shape};
use crate::profile::Profile;
use crate::report::figure::{Family, Goodput, PathAlone, Throughput};
use crate::report::model::{Failure, Link as LinkFigures, Path as PathFigures, Results, Setting};
use crate::report::progress::{self, Progress};
use crate::topology::Topology;

pub use machine::{any_seed, describe as describe_machine};
pub use plan::{Part, Plan};
pub use proofs::gather as prove;
pub use tap::tap;

/// A setting being measured.
struct Session<'a> {
    plan: &'a Plan,
    profile: &'a Profile,
    congestion: &'a str,
    setting: Setting,
    /// Plain downloads over each path alone, once they are measured.
    alone: Vec<PathAlone>,
    failures: &'a mut Vec<Failure>,
    progress: &'a mut Progress,
    began: Instant,
    say: &'a dyn Fn(&str),
}

/// Runs the plan; `say` is given a line of progress at a time, and `keep` what there is after each
/// setting. A step that fails is in the results, and the next is taken.
pub fn run(plan: &Plan, results: &mut Results, say: &dyn Fn(&str), keep: &dyn Fn(&Results)) {
    let steps = plan.settings.iter().map(|(profile, _)| plan.steps(profile)).sum();
    let (mut progress, began) = (Progress::new(steps), Instant::now());
    for (profile, congestion) in &plan.settings {
        let mut session = Session {
            plan,
            profile,
            congestion,
            setting: describe(profile, congestion),
            alone: Vec::new(),
            failures: &mut results.failures,
            progress: &mut progress,
            began,
            say,
        };
        session.measure();
        let setting = session.setting;
        results.settings.push(setting);
        keep(results);
    }
}

impl Session<'_> {
    fn measure(&mut self) {
        for (direction, family, streams) in self.plan.choices() {
            self.setting.throughput.push(Throughput {
                direction,
                family,
                streams: streams.into(),
                alone: Vec::new(),
                // MPTCP's data sequence signal takes 20 of the 1448 bytes that IPv4 leaves TCP.
                framing_factor: framing(family),
                braid: Goodput::default(),
                target_percent: target(&self.profile.name),
                series: None,
            });
        }
        if let Err(error) = self.baseline() {
            self.failed("plain routing", &error);
        }
        if let Err(error) = self.bonded() {
            self.failed("braid", &error);
        }
    }

    fn has(&self, part: Part) -> bool {
        self.plan.has(part, self.profile)
    }

    /// A fresh one for each measurement: its links lose, jitter and wander as those of the other
    /// measurements with the same repeat's number, and nothing is inherited of what the kernel
    /// remembers.
    fn topology(&self, repeat: usize) -> Result<Topology> {
        let seed = self.plan.seed.wrapping_add(1000 * repeat as u64);
        Topology::build(self.profile, self.congestion, seed)
    }

    /// A fresh one with plain routing over the best path, and that path.
    fn plain_topology(&self, repeat: usize) -> Result<(Topology, usize)> {
        let (topology, path) = (self.topology(repeat)?, times::best_path(&self.setting));
        topology.route_over(path)?;
        Ok((topology, path))
    }

    /// What iperf3 says must be what was asked for, and the links sound.
    fn check(&self, topology: &Topology, result: &IperfResult) -> Result<()> {
        let asked = |found: &str| found.is_empty() || found == self.congestion;
        ensure!(
            asked(&result.sender_cc) && asked(&result.receiver_cc),
            "congestion control {} and {} instead of {}",
            result.sender_cc,
            result.receiver_cc,
            self.congestion
        );
        for link in &topology.links {
            ensure!(link.is_realtime(), "{} has no real-time thread", link.name());
            for way in [LinkDirection::Up, LinkDirection::Down] {
                let lost = link.counters(way).undeliverable;
                ensure!(lost == 0, "{} itself lost {lost} frames", link.name());
            }
        }
        Ok(())
    }

    fn step(&mut self, what: &str, outcome: &str) {
        let what = format!("{:<12} {what}", self.setting.title());
        (self.say)(&self.progress.step(&what, outcome, self.began.elapsed()));
    }

    fn figure_done(&mut self, number: usize, how: &str) {
        let figure = &self.setting.throughput[number];
        let (what, outcome) = (format!("{} {how}", figure.label()), progress::outcome(figure));
        self.step(&what, &outcome);
    }

    /// Puts a measured figure in its place, or the error among the failures.
    fn keep<T>(&mut self, step: &str, outcome: Result<T>, keep: impl FnOnce(&mut Setting, T)) {
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

    fn failed(&mut self, step: &str, error: &anyhow::Error) {
        let (setting, message) = (Some(self.setting.title()), format!("{error:#}"));
        (self.say)(&format!("{}: {step}: {message}", self.setting.title()));
        self.failures.push(Failure { setting, step: step.to_owned(), message });
    }
}

/// MPTCP's bytes, as a part of what one path's plain segments carry: carriers are IPv4, of 1428
/// bytes a segment; plain segments carry 1448 by IPv4 and 1428 by IPv6.
fn framing(family: Family) -> f64 {
    match family {
        Family::V4 => 1428.0 / 1448.0,
        Family::V6 => 1.0,
    }
}

/// What has to be reached, in per cent of the limit.
fn target(profile: &str) -> f64 {
    match profile {
        "lossy" => 95.0,
        "long" | "wifi" => 90.0,
        _ => 97.0,
    }
}

fn describe(profile: &Profile, congestion: &str) -> Setting {
    let paths: Vec<PathFigures> = profile.paths.iter().enumerate().map(path_figures).collect();
    Setting {
        profile: profile.name.clone(),
        links: profile.about.clone(),
        paths,
        box_congestion: congestion.to_owned(),
        host_congestion: congestion.to_owned(),
        ..Setting::default()
    }
}

fn path_figures((number, path): (usize, &Duplex)) -> PathFigures {
    let figures = |shape: &Shape| {
        let least = path.wander.as_ref().map(|wander| wander.rates.start().mbit());
        let rate_mbit = path.wander.as_ref().map_or(shape.rate, |w| *w.rates.end()).mbit();
        let loss = shape.loss.random.get() * 100.0;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        LinkFigures {
            rate_mbit,
            delay_ms: milliseconds(shape.delay),
            jitter_ms: milliseconds(shape.jitter.max),
            loss_percent: loss,
            queue_ms: shape.queue as f64 * 8.0 / 1e3 / least.unwrap_or(rate_mbit),
        }
    };
    PathFigures {
        name: format!("wan{}", number + 1),
        down: figures(&path.down),
        up: figures(&path.up),
    }
}
