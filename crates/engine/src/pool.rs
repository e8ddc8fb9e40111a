//! The carriers on which flows to one peer are opened: idle single ones, the most recently used
//! first since their congestion windows are open, and shared ones for when none is idle.
//!
//! How many there should be is `core::demand`'s; getting them is `upkeep`'s.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use braid_core::demand::Demand;
use braid_core::keys::SessionId;
use braid_sys::mptcp::{self, SubflowInfo};
use tokio::sync::Notify;

use crate::carrier::Carrier;
use crate::dial::KnownWays;
use crate::shared::Shared;
use crate::steering::{PlaceState, Registration};

/// How long a flow waits for a carrier when there is no session, or a new one.
const SEAT_LIMIT: Duration = Duration::from_secs(20);

/// The most shared carriers, and how many flows each should have before there is another.
const SHARED_MOST: usize = 8;
const SHARED_LOAD: usize = 16;

/// From so many busy carriers on, flows use far ways at once: together they fill the best one.
const CROWD: usize = 8;

/// The first and longest pause between two attempts to replace misplaced carriers.
const REPLACE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(120));

/// The carriers of one peer on which we open.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    /// There may be a seat.
    seats: Notify,
    /// There may be too few carriers.
    pub(crate) work: Notify,
}

#[derive(Debug)]
struct State {
    /// Fresh ones in front, the most recently used one last.
    idle: VecDeque<Box<Carrier>>,
    shared: Vec<Arc<Shared>>,
    busy: usize,
    /// Being dialled: single, shared.
    coming: [usize; 2],
    demand: Demand,
    /// When misplaced carriers may be replaced again, and the pause before that.
    replacing: Option<(Instant, Duration)>,
}

/// Where a flow goes.
#[derive(Debug)]
pub(crate) enum Seat {
    /// A carrier of its own.
    Single(Box<Carrier>, Busy),
    /// A carrier with other flows.
    Shared(Arc<Shared>),
}

/// Counts a carrier as busy while it is held.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Pool>);

/// Counts a carrier as being dialled while it is held.
#[derive(Debug)]
pub(crate) struct Coming(Arc<Pool>, usize);

/// How many carriers a pool has and wants, single and shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    /// Idle, busy and coming.
    pub(crate) have: [usize; 2],
    /// To be added.
    pub(crate) lack: [usize; 2],
}

impl Pool {
    pub(crate) fn new(now: Instant) -> Arc<Self> {
        let demand = Demand::new(now);
        let state = State {
            idle: VecDeque::new(),
            shared: Vec::new(),
            busy: 0,
            coming: [0; 2],
            demand,
            replacing: None,
        };
        Arc::new(Self { state: Mutex::new(state), seats: Notify::new(), work: Notify::new() })
    }

    /// A place for a flow, waiting for one if need be.
    ///
    /// # Errors
    /// TimedOut when there is none for long: the peer cannot be reached.
    pub(crate) async fn seat(self: &Arc<Self>) -> io::Result<Seat> {
        let seat = async {
            loop {
                let notified = self.seats.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                if let Some(seat) = self.try_seat() {
                    return seat;
                }
                self.work.notify_one();
                notified.await;
            }
        };
        Ok(tokio::time::timeout(SEAT_LIMIT, seat).await?)
    }

    fn try_seat(self: &Arc<Self>) -> Option<Seat> {
        let mut state = self.state();
        let now = Instant::now();
        while let Some(mut carrier) = state.idle.pop_back() {
            if carrier.is_usable() {
                state.busy += 1;
                let flows = state.busy + state.shared_flows();
                state.demand.began(now, flows);
                if state.busy > CROWD
                    && let Some(place) = &carrier.place
                {
                    place.crowded();
                }
                if state.idle.len() < state.wanted_idle(now) {
                    self.work.notify_one();
                }
                drop(state);
                return Some(Seat::Single(carrier, Busy(Arc::clone(self))));
            }
        }
        self.work.notify_one();
        let loads = state.shared.iter().filter_map(|shared| Some((shared.load()?, shared)));
        let least = loads.min_by_key(|(load, _)| *load).map(|(_, shared)| Arc::clone(shared))?;
        let flows = state.busy + state.shared_flows() + 1;
        state.demand.began(now, flows);
        Some(Seat::Shared(least))
    }

