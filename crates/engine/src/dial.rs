//! Dialling a peer: over the best way that answers, and which way that is.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use braid_core::path::Pairing;
use braid_core::ways::Ways;
use braid_sys::mptcp;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use portable_atomic::{AtomicUsize, Ordering};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::net::{TcpSocket, TcpStream};
use tracing::debug;

use crate::steering::{Registration, Steering};

/// After this long without an answer the next way is tried beside the first (RFC 8305 section 5).
const NEXT_WAY: Duration = Duration::from_millis(250);

/// The same before a backup way is tried: longer than a normal way takes that lost a SYN.
const BACKUP_WAY: Duration = Duration::from_millis(1500);

/// A dial that no way answers is given up after this long: three SYNs on each.
const DIAL_LIMIT: Duration = Duration::from_secs(6);

/// Subflows are kept alive in the tables of NATs on the way, which may forget them after 5 min
/// (RFC 5382 asks for two hours; mobile networks keep to less).
const KEEP_ALIVE: Duration = Duration::from_secs(240);

/// A keep-alive that is not answered is sent again this often, so many times.
const KEEP_ALIVE_AGAIN: (Duration, u32) = (Duration::from_secs(15), 4);

/// What is known of the ways to a peer, for all who ask and learn.
#[derive(Clone, Debug)]
pub struct KnownWays(Arc<Mutex<Ways>>);

/// How a peer is dialled.
#[derive(Debug)]
pub struct Dialler {
    /// The ways to it, once for each of its endpoints that some path leads to first.
    alternatives: Vec<KnownWays>,
    in_use: AtomicUsize,
    steering: Steering,
}

/// A connection to a peer.
#[derive(Debug)]
pub struct Dialled {
    /// The MPTCP connection.
    pub stream: TcpStream,
    /// Its place with the steering task; none if it fell back to plain TCP.
    pub place: Option<Registration>,
}

impl KnownWays {
    /// Ways of which no round trip is known.
    #[must_use]
    pub fn new(all: Vec<Pairing>) -> Self {
        Self(Arc::new(Mutex::new(Ways::new(all))))
    }

    /// What is known now.
    pub fn get(&self) -> MutexGuard<'_, Ways> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dialler {
    /// Dials over these ways, and has `steering` join what is dialled over all of them; `None` where
    /// there are no ways.
    #[must_use]
    pub fn new(alternatives: Vec<Vec<Pairing>>, steering: Steering) -> Option<Self> {
        let alternatives: Vec<_> = alternatives.into_iter().map(KnownWays::new).collect();
        let in_use = AtomicUsize::new(0);
        (!alternatives.is_empty()).then_some(Self { alternatives, in_use, steering })
    }

    /// The ways in use.
    #[must_use]
    pub fn ways(&self) -> &KnownWays {
        &self.alternatives[self.in_use.load(Ordering::Relaxed)]
    }

    /// Those in use lead nowhere: takes the next ones.
    pub fn use_next_ways(&self) {
        let next = self.in_use.load(Ordering::Relaxed) + 1;
        self.in_use.store(next % self.alternatives.len(), Ordering::Relaxed);
    }

    /// Dials over the ways in use, the next one beside the last when that is slow.
    ///
    /// # Errors
    /// The last way's when all failed; TimedOut when none answered.
    pub async fn dial(&self) -> io::Result<Dialled> {
        let ways = self.ways();
        let (stream, first) = tokio::time::timeout(DIAL_LIMIT, first_to_answer(ways)).await??;
        keep_alive(&stream)?;
        let place = match mptcp::info(&stream)? {
            Some(info) if !info.fallback => Some(self.steering.register(info.token, ways, first)),
            _ => {
                debug!(
                    local = %ways.get().all()[first].local,
                    "connection fell back to plain TCP: something on this path strips MPTCP \
                     options, or the peer has MPTCP switched off"
                );
                None
            }
        };
        Ok(Dialled { stream, place })
    }
}

/// Keeps all subflows of a connection alive in the tables of NATs, and notices a far end that has
/// gone without a word.
///
/// # Errors
/// From `setsockopt`.
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    mptcp::keep_alive(stream, KEEP_ALIVE, KEEP_ALIVE_AGAIN.0, KEEP_ALIVE_AGAIN.1)
}

async fn first_to_answer(ways: &KnownWays) -> io::Result<(TcpStream, usize)> {
    let order: Vec<(usize, Pairing)> = {
        let ways = ways.get();
        ways.order().into_iter().map(|number| (number, ways.all()[number])).collect()
    };
    let mut attempts = FuturesUnordered::new();
    let (mut next, mut due) = (0, true);
    let mut last_error = io::Error::from(io::ErrorKind::NetworkUnreachable);
    let is_backup = |next: usize| order.get(next).is_some_and(|(_, way)| way.backup);
    loop {
        if next < order.len() && (due || attempts.is_empty()) {
            let (number, way) = order[next];
            attempts.push(attempt(ways, number, way));
            next += 1;
        }
        if attempts.is_empty() {
            return Err(last_error);
        }
        // A backup way waits longer: while a normal one may answer it is not to be the first.
        let pause = if is_backup(next) { BACKUP_WAY } else { NEXT_WAY };
        tokio::select! {
            Some(outcome) = attempts.next() => match outcome {
                Ok(connected) => return Ok(connected),
                Err(error) => (last_error, due) = (error, !is_backup(next)),
            },
            () = tokio::time::sleep(pause), if next < order.len() => due = true,
        }
    }
}

async fn attempt(ways: &KnownWays, number: usize, way: Pairing) -> io::Result<(TcpStream, usize)> {
    let began = Instant::now();
    let (socket, remote) = mptcp::dialling(way.local, way.remote)?;
    match TcpSocket::from_std_stream(socket).connect(remote).await {
        Ok(stream) => {
            ways.get().answered(number, began.elapsed());
            Ok((stream, number))
        }
        Err(error) => {
            debug!(local = %way.local, remote = %way.remote, %error, "way failed");
            Err(error)
        }
    }
}

/// A number from 0 to 1 that nobody can foresee, so that boxes do not dial in step.
pub(crate) fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness there is no TLS either.
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
