//! Keeps a peer's carriers: dials those that are lacking, on which we open or the peer does, or
//! asks the peer for them where it cannot be dialled.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use braid_core::backoff::Backoff;
use braid_core::carrier::Kind;
use braid_core::control::Message;
use braid_core::keys::SessionId;
use tokio::sync::mpsc;
use tracing::debug;

use crate::carrier::Carrier;
use crate::counter::{Counted, Counter};
use crate::dial::{Dialler, random};
use crate::peering::Peering;
use crate::pool::Terms;
use crate::session::Session;

/// Between two looks at carriers when nothing asks for one.
const LOOK: Duration = Duration::from_secs(1);

/// Carriers being dialled at a time: a burst of handshakes takes the links from those who use them.
const AT_ONCE: usize = 16;

/// How many carriers the peer wants us to dial for it, and how many there are: single, shared.
#[derive(Debug, Default)]
pub(crate) struct Theirs {
    want: Mutex<[usize; 2]>,
    have: [Counter; 2],
}

/// The state of keeping up.
#[derive(Debug, Default)]
struct Upkeep {
    /// What the peer was asked for last, in which session.
    asked: Option<(SessionId, [u16; 2])>,
    backoff: Backoff,
    /// Dialling rests until then: it failed.
    rests_until: Option<Instant>,
}

/// Keeps the carriers of a peer for as long as the box runs.
pub(crate) async fn keep(peering: Arc<Peering>) {
    let (done, mut outcomes) = mpsc::unbounded_channel();
    let (mut upkeep, mut swept) = (Upkeep::default(), None);
    loop {
        tokio::select! {
            () = peering.pool.work.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        while let Ok(well) = outcomes.try_recv() {
            upkeep.dialled(well);
        }
        let Some(session) = peering.session() else { continue };
        let dialler = peering.dialler.as_ref();
        let (ways, bound) = (dialler.map(|d| d.ways()), usize::from(session.terms.carriers));
        let terms = Terms { session: session.id, ways, bound };
        if swept.is_none_or(|swept: Instant| swept.elapsed() >= LOOK) {
            swept = Some(Instant::now());
            for carrier in peering.pool.sweep(terms) {
                peering.tasks.spawn(carrier.close_in_order());
            }
        }
        match dialler {
            Some(dialler) => upkeep.dial(&peering, &session, dialler, &done),
            None => upkeep.ask(&peering, &session, terms),
        }
    }
}

impl Upkeep {
    fn dialled(&mut self, well: bool) {
        if well {
            self.backoff.reset();
            self.rests_until = None;
        } else if self.rests_until.is_none_or(|until| until <= Instant::now()) {
            self.rests_until = Some(Instant::now() + self.backoff.scattered(random()));
        }
    }

    fn dial(
        &mut self,
        peering: &Arc<Peering>,
        session: &Arc<Session>,
        dialler: &Arc<Dialler>,
        done: &mpsc::UnboundedSender<bool>,
    ) {
        if self.rests_until.is_some_and(|until| until > Instant::now()) {
            return;
        }
        let bound = usize::from(session.terms.carriers);
        let left_for_us = bound.saturating_sub(peering.theirs.have());
        let terms = Terms { session: session.id, ways: Some(dialler.ways()), bound: left_for_us };
        let (have, mut own) = peering.pool.count(terms);
        if !peering.is_routed() {
            own = [0; 2];
        }
        let theirs = peering.theirs.lack(bound.saturating_sub(have[0] + have[1]));
        for (acceptor_opens, shared, lack) in [
            (false, false, own[0]),
            (true, false, theirs[0]),
            (false, true, own[1]),
            (true, true, theirs[1]),
        ] {
            let kind = Kind { acceptor_opens, shared };
            for _ in 0..lack {
                let Some(attempt) = Attempt::count(peering, kind) else { return };
                attempt.spawn(peering, session, dialler, done);
            }
        }
    }

    /// The peer dials for us: it is told how many we want in all.
    fn ask(&mut self, peering: &Peering, session: &Session, terms: Terms<'_>) {
        if !peering.is_routed() {
            return;
        }
        let (have, lack) = peering.pool.count(terms);
        let all = |which: usize| u16::try_from(have[which] + lack[which]).unwrap_or(u16::MAX);
        let wanted = (session.id, [all(0), all(1)]);
        if self.asked != Some(wanted) {
            self.asked = Some(wanted);
            session.post(Message::Want { single: wanted.1[0], shared: wanted.1[1] });
        }
    }
}

/// A carrier being dialled, in all the counts that it is in.
struct Attempt {
    kind: Kind,
    dialling: Counted,
    ours: Option<Counted>,
    theirs: Option<Counted>,
}

impl Attempt {
    /// `None` while enough are being dialled.
    fn count(peering: &Peering, kind: Kind) -> Option<Self> {
        if peering.dialling.count() >= AT_ONCE {
            return None;
        }
        let ours = (!kind.acceptor_opens).then(|| peering.pool.coming(kind.shared));
        let theirs = kind.acceptor_opens.then(|| peering.theirs.count(kind.shared));
        Some(Self { kind, dialling: peering.dialling.add(), ours, theirs })
    }

    fn spawn(
        self,
        peering: &Arc<Peering>,
        session: &Arc<Session>,
        dialler: &Arc<Dialler>,
        done: &mpsc::UnboundedSender<bool>,
    ) {
        let (peering, session) = (Arc::clone(peering), Arc::clone(session));
        let (dialler, done) = (Arc::clone(dialler), done.clone());
        peering.tasks.clone().spawn(async move {
            let Self { kind, dialling, ours, theirs } = self;
            let dialled = tokio::select! {
                dialled = Carrier::dial(&session, &dialler, kind) => dialled,
                () = session.ended() => return,
            };
            let _ = done.send(dialled.is_ok());
            match dialled {
                Ok(mut carrier) => {
                    carrier.theirs = theirs;
                    peering.place(carrier);
                }
                Err(error) => debug!(peer = peering.peer.name, %error, "carrier not dialled"),
            }
            drop((ours, dialling));
            // There may be more to be dialled.
            peering.pool.work.notify_one();
        });
    }
}

impl Theirs {
    pub(crate) fn want(&self, want: [usize; 2]) {
        *self.want.lock().unwrap_or_else(PoisonError::into_inner) = want;
    }

    /// Counts one; until it is dropped.
    pub(crate) fn count(&self, shared: bool) -> Counted {
        self.have[usize::from(shared)].add()
    }

    pub(crate) fn have(&self) -> usize {
        self.have_each().iter().sum()
    }

    /// How many more are wanted, `left` at most.
    pub(crate) fn lack(&self, left: usize) -> [usize; 2] {
        let want = *self.want.lock().unwrap_or_else(PoisonError::into_inner);
        let have = self.have_each();
        let left = left.saturating_sub(have[0] + have[1]);
        let shared = want[1].saturating_sub(have[1]).min(left);
        [want[0].saturating_sub(have[0]).min(left - shared), shared]
    }

    fn have_each(&self) -> [usize; 2] {
        [self.have[0].count(), self.have[1].count()]
    }
}
