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
use crate::dial::Ways;
use crate::shared::Shared;

/// How long a flow waits for a carrier when there is no session, or a new one.
const SEAT_LIMIT: Duration = Duration::from_secs(20);

/// The most shared carriers, and how many flows each should have before there is another.
const SHARED_MOST: usize = 8;
const SHARED_LOAD: usize = 16;

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
        let state =
            State { idle: VecDeque::new(), shared: Vec::new(), busy: 0, coming: [0; 2], demand };
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

    /// Lets go of carriers that have ended, and of idle ones that are of an old session or badly
    /// placed once there are enough others: these are returned, to be closed. `ways` learns what the
    /// carriers know of them.
    pub(crate) fn sweep(&self, session: SessionId, ways: Option<&Ways>) -> Vec<Carrier> {
        let mut state = self.state();
        state.shared.retain(|shared| !shared.is_closed());
        let in_use = state.shared.iter().filter(|shared| shared.load().is_some()).count();
        let surplus = in_use.saturating_sub(state.demand.shared(Instant::now()));
        let empty = state.shared.iter().filter(|shared| shared.load() == Some(0));
        empty.take(surplus).for_each(|shared| shared.retire());
        let of_session = |shared: &&Arc<Shared>| shared.session == session;
        if state.shared.iter().any(|shared| of_session(&shared)) {
            let old = state.shared.iter().filter(|shared| !of_session(shared));
            old.for_each(|shared| shared.retire());
        }
        state.idle.retain_mut(|carrier| carrier.is_usable());
        if let Some(ways) = ways {
            ways.learn(state.idle.iter().flat_map(|carrier| round_trips(carrier)));
        }
        let wanted = state.wanted_idle(Instant::now());
        let good = state.good_idle(session, ways);
        let mut surplus = good.saturating_sub(wanted + wanted / 4);
        // From the front: those used most recently stay.
        let (stay, go): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut state.idle).into_iter().partition(|carrier| {
                if !is_good(carrier, session, ways) {
                    return good < wanted;
                }
                let stays = surplus == 0;
                surplus = surplus.saturating_sub(1);
                stays
            });
        state.idle = stay;
        go.into_iter().map(|carrier: Box<Carrier>| *carrier).collect()
    }

    /// What there is and what is lacking, if `bound` carriers may be had in all.
    pub(crate) fn count(&self, session: SessionId, ways: Option<&Ways>, bound: usize) -> Count {
        let mut state = self.state();
        let now = Instant::now();
        let have =
            [state.idle.len() + state.busy + state.coming[0], state.shared.len() + state.coming[1]];
        let shared_bound = SHARED_MOST.min(bound / 2);
        let full = state.shared.iter().all(|s| s.load().is_none_or(|load| load >= SHARED_LOAD));
        // One at a time: none is full before the first is there.
        let full = full && state.coming[1] == 0 && !state.shared.is_empty();
        let usual = state.demand.shared(now);
        let wanted_shared = if full { usual.max(have[1] + 1) } else { usual };
        let good = state.good_idle(session, ways) + state.coming[0];
        let single = state.wanted_idle(now).saturating_sub(good);
        let single = single.min((bound - shared_bound).saturating_sub(have[0]));
        let is_new = |shared: &&Arc<Shared>| shared.session == session && shared.load().is_some();
        let new = state.shared.iter().filter(is_new).count();
        let shared = wanted_shared.saturating_sub(new + state.coming[1]);
        let shared = shared.min(shared_bound.saturating_sub(have[1]));
        Count { have, lack: [single, shared] }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn shared_flows(&self) -> usize {
        self.shared.iter().filter_map(|shared| shared.load()).sum()
    }

    fn wanted_idle(&mut self, now: Instant) -> usize {
        let busy = self.busy;
        self.demand.idle(now, busy)
    }

    fn good_idle(&self, session: SessionId, ways: Option<&Ways>) -> usize {
        self.idle.iter().filter(|carrier| is_good(carrier, session, ways)).count()
    }
}

fn is_good(carrier: &Carrier, session: SessionId, ways: Option<&Ways>) -> bool {
    let first = carrier.place.as_ref().map(|place| place.state().first);
    let well_placed = match (first, ways) {
        (Some(Some(first)), Some(ways)) => ways.is_well_placed(first),
        // All its subflows are gone for now.
        (Some(None), _) => false,
        _ => true,
    };
    carrier.session == session && well_placed
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
        self.0.work.notify_one();
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.state().coming[self.1] -= 1;
    }
}
