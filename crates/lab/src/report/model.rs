//! The results of one run of the lab: what `results.json` holds, setting by setting.
//!
//! Owns the run, its settings and their links. The figures of a setting are in `figure`, what
//! is derived from them in `derived`. Every part may be missing, so that a run which broke off
//! can still be written down; every number is finite.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figure::{
    Beyond, BlackHole, Burst, Degraded, Direction, Flapping, FlowTimes, Idle, Outages, Proofs,
    Storm, Taps, Throughput, Verdict,
};

/// The version of the results file that this code writes and reads.
pub const FORMAT: u32 = 1;

/// Everything one run of the lab found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The version of the file's form, [`FORMAT`].
    pub format: u32,
    /// What was run, where and how.
    pub run: Run,
    /// One entry for each profile and choice of congestion control.
    pub settings: Vec<Setting>,
    /// The steps that could not be measured.
    pub failures: Vec<Failure>,
}

/// What was run, on which machine, and how to run it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When the run began, as text.
    pub date: String,
    /// Braid's version.
    pub version: String,
    /// The commit that braid was built from.
    pub commit: String,
    /// The kernel's release.
    pub kernel: String,
    /// How many processors the machine has.
    pub cores: u32,
    /// The processor's model name.
    pub cpu: String,
    /// The seed of everything random in the run.
    pub seed: u64,
    /// The command that repeats the run.
    pub command_line: String,
    /// What the link emulator can carry on this machine, in Mbit/s.
    pub emulator_ceiling_mbit: Option<f64>,
    /// What a reader should know before believing the figures.
    pub warnings: Vec<String>,
}

/// One profile of links under one choice of congestion control, and what was measured over it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The profile's name.
    pub profile: String,
    /// What its links are, in words.
    pub links: String,
    /// The links, in the order in which every list by path has them.
    pub paths: Vec<Path>,
    /// The congestion control of both boxes.
    pub box_congestion: String,
    /// The congestion control of the host and the sink.
    pub host_congestion: String,
    /// The boxes' MPTCP settings by name.
    pub mptcp: BTreeMap<String, String>,
    /// Throughput by direction, family and streams.
    pub throughput: Vec<Throughput>,
    /// Times of short flows by size.
    pub flow_times: Vec<FlowTimes>,
    /// Many flows at once, new to the boxes.
    #[serde(default)]
    pub bursts: Vec<Burst>,
    /// What the boxes say when nobody asks them to.
    #[serde(default)]
    pub idle: Option<Idle>,
    /// What happened when a path swallowed everything without a word.
    pub black_holes: Vec<BlackHole>,
    /// What paths cost that went and came back, by how they went.
    #[serde(default)]
    pub outages: Vec<Outages>,
    /// What was reached while paths went silent in turn.
    #[serde(default)]
    pub flapping: Option<Flapping>,
    /// What was reached with one path turned bad.
    #[serde(default)]
    pub degraded: Vec<Degraded>,
    /// Flows that find the peer's carriers used up.
    #[serde(default)]
    pub beyond: Option<Beyond>,
    /// Many flows at once, each byte checked.
    pub storm: Option<Storm>,
    /// That the figures were not reached by going round braid.
    pub proofs: Option<Proofs>,
    /// That nobody on the paths can read what they carry.
    #[serde(default)]
    pub taps: Option<Taps>,
}

/// One emulated link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// The path's name.
    pub name: String,
    /// Towards the host.
    pub down: Link,
    /// Towards the sink.
    pub up: Link,
}

/// One direction of an emulated link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The rate on the wire, in Mbit/s.
    pub rate_mbit: f64,
    /// The delay one way, in ms.
    pub delay_ms: f64,
    /// The greatest deviation from the delay, in ms.
    pub jitter_ms: f64,
    /// The part of the packets lost at random, in per cent.
    pub loss_percent: f64,
    /// The longest time a packet waits in the queue, in ms.
    pub queue_ms: f64,
}

/// A step that could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The setting it belongs to, as [`Setting::title`] names it; none where it is of the run.
    pub setting: Option<String>,
    /// What was to be done.
    pub step: String,
    /// What went wrong.
    pub message: String,
}

/// How many figures met their target, missed it, or were not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Figures that reached their target.
    pub met: usize,
    /// Figures that did not.
    pub missed: usize,
    /// Figures without a value, or without the limit to compare it with.
    pub unmeasured: usize,
}

