//! Which sinks were reached lately: to these a flow is opened without asking first.
//!
//! Bounded, and forgetful. That asking costs a round trip, and that not asking ties a carrier to a
//! sink that may never answer, is the engine's business.

use std::time::{Duration, Instant};

use crate::addr::SinkAddr;
use crate::bounded::Bounded;

/// How long a sink is known after it was reached.
const KNOWN: Duration = Duration::from_secs(600);

/// How long one may take to answer before the next flow to it asks first.
const ANSWER: Duration = Duration::from_secs(1);

/// Sinks remembered.
const MOST: usize = 4096;

/// The memory of sinks that were reached.
#[derive(Debug)]
pub struct Destinations {
    known: Bounded<SinkAddr, Reached>,
}

#[derive(Clone, Copy, Debug)]
struct Reached {
    last: Instant,
    /// Since when a flow waits for the sink's answer.
    waiting: Option<Instant>,
}

impl Default for Destinations {
    fn default() -> Self {
        Self { known: Bounded::new(MOST) }
    }
}

impl Destinations {
    /// Whether a flow may be opened to the sink without asking; it then waits for the answer.
    pub fn open(&mut self, now: Instant, sink: SinkAddr) -> bool {
        let Some(reached) = self.known.get_mut(&sink) else { return false };
        let answers = reached.waiting.is_none_or(|since| now < since + ANSWER);
        if now >= reached.last + KNOWN || !answers {
            self.known.remove(&sink);
            return false;
        }
        reached.waiting.get_or_insert(now);
        true
    }

    /// The sink was reached.
    pub fn reached(&mut self, now: Instant, sink: SinkAddr) {
        self.known.insert(sink, Reached { last: now, waiting: None });
    }

    /// The sink was not reached.
    pub fn failed(&mut self, sink: SinkAddr) {
        self.known.remove(&sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(number: u32) -> SinkAddr {
        SinkAddr(std::net::SocketAddr::new(std::net::Ipv4Addr::from(number).into(), 80))
    }

    #[test]
    fn a_sink_is_known_for_a_while_after_it_was_reached() {
        let (mut known, now) = (Destinations::default(), Instant::now());
        assert!(!known.open(now, sink(1)));
        known.reached(now, sink(1));
        assert!(known.open(now, sink(1)) && !known.open(now, sink(2)));
        known.reached(now, sink(1));
        assert!(known.open(now + KNOWN - Duration::from_secs(1), sink(1)));
        known.reached(now, sink(1));
        assert!(!known.open(now + KNOWN, sink(1)));
    }

    #[test]
    fn one_that_fails_or_does_not_answer_is_asked_about() {
        let (mut known, now) = (Destinations::default(), Instant::now());
        known.reached(now, sink(1));
        known.failed(sink(1));
        assert!(!known.open(now, sink(1)));
        known.reached(now, sink(1));
        assert!(known.open(now, sink(1)) && known.open(now + ANSWER / 2, sink(1)));
        assert!(!known.open(now + ANSWER, sink(1)));
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_the_newest() {
        let (mut known, now) = (Destinations::default(), Instant::now());
        for number in 0..3 * MOST as u32 {
            known.reached(now + Duration::from_micros(number.into()), sink(number));
        }
        let known_of = |known: &mut Destinations, number| {
            known.open(now + Duration::from_secs(1), sink(number))
        };
        let most = MOST as u32;
        assert!(known_of(&mut known, 3 * most - 1) && known_of(&mut known, 2 * most));
        assert!(!known_of(&mut known, 2 * most - 1) && !known_of(&mut known, 0));
    }
}
