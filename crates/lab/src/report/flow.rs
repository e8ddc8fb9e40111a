//! Times of flows, plain over the best single path and by braid: one after the other, and at once.
//!
//! A figure with a target has to be that part of plain routing's time, or less.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::figure::Verdict;
use super::words;

/// Times of flows of one size, plain over the best single path and by braid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct FlowTimes {
    /// Bytes in a flow.
    pub size: u64,
    /// The path that plain routing used.
    pub best_path: String,
    /// Plain routing over that path.
    pub plain: Option<Times>,
    /// Braid over all paths.
    pub braid: Option<Times>,
    /// What braid's median time to the last byte may be as a part of plain routing's.
    #[serde(default)]
    pub target: Option<f64>,
    /// What had happened to the best path before braid was timed; plain routing's was whole.
    #[serde(default)]
    pub after: Option<Flap>,
}

/// What befell a path for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flap {
    /// It swallowed everything without a word.
    Silence,
    /// Both boxes saw their interface lose its carrier.
    CarrierLoss,
}

/// Many flows of one size at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Burst {
    /// How many flows.
    pub flows: usize,
    /// Bytes in a flow.
    pub size: u64,
    /// How long the boxes had run without traffic before, in s; one small flow came between.
    pub idle_s: f64,
    /// The path that plain routing used.
    pub best_path: String,
    /// Plain routing over that path, the median of the repeats.
    pub plain: Option<Times>,
    /// Braid over all paths, the median of the repeats.
    pub braid: Option<Times>,
    /// What braid's 90th percentile of the time to the last byte may be as a part of plain
    /// routing's.
    pub target: Option<f64>,
}

/// Times from a flow's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// How many flows were timed.
    pub n: usize,
    /// Until the connection stood.
    pub connect: Quantiles,
    /// Until the first byte came.
    pub first_byte: Quantiles,
    /// Until the last byte came.
    pub complete: Quantiles,
}

/// Quantiles of times, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// 90 of 100 were no slower.
    pub p90: f64,
    /// 99 of 100 were no slower.
    pub p99: f64,
}

impl FlowTimes {
    /// A figure of which nothing is measured.
    #[must_use]
    pub fn new(size: u64, best_path: &str) -> Self {
        let best_path = best_path.to_owned();
        Self { size, best_path, plain: None, braid: None, target: None, after: None }
    }

    /// Braid's median time to the last byte as a part of plain routing's: below 1 is faster.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        ratio(self.plain?.complete.p50, self.braid?.complete.p50)
    }

    /// Whether the target is met; none without one, or where a time is lacking.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        verdict(self.ratio(), self.target)
    }

    /// The size, and what came before, in words.
    #[must_use]
    pub fn label(&self) -> String {
        let size = words::bytes(self.size);
        self.after.map_or(size.clone(), |flap| format!("{size} after {flap}"))
    }
}

impl Burst {
    /// Braid's 90th percentile of the time to the last byte as a part of plain routing's.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        ratio(self.plain?.complete.p90, self.braid?.complete.p90)
    }

    /// See [`FlowTimes::verdict`].
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        verdict(self.ratio(), self.target)
    }

    /// Flows, size and idle time in words.
    #[must_use]
    pub fn label(&self) -> String {
        let flows = format!("{} of {}", self.flows, words::bytes(self.size));
        if self.idle_s > 0.0 { format!("{flows} after {} s", self.idle_s) } else { flows }
    }
}

impl Times {
    /// Each quantile's median over several measurements; none of none.
    #[must_use]
    pub fn median(all: &[Self]) -> Option<Self> {
        let n = all.first()?.n;
        let of = |step: fn(&Self) -> Quantiles| {
            let steps: Vec<Quantiles> = all.iter().map(step).collect();
            Quantiles::median(&steps)
        };
        Some(Self {
            n,
            connect: of(|times| times.connect),
            first_byte: of(|times| times.first_byte),
            complete: of(|times| times.complete),
        })
    }
}

impl Quantiles {
    fn median(all: &[Self]) -> Self {
        let of = |quantile: fn(&Self) -> f64| {
            let mut values: Vec<f64> = all.iter().map(quantile).collect();
            values.sort_by(f64::total_cmp);
            f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
        };
        Self { p50: of(|q| q.p50), p90: of(|q| q.p90), p99: of(|q| q.p99) }
    }
}

impl fmt::Display for Flap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Silence => "silence",
            Self::CarrierLoss => "carrier loss",
        })
    }
}

fn ratio(plain: f64, braid: f64) -> Option<f64> {
    (plain > 0.0).then(|| braid / plain)
}

fn verdict(ratio: Option<f64>, target: Option<f64>) -> Option<Verdict> {
    Some(Verdict::of(ratio? <= target?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(p50: f64, p90: f64) -> Times {
        let quantiles = Quantiles { p50, p90, p99: 2.0 * p90 };
        Times { n: 30, connect: quantiles, first_byte: quantiles, complete: quantiles }
    }

    #[test]
    fn a_target_is_met_or_missed_by_the_ratio() {
        let (plain, braid) = (Some(times(100.0, 200.0)), Some(times(55.0, 141.0)));
        let target = Some(0.55);
        let mut flow = FlowTimes { plain, braid, target, ..FlowTimes::new(1000, "wan1") };
        assert_eq!(flow.verdict(), Some(Verdict::Met));
        flow.target = Some(0.5);
        flow.after = Some(Flap::CarrierLoss);
        assert_eq!(flow.verdict(), Some(Verdict::Missed));
        assert_eq!(flow.label(), "1 kB after carrier loss");
        flow.target = None;
        assert_eq!((flow.verdict(), flow.ratio()), (None, Some(0.55)));
        let best_path = "wan1".into();
        let target = Some(0.7);
        let burst = Burst { flows: 30, size: 1000, idle_s: 60.0, best_path, plain, braid, target };
        assert_eq!(burst.verdict(), Some(Verdict::Missed));
        assert_eq!(Burst { braid: None, ..burst }.verdict(), None);
    }

    #[test]
    fn each_quantile_of_the_repeats_has_its_own_median() {
        let all = [times(1.0, 9.0), times(3.0, 5.0), times(2.0, 7.0)];
        let median = Times::median(&all).unwrap().complete;
        assert_eq!((median.p50, median.p90, median.p99), (2.0, 7.0, 14.0));
        assert_eq!(Times::median(&[]), None);
    }

    #[test]
    fn a_figure_without_the_newer_fields_is_read() {
        let mut value = serde_json::to_value(FlowTimes::new(1000, "wan1")).unwrap();
        let fields = value.as_object_mut().unwrap();
        assert!(fields.remove("target").is_some() && fields.remove("after").is_some());
        let flow: FlowTimes = serde_json::from_value(value).unwrap();
        assert_eq!(flow, FlowTimes::new(1000, "wan1"));
    }
}
