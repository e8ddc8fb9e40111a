//! How many idle carriers a pool should hold: enough for what was wanted at once lately, few when
//! nobody asks.

use std::time::{Duration, Instant};

/// Idle carriers beyond what is in use, while there is traffic.
const SPARE: usize = 24;

/// Shared carriers for a burst, while there is traffic.
const SHARED: usize = 4;

/// Idle carriers and shared ones kept when there has been no flow for long: a metered link pays for
/// each.
const AT_REST: (usize, usize) = (2, 1);

/// How long a peak is remembered: two periods at most.
const PERIOD: Duration = Duration::from_secs(300);

/// The demand for carriers to one peer.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    period: Instant,
    /// The most flows at once, in the period before and in this one.
    peaks: [usize; 2],
    last_flow: Instant,
}

impl Demand {
    /// Of a box that has just started: somebody is about to try it.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { period: now, peaks: [0; 2], last_flow: now }
    }

    /// A flow has begun; `flows` run now, this one included.
    pub fn began(&mut self, now: Instant, flows: usize) {
        self.turn(now);
        self.peaks[1] = self.peaks[1].max(flows);
        self.last_flow = now;
    }

    /// How many carriers should be idle while `busy` carry flows.
    pub fn idle(&mut self, now: Instant, busy: usize) -> usize {
        self.turn(now);
        if self.is_at_rest(now) {
            return AT_REST.0;
        }
        let peak = self.peaks[0].max(self.peaks[1]);
        SPARE.max(peak.saturating_sub(busy) + SPARE / 2)
    }

    /// How many shared carriers there should be for flows that find no idle one.
    #[must_use]
    pub fn shared(&self, now: Instant) -> usize {
        if self.is_at_rest(now) { AT_REST.1 } else { SHARED }
    }

    fn is_at_rest(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_flow) > 2 * PERIOD
    }

    fn turn(&mut self, now: Instant) {
        let periods = now.saturating_duration_since(self.period).as_secs() / PERIOD.as_secs();
        if periods > 0 {
            self.peaks = [if periods == 1 { self.peaks[1] } else { 0 }, 0];
            self.period = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_remembered_and_then_forgotten() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        assert_eq!(demand.idle(start, 0), SPARE);
        demand.began(start, 200);
        assert_eq!(demand.idle(start, 0), 200 + SPARE / 2);
        assert_eq!(demand.idle(start, 150), 50 + SPARE / 2);
        assert_eq!(demand.idle(start + PERIOD, 0), 200 + SPARE / 2);
        assert_eq!(demand.idle(start + 2 * PERIOD, 0), SPARE);
    }

    #[test]
    fn a_box_at_rest_keeps_few() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        assert_eq!(demand.idle(start + 2 * PERIOD, 0), SPARE);
        assert_eq!(demand.idle(start + 3 * PERIOD, 0), AT_REST.0);
        assert_eq!(demand.shared(start + 3 * PERIOD), AT_REST.1);
        demand.began(start + 4 * PERIOD, 1);
        assert_eq!(demand.idle(start + 4 * PERIOD, 1), SPARE);
    }
}
