//! A carrier: an MPTCP connection with the keys of its two directions. Making one, as dialler and
//! as acceptor, judging and closing it.
//!
//! What goes over it is `flow`'s, or `shared`'s for one that carries several flows.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use braid_core::carrier::{Kind, PREAMBLE_LEN, Preamble, Turns};
use braid_core::keys::{CarrierNumber, Direction, SessionId};
use braid_core::record::{FlowNumber, RecordType};
use braid_core::seal::{Opener, Sealer};
use braid_sys::mptcp;
use braid_sys::tproxy::shut_sending;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

use crate::buffer::Buffer;
use crate::counter::Counted;
use crate::dial::{Dialled, Dialler};
use crate::records::{Incoming, IncomingError, Outgoing, write_all};
use crate::session::Session;
use crate::steering::Registration;

/// How long the acceptor may take to say `ready`.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// How long the far box may take to read what was sent before a carrier is closed: its host may
/// read slowly.
const DRAIN_LIMIT: Duration = Duration::from_secs(3600);

/// Segments that a new connection may send at once (RFC 6928).
const LEAST_WINDOW: u32 = 10;

/// An established carrier that no flow is on.
#[derive(Debug)]
pub struct Carrier {
    /// The MPTCP connection. Nobody else holds it for longer than a look.
    pub stream: Arc<TcpStream>,
    /// What is sent.
    pub out: Outgoing,
    /// What comes.
    pub incoming: Incoming,
    /// Whose turn it is; for single carriers.
    pub turns: Turns,
    /// The session whose secret its keys come from.
    pub session: SessionId,
    /// Who opens on it, and how many flows at a time.
    pub kind: Kind,
    /// Whether flows are opened on it by us.
    pub we_open: bool,
    /// Its place with the task that joins it over all paths, if we dialled it.
    pub place: Option<Registration>,
    /// Its place in the count of the carriers that we have accepted from the peer.
    pub accepted: Option<OwnedSemaphorePermit>,
    /// Its place in the count of those that we have dialled for the peer to open on.
    pub(crate) theirs: Option<Counted>,
}

/// Why an accepted connection is no carrier.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The connection ended, or sent what is no record.
    #[error(transparent)]
    Incoming(#[from] IncomingError),
    /// The number was used before: a replay, or a dialler that lost count.
    #[error("carrier number {0} was used before in this session")]
    Used(u32),
    /// The peer has as many as it may.
    #[error("its peer has too many carriers")]
    TooMany,
    /// The first record is another.
    #[error("its first record is no `start`")]
    NotStart,
}

impl Carrier {
    /// Dials a carrier of the session over the best way that answers.
    ///
    /// # Errors
    /// From dialling; TimedOut when the peer does not answer; ConnectionReset when it refuses.
    pub async fn dial(session: &Arc<Session>, dialler: &Dialler, kind: Kind) -> io::Result<Self> {
        let Dialled { stream, place } = dialler.dial().await?;
        let number = session.next_number()?;
        let preamble = Preamble { session: session.id, number }.encode();
        let mut carrier = Self::new(session, stream, number, true, kind);
        carrier.place = place;
        let start = carrier.out.sealer.start(Instant::now(), &preamble, &[kind.to_byte()]);
        write_all(&carrier.stream, &start).await?;
        let ready = carrier.incoming.next(&carrier.stream);
        let came = tokio::time::timeout(READY_LIMIT, ready).await?.map_err(io::Error::other)?;
        if came.kind != RecordType::Ready {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no `ready`"));
        }
        debug!(session = %session.id, %number, ?kind, "carrier dialled");
        Ok(carrier)
    }