/// The lowest and the highest of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Range {
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Results {
    /// Results of a run in which nothing is measured yet.
    #[must_use]
    pub fn new(run: Run) -> Self {
        Self { format: FORMAT, run, settings: Vec::new(), failures: Vec::new() }
    }

    /// All throughput figures against their targets.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally::of(self.settings.iter().flat_map(|s| &s.throughput).map(Throughput::verdict))
    }

    /// All flow times and bursts that have a target, against it.
    #[must_use]
    pub fn flows(&self) -> Tally {
        self.settings.iter().map(Setting::flows).fold(Tally::default(), Tally::and)
    }

    /// All figures of changing paths that have a target, against it.
    #[must_use]
    pub fn changes(&self) -> Tally {
        self.settings.iter().map(Setting::changes).fold(Tally::default(), Tally::and)
    }

    /// The storms that went through unharmed, against those that did not.
    #[must_use]
    pub fn storms(&self) -> Tally {
        Tally::of(self.settings.iter().filter_map(|s| s.storm.as_ref()).map(|s| Some(s.verdict())))
    }

    /// The settings whose proofs hold, against those whose proofs do not.
    #[must_use]
    pub fn proofs(&self) -> Tally {
        Tally::of(self.settings.iter().filter_map(|s| s.proofs.as_ref()).map(|p| Some(p.verdict())))
    }

    /// The settings whose paths tell nothing, against those whose paths do.
    #[must_use]
    pub fn taps(&self) -> Tally {
        Tally::of(self.settings.iter().filter_map(|s| s.taps.as_ref()).map(|t| Some(t.verdict())))
    }
}

impl Setting {
    /// The profile's name, with the boxes' congestion control.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} / {}", self.profile, self.box_congestion)
    }

    /// What was reached in one direction, in per cent of what the links allow.
    #[must_use]
    pub fn reached_percent(&self, direction: Direction) -> Option<Range> {
        Range::of(self.throughput_of(direction).filter_map(Throughput::reached_percent))
    }

    /// The throughput figures of one direction.
    pub fn throughput_of(&self, direction: Direction) -> impl Iterator<Item = &Throughput> {
        self.throughput.iter().filter(move |figure| figure.direction == direction)
    }

    /// The setting's throughput figures against their targets.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally::of(self.throughput.iter().map(Throughput::verdict))
    }

    /// The setting's flow times and bursts that have a target, against it.
    #[must_use]
    pub fn flows(&self) -> Tally {
        let times = self.flow_times.iter().filter(|flow| flow.target.is_some());
        let bursts = self.bursts.iter().filter(|burst| burst.target.is_some());
        Tally::of(times.map(FlowTimes::verdict).chain(bursts.map(Burst::verdict)))
    }

    /// The setting's figures of changing paths that have a target, against it.
    #[must_use]
    pub fn changes(&self) -> Tally {
        let outages = self.outages.iter().filter(|outages| outages.target.is_some());
        let flapping = self.flapping.iter().map(Flapping::verdict);
        let degraded = self.degraded.iter().map(Degraded::verdict);
        Tally::of(outages.map(Outages::verdict).chain(flapping).chain(degraded))
    }

    /// Proofs and taps in one: missed if either is, none if neither was made.
    #[must_use]
    pub fn proved(&self) -> Option<Verdict> {
        let proofs = self.proofs.as_ref().map(Proofs::verdict);
        let taps = self.taps.as_ref().map(Taps::verdict);
        Tally::of([proofs, taps].into_iter().filter(Option::is_some)).verdict()
    }
}

impl Tally {
    fn of(verdicts: impl Iterator<Item = Option<Verdict>>) -> Self {
        verdicts.fold(Self::default(), |mut tally, verdict| {
            *match verdict {
                Some(Verdict::Met) => &mut tally.met,
                Some(Verdict::Missed) => &mut tally.missed,
                None => &mut tally.unmeasured,
            } += 1;
            tally
        })
    }

    fn and(self, other: Self) -> Self {
        Self {
            met: self.met + other.met,
            missed: self.missed + other.missed,
            unmeasured: self.unmeasured + other.unmeasured,
        }
    }

    /// How many figures there are.
    #[must_use]
    pub fn total(self) -> usize {
        self.met + self.missed + self.unmeasured
    }

    /// Met if every figure is, missed if any is; none if figures are lacking.
    #[must_use]
    pub fn verdict(self) -> Option<Verdict> {
        match self {
            Self { missed: 1.., .. } => Some(Verdict::Missed),
            Self { met: 1.., unmeasured: 0, .. } => Some(Verdict::Met),
            _ => None,
        }
    }
}

impl Range {
    /// The range of `values`; none if there are none.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        values.fold(None, |range, value| {
            let Self { low, high } = range.unwrap_or(Self { low: value, high: value });
            Some(Self { low: low.min(value), high: high.max(value) })
        })
    }
}
