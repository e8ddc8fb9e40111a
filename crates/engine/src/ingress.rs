//! The ingress: takes hosts' flows from the kernel and gives each a seat on a carrier to the peer
//! that leads to its sink.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use braid_core::addr::{HostAddr, SinkAddr, canonical};
use braid_core::destinations::Destinations;
use braid_core::opening::{Failure, Open};
use braid_core::record::FlowNumber;
use braid_sys::mptcp::reset_on_close;
use ipnet::IpNet;
use portable_atomic::{AtomicU32, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::SemaphorePermit;
use tracing::{debug, warn};

use crate::ask::{AskError, Asked};
use crate::carrier::Carrier;
use crate::counter::Counted;
use crate::dial::random;
use crate::flow::{self, Outcome};
use crate::peering::Peering;
use crate::pool::Seat;
use crate::shared::Slot;
use crate::tasks::Tasks;
use crate::throttle::{Bound, Throttle};

/// How long no flow is accepted after the process ran out of descriptors or memory.
const OUT_OF_RESOURCES: Duration = Duration::from_millis(100);

/// How long the peer may take to connect: longer than its kernel tries (`tcp_syn_retries` = 6).
const ASK_LIMIT: Duration = Duration::from_secs(150);

/// Bytes that may still be on their way on a carrier that the next flow is given.
const LITTLE: usize = 64 * 1024;

/// How often, and how many times, it is looked whether a carrier has drained, before it is closed.
const DRAIN_CHECK: Duration = Duration::from_millis(50);
const DRAIN_CHECKS: usize = 200;

/// Flows of one host, those that wait for their sinks included.
const FLOWS_OF_HOST: usize = 4096;

/// Takes hosts' flows.
#[derive(Debug)]
pub struct Ingress {
    peerings: Vec<Arc<Peering>>,
    tasks: Tasks,
    /// Which sinks were reached lately.
    destinations: Mutex<Destinations>,
    /// The last question's number.
    last_ask: AtomicU32,
    /// Flows of each host.
    hosts: Mutex<HashMap<IpAddr, usize>>,
    pub(crate) of_host: Bound,
    trouble: Trouble,
}

/// Counts a flow as its host's while it is held.
struct OfHost<'a> {
    ingress: &'a Ingress,
    host: IpAddr,
}

/// Messages about accepting that goes on being impossible.
#[derive(Debug, Default)]
pub struct Trouble(Throttle);

/// Why a flow has no seat.
#[derive(Debug, thiserror::Error)]
enum NoSeat {
    #[error("no peer leads to its sink")]
    NoPeer,
    #[error("there are too many flows")]
    TooMany,
    #[error("sink not reached: {0}")]
    Failed(Failure),
    #[error("no carrier: {0}")]
    NoCarrier(#[from] io::Error),
}

/// A flow that is opened on a carrier.
enum Opened {
    Single(Box<Carrier>, Counted, FlowNumber),
    Shared(Slot),
}

impl Ingress {
    /// An ingress to these peers, whose flows are `tasks`.
    #[must_use]
    pub fn new(peerings: Vec<Arc<Peering>>, tasks: Tasks) -> Self {
        // A box that starts again does not use the numbers of before.
        let last_ask = AtomicU32::new((random() * f64::from(u32::MAX)) as u32);
        Self {
            peerings,
            tasks,
            destinations: Mutex::default(),
            last_ask,
            hosts: Mutex::default(),
            of_host: Bound::new("flows of one host".to_owned()),
            trouble: Trouble::default(),
        }
    }

