//! Dialling a peer: over the best way that answers, and which way that is.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use braid_core::path::Pairing;
use braid_sys::mptcp;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
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

/// By how much more than a quarter a round trip may wander and still be about the best, and by how
/// much more than a half it makes a way a far one.
const WANDER: Duration = Duration::from_millis(2);
const FAR: Duration = Duration::from_millis(5);

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

    /// Takes note of the least round trips that carriers have seen lately, by the address that they
    /// leave from. One carrier's may be long: it was made while its path was busy.
    pub fn learn(&self, seen: impl Iterator<Item = (IpAddr, Duration)>) {
        let mut least: Vec<Option<Duration>> = vec![None; self.all.len()];
        for (local, round_trip) in seen {
            for (way, least) in self.all.iter().zip(&mut least) {
                if way.local == local {
                    *least = Some(least.map_or(round_trip, |least| least.min(round_trip)));
                }
            }
        }
        for (known, least) in self.round_trips().iter_mut().zip(least) {
            *known = least.or(*known);
        }
    }

    /// Takes note of a round trip that a handshake took, if nothing better is known.
    pub fn answered(&self, way: usize, round_trip: Duration) {
        self.round_trips()[way].get_or_insert(round_trip);
    }

    /// Whether a way is so much further than the best that a flow which is soon over had better
    /// keep off it: what leaves on it arrives when the rest has long been there.
    #[must_use]
    pub fn is_far(&self, way: usize) -> bool {
        let known = self.round_trips();
        let Some(own) = known[way] else { return false };
        self.best(&known).is_some_and(|best| own > best + best / 2 + FAR)
    }

    fn best(&self, known: &[Option<Duration>]) -> Option<Duration> {
        let of_normal = self.all.iter().zip(known).filter(|(way, _)| !way.backup);
        of_normal.filter_map(|(_, known)| *known).min()
    }

    fn round_trips(&self) -> MutexGuard<'_, Vec<Option<Duration>>> {
        self.round_trips.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a first subflow on `way` is about as good as any: a lone record leaves on it.
    #[must_use]
    pub fn is_well_placed(&self, way: usize) -> bool {
        let known = self.round_trips();
        let Some(own) = known[way] else { return true };
        // Round trips wander by a little.
        self.best(&known).is_none_or(|best| own <= best + best / 4 + WANDER)
    }

    /// The ways' numbers in the order in which they are dialled: normal before backup, then the
    /// shortest known round trip.
    fn order(&self) -> Vec<usize> {
        let known = self.round_trips();
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
        Some(info) if !info.fallback => Some(steering.register(info.token, ways, first)),
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
    let (mut next, mut due) = (0, true);
    let mut last_error = io::Error::from(io::ErrorKind::NetworkUnreachable);
    let is_backup = |next: usize| order.get(next).is_some_and(|way| ways.all[*way].backup);
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

async fn attempt(ways: &Ways, number: usize) -> io::Result<(TcpStream, usize)> {
    let (way, began) = (&ways.all[number], Instant::now());
    let (socket, remote) = mptcp::dialling(way.local, way.remote)?;
    match TcpSocket::from_std_stream(socket).connect(remote).await {
        Ok(stream) => {
            ways.answered(number, began.elapsed());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(backup: [bool; 3]) -> Ways {
        let way = |path: usize| Pairing {
            path,
            local: format!("10.{path}.0.1").parse().unwrap(),
            remote: "192.0.2.1:4770".parse().unwrap(),
            backup: backup[path],
        };
        Ways::new((0..3).map(way).collect())
    }

    fn learn(ways: &Ways, seen: &[(usize, u64)]) {
        let local = |way: usize| ways.all[way].local;
        ways.learn(seen.iter().map(|(way, ms)| (local(*way), Duration::from_millis(*ms))));
    }

    #[test]
    fn the_nearest_way_is_dialled_first_and_backups_last() {
        let ways = ways([false, false, true]);
        assert_eq!(ways.order(), [0, 1, 2]);
        learn(&ways, &[(0, 80), (1, 30), (2, 5)]);
        assert_eq!(ways.order(), [1, 0, 2]);
        assert!(ways.is_well_placed(1) && !ways.is_well_placed(0));
    }

    #[test]
    fn a_far_way_is_far_of_the_best_normal_one() {
        let ways = ways([false, false, false]);
        assert!((0..3).all(|way| !ways.is_far(way) && ways.is_well_placed(way)));
        learn(&ways, &[(0, 30), (1, 80), (2, 33)]);
        assert_eq!([0, 1, 2].map(|way| ways.is_far(way)), [false, true, false]);
        assert!(ways.is_well_placed(2));
    }

    #[test]
    fn the_least_of_several_carriers_counts_and_no_news_changes_nothing() {
        let ways = ways([false, false, false]);
        learn(&ways, &[(0, 30), (1, 200), (1, 31), (1, 90)]);
        assert!(!ways.is_far(1));
        learn(&ways, &[]);
        ways.answered(1, Duration::from_millis(500));
        assert!(!ways.is_far(1));
    }
}
