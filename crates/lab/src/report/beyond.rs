//! Figures of flows that find the peer's bound of carriers used up, by those of flows that do not.

use serde::{Deserialize, Serialize};

use super::figure::{Direction, Goodput, Times};

/// Braid under a small bound of carriers that idle flows use up, by braid with carriers to spare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beyond {
    /// The bound, in both boxes.
    pub carriers: u16,
    /// Idle flows that were open in both cases.
    pub idle_flows: u64,
    /// One stream over IPv4, each way.
    pub goodput: Vec<SharedGoodput>,
    /// Flows one after the other, by size.
    pub times: Vec<SharedTimes>,
}

/// Goodput of one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct SharedGoodput {
    /// Which way the bytes flowed.
    pub direction: Direction,
    /// With carriers to spare.
    pub free: Goodput,
    /// With none.
    pub used_up: Goodput,
}

/// Times of flows of one size, the median of the repeats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct SharedTimes {
    /// Bytes in a flow.
    pub size: u64,
    /// With carriers to spare.
    pub free: Option<Times>,
    /// With none.
    pub used_up: Option<Times>,
}

impl Beyond {
    /// A figure of which nothing is measured.
    #[must_use]
    pub fn new(carriers: u16, idle_flows: u64) -> Self {
        Self { carriers, idle_flows, goodput: Vec::new(), times: Vec::new() }
    }
}

impl SharedGoodput {
    /// A figure of which nothing is measured.
    #[must_use]
    pub fn new(direction: Direction) -> Self {
        Self { direction, free: Goodput::default(), used_up: Goodput::default() }
    }

    /// Goodput without carriers to spare as a part of that with: below 1 is slower.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        ratio(self.free.median()?, self.used_up.median()?)
    }
}

impl SharedTimes {
    /// A figure of which nothing is measured.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self { size, free: None, used_up: None }
    }

    /// The median time to the last byte without carriers to spare as a part of that with: above 1 is
    /// slower.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        ratio(self.free?.complete.p50, self.used_up?.complete.p50)
    }
}

fn ratio(free: f64, used_up: f64) -> Option<f64> {
    (free > 0.0).then(|| used_up / free)
}

#[cfg(test)]
mod tests {
    use super::super::figure::Quantiles;
    use super::*;

    #[test]
    fn what_is_used_up_is_a_part_of_what_is_free() {
        let goodput = |mbit: f64| Goodput { mbit: vec![mbit], retransmits: None };
        let mut bulk = SharedGoodput { free: goodput(80.0), ..SharedGoodput::new(Direction::Up) };
        assert_eq!(bulk.ratio(), None);
        bulk.used_up = goodput(60.0);
        assert_eq!(bulk.ratio(), Some(0.75));
        let all = |ms: f64| Quantiles { p50: ms, p90: ms, p99: ms };
        let times =
            |ms| Some(Times { n: 9, connect: all(1.0), first_byte: all(1.0), complete: all(ms) });
        let flows = SharedTimes { size: 1000, free: times(20.0), used_up: times(30.0) };
        assert_eq!(flows.ratio(), Some(1.5));
        assert_eq!(SharedTimes { used_up: None, ..flows }.ratio(), None);
    }
}
