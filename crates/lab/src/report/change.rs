//! Paths that go away, come back, flap and turn bad under a bulk download.
//!
//! As in `figure`, what is derived is computed here and stored nowhere.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::figure::{Flap, Verdict};

/// Plain routing's bulk download over one path alone, in the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathAlone {
    /// The path's name.
    pub path: String,
    /// Its goodput, in Mbit/s.
    pub mbit: f64,
    /// The same in per cent of the bytes that the link's rate allowed meanwhile.
    pub allowed_percent: f64,
}

/// Downloads in which one path after the other went away and came back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Outages {
    /// How paths went.
    pub kind: Flap,
    /// How many downloads there were.
    pub runs: usize,
    /// Plain routing over each path alone.
    pub alone: Vec<PathAlone>,
    /// See [`super::figure::Throughput`].
    pub framing_factor: f64,
    /// What counts as the sum, in per cent of the limit.
    pub bar_percent: f64,
    /// Downloads that ended before their time, or had wrong bytes.
    pub broken: usize,
    /// Downloads that could not be made, or did not use all paths before the first one went.
    pub unmeasured: usize,
    /// Each outage of the downloads that were whole.
    pub outages: Vec<Outage>,
    /// What has to be reached.
    pub target: Option<OutageTarget>,
}

/// One path that went and came back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// The path's name.
    pub path: String,
    /// When it went, in s from the download's beginning.
    pub gone_s: f64,
    /// When it was back, in s from the download's beginning.
    pub returned_s: f64,
    /// Goodput in the second before it went, in Mbit/s.
    pub before_mbit: f64,
    /// The longest time without a byte at the host, from when it went until the next one did, in ms.
    pub stall_ms: f64,
    /// From its return until the sum was back, in ms: the beginning of the first 250 ms at the bar
    /// that begin a second of at least 90 % of the bar. None if there were none before the next path
    /// went.
    pub back_ms: Option<f64>,
}

/// What outages may cost, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutageTarget {
    /// The longest stall of 19 in 20 outages.
    pub stall_ms: f64,
    /// The longest stall of all.
    pub worst_stall_ms: f64,
    /// The time until the sum is back, of 19 in 20 outages.
    pub back_ms: f64,
}

/// Median, 95th percentile and worst of some times, in ms; infinite where something never happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half were no longer.
    pub median: f64,
    /// 19 of 20 were no longer.
    pub p95: f64,
    /// The longest.
    pub worst: f64,
}

/// A long download while paths went silent in turn, with small flows beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Flapping {
    /// How paths went.
    pub kind: Flap,
    /// How long one was away, and how long all lived before the next was, in s.
    pub half_s: f64,
    /// How long it was measured, in s.
    pub seconds: f64,
    /// The paths in the setting's order.
    pub paths: Vec<FlappingPath>,
    /// See [`super::figure::Throughput`].
    pub framing_factor: f64,
    /// What the download brought to the host meanwhile.
    pub bytes: u64,
    /// Flows in all: the download, and the small ones.
    pub flows: u64,
    /// Those that failed, hung or had wrong bytes.
    pub lost: u64,
    /// What has to be reached, in per cent of what the live links allow.
    pub target_percent: f64,
}

/// What one path could have carried meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlappingPath {
    /// The path's name.
    pub path: String,
    /// What plain routing made of the bytes that the path's rate allowed, alone, in per cent.
    pub plain_percent: f64,
    /// Bytes that its rate allowed while it was live.
    pub live_bytes: u64,
}

/// A download in which one path turned bad.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Degraded {
    /// The path's name.
    pub path: String,
    /// What befell it.
    pub trouble: Trouble,
    /// Goodput before, in Mbit/s.
    pub before_mbit: f64,
    /// What plain routing carries over the other paths, each alone, in Mbit/s.
    pub others_mbit: f64,
    /// For how long it was measured, from when the path turned bad, in s.
    pub seconds: f64,
    /// Goodput over that time, in Mbit/s.
    pub mbit: f64,
    /// The longest time without a byte at the host meanwhile, in ms.
    pub stall_ms: f64,
    /// What has to be reached, in per cent of `others_mbit`.
    pub target_percent: f64,
}

