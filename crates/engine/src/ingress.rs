//! The ingress: takes hosts' flows from the kernel and gives each a carrier to the peer that
//! leads to its sink.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use braid_core::addr::{HostAddr, SinkAddr, canonical};
use braid_core::key::PublicKey;
use braid_core::opening::{Open, Preamble};
use braid_core::path::Pairing;
use braid_core::record::{self, FlowNumber, RecordType};
use braid_sys::mptcp::reset_on_close;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use crate::carrier::{self, Carrier};
use crate::flow::{self, Incoming};
use crate::steering::Steering;
use crate::throttle::Throttle;

/// A carrier has one flow for now; it bears this number.
const FLOW: FlowNumber = FlowNumber(1);

/// How long no flow is accepted after the process ran out of descriptors or memory.
const OUT_OF_RESOURCES: Duration = Duration::from_millis(100);

/// A peer that flows can be sent to.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Its name in logs.
    pub name: String,
    /// Its identity.
    pub public_key: PublicKey,
    /// Destinations that are reached through it.
    pub routes: Vec<IpNet>,
    /// The ways to it, in order of preference.
    pub ways: Arc<[Pairing]>,
}

/// What the ingress needs to serve.
#[derive(Debug)]
pub struct Ingress {
    /// This box's identity.
    pub identity: PublicKey,
    /// The peers.
    pub destinations: Vec<Destination>,
    /// Joins carriers over all paths.
    pub steering: Steering,
    /// What is wrong, said once a minute.
    pub trouble: Trouble,
}

/// Messages about what goes on being wrong.
#[derive(Debug, Default)]
pub struct Trouble {
    dial: Throttle,
    accept: Throttle,
}

impl Ingress {
    /// Takes flows from `listener` until it is dropped, and its flows with it.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut flows = JoinSet::new();
        loop {
            match accept(&listener, &mut flows).await {
                Ok((host, from)) => {
                    let ingress = Arc::clone(&self);
                    let from = HostAddr(canonical(from));
                    flows.spawn(async move { ingress.take(host, from).await });
                }
                Err(error) => self.trouble.accept_failed(&error).await,
            }
        }
    }

    async fn take(&self, local: TcpStream, host: HostAddr) {
        let _ = reset_on_close(&local);
        let opened = match local.local_addr() {
            // TPROXY: the socket's own address is the one that the host asked for.
            Ok(sink) => self.open(host, SinkAddr(canonical(sink))).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(carrier) => {
                let ending = flow::carry(local, carrier, FLOW, Incoming::default()).await;
                debug!(%host, ?ending, "flow ended");
            }
            Err(error) => debug!(%host, %error, "no carrier"),
        }
    }

    async fn open(&self, host: HostAddr, sink: SinkAddr) -> io::Result<Carrier> {
        let peer = self.peer_for(sink).ok_or(io::ErrorKind::NetworkUnreachable)?;
        let carrier = carrier::dial(&peer.ways, &self.steering).await.inspect_err(|error| {
            if let Some(held) = self.trouble.dial.admit(Instant::now()) {
                warn!(peer = peer.name, %error, held, "peer cannot be dialled");
            }
        })?;
        let preamble = Preamble { dialler: self.identity, acceptor: peer.public_key };
        let mut bytes = preamble.encode().to_vec();
        let open = Open { sink, host }.encode();
        bytes.extend_from_slice(&record::encode(RecordType::Open, FLOW, &open));
        flow::write_all(&carrier.stream, &bytes).await?;
        Ok(carrier)
    }

    /// The peer with the longest prefix that holds the sink; the first of equals.
    fn peer_for(&self, sink: SinkAddr) -> Option<&Destination> {
        let length = |peer: &Destination| {
            let holding = peer.routes.iter().filter(|prefix| prefix.contains(&sink.0.ip()));
            holding.map(IpNet::prefix_len).max()
        };
        let best = self.destinations.iter().filter_map(|peer| Some((length(peer)?, peer)));
        best.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, peer)| peer)
    }
}

impl Trouble {
    /// Says what is wrong with an accept, and waits where that helps.
    pub(crate) async fn accept_failed(&self, error: &io::Error) {
        let passing = [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset];
        if passing.contains(&error.kind()) {
            return;
        }
        if let Some(held) = self.accept.admit(Instant::now()) {
            warn!(%error, held, "cannot accept connections for now");
        }
        tokio::time::sleep(OUT_OF_RESOURCES).await;
    }
}

/// The next connection; flows that have ended meanwhile are forgotten.
pub(crate) async fn accept(
    listener: &TcpListener,
    flows: &mut JoinSet<()>,
) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        tokio::select! {
            accepted = listener.accept() => return accepted,
            Some(ended) = flows.join_next() => {
                if let Err(error) = ended {
                    error!("a flow's task failed: {error}");
                }
            }
        }
    }
}