    /// Takes a carrier that has just been made: used when those that are warm are busy.
    pub(crate) fn add(&self, carrier: Box<Carrier>) {
        self.state().idle.push_front(carrier);
        self.seats.notify_waiters();
    }

    /// Takes a carrier that has just become clean again.
    pub(crate) fn put_back(&self, carrier: Box<Carrier>) {
        self.state().idle.push_back(carrier);
        self.seats.notify_waiters();
    }

    /// Takes a shared carrier.
    pub(crate) fn add_shared(&self, shared: Arc<Shared>) {
        self.state().shared.push(shared);
        self.seats.notify_waiters();
    }

    /// Counts a carrier as coming.
    pub(crate) fn coming(self: &Arc<Self>, shared: bool) -> Coming {
        let which = usize::from(shared);
        self.state().coming[which] += 1;
        Coming(Arc::clone(self), which)
    }

    /// Lets go of carriers that have ended, of those of an old session or badly placed for which there
    /// are others, and of those that are too many; idle ones are returned, to be closed. `ways`
    /// learns what the carriers know of them. `bound` is that of `count`.
    pub(crate) fn sweep(
        &self,
        session: SessionId,
        ways: Option<&KnownWays>,
        bound: usize,
    ) -> Vec<Carrier> {
        let mut state = self.state();
        state.retire_shared(session, Instant::now());
        state.idle.retain_mut(|carrier| carrier.is_usable());
        if let Some(ways) = ways {
            ways.get().learn(state.idle.iter().flat_map(|carrier| round_trips(carrier)));
        }
        let wanted = state.wanted_idle(Instant::now());
        let [good, misplaced, old] = state.worth(session, ways);
        let is_full = state.have()[0] + shared_bound(bound) >= bound;
        // Those of an old session make room for new ones where there is none; else they serve on.
        let (spare, most) = (if is_full { 1 + wanted / 4 } else { 0 }, wanted + wanted / 4);
        let mut leave = [
            good.saturating_sub(most),
            misplaced.min((good + misplaced).saturating_sub(wanted)),
            if good + misplaced >= wanted { old } else { old.min(spare) },
        ];
        // From the front: those used most recently stay.
        let idle = std::mem::take(&mut state.idle);
        let (go, stay): (VecDeque<_>, VecDeque<_>) = idle.into_iter().partition(|carrier| {
            let leave = &mut leave[worth(carrier, session, ways) as usize];
            let goes = *leave > 0;
            *leave = leave.saturating_sub(1);
            goes
        });
        state.idle = stay;
        go.into_iter().map(|carrier: Box<Carrier>| *carrier).collect()
    }

