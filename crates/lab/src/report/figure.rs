//! The figures of a setting and what follows from them: limits, shares, verdicts.
//!
//! Owns the arithmetic; that of flows' times is `flow`'s. What is derived is computed here and stored nowhere; `derived` adds it
//! to the file for readers without this code.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use super::beyond::{Beyond, SharedGoodput, SharedTimes};
pub use super::change::{
    Degraded, Flapping, FlappingPath, Outage, OutageTarget, Outages, PathAlone, Trouble,
};
pub use super::flow::{Burst, Flap, FlowTimes, Quantiles, Times};

/// The way bytes flow, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the sink to the host.
    Down,
    /// From the host to the sink.
    Up,
}

/// The addresses that the host and the sink use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

/// Whether a figure is as good as it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is.
    Met,
    /// It is not.
    Missed,
}

/// Goodput of braid over all paths, against that of plain routing over each path alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Throughput {
    /// Which way the bytes flowed.
    pub direction: Direction,
    /// The family of the host's connections.
    pub family: Family,
    /// How many connections at once.
    pub streams: u32,
    /// Plain routing over each path alone, one entry for every path of the setting; a path that
    /// could not be measured has no repeats.
    pub alone: Vec<Alone>,
    /// What MPTCP's bytes in each segment leave of a path's goodput, such as 1428/1448.
    pub framing_factor: f64,
    /// Braid over all paths; no repeats if it could not be measured.
    pub braid: Goodput,
    /// What has to be reached, in per cent of the limit less framing.
    pub target_percent: f64,
    /// One of braid's repeats by path over time.
    pub series: Option<Series>,
}

/// Plain routing over one path alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alone {
    /// The path's name.
    pub path: String,
    /// What it carried.
    pub goodput: Goodput,
}

/// The goodput of one figure's repeats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Goodput {
    /// One value a repeat, in Mbit/s.
    pub mbit: Vec<f64>,
    /// Segments sent again in all repeats, where the sender counts them.
    pub retransmits: Option<u64>,
}

/// What each path carried over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The time between two values, in ms.
    pub interval_ms: u32,
    /// The paths in the setting's order.
    pub paths: Vec<PathSeries>,
}

/// What one path carried over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathSeries {
    /// The path's name.
    pub path: String,
    /// The mean over each interval, in Mbit/s.
    pub mbit: Vec<f64>,
}

/// A path that swallowed every packet for a while, under a bulk flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlackHole {
    /// The path that was hit.
    pub path: String,
    /// Which way the bulk flow went.
    pub direction: Direction,
    /// When the path was hit, in s from the series' start.
    pub hit_s: f64,
    /// When the path was whole again, in s from the series' start.
    pub returned_s: f64,
    /// The longest time in which the receiver got no byte, in ms.
    pub longest_stall_ms: f64,
    /// From the path's return until 90 % of the sum was back, in ms; none if it never was.
    pub recovered_ms: Option<f64>,
    /// What each path carried.
    pub series: Option<Series>,
}

/// Many flows at once, each byte checked at the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Storm {
    /// Flows started.
    pub flows: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Bytes that were not what was sent.
    pub wrong_bytes: u64,
    /// Flows that did not end in time.
    pub hung_flows: u64,
    /// Descriptors open in both boxes before, with nothing under way.
    pub descriptors_before: u64,
    /// Descriptors open in both boxes after, with nothing under way again.
    pub descriptors_after: u64,
    /// Flows that were reset on purpose, and arrived as resets.
    pub resets: u64,
    /// Flows that were half closed on purpose, and arrived so.
    pub half_closes: u64,
}

/// That braid's figures were reached by braid, and not by going round it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Proofs {
    /// Each path, watched while braid ran.
    pub paths: Vec<Watched>,
    /// Routes in the boxes to the other's LAN; there must be none.
    pub lan_routes: Vec<String>,
    /// The host's wire, watched for MPTCP options.
    pub host: Watched,
    /// The sink's wire, watched for MPTCP options.
    pub sink: Watched,
}

/// What could be read on the paths while a flow of known bytes crossed them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Taps {
    /// Each path, watched for the flow's bytes and addresses behind the carriers' own headers.
    pub paths: Vec<Watched>,
    /// What was found, by path and direction.
    pub found: Vec<String>,
}

/// What crossed the paths while nobody had anything to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Idle {
    /// How long, in s.
    pub seconds: f64,
    /// The paths in the setting's order.
    pub paths: Vec<IdlePath>,
}

