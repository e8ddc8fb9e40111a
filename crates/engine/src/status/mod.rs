//! What the box says of itself: gathered from where it happens whenever somebody asks ([`socket`]).
//!
//! The value and its names are `core::status`'s.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use braid_core::config::PathConfig;
use braid_core::key::PublicKey;
use braid_core::status::{
    BoxBounds, CarrierCounts, CarriersStatus, ChangedSysctl, FlowsStatus, KernelStatus, PathStatus,
    PeerBounds, PeerStatus, RefusedSysctl, Restored, SessionStatus, Status, VERSION,
};

use crate::gate::Gate;
use crate::ingress::Ingress;
use crate::peering::Peering;

mod socket;
mod ways;

pub use socket::{ReadError, parse, read};
pub(crate) use socket::{SocketFile, serve};

/// What it is gathered from.
pub(crate) struct Sources {
    pub(crate) public_key: PublicKey,
    pub(crate) began: Instant,
    pub(crate) paths: Vec<PathConfig>,
    pub(crate) peerings: Vec<Arc<Peering>>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) ingress: Arc<Ingress>,
    pub(crate) kernel: KernelReport,
}

/// What is done to the kernel's state, for all who want to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct KernelReport(Arc<Mutex<KernelStatus>>);

impl Sources {
    /// All of it, now.
    pub(crate) fn status(&self) -> Status {
        Status {
            version: VERSION,
            braid: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            public_key: self.public_key.to_string(),
            up_s: self.began.elapsed().as_secs(),
            paths: self.paths.iter().map(path).collect(),
            peers: self.peerings.iter().map(|peering| self.peer(peering)).collect(),
            bounds_met: BoxBounds {
                unproved_connections: self.gate.unproved.bound_met(),
                flows_of_one_host: self.ingress.of_host.times(),
            },
            kernel: self.kernel.lock().clone(),
        }
    }

    fn peer(&self, peering: &Peering) -> PeerStatus {
        let session = peering.session().map(|session| SessionStatus {
            protection: session.terms.protection,
            suite: session.terms.suite.to_string(),
            dialled_here: session.dialler == self.public_key,
            up_s: session.began.elapsed().as_secs(),
        });
        let known = peering.dialler.as_ref().map(|dialler| dialler.ways().get().all());
        let (reports, subflows) = (peering.vitals.reports(), peering.census.subflows());
        let bounds = &peering.bounds;
        PeerStatus {
            name: peering.peer.name.clone(),
            public_key: peering.peer.public_key.to_string(),
            session,
            ways: ways::ways(&known.unwrap_or_default(), &self.paths, &reports, &subflows),
            carriers: carriers(peering),
            flows: flows(peering),
            bounds_met: PeerBounds {
                carriers: bounds.carriers.times(),
                flows: bounds.flows.times(),
                unfetched_connections: bounds.connects.times(),
            },
        }
    }
}

fn path(path: &PathConfig) -> PathStatus {
    let PathConfig { interface, role, trusted } = path.clone();
    PathStatus { interface, role, trusted }
}

fn carriers(peering: &Peering) -> CarriersStatus {
    let ([single, shared], busy) = (peering.census.opened_by_peer(), peering.serving.count());
    CarriersStatus {
        ours: peering.pool.counts(),
        // Those that serve may be more for a moment: they are counted later.
        theirs: CarrierCounts { idle: single.saturating_sub(busy), busy, shared },
        dialling: peering.dialling.count(),
        bound: peering.peer.carriers,
    }
}

fn flows(peering: &Peering) -> FlowsStatus {
    let bound = peering.flow_bound;
    FlowsStatus {
        ours: bound.saturating_sub(peering.flows_out.available_permits()),
        theirs: bound.saturating_sub(peering.flows_in.available_permits()),
        bound,
    }
}

impl KernelReport {
    /// A sysctl stands as we want it, perhaps once more.
    pub(crate) fn changed(&self, sysctl: &str, before: String, now: String) {
        let mut status = self.lock();
        status.changed.retain(|known| known.sysctl != sysctl);
        status.changed.push(ChangedSysctl { sysctl: sysctl.to_owned(), before, now });
    }

    /// A sysctl could not be set.
    pub(crate) fn refused(&self, sysctl: &str, wanted: String, reason: String) {
        self.lock().refused.push(RefusedSysctl { sysctl: sysctl.to_owned(), wanted, reason });
    }

    /// Something of the plan was put back that others had taken away.
    pub(crate) fn restored(&self, what: &str) {
        let mut status = self.lock();
        match status.restored.iter_mut().find(|known| known.what == what) {
            Some(known) => known.times += 1,
            None => status.restored.push(Restored { what: what.to_owned(), times: 1 }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, KernelStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
