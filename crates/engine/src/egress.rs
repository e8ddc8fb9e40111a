//! The egress: accepts carriers from peers and connects their flows to the sinks.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use braid_core::addr::canonical;
use braid_core::config::Peer;
use braid_core::key::PublicKey;
use braid_core::opening::{Failure, Open, OpeningError};
use braid_core::policy::Source;
use braid_core::record::{self, FlowNumber, RecordType};
use braid_sys::mptcp::reset_on_close;
use braid_sys::rtnl::Rtnl;
use braid_sys::tproxy;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::carrier::{self, Carrier, GreetingError};
use crate::flow::{self, Incoming, IncomingError};
use crate::ingress::{Trouble, accept};
use crate::throttle::Throttle;

/// Connections that have not said who they are yet: more are not accepted until these have.
const GREETINGS: usize = 256;

/// A carrier that has greeted must open its flow by then.
const OPENING_LIMIT: Duration = Duration::from_secs(5);

/// What the egress needs to serve.
#[derive(Debug)]
pub struct Egress {
    /// This box's identity.
    pub identity: PublicKey,
    /// The peers that may use it, by their identity.
    pub peers: BTreeMap<PublicKey, Peer>,
    /// To ask the kernel whose an address is.
    pub rtnl: Rtnl,
    /// What is wrong, said once a minute.
    pub trouble: Trouble,
    /// Connections that are none of a peer's, said once a minute.
    pub rejections: Throttle,
}

/// Why an accepted connection carried no flow.
#[derive(Debug, thiserror::Error)]
enum Rejected {
    #[error("it is no carrier: {0}")]
    Greeting(#[from] GreetingError),
    #[error("no [[peer]] here has its public key {0}")]
    UnknownPeer(PublicKey),
    #[error("peer \"{0}\" means to reach another box: its `public_key` for us is {1}")]
    WrongKey(String, PublicKey),
    #[error("peer \"{0}\" opened no flow: {1}")]
    Opening(String, #[source] OpeningFault),
}

#[derive(Debug, thiserror::Error)]
enum OpeningFault {
    #[error("nothing came within {} s", OPENING_LIMIT.as_secs())]
    Late,
    #[error(transparent)]
    Incoming(#[from] IncomingError),
    #[error(transparent)]
    Payload(#[from] OpeningError),
    #[error("its first record is no `open`, or of no flow")]
    NotOpen,
}

impl Egress {
    /// Accepts carriers from `listener` until it is dropped, and its flows with it.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let greetings = Arc::new(Semaphore::new(GREETINGS));
        let mut flows = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&greetings).acquire_owned().await else { return };
            match accept(&listener, &mut flows).await {
                Ok((stream, from)) => {
                    let egress = Arc::clone(&self);
                    flows.spawn(async move {
                        let greeted = egress.greet(stream).await;
                        drop(permit);
                        egress.take(greeted, canonical(from)).await;
                    });
                }
                Err(error) => self.trouble.accept_failed(&error).await,
            }
        }
    }

    async fn greet(&self, stream: TcpStream) -> Result<(Carrier, &Peer), Rejected> {
        let (carrier, preamble) = carrier::greet(stream).await?;
        let peer = self.peers.get(&preamble.dialler);
        let peer = peer.ok_or(Rejected::UnknownPeer(preamble.dialler))?;
        if preamble.acceptor != self.identity {
            return Err(Rejected::WrongKey(peer.name.clone(), preamble.acceptor));
        }
        Ok((carrier, peer))
    }

    async fn take(&self, greeted: Result<(Carrier, &Peer), Rejected>, from: SocketAddr) {
        let served = match greeted {
            Ok((carrier, peer)) => self.serve_flow(carrier, peer).await,
            Err(rejected) => Err(rejected),
        };
        if let Err(rejected) = served {
            debug!(%from, "connection rejected: {rejected}");
            if let Some(held) = self.rejections.admit(Instant::now()) {
                warn!(held, "connection rejected: {rejected}");
            }
        }
    }

    async fn serve_flow(&self, carrier: Carrier, peer: &Peer) -> Result<(), Rejected> {
        let mut incoming = Incoming::default();
        let opening = read_open(&carrier.stream, &mut incoming);
        let (number, open) = tokio::time::timeout(OPENING_LIMIT, opening)
            .await
            .unwrap_or(Err(OpeningFault::Late))
            .map_err(|fault| Rejected::Opening(peer.name.clone(), fault))?;
        let connected = tokio::select! {
            connected = self.connect(peer, &open) => connected,
            () = flow::fault(&carrier.stream) => return Ok(()),
        };
        match connected {
            Ok(sink) => {
                let _ = reset_on_close(&sink);
                let opened = record::header(RecordType::Opened, number, 0);
                if flow::write_all(&carrier.stream, &opened).await.is_err() {
                    return Ok(());
                }
                let ending = flow::carry(sink, carrier, number, incoming).await;
                debug!(peer = peer.name, ?ending, "flow ended");
            }
            Err(failure) => {
                debug!(peer = peer.name, sink = %open.sink, %failure, "sink not reached");
                let failed = record::encode(RecordType::Failed, number, &[failure as u8]);
                let _ = flow::write_all(&carrier.stream, &failed).await;
                flow::linger(&carrier.stream).await;
            }
        }
        Ok(())
    }

    async fn connect(&self, peer: &Peer, open: &Open) -> Result<TcpStream, Failure> {
        let own = self.rtnl.is_own(open.sink.0.ip()).await.map_err(|error| {
            warn!(%error, "cannot tell whether a sink is this box itself");
            Failure::Resources
        })?;
        let admitted = peer.egress.admit(open.host, open.sink, own).map_err(|refusal| {
            debug!(peer = peer.name, sink = %open.sink, "refused: {refusal}");
            Failure::NotAllowed
        })?;
        let connected = match admitted {
            Source::Masquerade => connect_from(None, open.sink.0).await,
            Source::Preserve => match connect_from(Some(open.host.0), open.sink.0).await {
                // The same ports to the same sink are still in use by an older flow.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    let any_port = SocketAddr::new(open.host.0.ip(), 0);
                    connect_from(Some(any_port), open.sink.0).await
                }
                other => other,
            },
        };
        connected.map_err(|error| failure_of(&error))
    }
}

async fn read_open(
    stream: &TcpStream,
    incoming: &mut Incoming,
) -> Result<(FlowNumber, Open), OpeningFault> {
    let record = incoming.next(stream).await?;
    if record.kind != RecordType::Open || record.flow == FlowNumber(0) {
        return Err(OpeningFault::NotOpen);
    }
    Ok((record.flow, Open::parse(record.payload)?))
}

async fn connect_from(source: Option<SocketAddr>, sink: SocketAddr) -> io::Result<TcpStream> {
    let socket = match source {
        Some(source) => tproxy::dialling_from(source)?,
        None => tproxy::dialling(sink.is_ipv6())?,
    };
    TcpSocket::from_std_stream(socket).connect(sink).await
}

fn failure_of(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Failure::Refused,
        io::ErrorKind::HostUnreachable => Failure::HostUnreachable,
        io::ErrorKind::NetworkUnreachable => Failure::NetUnreachable,
        io::ErrorKind::PermissionDenied => Failure::Prohibited,
        io::ErrorKind::TimedOut => Failure::TimedOut,
        _ => Failure::Resources,
    }
}