/// What makes a path bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// 20 % of its packets are lost at random, both ways.
    Loss,
    /// What it carries towards the host comes 2 s later.
    Queueing,
}

impl Outages {
    /// What the links allow, in Mbit/s: the sum of the paths alone, less MPTCP's bytes.
    #[must_use]
    pub fn limit_mbit(&self) -> f64 {
        self.alone.iter().map(|path| path.mbit).sum::<f64>() * self.framing_factor
    }

    /// What counts as the sum, in Mbit/s.
    #[must_use]
    pub fn bar_mbit(&self) -> f64 {
        self.limit_mbit() * self.bar_percent / 100.0
    }

    /// The longest stalls.
    #[must_use]
    pub fn stalls(&self) -> Option<Spread> {
        Spread::of(self.outages.iter().map(|outage| outage.stall_ms))
    }

    /// The times until the sum was back.
    #[must_use]
    pub fn backs(&self) -> Option<Spread> {
        Spread::of(self.outages.iter().map(|outage| outage.back_ms.unwrap_or(f64::INFINITY)))
    }

    /// Missed if a download broke or a time is too long, met only if none is lacking.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        let target = self.target?;
        let within = |stalls: Spread, backs: Spread| {
            stalls.p95 <= target.stall_ms
                && stalls.worst <= target.worst_stall_ms
                && backs.p95 <= target.back_ms
        };
        let within = self.stalls().zip(self.backs()).map(|(stalls, backs)| within(stalls, backs));
        match (self.broken, within) {
            (1.., _) | (_, Some(false)) => Some(Verdict::Missed),
            (_, Some(true)) if self.unmeasured == 0 => Some(Verdict::Met),
            _ => None,
        }
    }
}

impl Spread {
    /// By nearest rank; none of none.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let rank =
            |percent: usize| values.get((values.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Self { median: rank(50)?, p95: rank(95)?, worst: rank(100)? })
    }
}

impl Flapping {
    /// What the live links allow, in Mbit/s.
    #[must_use]
    pub fn allowed_mbit(&self) -> f64 {
        let of = |path: &FlappingPath| path.live_bytes as f64 * path.plain_percent / 100.0;
        self.mbit_of(self.paths.iter().map(of).sum::<f64>() * self.framing_factor)
    }

    /// The download's goodput, in Mbit/s.
    #[must_use]
    pub fn mbit(&self) -> f64 {
        self.mbit_of(self.bytes as f64)
    }

    /// Goodput in per cent of what the live links allow.
    #[must_use]
    pub fn reached_percent(&self) -> Option<f64> {
        percent(self.mbit(), self.allowed_mbit())
    }

    /// Missed also if a flow was lost.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        let reached = self.reached_percent()?;
        Some(Verdict::of(reached >= self.target_percent && self.lost == 0))
    }

    fn mbit_of(&self, bytes: f64) -> f64 {
        if self.seconds > 0.0 { bytes * 8e-6 / self.seconds } else { 0.0 }
    }
}

impl Degraded {
    /// Goodput in per cent of what the other paths carry.
    #[must_use]
    pub fn reached_percent(&self) -> Option<f64> {
        percent(self.mbit, self.others_mbit)
    }

    /// Whether the target is met; none with no other path.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.reached_percent().map(|reached| Verdict::of(reached >= self.target_percent))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Loss => "20 % loss",
            Self::Queueing => "2 s of queueing",
        })
    }
}

