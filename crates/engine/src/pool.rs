//! The carriers on which flows to one peer are opened: idle single ones, the most recently used
//! first since their congestion windows are open, and shared ones for when none is idle.
//!
//! How many there should be is `core::stock`'s; getting them is `upkeep`'s.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use braid_core::keys::SessionId;
use braid_core::status::CarrierCounts;
use braid_core::stock::{Held, Stock, Worth};
use braid_sys::mptcp::{self, SubflowInfo};
use tokio::sync::Notify;

use crate::carrier::Carrier;
use crate::counter::{Counted, Counter};
use crate::dial::KnownWays;
use crate::shared::Shared;
use crate::steering::{PlaceState, Registration};

/// How long a flow waits for a carrier when there is no session, or a new one.
const SEAT_LIMIT: Duration = Duration::from_secs(20);

/// The carriers of one peer on which we open.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    busy: Counter,
    /// Being dialled: single, shared.
    coming: [Counter; 2],
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
    stock: Stock,
}

/// Where a flow goes.
#[derive(Debug)]
pub(crate) enum Seat {
    /// A carrier of its own, counted as busy.
    Single(Box<Carrier>, Counted),
    /// A carrier with other flows.
    Shared(Arc<Shared>),
}

/// What a pool is judged by: the session in use, the ways to the peer if we dial it, and how many
/// carriers may be had in all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) session: SessionId,
    pub(crate) ways: Option<&'a KnownWays>,
    pub(crate) bound: usize,
}

impl Pool {
    pub(crate) fn new(now: Instant) -> Self {
        let (idle, shared, stock) = (VecDeque::new(), Vec::new(), Stock::new(now));
        Self {
            state: Mutex::new(State { idle, shared, stock }),
            busy: Counter::default(),
            coming: Default::default(),
            seats: Notify::new(),
            work: Notify::new(),
        }
    }

    /// A place for a flow, waiting for one if need be.
    ///
    /// # Errors
    /// TimedOut when there is none for long: the peer cannot be reached.
    pub(crate) async fn seat(&self) -> io::Result<Seat> {
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

    fn try_seat(&self) -> Option<Seat> {
        let mut state = self.state();
        let now = Instant::now();
        while let Some(mut carrier) = state.idle.pop_back() {
            if carrier.is_usable() {
                let counted = self.busy.add();
                self.began(&mut state, now, 0);
                if Held::is_crowd(self.busy.count())
                    && let Some(place) = &carrier.place
                {
                    place.crowded();
                }
                return Some(Seat::Single(carrier, counted));
            }
        }
        let loads = state.shared.iter().filter_map(|shared| Some((shared.load()?, shared)));
        let least = loads.min_by_key(|(load, _)| *load).map(|(_, shared)| Arc::clone(shared));
        if least.is_some() {
            self.began(&mut state, now, 1);
        }
        self.work.notify_one();
        least.map(Seat::Shared)
    }

    /// A flow begins; `more` is 1 if it is not in the counts yet.
    fn began(&self, state: &mut State, now: Instant, more: usize) {
        let on_shared: usize = state.shared.iter().map(|shared| shared.flow_count()).sum();
        let (idle, busy) = (state.idle.len(), self.busy.count());
        state.stock.began(now, busy + on_shared + more);
        if state.stock.is_low(now, idle, busy) {
            self.work.notify_one();
        }
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

    /// Counts a carrier as being dialled.
    pub(crate) fn coming(&self, shared: bool) -> Counted {
        self.coming[usize::from(shared)].add()
    }

    /// Lets go of carriers that have ended or that `core::stock` has no use for; single ones are
    /// returned, to be closed. What the carriers know of the ways is learnt.
    pub(crate) fn sweep(&self, terms: Terms<'_>) -> Vec<Carrier> {
        let (mut state, now) = (self.state(), Instant::now());
        state.shared.retain(|shared| !shared.is_closed());
        state.idle.retain_mut(|carrier| carrier.is_usable());
        if let Some(ways) = terms.ways {
            ways.get().learn(state.idle.iter().flat_map(|carrier| round_trips(carrier)));
        }
        let held = self.held(&state, terms);
        state.retire_shared(terms.session, state.stock.shared_surplus(now, &held));
        let mut leave = state.stock.surplus(now, &held, terms.bound);
        // From the front: those used most recently stay.
        let idle = std::mem::take(&mut state.idle);
        let (go, stay): (VecDeque<_>, VecDeque<_>) = idle.into_iter().partition(|carrier| {
            let leave = &mut leave[worth(carrier, terms) as usize];
            let goes = *leave > 0;
            *leave = leave.saturating_sub(1);
            goes
        });
        state.idle = stay;
        go.into_iter().map(|carrier: Box<Carrier>| *carrier).collect()
    }

    /// How many carriers there are and how many are lacking, single and shared.
    pub(crate) fn count(&self, terms: Terms<'_>) -> ([usize; 2], [usize; 2]) {
        let mut state = self.state();
        let held = self.held(&state, terms);
        (held.have(), state.stock.lack(Instant::now(), &held, terms.bound))
    }

    /// What it holds.
    pub(crate) fn counts(&self) -> CarrierCounts {
        let state = self.state();
        let (idle, shared) = (state.idle.len(), state.shared.len());
        CarrierCounts { idle, busy: self.busy.count(), shared }
    }

    fn held(&self, state: &State, terms: Terms<'_>) -> Held {
        let mut idle = [0; 3];
        state.idle.iter().for_each(|carrier| idle[worth(carrier, terms) as usize] += 1);
        let of_session = state.shared.iter().filter(|shared| shared.session == terms.session);
        Held {
            idle,
            busy: self.busy.count(),
            coming: [self.coming[0].count(), self.coming[1].count()],
            shared: of_session.filter_map(|shared| shared.load()).collect(),
            shared_in_all: state.shared.len(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Retires shared carriers: of an old session once there are new ones, and `surplus` empty ones.
    fn retire_shared(&self, session: SessionId, surplus: usize) {
        let in_use = |shared: &&Arc<Shared>| shared.load().is_some();
        let (new, old): (Vec<_>, Vec<_>) =
            self.shared.iter().filter(in_use).partition(|shared| shared.session == session);
        if !new.is_empty() {
            old.iter().for_each(|shared| shared.retire());
        }
        let empty = new.iter().filter(|shared| shared.load() == Some(0));
        empty.take(surplus).for_each(|shared| shared.retire());
    }
}

fn worth(carrier: &Carrier, terms: Terms<'_>) -> Worth {
    if carrier.session != terms.session {
        return Worth::Old;
    }
    match (carrier.place.as_ref().map(Registration::state), terms.ways) {
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

/// The least round trip of each subflow, by its own address.
fn round_trips(carrier: &Carrier) -> impl Iterator<Item = (IpAddr, Duration)> {
    let subflows = mptcp::subflows(&carrier.stream).unwrap_or_default();
    let of = |subflow: SubflowInfo| Some((subflow.local.ip().to_canonical(), subflow.min_rtt?));
    subflows.into_iter().filter_map(of)
}
