//! Dialling a peer: over the best way that answers, and which way that is.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use braid_core::path::Pairing;
use braid_sys::mptcp;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::net::{TcpSocket, TcpStream};
use tracing::debug;

use crate::steering::{Registration, Steering};

/// After this long without an answer the next way is tried beside the first (RFC 8305 section 5).
const NEXT_WAY: Duration = Duration::from_millis(250);

/// A dial that no way answers is given up after this long.
const DIAL_LIMIT: Duration = Duration::from_secs(20);

/// Subflows are kept alive in the tables of NATs on the way, which may forget them after 5 min
/// (RFC 5382 asks for two hours; mobile networks keep to less).
const KEEP_ALIVE: Duration = Duration::from_secs(240);

/// A keep-alive that is not answered is sent again this often, so many times.
const KEEP_ALIVE_AGAIN: (Duration, u32) = (Duration::from_secs(15), 4);

/// The ways to a peer, and how long each takes.
#[derive(Clone, Debug)]
pub struct Ways {
    /// In the order of the configuration, normal ones before backup ones.
    pub all: Arc<[Pairing]>,
    round_trips: Arc<Mutex<Vec<Option<Duration>>>>,
}

/// A connection to a peer.
#[derive(Debug)]
pub struct Dialled {
    /// The MPTCP connection.
    pub stream: TcpStream,
    /// Its place with the steering task; none if it fell back to plain TCP.
    pub place: Option<Registration>,
}

impl Ways {
    /// Ways of which no round trip is known.
    #[must_use]
    pub fn new(all: Vec<Pairing>) -> Self {
        let round_trips = Arc::new(Mutex::new(vec![None; all.len()]));
        Self { all: all.into(), round_trips }
    }

    /// Takes note of the least round trip seen on the way that leaves from `local`.
    pub fn measured(&self, local: IpAddr, round_trip: Duration) {
        let Some(way) = self.all.iter().position(|way| way.local == local) else { return };
        let mut known = self.round_trips.lock().unwrap_or_else(PoisonError::into_inner);
        known[way] = Some(round_trip);
    }

    /// Whether a first subflow on `way` is about as good as any: a lone record leaves on it.
    #[must_use]
    pub fn is_well_placed(&self, way: usize) -> bool {
        let known = self.round_trips.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = known.get(way).copied().flatten() else { return true };
        let of_normal = self.all.iter().zip(known.iter()).filter(|(way, _)| !way.backup);
        let best = of_normal.filter_map(|(_, known)| *known).min();
        // Round trips wander by a little.
        best.is_none_or(|best| own <= best + best / 4 + Duration::from_millis(2))
    }

    /// The ways' numbers in the order in which they are dialled: normal before backup, then the
    /// shortest known round trip.
    fn order(&self) -> Vec<usize> {
        let known = self.round_trips.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        order.sort_by_key(|way| (self.all[*way].backup, known[*way].unwrap_or(Duration::MAX)));
        order
    }
}

/// Dials a peer over its ways, the next one beside the last when that is slow.
///
/// # Errors
/// The last way's when all failed; TimedOut when none answered.
pub async fn dial(ways: &Ways, steering: &Steering) -> io::Result<Dialled> {
    let (stream, first) = tokio::time::timeout(DIAL_LIMIT, first_to_answer(ways)).await??;
    keep_alive(&stream)?;
    let place = match mptcp::info(&stream)? {
        Some(info) if !info.fallback => Some(steering.register(info.token, &ways.all, first)),
        _ => {
            debug!(
                local = %ways.all[first].local,
                "connection fell back to plain TCP: something on this path strips MPTCP options, \
                 or the peer has MPTCP switched off"
            );
            None
        }
    };
    Ok(Dialled { stream, place })
}

/// Keeps all subflows of a connection alive in the tables of NATs, and notices a far end that has
/// gone without a word.
///
/// # Errors
/// From `setsockopt`.
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    mptcp::keep_alive(stream, KEEP_ALIVE, KEEP_ALIVE_AGAIN.0, KEEP_ALIVE_AGAIN.1)
}

async fn first_to_answer(ways: &Ways) -> io::Result<(TcpStream, usize)> {
    let order = ways.order();
    let mut attempts = FuturesUnordered::new();
    let mut next = 0;
    let mut last_error = io::Error::from(io::ErrorKind::NetworkUnreachable);
    let is_backup = |next: usize| ways.all[order[next]].backup;
    loop {
        // A backup way waits until the normal ones have failed: a first subflow cannot be backup.
        if next < order.len() && (!is_backup(next) || attempts.is_empty()) {
            attempts.push(attempt(&ways.all[order[next]], order[next]));
            next += 1;
        }
        if attempts.is_empty() {
            return Err(last_error);
        }
        tokio::select! {
            Some(outcome) = attempts.next() => match outcome {
                Ok(connected) => return Ok(connected),
                Err(error) => last_error = error,
            },
            () = tokio::time::sleep(NEXT_WAY), if next < order.len() && !is_backup(next) => {}
        }
    }
}

async fn attempt(way: &Pairing, number: usize) -> io::Result<(TcpStream, usize)> {
    let (socket, remote) = mptcp::dialling(way.local, way.remote)?;
    let connected = TcpSocket::from_std_stream(socket).connect(remote).await;
    if let Err(error) = &connected {
        debug!(local = %way.local, remote = %way.remote, %error, "way failed");
    }
    Ok((connected?, number))
}

/// A number from 0 to 1 that nobody can foresee, so that boxes do not dial in step.
pub(crate) fn random() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness there is no TLS either.
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
