//! How long to wait before a session is dialled again (PROTOCOL.md, "Limits and times").
//!
//! Chance is an argument, as time is elsewhere.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(30);

/// Pauses that double from 250 ms to 30 s, each with a random part of half its length added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pause: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { pause: FIRST }
    }
}

impl Backoff {
    /// The pause to make now. `random` is from 0 to 1.
    pub fn next(&mut self, random: f64) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(MOST);
        pause + pause.mul_f64(random.clamp(0.0, 1.0) / 2.0)
    }

    /// Begins with the shortest pause again: there was a session.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..10).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert_eq!(backoff.next(1.0), Duration::from_secs(45));
        backoff.reset();
        assert_eq!(backoff.next(1.0), Duration::from_millis(375));
    }
}
