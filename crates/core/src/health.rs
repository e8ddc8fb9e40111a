//! Whether the ways to a peer live, and how well: the state machine over heartbeats and what TCP
//! shows of the same ways.
//!
//! Sending, hearing and asking TCP are the engine's; what follows for carriers is `ways`' and
//! `joins`'. Time comes as an argument.
//!
//! A way is judged by the heartbeats that are missing when they should have come, not by a time-out
//! on the last: on a way that takes 80 ms, too, silence is noticed some 100 ms after it begins.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::heartbeat::Heartbeat;

mod way;

use way::Way;

/// How long after its last byte traffic is taken to go on.
const LINGER: Duration = Duration::from_secs(3);

/// A machine that is polled so much later than it asked for was not running: what it did not hear is
/// nobody's fault.
const LATE: Duration = Duration::from_millis(50);

/// How long nothing is judged after that.
const EXCUSED: Duration = Duration::from_millis(200);

/// How a way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It carries.
    Up,
    /// It gets through, but so badly that it drags the others down.
    Degraded(Trouble),
    /// Nothing gets through.
    Down,
}

/// What is wrong with a way that gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It loses too much.
    Loss,
    /// It takes a second longer than the best one.
    Delay,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this over its way.
    Send(Heartbeat),
    /// See whether a TCP connection can be made over the way: its heartbeats alone may be blocked.
    Connect {
        /// The way.
        way: usize,
    },
    /// The way is in another state.
    Turn {
        /// The way.
        way: usize,
        /// The new state.
        state: State,
    },
}

/// What the kernel's TCP shows of the subflows over a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSigns {
    /// Since when none has heard anything.
    pub silent: Duration,
    /// The most time-outs in a row of one.
    pub timeouts: u8,
}

/// What is known of a way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// How it is.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Its heartbeats are not answered: it is judged by TCP alone.
    pub is_blind: bool,
    /// The smoothed round trip, and its mean deviation; none before the first answer.
    pub round_trip: Option<(Duration, Duration)>,
    /// The part of the last heartbeats that was lost, 0 to 1; none before there were enough.
    pub loss: Option<f64>,
}

/// The ways to one peer, by their paths' numbers.
#[derive(Clone, Debug)]
pub struct Health {
    ways: BTreeMap<usize, Way>,
    active_until: Instant,
    wake: Instant,
    excused_until: Instant,
}

impl Health {
    /// Of no ways yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { ways: BTreeMap::new(), active_until: now, wake: now, excused_until: now }
    }

    /// These are the ways now; those that were there before keep what is known of them.
    pub fn set_ways(&mut self, ways: impl IntoIterator<Item = usize>, now: Instant) {
        let mut old = std::mem::take(&mut self.ways);
        let way = |number| (number, old.remove(&number).unwrap_or_else(|| Way::new(now)));
        self.ways = ways.into_iter().map(way).collect();
        self.wake = now;
    }

    /// There are other keys now: what was sent before will not be answered, and is not lost.
    pub fn handle_new_keys(&mut self, now: Instant) {
        self.ways.values_mut().for_each(Way::forget_sent);
        self.wake = now;
    }

    /// Bytes of flows move.
    pub fn handle_traffic(&mut self, now: Instant) {
        if self.active_until < now {
            self.ways.values_mut().for_each(|way| way.send_at(now));
            self.wake = self.wake.min(now);
        }
        self.active_until = now + LINGER;
    }

    /// A heartbeat was answered.
    pub fn handle_answer(&mut self, answer: Heartbeat, now: Instant) {
        if let Some(way) = self.ways.get_mut(&answer.way.into()) {
            way.handle_answer(answer.sequence, now);
            self.wake = self.wake.min(now);
        }
    }

    /// A TCP connection could be made over the way.
    pub fn handle_connected(&mut self, way: usize, now: Instant) {
        if let Some(way) = self.ways.get_mut(&way) {
            way.handle_connected();
            self.wake = self.wake.min(now);
        }
    }

    /// What is to be done now; `signs` of a way are asked for only where they decide.
    pub fn poll(&mut self, now: Instant, signs: impl Fn(usize) -> Option<TcpSigns>) -> Vec<Action> {
        let is_active = self.is_active(now);
        if now > self.wake + LATE {
            self.excused_until = now + EXCUSED;
        }
        let may_judge = now >= self.excused_until;
        let mut actions = Vec::new();
        let mut due = Vec::new();
        let round_trips: Vec<_> =
            self.ways.iter().filter_map(|(number, way)| Some((*number, way.useful()?))).collect();
        for (&number, way) in &mut self.ways {
            let others = round_trips.iter().filter(|(other, _)| *other != number);
            let best = others.map(|(_, round_trip)| *round_trip).min();
            let before = way.state();
            way.judge(now, is_active, may_judge, best, || signs(number));
            if way.state() != before {
                actions.push(Action::Turn { way: number, state: way.state() });
            }
            if way.connect_is_due(now, is_active) {
                actions.push(Action::Connect { way: number });
            }
        }
        if actions.iter().any(|action| matches!(action, Action::Turn { .. })) {
            // The peer is to know at once.
            self.ways.values_mut().for_each(|way| way.send_at(now));
        }
        for (&number, way) in &mut self.ways {
            due.extend(way.send_if_due(now, is_active).map(|sequence| (number, sequence)));
        }
        let live = self.live();
        let send = |(number, sequence)| {
            let way = u8::try_from(number).ok()?;
            Some(Action::Send(Heartbeat { way, sequence, live }))
        };
        actions.extend(due.into_iter().filter_map(send));
        let wakes = self.ways.values().map(|way| way.wake(now, is_active));
        self.wake = wakes.min().unwrap_or(now + LINGER);
        actions
    }

    /// The ways that are not down, a bit each by their number.
    fn live(&self) -> u64 {
        let live = self.ways.iter().filter(|(_, way)| way.state() != State::Down);
        live.fold(0, |mask, (number, _)| mask | 1 << number)
    }

    /// Whether bytes of flows have moved lately.
    #[must_use]
    pub fn is_active(&self, now: Instant) -> bool {
        now < self.active_until
    }

    /// When to poll next.
    #[must_use]
    pub fn wake(&self) -> Instant {
        self.wake
    }

    /// What is known of each way.
    pub fn reports(&self) -> impl Iterator<Item = (usize, Report)> {
        self.ways.iter().map(|(number, way)| (*number, way.report()))
    }
}

#[cfg(test)]
mod tests;
