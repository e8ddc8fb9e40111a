//! All that there is between this box and one peer: its session, and the carriers on which either
//! opens flows.
//!
//! It decides which of two sessions stands; `keeping` keeps one up where the peer can be dialled. The
//! carriers' number is `upkeep`'s, what flows do on them `ingress`'s and `egress`'s.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use braid_core::config::Peer;
use braid_core::control::{Bye, Hello};
use braid_core::credit::FIRST_CREDIT;
use braid_core::key::PublicKey;
use braid_sys::rtnl::Rtnl;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info};

use crate::carrier::Carrier;
use crate::census::Census;
use crate::counter::Counter;
use crate::dial::Dialler;
use crate::directory::Directory;
use crate::egress::{self, Connects};
use crate::heartbeats::Vitals;
use crate::mailbox::Budget;
use crate::pool::Pool;
use crate::pulse::Pulse;
use crate::session::{Request, Session, SessionError, Wire};
use crate::shared::Shared;
use crate::tasks::Tasks;
use crate::throttle::{Bound, Throttle};
use crate::tls::Tls;
use crate::upkeep::Theirs;

mod keeping;

/// A session that has been replaced ends after this long: what was asked in it is answered.
const REPLACED: Duration = Duration::from_secs(30);

/// How long a flow waits for a session.
const SESSION_LIMIT: Duration = Duration::from_secs(20);

/// Flows of a peer, each way: as many as find room in a quarter of the memory if each holds what a
/// shared carrier gives it at first, within these bounds.
const FLOWS: (u64, u64) = (512, 8192);

/// What flows on shared carriers may hold beyond that, in all: a part of the memory, within these
/// bounds.
const BUDGET: (u64, u64) = (1 << 20, 64 << 20);

/// Carriers accepted beyond the bound: the peer counts one as gone before we do.
const SLACK: usize = 16;

/// One peer, as this box deals with it.
#[derive(Debug)]
pub struct Peering {
    /// Its configuration.
    pub peer: Peer,
    /// How it is dialled; none if it dials us.
    pub(crate) dialler: Option<Arc<Dialler>>,
    pub(crate) tasks: Tasks,
    pub(crate) rtnl: Rtnl,
    pub(crate) pool: Arc<Pool>,
    /// Carriers on which the peer opens and that we dial.
    pub(crate) theirs: Theirs,
    pub(crate) dialling: Counter,
    /// Single carriers with a flow of the peer.
    pub(crate) serving: Counter,
    /// All carriers, to be looked at.
    pub(crate) census: Census,
    /// Carriers that may be accepted.
    pub(crate) acceptable: Arc<Semaphore>,
    /// Flows that may be taken from our hosts, and from the peer's: so many of each, and how many more.
    pub(crate) flow_bound: usize,
    pub(crate) flows_out: Arc<Semaphore>,
    pub(crate) flows_in: Arc<Semaphore>,
    budget: Arc<Budget>,
    /// Whether bytes of flows move, and how the ways are that we dial over.
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) vitals: Vitals,
    /// Who ends subflows over ways that the peer has given up has its one permit.
    pub(crate) leaving: Arc<Semaphore>,
    pub(crate) connects: Connects,
    pub(crate) bounds: Bounds,
    identity: PublicKey,
    hello: Hello,
    tls: Arc<Tls>,
    directory: Arc<Directory>,
    current: watch::Sender<Option<Arc<Session>>>,
    trouble: Throttle,
}

/// The bounds of a peer, each with the count of how often it was met.
#[derive(Debug)]
pub(crate) struct Bounds {
    pub(crate) carriers: Bound,
    pub(crate) flows: Bound,
    pub(crate) connects: Bound,
}

/// What all peerings of a box have in common.
#[derive(Clone, Debug)]
pub struct Common {
    /// This box's identity.
    pub identity: PublicKey,
    /// Whether this box's processor has AES in hardware.
    pub aes: bool,
    /// Secures control connections.
    pub tls: Arc<Tls>,
    /// Where sessions are found.
    pub directory: Arc<Directory>,
    /// This box's memory, bytes.
    pub memory: u64,
    /// Where tasks go.
    pub tasks: Tasks,
    /// To ask the kernel about addresses.
    pub rtnl: Rtnl,
}

impl Peering {
    /// A peer without a session yet.
    #[must_use]
    pub fn new(peer: Peer, dialler: Option<Arc<Dialler>>, common: &Common) -> Arc<Self> {
        let name = peer.name.clone();
        let bound = |what| Bound::new(format!("{what} of peer \"{name}\""));
        let bounds = Bounds {
            carriers: bound("carriers"),
            flows: bound("flows"),
            connects: bound("unfetched connections"),
        };
        let carriers = usize::from(peer.carriers);
        let flows = (common.memory / 4 / FIRST_CREDIT as u64).clamp(FLOWS.0, FLOWS.1) as usize;
        let budget = (common.memory / 64).clamp(BUDGET.0, BUDGET.1) as usize;
        Arc::new(Self {
            hello: Hello { aes: common.aes, protection: peer.protection, carriers: peer.carriers },
            dialler,
            tasks: common.tasks.clone(),
            rtnl: common.rtnl.clone(),
            pool: Arc::new(Pool::new(Instant::now())),
            theirs: Theirs::default(),
            dialling: Counter::default(),
            serving: Counter::default(),
            census: Census::default(),
            acceptable: Arc::new(Semaphore::new(carriers + SLACK)),
            flow_bound: flows,
            flows_out: Arc::new(Semaphore::new(flows)),
            flows_in: Arc::new(Semaphore::new(flows)),
            budget: Arc::new(Budget::new(budget)),
            pulse: Arc::default(),
            vitals: Vitals::new(Instant::now()),
            leaving: Arc::new(Semaphore::new(1)),
            connects: Connects::default(),
            bounds,
            identity: common.identity,
            tls: Arc::clone(&common.tls),
            directory: Arc::clone(&common.directory),
            current: watch::Sender::new(None),
            trouble: Throttle::default(),
            peer,
        })
    }

