//! Carriers: dialling one over the first way that answers, and greeting on one accepted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use braid_core::opening::{OpeningError, PREAMBLE_LEN, Preamble};
use braid_core::path::Pairing;
use braid_sys::mptcp;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tracing::debug;

use crate::steering::{Registration, Steering};

/// After this long without an answer the next way is tried beside the first (RFC 8305 section 5).
const NEXT_WAY: Duration = Duration::from_millis(250);

/// A dial that no way answers is given up after this long.
const DIAL_LIMIT: Duration = Duration::from_secs(20);

/// A dialler must have sent its preamble by then.
const GREETING_LIMIT: Duration = Duration::from_secs(5);

/// A carrier, and its place with the steering task if we dialled it.
#[derive(Debug)]
pub struct Carrier {
    /// The MPTCP connection.
    pub stream: TcpStream,
    _registration: Option<Registration>,
}

/// Why an accepted connection is no carrier.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// Nothing, or not enough, within the time.
    #[error("no preamble within {} s", GREETING_LIMIT.as_secs())]
    Late,
    /// The connection ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a preamble.
    #[error(transparent)]
    Opening(#[from] OpeningError),
}

/// Dials a peer over its ways in their order, the next one beside the last when that is slow.
///
/// # Errors
/// The last way's when all failed; TimedOut when none answered.
pub async fn dial(ways: &Arc<[Pairing]>, steering: &Steering) -> io::Result<Carrier> {
    let (stream, first) = tokio::time::timeout(DIAL_LIMIT, first_to_answer(ways))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let registration = match mptcp::info(&stream)? {
        Some(info) if !info.fallback => {
            Some(steering.register(info.token, Arc::clone(ways), first))
        }
        _ => {
            debug!(
                local = %ways[first].local,
                "carrier fell back to plain TCP: something on this path strips MPTCP options, or \
                 the peer has MPTCP switched off"
            );
            None
        }
    };
    Ok(Carrier { stream, _registration: registration })
}

async fn first_to_answer(ways: &[Pairing]) -> io::Result<(TcpStream, usize)> {
    let mut attempts = FuturesUnordered::new();
    let mut next = 0;
    let mut last_error = io::Error::from(io::ErrorKind::NetworkUnreachable);
    loop {
        // A backup way waits until the normal ones have failed: a first subflow cannot be backup.
        if next < ways.len() && (!ways[next].backup || attempts.is_empty()) {
            attempts.push(attempt(&ways[next], next));
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
            () = tokio::time::sleep(NEXT_WAY), if next < ways.len() && !ways[next].backup => {}
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

/// Reads the dialler's preamble from an accepted connection.
///
/// # Errors
/// See [`GreetingError`].
pub async fn greet(mut stream: TcpStream) -> Result<(Carrier, Preamble), GreetingError> {
    let mut bytes = [0; PREAMBLE_LEN];
    tokio::time::timeout(GREETING_LIMIT, stream.read_exact(&mut bytes))
        .await
        .map_err(|_| GreetingError::Late)??;
    let preamble = Preamble::parse(&bytes)?;
    stream.set_nodelay(true)?;
    Ok((Carrier { stream, _registration: None }, preamble))
}
