//! Dialling a peer: over the best way that answers, and which way that is.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use braid_core::addr::canonical;
use braid_core::health::State;
use braid_core::path::{Ends, Pairing, Path, pair_by_endpoint};
use braid_core::ways::Ways;
use braid_sys::mptcp;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use portable_atomic::{AtomicUsize, Ordering};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
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
#[derive(Clone, Debug, Default)]
pub struct KnownWays(Arc<Mutex<Ways>>);

/// How a peer is dialled.
#[derive(Debug)]
pub struct Dialler {
    endpoints: Vec<SocketAddr>,
    /// The ways to it, once for each of its endpoints that some path leads to first.
    alternatives: Vec<KnownWays>,
    in_use: AtomicUsize,
    steering: Steering,
    changed: Notify,
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
    /// What is known now.
    pub fn get(&self) -> MutexGuard<'_, Ways> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dialler {
    /// Dials a peer at these endpoints, and has `steering` join what is dialled over all ways; there
    /// are none before [`Dialler::set_paths`].
    #[must_use]
    pub fn new(endpoints: Vec<SocketAddr>, steering: Steering) -> Self {
        let alternatives = (0..endpoints.len().max(1)).map(|_| KnownWays::default()).collect();
        let in_use = AtomicUsize::new(0);
        Self { endpoints, alternatives, in_use, steering, changed: Notify::new() }
    }

    /// These are the box's paths from now on; whether the ways are others for it. Connections leave
    /// those that are gone and take those that are new.
    pub fn set_paths(&self, paths: &[Path]) -> bool {
        let found = pair_by_endpoint(paths, &self.endpoints);
        let set = |(known, ways): (&KnownWays, Vec<_>)| known.get().set(&ways);
        let changed = self.alternatives.iter().zip(found).map(set).fold(false, |any, is| any | is);
        if self.ways().get().is_empty() {
            self.use_next_ways();
        }
        if changed {
            self.steering.ways_changed();
            // Kept for who waits next: it may be dialling.
            self.changed.notify_one();
        }
        changed
    }

    /// Ready when there are other ways than now: what failed before may go well.
    pub async fn ways_change(&self) {
        self.changed.notified().await;
    }

    /// The way is so. All connections leave one that is down at once, the peer is told, and none takes
    /// it until it is up.
    pub fn set_state(&self, way: &Pairing, state: State) {
        let set = |known: &KnownWays| known.get().set_state(way, state);
        if self.alternatives.iter().map(set).fold(false, |any, is| any | is) {
            self.steering.ways_changed();
        }
    }

    /// The ways in use.
    #[must_use]
    pub fn ways(&self) -> &KnownWays {
        &self.alternatives[self.in_use.load(Ordering::Relaxed)]
    }

    /// Those in use lead nowhere: takes the next ones, if there are others.
    pub fn use_next_ways(&self) {
        let (used, count) = (self.in_use.load(Ordering::Relaxed), self.alternatives.len());
        let in_use = self.ways().get().all();
        let next = (1..count).map(|step| (used + step) % count).find(|number| {
            let ways = self.alternatives[*number].get().all();
            !ways.is_empty() && ways != in_use
        });
        self.in_use.store(next.unwrap_or(used), Ordering::Relaxed);
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
            Some(info) if !info.fallback => {
                let local = canonical(stream.local_addr()?);
                let ends = Ends { local, remote: first.remote };
                Some(self.steering.register(info.token, ways, ends))
            }
            _ => {
                debug!(
                    local = %first.local,
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

async fn first_to_answer(ways: &KnownWays) -> io::Result<(TcpStream, Pairing)> {
    let order = ways.get().order();
    let mut attempts = FuturesUnordered::new();
    let (mut next, mut due) = (0, true);
    let mut last_error = io::Error::from(io::ErrorKind::NetworkUnreachable);
    let is_backup = |next: usize| order.get(next).is_some_and(|way| way.backup);
    loop {
        if next < order.len() && (due || attempts.is_empty()) {
            attempts.push(attempt(ways, order[next]));
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

/// Connects over one way, and takes note of how long that took.
pub(crate) async fn attempt(ways: &KnownWays, way: Pairing) -> io::Result<(TcpStream, Pairing)> {
    let began = Instant::now();
    let (socket, remote) = mptcp::dialling(way.local, way.remote)?;
    match TcpSocket::from_std_stream(socket).connect(remote).await {
        Ok(stream) => {
            ways.get().answered(way.path, began.elapsed());
            Ok((stream, way))
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
