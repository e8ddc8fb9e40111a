//! Keeps a log readable: of messages of one kind, one a minute.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two messages of one kind.
const PAUSE: Duration = Duration::from_secs(60);

/// Admits one message a minute and counts the others.
#[derive(Debug, Default)]
pub struct Throttle {
    state: Mutex<(Option<Instant>, u32)>,
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
}