    /// What there is and what is lacking, if `bound` carriers may be had in all.
    pub(crate) fn count(
        &self,
        session: SessionId,
        ways: Option<&KnownWays>,
        bound: usize,
    ) -> Count {
        let mut state = self.state();
        let (now, have) = (Instant::now(), state.have());
        let [good, misplaced, _] = state.worth(session, ways);
        let replaced = state.replace(now, misplaced);
        let single = (state.wanted_idle(now) + replaced)
            .saturating_sub(good + misplaced + state.coming[0])
            .min((bound - shared_bound(bound)).saturating_sub(have[0]));
        let shared =
            state.wanted_shared(now, session).min(shared_bound(bound).saturating_sub(have[1]));
        Count { have, lack: [single, shared] }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Idle, busy and coming: single, shared.
    fn have(&self) -> [usize; 2] {
        [self.idle.len() + self.busy + self.coming[0], self.shared.len() + self.coming[1]]
    }

    fn shared_flows(&self) -> usize {
        self.shared.iter().map(|shared| shared.flow_count()).sum()
    }

    fn wanted_idle(&mut self, now: Instant) -> usize {
        let busy = self.busy;
        self.demand.idle(now, busy)
    }

    /// How many shared carriers are lacking.
    fn wanted_shared(&self, now: Instant, session: SessionId) -> usize {
        let in_use: Vec<usize> =
            self.shared.iter().filter(|s| s.session == session).filter_map(|s| s.load()).collect();
        let full = !in_use.is_empty() && in_use.iter().all(|load| *load >= SHARED_LOAD);
        // One at a time: none is full before the first is there.
        let more = usize::from(full && self.coming[1] == 0);
        let wanted = self.demand.shared(now).max(in_use.len() + more);
        wanted.saturating_sub(in_use.len() + self.coming[1])
    }

    /// Retires shared carriers: of an old session once there are new ones, and too many.
    fn retire_shared(&mut self, session: SessionId, now: Instant) {
        self.shared.retain(|shared| !shared.is_closed());
        let in_use = |shared: &&Arc<Shared>| shared.load().is_some();
        let (new, old): (Vec<_>, Vec<_>) =
            self.shared.iter().filter(in_use).partition(|shared| shared.session == session);
        if !new.is_empty() {
            old.iter().for_each(|shared| shared.retire());
        }
        let surplus = new.len().saturating_sub(self.demand.shared(now));
        let empty = new.iter().filter(|shared| shared.load() == Some(0));
        empty.take(surplus).for_each(|shared| shared.retire());
    }

    /// How many idle carriers are of each worth.
    fn worth(&self, session: SessionId, ways: Option<&KnownWays>) -> [usize; 3] {
        let mut counts = [0; 3];
        self.idle.iter().for_each(|carrier| counts[worth(carrier, session, ways) as usize] += 1);
        counts
    }

    /// How many carriers to dial in place of misplaced ones: all, but where that does not help, since
    /// the best way does not take dials, after growing pauses.
    fn replace(&mut self, now: Instant, misplaced: usize) -> usize {
        if misplaced == 0 {
            self.replacing = None;
            return 0;
        }
        match self.replacing {
            Some((next, _)) if now < next => 0,
            last => {
                let pause = last.map_or(REPLACE.0, |(_, pause)| (2 * pause).min(REPLACE.1));
                self.replacing = Some((now + pause, pause));
                misplaced
            }
        }
    }
}

/// What an idle carrier is worth.
#[derive(Clone, Copy)]
enum Worth {
    /// As good as a new one.
    Good = 0,
    /// A lone record leaves on a way that is not the best.
    Misplaced = 1,
    /// Of an old session.
    Old = 2,
}

fn worth(carrier: &Carrier, session: SessionId, ways: Option<&KnownWays>) -> Worth {
    if carrier.session != session {
        return Worth::Old;
    }
    match (carrier.place.as_ref().map(Registration::state), ways) {
        // All its subflows are gone for now.
        (Some(PlaceState { first: None, .. }), _) => Worth::Misplaced,
        (Some(PlaceState { first: Some(first), joined }), Some(ways))
            if !ways.get().is_well_placed(first, joined) =>
        {
            Worth::Misplaced
        }
        _ => Worth::Good,
    }
}

/// The most of the bounded carriers that are shared ones.
fn shared_bound(bound: usize) -> usize {
    SHARED_MOST.min(bound / 2)
}

/// The least round trip of each subflow, by its own address.
fn round_trips(carrier: &Carrier) -> impl Iterator<Item = (IpAddr, Duration)> {
    let subflows = mptcp::subflows(&carrier.stream).unwrap_or_default();
    let of = |subflow: SubflowInfo| Some((subflow.local.ip().to_canonical(), subflow.min_rtt?));
    subflows.into_iter().filter_map(of)
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.state().busy -= 1;
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.state().coming[self.1] -= 1;
    }
}