fn percent(value: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| value / of * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outages(stalls: &[f64], backs: &[Option<f64>]) -> Outages {
        let outage = |(stall, back): (&f64, &Option<f64>)| Outage {
            path: "wan1".into(),
            gone_s: 8.0,
            returned_s: 11.0,
            before_mbit: 188.0,
            stall_ms: *stall,
            back_ms: *back,
        };
        let alone = PathAlone { path: "wan1".into(), mbit: 100.0, allowed_percent: 95.0 };
        Outages {
            kind: Flap::Silence,
            runs: 10,
            alone: vec![alone.clone(), alone],
            framing_factor: 0.98,
            bar_percent: 50.0,
            broken: 0,
            unmeasured: 0,
            outages: stalls.iter().zip(backs).map(outage).collect(),
            target: Some(OutageTarget { stall_ms: 250.0, worst_stall_ms: 1000.0, back_ms: 1000.0 }),
        }
    }

    #[test]
    fn one_in_twenty_may_be_longer_but_none_longer_than_the_worst() {
        let mut stalls = vec![200.0; 20];
        stalls[7] = 999.0;
        let mut backs = vec![Some(700.0); 20];
        backs[3] = None;
        let met = outages(&stalls, &backs);
        assert_eq!((met.limit_mbit(), met.bar_mbit()), (196.0, 98.0));
        assert_eq!(met.verdict(), Some(Verdict::Met));
        let spread = met.backs().unwrap();
        assert_eq!((spread.median, spread.p95, spread.worst), (700.0, 700.0, f64::INFINITY));
        stalls[7] = 1001.0;
        assert_eq!(outages(&stalls, &backs).verdict(), Some(Verdict::Missed));
        (stalls[7], stalls[8]) = (251.0, 251.0);
        assert_eq!(outages(&stalls, &backs).verdict(), Some(Verdict::Missed));
        stalls[8] = 250.0;
        backs[4] = Some(1001.0);
        assert_eq!(outages(&stalls, &backs).verdict(), Some(Verdict::Missed));
    }

    #[test]
    fn a_broken_download_is_a_miss_and_a_lacking_one_no_verdict() {
        let met = outages(&[9.0], &[Some(1.0)]);
        assert_eq!(Outages { broken: 1, ..met.clone() }.verdict(), Some(Verdict::Missed));
        assert_eq!(Outages { unmeasured: 1, ..met.clone() }.verdict(), None);
        assert_eq!(Outages { target: None, ..met }.verdict(), None);
        assert_eq!(outages(&[], &[]).verdict(), None);
    }

    #[test]
    fn flapping_is_held_against_the_live_links() {
        let path = |plain_percent, live_bytes| FlappingPath {
            path: "wan1".into(),
            plain_percent,
            live_bytes,
        };
        let mut flapping = Flapping {
            kind: Flap::Silence,
            half_s: 5.0,
            seconds: 10.0,
            paths: vec![path(90.0, 100_000_000), path(80.0, 50_000_000)],
            framing_factor: 0.5,
            bytes: 60_000_000,
            flows: 11,
            lost: 0,
            target_percent: 90.0,
        };
        assert!((flapping.allowed_mbit() - 52.0).abs() < 1e-9);
        assert!((flapping.mbit() - 48.0).abs() < 1e-9);
        assert_eq!(flapping.verdict(), Some(Verdict::Met));
        flapping.lost = 1;
        assert_eq!(flapping.verdict(), Some(Verdict::Missed));
        (flapping.lost, flapping.bytes) = (0, 58_000_000);
        assert_eq!(flapping.verdict(), Some(Verdict::Missed));
        assert_eq!(Flapping { seconds: 0.0, ..flapping }.verdict(), None);
    }

    #[test]
    fn a_bad_path_is_held_against_the_others() {
        let mut degraded = Degraded {
            path: "wan1".into(),
            trouble: Trouble::Loss,
            before_mbit: 188.0,
            others_mbit: 95.0,
            seconds: 20.0,
            mbit: 91.0,
            stall_ms: 130.0,
            target_percent: 95.0,
        };
        assert_eq!(degraded.verdict(), Some(Verdict::Met));
        degraded.mbit = 90.0;
        assert_eq!(degraded.verdict(), Some(Verdict::Missed));
        degraded.others_mbit = 0.0;
        assert_eq!(degraded.verdict(), None);
    }
}
