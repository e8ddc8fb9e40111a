//! The host's side: one flow at a time, checked and timed.
//!
//! Many at once are `storm`'s, long ones `watch`'s; both run their flows through `run` here.

use super::{
    endpoint::{self, Bounds, End, Outcome},
    script::Script,
    wire::Request,
};
use portable_atomic::AtomicU64;
use serde::Serialize;
use std::{
    io::{self, ErrorKind, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

/// When the steps of one download were reached, each since connect was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FlowTimes {
    /// Connect returned.
    pub connect: Duration,
    /// The first bytes of the answer were read.
    pub first_byte: Duration,
    /// The last byte of the answer was read.
    pub complete: Duration,
}

/// Nearest-rank percentiles of a set of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// The shortest.
    pub min: Duration,
    /// Half are no longer.
    pub p50: Duration,
    /// 90 % are no longer.
    pub p90: Duration,
    /// 95 % are no longer.
    pub p95: Duration,
    /// 99 % are no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// The percentiles of each step over several downloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Of `FlowTimes::connect`.
    pub connect: Percentiles,
    /// Of `FlowTimes::first_byte`.
    pub first_byte: Percentiles,
    /// Of `FlowTimes::complete`.
    pub complete: Percentiles,
}

/// Downloads `size` bytes (at least 1) of the stream of `seed` from the server at `addr`.
///
/// Errors: those of connect, `TimedOut` after `limit`, `InvalidData` for wrong bytes, `Other` for a
/// flow that ended otherwise than with both sides closing.
pub fn fetch(addr: SocketAddr, size: u64, seed: u64, limit: Duration) -> io::Result<FlowTimes> {
    let request = Request::download(seed, size, limit);
    let flow = run(addr, &request, &AtomicBool::new(false), &AtomicU64::new(0))?;
    let Outcome { wrong, first_wrong, first_byte, last_byte, end, .. } = flow.outcome;
    if let Some(first) = first_wrong {
        let told = format!("{wrong} of {size} bytes wrong, the first at {first}");
        return Err(io::Error::new(ErrorKind::InvalidData, told));
    }
    match (end, first_byte, last_byte) {
        (End::Complete, Some(first), Some(last)) => Ok(FlowTimes {
            connect: flow.connect,
            first_byte: first - flow.began,
            complete: last - flow.began,
        }),
        (End::Hung, ..) => Err(ErrorKind::TimedOut.into()),
        (end, ..) => Err(io::Error::other(format!("download of {size} bytes: {end:?}"))),
    }
}

/// Downloads `size` bytes `count` times, one after the other on a new connection each.
///
/// Each may take `limit`; the first error ends it.
pub fn measure(
    addr: SocketAddr,
    size: u64,
    count: usize,
    limit: Duration,
) -> io::Result<Vec<FlowTimes>> {
    (0..count).map(|seed| fetch(addr, size, seed as u64, limit)).collect()
}

/// The percentiles of `times`; `None` for no times.
pub fn percentiles(times: impl IntoIterator<Item = Duration>) -> Option<Percentiles> {
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort_unstable();
    let rank =
        |percent: usize| times.get((times.len() * percent).div_ceil(100).max(1) - 1).copied();
    Some(Percentiles {
        min: rank(0)?,
        p50: rank(50)?,
        p90: rank(90)?,
        p95: rank(95)?,
        p99: rank(99)?,
        max: rank(100)?,
    })
}

/// The percentiles of each step of `flows`; `None` for no flows.
pub fn summarize(flows: &[FlowTimes]) -> Option<Summary> {
    Some(Summary {
        connect: percentiles(flows.iter().map(|flow| flow.connect))?,
        first_byte: percentiles(flows.iter().map(|flow| flow.first_byte))?,
        complete: percentiles(flows.iter().map(|flow| flow.complete))?,
    })
}

/// A flow that came to its end.
pub(super) struct Flow {
    /// When connect was called.
    pub(super) began: Instant,
    /// How long connect took.
    pub(super) connect: Duration,
    pub(super) outcome: Outcome,
}

/// Connects and plays the client's part of `request`; all of it within the request's budget.
pub(super) fn run(
    addr: SocketAddr,
    request: &Request,
    stop: &AtomicBool,
    progress: &AtomicU64,
) -> io::Result<Flow> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&addr, request.budget)?;
    let connect = began.elapsed();
    stream.set_nodelay(true)?;
    // A new connection takes this few bytes without waiting.
    stream.write_all(&request.encode())?;
    let bounds = Bounds { deadline: began + request.budget, stop, progress };
    let outcome = endpoint::play(stream, Script::client(request), bounds);
    Ok(Flow { began, connect, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::{
        Server,
        relay::{Fault, Relay},
    };

    const LIMIT: Duration = Duration::from_secs(10);

    fn server() -> Server {
        let both = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
        Server::start(&both).unwrap()
    }

    #[test]
    fn downloads_of_all_sizes_are_right_over_both_families() {
        let server = server();
        for addr in server.addrs() {
            for size in [1, 1000, 100_000, 10_000_000] {
                let times = fetch(*addr, size, 7, LIMIT).unwrap();
                assert!(times.connect <= times.first_byte && times.first_byte <= times.complete);
            }
        }
        let flows = measure(server.addrs()[0], 1000, 20, LIMIT).unwrap();
        let summary = summarize(&flows).unwrap();
        assert!(summary.complete.p50 <= summary.complete.max);
        assert_eq!(server.stats().wrong, 0);
    }

    #[test]
    fn a_spoiled_download_is_an_error() {
        let server = server();
        let through = |fault| {
            let relay = Relay::start(server.addrs()[0], fault).unwrap();
            fetch(relay.addr(), 200_000, 1, LIMIT).map_err(|error| error.kind())
        };
        assert!(through(Fault::None).is_ok());
        assert_eq!(through(Fault::Flip(70_000)), Err(ErrorKind::InvalidData));
        assert_eq!(through(Fault::Double(70_000)), Err(ErrorKind::InvalidData));
        assert_eq!(through(Fault::Drop(70_000)), Err(ErrorKind::InvalidData));
        assert_eq!(through(Fault::Truncate(199_999)), Err(ErrorKind::Other));
    }

    #[test]
    fn a_silent_server_is_a_timeout_and_a_closed_port_refused() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = silent.local_addr().unwrap();
        let short = Duration::from_millis(200);
        assert_eq!(fetch(addr, 1000, 1, short).unwrap_err().kind(), ErrorKind::TimedOut);
        drop(silent);
        assert_eq!(fetch(addr, 1000, 1, short).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let found = percentiles((1..=200).rev().map(Duration::from_millis)).unwrap();
        let millis = [found.min, found.p50, found.p90, found.p95, found.p99, found.max];
        assert_eq!(millis.map(|time| time.as_millis()), [1, 100, 180, 190, 198, 200]);
        assert_eq!(percentiles([]), None);
    }
}