    /// Accepts a carrier whose preamble has named the session; answers `ready`.
    ///
    /// # Errors
    /// See [`AcceptError`].
    pub async fn accept(
        session: &Arc<Session>,
        stream: TcpStream,
        number: CarrierNumber,
        preamble: &[u8; PREAMBLE_LEN],
        acceptable: &Arc<Semaphore>,
    ) -> Result<Self, AcceptError> {
        if !session.is_fresh(number) {
            return Err(AcceptError::Used(number.0));
        }
        let unknown = Kind { acceptor_opens: false, shared: false };
        let mut carrier = Self::new(session, stream, number, false, unknown);
        carrier.incoming.opener.expect_start(preamble);
        let came = carrier.incoming.next(&carrier.stream).await?;
        let byte = carrier.incoming.bytes(&came).first().copied();
        let kind = byte.filter(|_| came.kind == RecordType::Start).and_then(Kind::from_byte);
        let kind = kind.ok_or(AcceptError::NotStart)?;
        // Only now, so that nobody without the keys can use a number up.
        if !session.use_number(number) {
            return Err(AcceptError::Used(number.0));
        }
        let permit = Arc::clone(acceptable).try_acquire_owned();
        carrier.accepted = Some(permit.map_err(|_| AcceptError::TooMany)?);
        carrier.kind = kind;
        carrier.we_open = kind.acceptor_opens;
        carrier.turns = if kind.acceptor_opens { Turns::opener() } else { Turns::other() };
        let Self { out, stream, .. } = &mut carrier;
        let ready = out.send(stream, RecordType::Ready, FlowNumber::NONE, &[]).await;
        ready.map_err(IncomingError::Lost)?;
        debug!(session = %session.id, %number, ?kind, "carrier accepted");
        Ok(carrier)
    }

    /// Whether the next flow may use it when this one is over. One that fell back to plain TCP
    /// goes over one path and will never go over another.
    #[must_use]
    pub fn is_worth_keeping(&self) -> bool {
        let we_dialled = self.we_open != self.kind.acceptor_opens;
        !self.turns.is_retired() && (self.place.is_some() || !we_dialled) && self.is_sound()
    }

    /// Bytes that the far box's kernel has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        mptcp::unacknowledged(&self.stream).unwrap_or_default()
    }

    /// Closes it when the far box has read all that was sent: the kernel resets an MPTCP connection
    /// that was closed with bytes on their way after `net.mptcp.close_timeout` (60 s).
    pub async fn close_in_order(self) {
        if shut_sending(&self.stream).is_ok() {
            let _ = tokio::time::timeout(DRAIN_LIMIT, until_end(&self.stream)).await;
        }
    }

    /// Whether every subflow gets through, and is no slower to start than a new one's would be. One
    /// that has been through an outage holds up the flows of later on: the kernel sends on it again
    /// what has long arrived over another, in windows that have shrunk to nothing.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let subflows = mptcp::subflows(&self.stream).unwrap_or_default();
        subflows.iter().all(|subflow| subflow.retransmits == 0 && subflow.snd_cwnd >= LEAST_WINDOW)
    }

    fn new(
        session: &Session,
        stream: TcpStream,
        number: CarrierNumber,
        we_dial: bool,
        kind: Kind,
    ) -> Self {
        let (sends, hears) = if we_dial {
            (Direction::FromDialler, Direction::FromAcceptor)
        } else {
            (Direction::FromAcceptor, Direction::FromDialler)
        };
        let suite = session.terms.suite;
        let clear = session.is_clear();
        let secret = |direction| session.traffic(we_dial, number, direction);
        let sealer = Sealer::new(suite, secret(sends));
        let opener = Opener::new(suite, secret(hears), clear);
        let opens = we_dial != kind.acceptor_opens;
        Self {
            stream: Arc::new(stream),
            out: Outgoing::new(sealer, clear, Arc::clone(&session.pulse)),
            incoming: Incoming::new(opener, Arc::clone(&session.pulse)),
            turns: if opens { Turns::opener() } else { Turns::other() },
            session: session.id,
            kind,
            we_open: opens,
            place: None,
            accepted: None,
            theirs: None,
        }
    }
}

/// Reads and throws away until the far end closes.
async fn until_end(stream: &TcpStream) {
    while stream.readable().await.is_ok() {
        let mut buffer = Buffer::take();
        match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => tokio::task::coop::consume_budget().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
