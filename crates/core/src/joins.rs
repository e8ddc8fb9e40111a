//! Which subflows a carrier should have and which of them are backups: the state machine that keeps
//! a carrier joined over all its ways, off those that are dead or gone, and flows that are soon over
//! off the far ones.
//!
//! Making and destroying subflows, setting their priority and hearing of them is the engine's; what a
//! way is worth is [`crate::ways`]'s; time comes as an argument.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::path::{Ends, Pairing};
use crate::ways::Worth;

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

/// What the kernel is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A subflow.
    Create {
        /// The way that it takes.
        way: Pairing,
        /// The identifier of its local address.
        id: u8,
        /// Whether it carries only when no other does.
        backup: bool,
    },
    /// That a way's subflow becomes a backup, or none.
    SetBackup {
        /// The way.
        way: Pairing,
        /// Whether it carries only when no other does.
        backup: bool,
    },
    /// That a subflow is destroyed.
    Destroy {
        /// The subflow.
        ends: Ends,
        /// The identifier of its local address, of which the peer is to hear that it is gone.
        withdrawn: Option<u8>,
    },
}

/// Where a way stands while it has no subflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// One was asked for; given up at the second time.
    Asked(Instant, Instant),
    /// One is to be asked for at the time.
    Missing(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Way {
    pairing: Pairing,
    state: State,
    again: Backoff,
    /// Whether its subflow is a backup, as far as the kernel was told.
    backup: bool,
    /// Whether it was dead when last looked at: then it is not asked for.
    dead: bool,
}

#[derive(Clone, Copy, Debug)]
struct Subflow {
    ends: Ends,
    /// The identifier of its local address.
    id: u8,
    /// Whether it stayed while its way was gone or dead, and has a successor to wait for: what it has
    /// to send again it sends late, since its time-outs have grown.
    stale: bool,
}

/// The subflows of one carrier, one for each way to the peer.
#[derive(Clone, Debug)]
pub struct Joins {
    ways: Vec<Way>,
    /// In the order of the kernel's list, the first one first.
    subflows: Vec<Subflow>,
    /// Those that the kernel was asked to destroy, until it says that they are gone: their end is not
    /// that of a subflow that was asked for meanwhile.
    dying: Vec<Ends>,
    /// Local addresses that subflows were asked for from: the first has identifier 1.
    addresses: Vec<IpAddr>,
    /// Whether it carries enough for its far ways to be of use.
    spread: bool,
    /// When the kernel is asked again for priorities that it has refused.
    settle: Option<Instant>,
    settle_again: Backoff,
}

impl Joins {
    /// A carrier that has its first subflow only.
    #[must_use]
    pub fn new(ways: &[Pairing], first: Ends, now: Instant) -> Self {
        let mut joins = Self {
            ways: Vec::new(),
            // The address that a connection was made from has identifier 0 (RFC 8684, 3.4.1).
            subflows: vec![Subflow { ends: first, id: 0, stale: false }],
            dying: Vec::new(),
            addresses: Vec::new(),
            spread: false,
            settle: None,
            settle_again: Backoff::new(SETTLE),
        };
        joins.ways = ways.iter().map(|pairing| Way::new(*pairing, now + UNTOLD)).collect();
        joins
    }

    /// These are the ways from now on. New ones are asked for; a subflow over one that is gone, or that
    /// leads between other addresses now, is destroyed.
    pub fn set_ways(&mut self, ways: &[Pairing], now: Instant) {
        let old = std::mem::take(&mut self.ways);
        let way = |pairing: &Pairing| {
            let known = old.iter().find(|way| way.pairing == *pairing).copied();
            known.unwrap_or_else(|| Way::new(*pairing, now))
        };
        self.ways = ways.iter().map(way).collect();
        let came = |way: &&Way| old.iter().all(|known| known.pairing != way.pairing);
        for way in self.ways.iter().filter(came) {
            doubt(&mut self.subflows, &way.pairing);
        }
    }

    /// The way of the first subflow in the kernel's list, on which a lone record leaves, by its path's
    /// number; none while there is no subflow, and where that way is gone.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        self.subflows.first().and_then(|subflow| Some(self.way_of(&subflow.ends)?.pairing.path))
    }

    /// The ways that have a subflow, a bit each by their path's number (there are at most
    /// [`crate::kernel::numbers::MAX_PATHS`]).
    #[must_use]
    pub fn joined(&self) -> u64 {
        let ways = self.subflows.iter().filter_map(|subflow| self.way_of(&subflow.ends));
        ways.fold(0, |mask, way| mask | 1 << way.pairing.path)
    }

    /// The kernel says that subflows can be made.
    pub fn handle_established(&mut self, now: Instant) {
        for way in &mut self.ways {
            if matches!(way.state, State::Missing(_)) {
                way.state = State::Missing(now);
            }
        }
    }

    /// A subflow has joined. If it was asked for, its path's number and the time that it took come
    /// back: a round trip.
    pub fn handle_joined(&mut self, ends: Ends, now: Instant) -> Option<(usize, Duration)> {
        if self.subflows.iter().all(|subflow| subflow.ends != ends) {
            let id = self.id_of(ends.local.ip());
            self.subflows.push(Subflow { ends, id, stale: false });
        }
        let way = self.ways.iter_mut().find(|way| way.pairing.joins(&ends))?;
        let state = std::mem::replace(&mut way.state, State::Missing(now));
        way.again.reset();
        match state {
            State::Asked(asked, _) => {
                Some((way.pairing.path, now.saturating_duration_since(asked)))
            }
            _ => None,
        }
    }

    /// A subflow is gone, or one that was asked for did not come to be.
    pub fn handle_closed(&mut self, ends: Ends, now: Instant) {
        let dying = self.dying.len();
        self.dying.retain(|other| *other != ends);
        self.subflows.retain(|subflow| subflow.ends != ends);
        let is_joined = self.way_of(&ends).is_some_and(|way| self.has(&way.pairing));
        if self.dying.len() == dying && !is_joined {
            self.lost(|way| way.joins(&ends), now);
        }
    }

    /// The carrier has become bulk, and far ways are of use to it; or it rests.
    pub fn set_spread(&mut self, spread: bool) {
        self.spread = spread;
        self.settle_again.reset();
    }

    /// What is to be asked for now; `worth` of the way by a path's number.
    pub fn poll(&mut self, now: Instant, worth: impl Fn(usize) -> Worth) -> Vec<Ask> {
        for way in &mut self.ways {
            let was_dead = std::mem::replace(&mut way.dead, worth(way.pairing.path) == Worth::Dead);
            // One that was asked for meanwhile waits for long to try again, too.
            if was_dead && !way.dead {
                way.state = State::Missing(now);
                doubt(&mut self.subflows, &way.pairing);
            }
        }
        let mut asks = self.destroy();
        self.settle = self.settle.filter(|at| *at > now);
        for number in 0..self.ways.len() {
            let id = self.id_of(self.ways[number].pairing.local);
            let is_joined = self.has(&self.ways[number].pairing);
            let way = &mut self.ways[number];
            if way.dead {
                continue;
            }
            let unwanted = match worth(way.pairing.path) {
                Worth::Near => false,
                Worth::Far => !self.spread,
                Worth::Poor | Worth::Dead => true,
            };
            let (pairing, backup) = (way.pairing, way.pairing.backup || unwanted);
            if is_joined && way.backup != backup && self.settle.is_none() {
                way.backup = backup;
                asks.push(Ask::SetBackup { way: pairing, backup });
            } else if !is_joined && way.due() <= now {
                way.state = State::Asked(now, now + FORGET);
                way.backup = backup;
                asks.push(Ask::Create { way: pairing, id, backup });
            }
        }
        asks
    }

    /// The kernel has refused what was asked for.
    pub fn handle_refused(&mut self, ask: Ask, now: Instant) {
        match ask {
            Ask::Create { way: pairing, .. } => self.lost(|way| *way == pairing, now),
            Ask::SetBackup { way: pairing, backup } => {
                let way = self.ways.iter_mut().find(|way| way.pairing == pairing);
                way.into_iter().for_each(|way| way.backup = !backup);
                self.settle = Some(now + self.settle_again.pause());
            }
            // It has gone by itself just now, and the kernel's word of it is on its way.
            Ask::Destroy { .. } => {}
        }
    }

    /// When to poll next; `None` while nothing is lacking.
    #[must_use]
    pub fn wake(&self) -> Option<Instant> {
        let lacking = self.ways.iter().filter(|way| !way.dead && !self.has(&way.pairing));
        lacking.map(Way::due).chain(self.settle).min()
    }

    /// Subflows over dead ways, and over none of the ways, go as soon as there is a better one: a
    /// connection without any ends after a while (`net.mptcp.close_timeout`), and what looks dead may
    /// yet be all there is. A second one over a way goes, too: it was asked for, forgotten, and came.
    fn destroy(&mut self) -> Vec<Ask> {
        let (mut live, mut dead, mut asks) = (Vec::<Subflow>::new(), Vec::new(), Vec::new());
        for subflow in &self.subflows {
            match self.way_of(&subflow.ends).filter(|way| !way.dead) {
                None => dead.push(*subflow),
                Some(_) if subflow.stale => dead.push(*subflow),
                Some(way) if live.iter().any(|other| way.pairing.joins(&other.ends)) => {
                    asks.push(Ask::Destroy { ends: subflow.ends, withdrawn: None });
                }
                Some(_) => live.push(*subflow),
            }
        }
        if !live.is_empty() {
            // The address of a stale one is not gone.
            let destroy = |Subflow { ends, id, stale }| {
                let lives = stale && self.way_of(&ends).is_some_and(|way| !way.dead);
                Ask::Destroy { ends, withdrawn: (!lives).then_some(id) }
            };
            asks.extend(dead.into_iter().map(destroy));
        }
        let gone = |ends: &Ends| {
            asks.iter().any(|ask| matches!(ask, Ask::Destroy { ends: other, .. } if other == ends))
        };
        self.dying.extend(self.subflows.iter().map(|subflow| subflow.ends).filter(gone));
        self.subflows.retain(|subflow| !gone(&subflow.ends));
        asks
    }

    fn lost(&mut self, is_it: impl Fn(&Pairing) -> bool, now: Instant) {
        for way in self.ways.iter_mut().filter(|way| is_it(&way.pairing)) {
            way.state = State::Missing(now + way.again.pause());
        }
    }

    fn has(&self, way: &Pairing) -> bool {
        self.subflows.iter().any(|subflow| !subflow.stale && way.joins(&subflow.ends))
    }

    fn way_of(&self, ends: &Ends) -> Option<&Way> {
        self.ways.iter().find(|way| way.pairing.joins(ends))
    }

    /// The kernel wants one identifier for an address and one address for an identifier, for as long
    /// as the connection lives; it refuses what is beyond the last one.
    fn id_of(&mut self, local: IpAddr) -> u8 {
        let known = self.addresses.iter().position(|address| *address == local);
        let number = known.unwrap_or_else(|| {
            self.addresses.push(local);
            self.addresses.len() - 1
        });
        u8::try_from(number + 1).unwrap_or(u8::MAX)
    }
}

impl Way {
    fn new(pairing: Pairing, ask_at: Instant) -> Self {
        let (state, again) = (State::Missing(ask_at), Backoff::new(AGAIN));
        Self { pairing, state, again, backup: false, dead: false }
    }

    /// When a subflow is to be asked for, if there is none.
    fn due(&self) -> Instant {
        match self.state {
            State::Asked(_, at) | State::Missing(at) => at,
        }
    }
}

/// Subflows over a way that was away are not to be relied on.
fn doubt(subflows: &mut [Subflow], way: &Pairing) {
    let over_it = subflows.iter_mut().filter(|subflow| way.joins(&subflow.ends));
    over_it.for_each(|subflow| subflow.stale = true);
}

#[cfg(test)]
mod tests;
