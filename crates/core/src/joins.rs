//! Which subflows a carrier should have and which of them are backups: the state machine that keeps
//! a carrier joined over all its ways, and flows that are soon over off the far ones.
//!
//! Creating subflows, setting their priority and hearing of them is the engine's; time comes as an
//! argument.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::path::Pairing;

/// Without the kernel's word that a connection is established, ask for subflows after this long:
/// the event may be lost when the socket's buffer overflows.
const UNTOLD: Duration = Duration::from_secs(1);

/// First and longest pause before a subflow that was lost or refused is asked for again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// The same before a subflow's priority is set again: the kernel refuses it for one that has only
/// just joined.
const SETTLE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// A join that neither succeeds nor fails is forgotten after this long; the kernel's own attempts
/// (`net.ipv4.tcp_syn_retries` = 6) have ended by then.
const FORGET: Duration = Duration::from_secs(130);

/// What the kernel is to be asked for, of the way by a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A subflow on it, as a backup or not.
    Create {
        /// The way.
        way: usize,
        /// Whether it carries only when no other does.
        backup: bool,
    },
    /// That its subflow becomes a backup, or none.
    SetBackup {
        /// The way.
        way: usize,
        /// Whether it carries only when no other does.
        backup: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is a subflow.
    Joined,
    /// One was asked for; given up at the second time.
    Asked(Instant, Instant),
    /// There is none; to be asked for at the time.
    Missing(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Way {
    pairing: Pairing,
    state: State,
    again: Backoff,
    /// Whether its subflow is a backup, as far as the kernel was told.
    backup: bool,
}

/// The subflows of one carrier, one for each way to the peer.
#[derive(Clone, Debug)]
pub struct Joins {
    ways: Vec<Way>,
    /// The ways of the subflows in the kernel's list, the first one first.
    order: Vec<usize>,
    /// Whether it carries enough for its far ways to be of use.
    spread: bool,
    /// When the kernel is asked again for priorities that it has refused.
    settle: Option<Instant>,
    settle_again: Backoff,
}

impl Joins {
    /// A carrier dialled over the way numbered `first` of `ways`.
    #[must_use]
    pub fn new(ways: &[Pairing], first: usize, now: Instant) -> Self {
        let state =
            |number| if number == first { State::Joined } else { State::Missing(now + UNTOLD) };
        let way = |(number, pairing): (usize, &Pairing)| Way {
            pairing: *pairing,
            state: state(number),
            again: Backoff::new(AGAIN),
            backup: false,
        };
        let ways = ways.iter().enumerate().map(way).collect();
        let settle_again = Backoff::new(SETTLE);
        Self { ways, order: vec![first], spread: false, settle: None, settle_again }
    }

    /// The way of the first subflow in the kernel's list, on which a lone record leaves; none while
    /// there is no subflow.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        self.order.first().copied()
    }

    /// The ways that have a subflow, a bit each by their number (there are at most
    /// [`crate::kernel::numbers::MAX_PATHS`]).
    #[must_use]
    pub fn joined(&self) -> u64 {
        self.order.iter().fold(0, |mask, number| mask | 1 << number)
    }

    /// The way by a number.
    #[must_use]
    pub fn way(&self, number: usize) -> &Pairing {
        &self.ways[number].pairing
    }

    /// The kernel says that subflows can be made.
    pub fn handle_established(&mut self, now: Instant) {
        for way in &mut self.ways {
            if matches!(way.state, State::Missing(_)) {
                way.state = State::Missing(now);
            }
        }
    }

    /// A subflow from `local` has joined. Ways that were asked for come back with the time that it
    /// took: a round trip.
    pub fn handle_joined(&mut self, local: IpAddr, now: Instant) -> Vec<(usize, Duration)> {
        let mut took = Vec::new();
        for number in self.from(local) {
            let way = &mut self.ways[number];
            if let State::Asked(asked, _) = way.state {
                took.push((number, now.saturating_duration_since(asked)));
            }
            way.state = State::Joined;
            way.again.reset();
            if !self.order.contains(&number) {
                self.order.push(number);
            }
        }
        took
    }

    /// The subflow from `local` is gone.
    pub fn handle_closed(&mut self, local: IpAddr, now: Instant) {
        for number in self.from(local) {
            let way = &mut self.ways[number];
            way.state = State::Missing(now + way.again.pause());
            self.order.retain(|joined| *joined != number);
        }
    }

    /// The carrier has become bulk, and far ways are of use to it; or it rests.
    pub fn set_spread(&mut self, spread: bool) {
        self.spread = spread;
        self.settle_again.reset();
    }

    /// What is to be asked for now; `is_far` of a way's number.
    pub fn poll(&mut self, now: Instant, is_far: impl Fn(usize) -> bool) -> Vec<Ask> {
        let mut asks = Vec::new();
        self.settle = self.settle.filter(|at| *at > now);
        for (number, way) in self.ways.iter_mut().enumerate() {
            let backup = way.pairing.backup || (!self.spread && is_far(number));
            match way.state {
                State::Missing(at) | State::Asked(_, at) if at <= now => {
                    way.state = State::Asked(now, now + FORGET);
                    way.backup = backup;
                    asks.push(Ask::Create { way: number, backup });
                }
                State::Joined if way.backup != backup && self.settle.is_none() => {
                    way.backup = backup;
                    asks.push(Ask::SetBackup { way: number, backup });
                }
                _ => {}
            }
        }
        asks
    }

    /// The kernel has refused what was asked for.
    pub fn handle_refused(&mut self, ask: Ask, now: Instant) {
        match ask {
            Ask::Create { way, .. } => self.handle_closed(self.ways[way].pairing.local, now),
            Ask::SetBackup { way, backup } => {
                self.ways[way].backup = !backup;
                self.settle = Some(now + self.settle_again.pause());
            }
        }
    }

    /// When to poll next; `None` while nothing is lacking.
    #[must_use]
    pub fn wake(&self) -> Option<Instant> {
        let times = self.ways.iter().filter_map(|way| match way.state {
            State::Joined => None,
            State::Asked(_, at) | State::Missing(at) => Some(at),
        });
        times.chain(self.settle).min()
    }

    fn from(&self, local: IpAddr) -> Vec<usize> {
        let of = |number: &usize| self.ways[*number].pairing.local == local;
        (0..self.ways.len()).filter(of).collect()
    }
}

#[cfg(test)]
mod tests;