    /// Takes flows from `listener` until it is dropped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((host, from)) => {
                    let ingress = Arc::clone(&self);
                    let from = HostAddr(canonical(from));
                    self.tasks.spawn(async move { ingress.take(host, from).await });
                }
                Err(error) => self.trouble.accept_failed(&error).await,
            }
        }
    }

    async fn take(&self, local: TcpStream, host: HostAddr) {
        let _ = reset_on_close(&local);
        // TPROXY: the socket's own address is the one that the host asked for.
        let Ok(sink) = local.local_addr().map(canonical).map(SinkAddr) else { return };
        match self.carry(local, host, sink).await {
            Ok(outcome) => debug!(%host, ?outcome, "flow ended"),
            Err(error) => debug!(%host, %error, "flow not carried"),
        }
    }

    async fn carry(
        &self,
        local: TcpStream,
        host: HostAddr,
        sink: SinkAddr,
    ) -> Result<Outcome, NoSeat> {
        let peering = self.peering_for(sink).ok_or(NoSeat::NoPeer)?;
        let _of_host = self.count(host).ok_or(NoSeat::TooMany)?;
        let (opened, _of_peer) = tokio::select! {
            opened = self.open(peering, host, sink) => opened?,
            () = flow::fault(&local) => return Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
        };
        let heard = |answer: Result<(), Failure>| self.heard(sink, answer);
        match opened {
            Opened::Single(mut carrier, busy, number) => {
                let (mut outlet, mut inlet, stream) = carrier.seat(number, None);
                let lost = flow::fault(stream);
                let outcome = flow::carry(local, &mut outlet, &mut inlet, lost, &heard).await;
                if outcome.clean {
                    carrier.over();
                    self.give_back(peering, carrier, busy);
                } else {
                    carrier.close_hard();
                    peering.pool.work.notify_one();
                }
                Ok(outcome)
            }
            Opened::Shared(slot) => {
                let (mut outlet, mut inlet) = slot.seat(None);
                Ok(flow::carry(local, &mut outlet, &mut inlet, slot.doomed(), &heard).await)
            }
        }
    }

    /// Gives a clean carrier back when the far box has the flow's last bytes: the next flow's would
    /// wait behind them.
    fn give_back(&self, peering: &Arc<Peering>, carrier: Box<Carrier>, busy: Counted) {
        if carrier.unacknowledged() <= LITTLE && carrier.is_worth_keeping() {
            drop(busy);
            return peering.pool.put_back(carrier);
        }
        let pool = Arc::clone(&peering.pool);
        self.tasks.spawn(async move {
            // It counts until it is idle or closed.
            let busy = busy;
            for _ in 0..DRAIN_CHECKS {
                if !carrier.is_worth_keeping() {
                    break;
                }
                if carrier.unacknowledged() <= LITTLE {
                    drop(busy);
                    return pool.put_back(carrier);
                }
                tokio::time::sleep(DRAIN_CHECK).await;
            }
            carrier.close_in_order().await;
        });
    }

    /// Counts a flow; `None` when its host has enough, so that one that scans leaves room for others.
    fn count(&self, host: HostAddr) -> Option<OfHost<'_>> {
        let host = host.0.ip();
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let flows = hosts.entry(host).or_default();
        if *flows >= FLOWS_OF_HOST {
            self.of_host.met();
            return None;
        }
        *flows += 1;
        Some(OfHost { ingress: self, host })
    }

    /// Opens the flow on a carrier: at once if its sink was reached lately, else when the peer says
    /// that it is connected, so that sinks that do not answer hold no carrier.
    async fn open<'a>(
        &self,
        peering: &'a Arc<Peering>,
        host: HostAddr,
        sink: SinkAddr,
    ) -> Result<(Opened, SemaphorePermit<'a>), NoSeat> {
        let known = self.with_destinations(|known| known.open(Instant::now(), sink));
        let asked = if known { None } else { Some(self.ask(peering, host, sink).await?) };
        // Only now: a flow that waits for its sink holds no buffer, and takes no other's place.
        let counted = peering.flows_out.try_acquire().map_err(|_| {
            peering.bounds.flows.met();
            NoSeat::TooMany
        })?;
        let open = Open { connect: asked.as_ref().map_or(0, |asked| asked.number), sink, host };
        let opened = loop {
            match peering.pool.seat().await? {
                Seat::Single(mut carrier, busy) => match carrier.open(&open).await {
                    Ok(number) => break Opened::Single(carrier, busy, number),
                    // It has just ended; nothing of the flow has gone over it.
                    Err(error) => debug!(%error, "a carrier that was idle is lost"),
                },
                Seat::Shared(shared) => {
                    if let Some(slot) = shared.open(&open) {
                        break Opened::Shared(slot);
                    }
                }
            }
        };
        if let Some(asked) = asked {
            asked.fetched();
        }
        Ok((opened, counted))
    }

    /// Has the peer connect to the sink.
    async fn ask(
        &self,
        peering: &Arc<Peering>,
        host: HostAddr,
        sink: SinkAddr,
    ) -> Result<Asked, NoSeat> {
        loop {
            let session = peering.wait_session().await?;
            let number = self.last_ask.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
            let asked = tokio::time::timeout(ASK_LIMIT, session.ask(number, sink, host)).await;
            match asked.unwrap_or(Err(AskError::Failed(Failure::TimedOut))) {
                Ok(asked) => {
                    self.heard(sink, Ok(()));
                    return Ok(asked);
                }
                Err(AskError::Failed(failure)) => {
                    self.heard(sink, Err(failure));
                    return Err(NoSeat::Failed(failure));
                }
                // It is asked again in the next session.
                Err(AskError::Ended) => tokio::task::yield_now().await,
            }
        }
    }

    fn heard(&self, sink: SinkAddr, answer: Result<(), Failure>) {
        self.with_destinations(|known| match answer {
            Ok(()) => known.reached(Instant::now(), sink),
            Err(_) => known.failed(sink),
        });
    }

    fn with_destinations<T>(&self, what: impl FnOnce(&mut Destinations) -> T) -> T {
        what(&mut self.destinations.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The peer with the longest prefix that holds the sink; the first of equals.
    fn peering_for(&self, sink: SinkAddr) -> Option<&Arc<Peering>> {
        let length = |peering: &Arc<Peering>| {
            let routes = peering.peer.routes.iter();
            routes.filter(|prefix| prefix.contains(&sink.0.ip())).map(IpNet::prefix_len).max()
        };
        let best = self.peerings.iter().filter_map(|peering| Some((length(peering)?, peering)));
        best.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, peer)| peer)
    }
}

impl Drop for OfHost<'_> {
    fn drop(&mut self) {
        let mut hosts = self.ingress.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flows) = hosts.get_mut(&self.host) {
            *flows -= 1;
            if *flows == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

impl Trouble {
    /// Says what is wrong with an accept, and waits where that helps.
    pub(crate) async fn accept_failed(&self, error: &io::Error) {
        let passing = [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset];
        if passing.contains(&error.kind()) {
            return;
        }
        if let Some(held) = self.0.admit(Instant::now()) {
            warn!(%error, held, "cannot accept connections for now");
        }
        tokio::time::sleep(OUT_OF_RESOURCES).await;
    }
}
