//! When the kernel's state is looked at after a change, and how often what others take away is put
//! back.
//!
//! Hearing of changes, looking and putting back are the engine's; time comes as an argument.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// Changes come in bursts (an interface, its addresses, its routes): the first is looked at at once,
/// since it may be a link that is lost, and the others together, so long after that.
const BURST: Duration = Duration::from_millis(50);

/// First and longest pause before something is put back once more.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Who has left our state alone for so long is not at war with us.
const PEACE: Duration = Duration::from_secs(60);

/// When to look, and when not to put back.
#[derive(Clone, Debug)]
pub struct Watch {
    look: Option<Instant>,
    looked: Option<Instant>,
    /// When something was put back last, and how often since peace ended.
    restored: Option<(Instant, u32)>,
    rests_until: Option<Instant>,
    again: Backoff,
    /// Between two attempts at what is refused.
    retry: Backoff,
}

impl Default for Watch {
    fn default() -> Self {
        let (again, retry) = (Backoff::new(AGAIN), Backoff::new(AGAIN));
        Self { look: None, looked: None, restored: None, rests_until: None, again, retry }
    }
}

impl Watch {
    /// Something has changed.
    pub fn handle_change(&mut self, now: Instant) {
        let next = self.looked.map_or(now, |looked| now.max(looked + BURST));
        self.look = Some(self.look.map_or(next, |look| look.min(next)));
    }

    /// When to look; `None` while nothing has changed.
    #[must_use]
    pub fn wake(&self) -> Option<Instant> {
        self.look
    }

    /// The state is looked at; whether what others have taken away may be put back now. If not, it is
    /// looked at again when it may.
    pub fn look(&mut self, now: Instant) -> bool {
        self.looked = Some(now);
        self.look = self.rests_until.filter(|until| *until > now);
        self.look.is_none()
    }

    /// Something was put back; how often so since it was last left alone for a while.
    pub fn handle_restored(&mut self, now: Instant) -> u32 {
        let times = match self.restored {
            Some((last, times)) if now.saturating_duration_since(last) < PEACE => times + 1,
            _ => {
                self.again.reset();
                1
            }
        };
        self.restored = Some((now, times));
        self.rests_until = Some(now + self.again.pause());
        times
    }

    /// What was to be applied was refused: it is tried again after a pause.
    pub fn handle_failed(&mut self, now: Instant) {
        let until = now + self.retry.pause();
        (self.look, self.rests_until) = (Some(until), Some(until));
    }

    /// All is as wanted.
    pub fn handle_done(&mut self) {
        self.retry.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn of_a_burst_the_first_is_looked_at_at_once_and_the_rest_together() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        assert_eq!(watch.wake(), None);
        watch.handle_change(start);
        assert_eq!(watch.wake(), Some(start));
        assert!(watch.look(start));
        assert_eq!(watch.wake(), None);
        for ms in 1..200 {
            watch.handle_change(start + ms * MS);
        }
        assert_eq!(watch.wake(), Some(start + BURST));
        assert!(watch.look(start + BURST));
        watch.handle_change(start + 300 * MS);
        assert_eq!(watch.wake(), Some(start + 300 * MS));
    }

    /// Somebody takes our rules away whenever they are there.
    #[test]
    fn a_war_is_fought_more_and_more_rarely_and_forgotten_in_peace() {
        let (mut watch, mut now) = (Watch::default(), Instant::now());
        let mut pauses = Vec::new();
        for times in 1..=11 {
            assert!(watch.look(now));
            assert_eq!(watch.handle_restored(now), times);
            watch.handle_change(now);
            let began = now;
            now = watch.wake().unwrap();
            while !watch.look(now) {
                now = watch.wake().unwrap();
            }
            pauses.push((now - began).as_millis());
        }
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[9..], [30_000, 30_000]);
        now += PEACE;
        assert!(watch.look(now));
        assert_eq!(watch.handle_restored(now), 1);
        watch.handle_change(now + BURST);
        assert!(!watch.look(now + BURST));
        assert_eq!(watch.wake(), Some(now + AGAIN.0));
    }

    /// Whatever rests, a path that changes is seen at once.
    #[test]
    fn a_change_is_looked_at_while_putting_back_rests() {
        let (mut watch, mut now) = (Watch::default(), Instant::now());
        for _ in 0..8 {
            watch.look(now);
            watch.handle_failed(now);
            now += MS;
        }
        now += BURST;
        watch.handle_change(now);
        assert_eq!(watch.wake(), Some(now));
        assert!(!watch.look(now));
        assert!(watch.wake().is_some_and(|at| at > now + Duration::from_secs(5)));
        watch.handle_done();
        watch.handle_failed(now);
        assert_eq!(watch.wake(), Some(now + AGAIN.0));
    }

    #[test]
    fn what_is_refused_is_tried_again() {
        let (mut watch, now) = (Watch::default(), Instant::now());
        assert!(watch.look(now));
        watch.handle_failed(now);
        assert_eq!(watch.wake(), Some(now + AGAIN.0));
        assert!(watch.look(now + AGAIN.0));
        watch.handle_failed(now);
        assert_eq!(watch.wake(), Some(now + 2 * AGAIN.0));
    }
}
