//! Keeps a log readable: of messages of one kind, one a minute; and counts how often a bound is
//! met.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use portable_atomic::{AtomicU64, Ordering};
use tracing::warn;

/// Between two messages of one kind.
const PAUSE: Duration = Duration::from_secs(60);

/// Admits one message a minute and counts the others.
#[derive(Debug, Default)]
pub struct Throttle {
    state: Mutex<(Option<Instant>, u32)>,
}

/// A bound: counts how often it is met, and says so once a minute.
#[derive(Debug)]
pub struct Bound {
    what: String,
    met: AtomicU64,
    throttle: Throttle,
}

impl Throttle {
    /// Whether to log now, and how many messages were held back since the last one.
    pub fn admit(&self, now: Instant) -> Option<u32> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, held) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            *held += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(held))
    }
}

impl Bound {
    /// A bound on `what`, in the plural.
    #[must_use]
    pub fn new(what: String) -> Self {
        Self { what, met: AtomicU64::new(0), throttle: Throttle::default() }
    }

    /// It was met, and something turned away for it.
    pub fn met(&self) {
        let times = self.met.fetch_add(1, Ordering::Relaxed) + 1;
        if self.throttle.admit(Instant::now()).is_some() {
            warn!(times, "bound met: too many {}", self.what);
        }
    }

    /// How often it was met.
    #[must_use]
    pub fn times(&self) -> u64 {
        self.met.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_minute_and_the_rest_are_counted() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.admit(start), Some(0));
        assert_eq!(throttle.admit(start + PAUSE / 2), None);
        assert_eq!(throttle.admit(start + PAUSE / 2), None);
        assert_eq!(throttle.admit(start + PAUSE), Some(2));
    }

    #[test]
    fn a_bound_counts() {
        let bound = Bound::new("things".into());
        (0..3).for_each(|_| bound.met());
        assert_eq!(bound.times(), 3);
    }
}