    /// The session in use.
    #[must_use]
    pub fn session(&self) -> Option<Arc<Session>> {
        self.current.borrow().clone()
    }

    /// The session in use, waiting for one for a while.
    ///
    /// # Errors
    /// TimedOut when the peer cannot be reached.
    pub async fn wait_session(&self) -> io::Result<Arc<Session>> {
        let mut current = self.current.subscribe();
        let found = current.wait_for(Option::is_some);
        let found = tokio::time::timeout(SESSION_LIMIT, found).await?;
        found.ok().and_then(|found| found.clone()).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Whether flows of our hosts go to this peer.
    #[must_use]
    pub fn is_routed(&self) -> bool {
        !self.peer.routes.is_empty()
    }

    /// Begins a session on a connection that the peer has dialled and secured.
    ///
    /// # Errors
    /// See [`Session::begin`].
    pub async fn accept(
        self: &Arc<Self>,
        secured: crate::tls::Secured,
    ) -> Result<(), SessionError> {
        let pulse = Arc::clone(&self.pulse);
        let begun = Session::begin(secured, None, self.identity, false, self.hello, pulse);
        let (session, wire) = begun.await?;
        self.adopt(session, wire);
        Ok(())
    }

    /// Makes a session the one in use, and runs it; false if another stands.
    fn adopt(self: &Arc<Self>, session: Arc<Session>, wire: Wire) -> bool {
        let mut replaced = None;
        let stands = self.current.send_if_modified(|current| {
            let stands = current.as_ref().is_none_or(|old| session.dialler <= old.dialler);
            if stands {
                self.theirs.want([0; 2]);
                replaced = current.replace(Arc::clone(&session));
            }
            stands
        });
        if stands {
            self.directory.add(self, &session);
            info!(
                peer = self.peer.name,
                suite = %session.terms.suite,
                sealed = !session.is_clear(),
                dialled_here = session.dialler == self.identity,
                "session is up"
            );
        } else {
            session.bye(Bye::Duplicate);
            self.doubt_current();
        }
        if let Some(old) = replaced {
            self.let_go(old, session.dialler);
        }
        let peering = Arc::clone(self);
        self.tasks.spawn(async move { peering.run(session, wire).await });
        self.pool.work.notify_one();
        stands
    }

    /// A peer that dials has no session, or did not have one yet: does ours still live?
    fn doubt_current(&self) {
        if let Some(session) = self.session() {
            self.tasks.spawn(async move { session.prove_alive().await });
        }
    }

    /// Ends a session that has been replaced by one of this dialler.
    fn let_go(&self, old: Arc<Session>, dialler: PublicKey) {
        if old.dialler != dialler {
            old.bye(Bye::Duplicate);
            return;
        }
        self.tasks.spawn(async move {
            let _ = tokio::time::timeout(REPLACED, old.ended()).await;
            old.bye(Bye::Replaced);
        });
    }

    async fn run(self: &Arc<Self>, session: Arc<Session>, wire: Wire) {
        let why = session.run(wire, |request| self.request(&session, request)).await;
        self.directory.remove(session.id);
        self.connects.end(session.id);
        let lost = self.current.send_if_modified(|current| {
            let ours = current.as_ref().is_some_and(|current| current.id == session.id);
            if ours {
                *current = None;
            }
            ours
        });
        if lost {
            info!(peer = self.peer.name, "session is down: {why}");
        } else {
            debug!(peer = self.peer.name, "an older session has ended: {why}");
        }
    }

    fn request(self: &Arc<Self>, session: &Arc<Session>, request: Request) {
        match request {
            Request::Connect { number, sink, host } => {
                egress::asked(self, session, number, sink, host);
            }
            Request::Cancel(number) => self.connects.cancel(number, session.id),
            Request::Want { single, shared } => {
                self.theirs.want([single.into(), shared.into()]);
                self.pool.work.notify_one();
            }
        }
    }

    /// Puts a carrier to its use.
    pub(crate) fn place(self: &Arc<Self>, carrier: Carrier) {
        self.census.add(&carrier);
        let peering = Arc::clone(self);
        match (carrier.we_open, carrier.kind.shared) {
            (true, false) => self.pool.add(Box::new(carrier)),
            (true, true) => {
                let (shared, task) = Shared::start(carrier, Arc::clone(&self.budget), |_, _| {});
                self.tasks.spawn(task);
                self.pool.add_shared(shared);
            }
            (false, false) => {
                self.tasks.spawn(egress::serve(peering, carrier));
            }
            (false, true) => {
                let begin = move |slot, open| {
                    peering.tasks.spawn(egress::serve_slot(Arc::clone(&peering), slot, open));
                };
                self.tasks.spawn(Shared::start(carrier, Arc::clone(&self.budget), begin).1);
            }
        }
    }
}
