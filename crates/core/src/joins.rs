//! Which subflows a carrier should have and which it lacks: the state machine that keeps a
//! carrier joined over all its ways.
//!
//! Creating subflows and hearing of them is the engine's; time comes as an argument.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::path::Pairing;

/// Without the kernel's word that a connection is established, ask for subflows after this long:
/// the event may be lost when the socket's buffer overflows.
const UNTOLD: Duration = Duration::from_secs(1);

/// First and longest pause before a subflow that was lost or refused is asked for again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// A join that neither succeeds nor fails is forgotten after this long; the kernel's own attempts
/// (`net.ipv4.tcp_syn_retries` = 6) have ended by then.
const FORGET: Duration = Duration::from_secs(130);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is a subflow.
    Joined,
    /// One is asked for; given up at the time.
    Asked(Instant),
    /// There is none; to be asked for at the time.
    Missing(Instant),
}

/// The subflows of one carrier, one for each way to the peer.
#[derive(Clone, Debug)]
pub struct Joins {
    ways: Vec<(Pairing, State, u32)>,
    /// The ways of the subflows in the kernel's list, the first one first.
    order: Vec<usize>,
}

impl Joins {
    /// A carrier dialled over the way numbered `first` of `ways`.
    #[must_use]
    pub fn new(ways: &[Pairing], first: usize, now: Instant) -> Self {
        let state =
            |number| if number == first { State::Joined } else { State::Missing(now + UNTOLD) };
        let ways = ways.iter().enumerate().map(|(number, way)| (*way, state(number), 0)).collect();
        Self { ways, order: vec![first] }
    }

    /// The way of the first subflow in the kernel's list, on which a lone record leaves; none while
    /// there is no subflow.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        self.order.first().copied()
    }

    /// The kernel says that subflows can be made.
    pub fn handle_established(&mut self, now: Instant) {
        for (_, state, _) in &mut self.ways {
            if matches!(state, State::Missing(_)) {
                *state = State::Missing(now);
            }
        }
    }

    /// A subflow from `local` has joined.
    pub fn handle_joined(&mut self, local: IpAddr) {
        for number in self.from(local) {
            let (_, state, failures) = &mut self.ways[number];
            (*state, *failures) = (State::Joined, 0);
            if !self.order.contains(&number) {
                self.order.push(number);
            }
        }
    }

    /// The subflow from `local` is gone, or was refused.
    pub fn handle_closed(&mut self, local: IpAddr, now: Instant) {
        for number in self.from(local) {
            let (_, state, failures) = &mut self.ways[number];
            *state = State::Missing(now + backoff(*failures));
            *failures += 1;
            self.order.retain(|joined| *joined != number);
        }
    }

    /// The numbers of the ways whose subflows are to be asked for now.
    pub fn poll(&mut self, now: Instant) -> Vec<usize> {
        let mut due = Vec::new();
        for (number, (_, state, _)) in self.ways.iter_mut().enumerate() {
            if matches!(state, State::Missing(at) | State::Asked(at) if *at <= now) {
                *state = State::Asked(now + FORGET);
                due.push(number);
            }
        }
        due
    }

    /// Whether the way by this number has a subflow.
    #[must_use]
    pub fn is_joined(&self, number: usize) -> bool {
        self.order.contains(&number)
    }

    /// When to poll next; `None` while every way has its subflow.
    #[must_use]
    pub fn wake(&self) -> Option<Instant> {
        let times = self.ways.iter().filter_map(|(_, state, _)| match state {
            State::Joined => None,
            State::Asked(at) | State::Missing(at) => Some(*at),
        });
        times.min()
    }

    fn from(&self, local: IpAddr) -> Vec<usize> {
        let of = |number: &usize| self.ways[*number].0.local == local;
        (0..self.ways.len()).filter(of).collect()
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF.0.saturating_mul(1 << failures.min(16)).min(BACKOFF.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways() -> Vec<Pairing> {
        let way = |path, local: &str, remote: &str| Pairing {
            path,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            backup: false,
        };
        vec![way(0, "10.1.0.1", "10.1.0.2:1"), way(1, "10.2.0.1", "10.2.0.2:1")]
    }

    #[test]
    fn the_second_way_is_asked_for_once_established() {
        let start = Instant::now();
        let mut joins = Joins::new(&ways(), 0, start);
        assert!(joins.poll(start).is_empty());
        joins.handle_established(start);
        assert_eq!(joins.poll(start), [1]);
        assert!(joins.poll(start).is_empty());
        joins.handle_joined(ways()[1].local);
        assert_eq!(joins.wake(), None);
    }

    #[test]
    fn a_lost_event_is_made_good() {
        let start = Instant::now();
        let mut joins = Joins::new(&ways(), 0, start);
        assert_eq!(joins.poll(start + UNTOLD), [1]);
    }

    #[test]
    fn any_way_comes_back_with_growing_pauses() {
        let mut now = Instant::now();
        let mut joins = Joins::new(&ways(), 0, now);
        joins.handle_established(now);
        joins.poll(now);
        joins.handle_joined(ways()[1].local);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            joins.handle_closed(ways()[0].local, now);
            let wake = joins.wake().unwrap();
            pauses.push((wake - now).as_millis());
            now = wake;
            assert_eq!(joins.poll(now), [0]);
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        joins.handle_joined(ways()[0].local);
        joins.handle_closed(ways()[0].local, now);
        assert_eq!(joins.wake(), Some(now + BACKOFF.0));
    }

    #[test]
    fn a_way_that_comes_back_is_last_in_the_list() {
        let now = Instant::now();
        let mut joins = Joins::new(&ways(), 0, now);
        assert_eq!(joins.first(), Some(0));
        joins.handle_joined(ways()[1].local);
        joins.handle_closed(ways()[0].local, now);
        joins.handle_joined(ways()[0].local);
        assert_eq!(joins.first(), Some(1));
        assert!(joins.is_joined(0) && joins.is_joined(1));
        joins.handle_closed(ways()[0].local, now);
        joins.handle_closed(ways()[1].local, now);
        assert_eq!(joins.first(), None);
    }
}
