//! How long to wait before something that failed is tried again: pauses that double up to a bound.
//!
//! Chance is an argument, as time is elsewhere.

use std::time::Duration;

/// Between two dials of a session (PROTOCOL.md, "Limits and times").
const SESSION: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Pauses that double.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    longest: Duration,
}

/// The pauses between two dials of a session.
impl Default for Backoff {
    fn default() -> Self {
        Self::new(SESSION)
    }
}

impl Backoff {
    /// Pauses from a first to a longest.
    #[must_use]
    pub const fn new((first, longest): (Duration, Duration)) -> Self {
        Self { next: first, first, longest }
    }

    /// The pause to make now.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }

    /// The pause that [`Self::pause`] would give.
    #[must_use]
    pub fn peek(&self) -> Duration {
        self.next
    }

    /// The pause to make now with a random part of half its length added, so that boxes do not dial
    /// in step. `random` is from 0 to 1.
    pub fn scattered(&mut self, random: f64) -> Duration {
        self.pause().mul_f64(1.0 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// Begins with the shortest pause again: it went well.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..10).map(|_| backoff.scattered(0.0).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert_eq!(backoff.scattered(1.0), Duration::from_secs(45));
        backoff.reset();
        assert_eq!(backoff.scattered(1.0), Duration::from_millis(375));
        assert_eq!(backoff.pause(), Duration::from_millis(500));
    }
}