/// What crossed one path meanwhile, in bytes of whole Ethernet frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdlePath {
    /// The path's name.
    pub path: String,
    /// From the ingress box.
    pub up_bytes: u64,
    /// From the egress box.
    pub down_bytes: u64,
}

/// A wire that was watched for packets which must not be on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// The wire's name.
    pub wire: String,
    /// Packets examined; with none, nothing is proved.
    pub examined: u64,
    /// Packets that must not be there.
    pub forbidden: u64,
}

impl Throughput {
    /// The sum of what the paths carry alone, in Mbit/s; none unless every path was measured.
    #[must_use]
    pub fn sum(&self) -> Option<f64> {
        let paths: Option<Vec<f64>> = self.alone.iter().map(|a| a.goodput.median()).collect();
        paths.filter(|paths| !paths.is_empty()).map(|paths| paths.iter().sum())
    }

    /// What the links allow, in Mbit/s: the sum less MPTCP's bytes in each segment.
    #[must_use]
    pub fn limit(&self) -> Option<f64> {
        self.sum().map(|sum| sum * self.framing_factor)
    }

    /// The goodput that meets the target, in Mbit/s.
    #[must_use]
    pub fn target(&self) -> Option<f64> {
        self.limit().map(|limit| limit * self.target_percent / 100.0)
    }

    /// Braid's goodput in per cent of the limit.
    #[must_use]
    pub fn reached_percent(&self) -> Option<f64> {
        let limit = self.limit().filter(|limit| *limit > 0.0)?;
        Some(self.braid.median()? / limit * 100.0)
    }

    /// Whether the target is met; none where braid or a path was not measured.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.reached_percent().map(|reached| Verdict::of(reached >= self.target_percent))
    }

    /// Direction, family and streams in words.
    #[must_use]
    pub fn label(&self) -> String {
        let noun = if self.streams == 1 { "stream" } else { "streams" };
        format!("{}, {}, {} {noun}", self.direction, self.family, self.streams)
    }
}

impl Goodput {
    /// The median of the repeats, in Mbit/s.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.mbit.clone();
        sorted.sort_by(f64::total_cmp);
        let high = *sorted.get(sorted.len() / 2)?;
        let low = sorted[(sorted.len() - 1) / 2];
        Some(f64::midpoint(low, high))
    }
}

impl Series {
    /// How many intervals there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.paths.iter().map(|path| path.mbit.len()).max().unwrap_or(0)
    }

    /// Whether nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How long the series is, in s.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.len() as f64 * f64::from(self.interval_ms) / 1000.0
    }
}

impl Storm {
    /// Met if no byte was wrong, no flow hung and no descriptor was left open.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let leaked = self.descriptors_after > self.descriptors_before;
        Verdict::of(self.wrong_bytes == 0 && self.hung_flows == 0 && !leaked)
    }
}

impl Proofs {
    /// Met if every wire was watched and nothing forbidden was found.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let clean = self.wires().all(|wire| wire.examined > 0 && wire.forbidden == 0);
        Verdict::of(clean && !self.paths.is_empty() && self.lan_routes.is_empty())
    }

    /// All wires that were watched.
    pub fn wires(&self) -> impl Iterator<Item = &Watched> {
        self.paths.iter().chain([&self.host, &self.sink])
    }
}

impl Taps {
    /// Met if the paths were watched and nothing was found.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let examined: u64 = self.paths.iter().map(|path| path.examined).sum();
        Verdict::of(examined > 0 && self.paths.iter().all(|path| path.forbidden == 0))
    }
}

impl Idle {
    /// Bytes an hour over all paths, both ways.
    #[must_use]
    pub fn bytes_per_hour(&self) -> f64 {
        let bytes: u64 = self.paths.iter().map(|path| path.up_bytes + path.down_bytes).sum();
        self.per_hour(bytes)
    }

    /// What bytes of the time measured come to in an hour.
    #[must_use]
    pub fn per_hour(&self, bytes: u64) -> f64 {
        if self.seconds > 0.0 { bytes as f64 * 3600.0 / self.seconds } else { 0.0 }
    }
}

impl Verdict {
    /// Met if `met`.
    #[must_use]
    pub fn of(met: bool) -> Self {
        if met { Self::Met } else { Self::Missed }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Down => "down",
            Self::Up => "up",
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::Missed => "MISSED",
        })
    }
}
