//! The gate: what anybody may connect to. It sorts control connections from carriers, and lets in
//! only who proves a key, within bounds of count, time and memory.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use braid_core::addr::canonical;
use braid_core::bounded::Bounded;
use braid_core::carrier::{PREAMBLE_LEN, Preamble, VERSION};
use braid_core::key::PublicKey;
use braid_sys::mptcp::{end_on_close, reset_on_close};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout_at;
use tracing::{debug, warn};

use crate::carrier::{AcceptError, Carrier};
use crate::dial::keep_alive;
use crate::directory::Directory;
use crate::ingress::Trouble;
use crate::peering::Peering;
use crate::session::SessionError;
use crate::tasks::Tasks;
use crate::throttle::{Bound, Throttle};
use crate::tls::{Tls, TlsError};

/// Connections that have not proved a key; one more ends the oldest. Who speaks at once is proved
/// within two round trips.
const UNPROVED: usize = 256;

/// Time for the first byte, and for a carrier's preamble and `start`, from accept.
const CARRIER_LIMIT: Duration = Duration::from_secs(5);

/// Time for the TLS handshake and `hello`, from accept.
const SESSION_LIMIT: Duration = Duration::from_secs(10);

/// The first byte of a TLS record with a handshake message (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What the gate needs.
#[derive(Debug)]
pub struct Gate {
    /// Proves keys.
    pub tls: Arc<Tls>,
    /// The peers by their keys.
    pub peerings: BTreeMap<PublicKey, Arc<Peering>>,
    /// Their sessions.
    pub directory: Arc<Directory>,
    /// Where tasks go.
    pub tasks: Tasks,
    /// What is wrong, said once a minute.
    pub trouble: Trouble,
    /// Connections that were turned away, said once a minute.
    pub rejections: Throttle,
    /// Connections that have not proved a key yet.
    pub unproved: Unproved,
}

/// Connections that have not proved a key yet, by their number.
#[derive(Debug)]
pub struct Unproved {
    tasks: Mutex<(u64, Bounded<u64, AbortHandle>)>,
    bound: Bound,
}

/// Why a connection was turned away.
#[derive(Debug, thiserror::Error)]
enum Rejected {
    #[error("it did not say in time who it is")]
    Silent,
    #[error("it ended: {0}")]
    Io(#[from] io::Error),
    /// A peer that sees whether a way leads here at all does so, too.
    #[error("it ended: unexpected end of file, before it said anything")]
    Nothing,
    #[error("it is of another version, {0}: both boxes need the same version of braid")]
    Version(u8),
    #[error("it is no braid box: its first byte is {0:#04x}")]
    Stranger(u8),
    #[error("its session is not, or no longer, known")]
    Session,
    #[error("its carrier is refused: {0}")]
    Carrier(#[from] AcceptError),
    #[error("its control connection is refused: {0}")]
    Tls(#[from] TlsError),
    #[error("no session with peer \"{0}\": {1}")]
    Hello(String, #[source] SessionError),
}

impl Default for Unproved {
    fn default() -> Self {
        let bound = Bound::new("connections that have not proved a key".to_owned());
        Self { tasks: Mutex::new((0, Bounded::new(UNPROVED))), bound }
    }
}

impl Gate {
    /// Accepts connections from `listener` until it is dropped.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let gate = Arc::clone(&self);
                    let task = async move { gate.take(stream, canonical(from)).await };
                    self.unproved.add(self.tasks.spawn(task));
                }
                Err(error) => self.trouble.accept_failed(&error).await,
            }
        }
    }

    async fn take(&self, stream: TcpStream, from: SocketAddr) {
        // Until it has proved a key it is owed no orderly end.
        let _ = reset_on_close(&stream);
        if let Err(rejected) = self.sort(stream).await {
            debug!(%from, "connection rejected: {rejected}");
            if !matches!(rejected, Rejected::Nothing)
                && let Some(held) = self.rejections.admit(Instant::now())
            {
                warn!(held, "connection rejected: {rejected}");
            }
        }
    }

    async fn sort(&self, stream: TcpStream) -> Result<(), Rejected> {
        let (began, mut first) = (Instant::now(), [0]);
        let peeked = timeout_at((began + CARRIER_LIMIT).into(), stream.peek(&mut first)).await;
        match (peeked.map_err(|_| Rejected::Silent)??, first[0]) {
            (0, _) => Err(Rejected::Nothing),
            (_, TLS_HANDSHAKE) => self.session(stream, began + SESSION_LIMIT).await,
            (_, VERSION) => {
                let carrier = self.carrier(stream);
                let accepted = timeout_at((began + CARRIER_LIMIT).into(), carrier).await;
                accepted.map_err(|_| Rejected::Silent)?
            }
            (_, version @ 0x02..=0x0f) => Err(Rejected::Version(version)),
            (_, other) => Err(Rejected::Stranger(other)),
        }
    }

    async fn session(&self, stream: TcpStream, until: Instant) -> Result<(), Rejected> {
        stream.set_nodelay(true)?;
        keep_alive(&stream)?;
        // An alert that says why must not be overtaken by a reset.
        end_on_close(&stream)?;
        let secured = timeout_at(until.into(), self.tls.accept(stream)).await;
        let secured = secured.map_err(|_| Rejected::Silent)??;
        let peering = self.peerings.get(&secured.peer);
        let peering = peering.ok_or(TlsError::UnknownPeer(secured.peer))?;
        let begun = timeout_at(until.into(), peering.accept(secured)).await;
        let begun = begun.unwrap_or(Err(SessionError::Silent));
        begun.map_err(|error| Rejected::Hello(peering.peer.name.clone(), error))
    }

    async fn carrier(&self, mut stream: TcpStream) -> Result<(), Rejected> {
        stream.set_nodelay(true)?;
        keep_alive(&stream)?;
        let mut bytes = [0; PREAMBLE_LEN];
        stream.read_exact(&mut bytes).await?;
        let preamble = Preamble::parse(&bytes).map_err(|_| Rejected::Session)?;
        let found = self.directory.find(preamble.session);
        let (peering, session) = found.ok_or(Rejected::Session)?;
        let number = preamble.number;
        let accepted = Carrier::accept(&session, stream, number, &bytes, &peering.acceptable).await;
        if matches!(accepted, Err(AcceptError::TooMany)) {
            peering.bounds.carriers.met();
        }
        let carrier = accepted?;
        end_on_close(&carrier.stream)?;
        peering.place(carrier);
        Ok(())
    }
}

impl Unproved {
    /// How often its bound was met.
    pub(crate) fn bound_met(&self) -> u64 {
        self.bound.times()
    }

    fn add(&self, task: AbortHandle) {
        let (last, tasks) = &mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.is_full() {
            tasks.take_if(AbortHandle::is_finished);
        }
        *last += 1;
        if let Some((_, oldest)) = tasks.insert(*last, task) {
            oldest.abort();
            self.bound.met();
        }
    }
}
