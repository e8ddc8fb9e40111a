//! One long flow, followed byte by byte: how long it stalls and how much it carries.
//!
//! What happens to the links meanwhile is the caller's; `Watch::began` ties the two together.

use super::{
    client::{self, Flow},
    endpoint::End,
    ledger::{Ledger, flow_number},
    wire::{Ending, Request},
};
use portable_atomic::AtomicU64;
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// More than any flow carries before it is stopped.
const ENDLESS: u64 = 1 << 49;

/// How much longer than the watch a flow may live, should its stop not reach it.
const GRACE: Duration = Duration::from_secs(1);

/// What arrived of a bulk flow, and when.
#[derive(Clone, Debug)]
pub struct Watch {
    /// When connect was called.
    pub began: Instant,
    /// Time since `began`, and bytes arrived by then at the receiving side.
    pub samples: Vec<(Duration, u64)>,
    /// Bytes that arrived wrong.
    pub wrong: u64,
    /// Why the flow ended before it was stopped, if it did.
    pub broke: Option<String>,
}

impl Watch {
    /// The longest time without a new byte, from `from` (since `began`) or the first arrival,
    /// whichever is later, to `to` or the end, whichever is sooner. All of the watch if nothing
    /// arrived.
    ///
    /// Good to one sample's length, which is at most what it is too long by.
    pub fn longest_gap(&self, from: Duration, to: Duration) -> Duration {
        let mut counted = self.samples.iter().filter(|(_, bytes)| *bytes > 0).peekable();
        let (Some(first), Some(end)) = (counted.peek(), self.samples.last()) else {
            return self.samples.last().map_or(Duration::ZERO, |(time, _)| *time);
        };
        let (mut since, mut bytes) = (first.0.max(from), first.1);
        let mut longest = Duration::ZERO;
        for (time, now) in counted.take_while(|(time, _)| *time <= to) {
            if *now > bytes {
                longest = longest.max(time.saturating_sub(since));
                (since, bytes) = ((*time).max(from), *now);
            }
        }
        longest.max(end.0.min(to).saturating_sub(since))
    }

    /// Mbit/s over `length` from `from` on (since `began`); the rate of zero bytes where the watch
    /// has ended.
    pub fn mbit(&self, from: Duration, length: Duration) -> f64 {
        let bytes = self.arrived(from + length) - self.arrived(from);
        bytes as f64 * 8e-6 / length.as_secs_f64()
    }

    /// Bytes that had arrived by `time` (since `began`).
    pub fn arrived(&self, time: Duration) -> u64 {
        let before = self.samples.partition_point(|(when, _)| *when <= time);
        self.samples.get(before.saturating_sub(1)).map_or(0, |(_, bytes)| *bytes)
    }

    /// Mbit/s in each whole `interval` since `began`.
    pub fn goodput(&self, interval: Duration) -> Vec<f64> {
        let mut rates = Vec::new();
        let mut last = (Duration::ZERO, 0);
        for sample in &self.samples {
            if interval.is_zero() || sample.0 < interval * (rates.len() as u32 + 1) {
                continue;
            }
            let (time, bytes) = (sample.0 - last.0, sample.1 - last.1);
            rates.push(bytes as f64 * 8e-6 / time.as_secs_f64());
            last = *sample;
        }
        rates
    }
}

/// Follows a download from the server at `addr` for `duration`, looking every `sample`.
///
/// Errors are those of connect; a flow that breaks later is in `Watch::broke`.
pub fn download_watch(addr: SocketAddr, duration: Duration, sample: Duration) -> io::Result<Watch> {
    let arrived = AtomicU64::new(0);
    let request = endless(0, 0, ENDLESS, duration);
    let flow = follow(addr, &request, &arrived, sample, || arrived.load(Relaxed))?;
    let wrong = flow.client.outcome.wrong;
    Ok(flow.into_watch(wrong))
}

/// Follows an upload to the server at `addr`, counted as it arrives there; `ledger` is that server's.
///
/// Otherwise as `download_watch`.
pub fn upload_watch(
    addr: SocketAddr,
    ledger: &Ledger,
    duration: Duration,
    sample: Duration,
) -> io::Result<Watch> {
    let request = endless(flow_number(), ENDLESS, 0, duration);
    let mut progress: Option<Arc<AtomicU64>> = None;
    let flow = follow(addr, &request, &AtomicU64::new(0), sample, || {
        progress = progress.take().or_else(|| ledger.progress(request.flow, Instant::now()));
        progress.as_ref().map_or(0, |arrived| arrived.load(Relaxed))
    });
    let sink = ledger.take(request.flow, Instant::now() + 2 * GRACE);
    Ok(flow?.into_watch(sink.map_or(0, |sink| sink.wrong)))
}

/// A flow that its client resets when the watch is over.
fn endless(flow: u64, up: u64, down: u64, duration: Duration) -> Request {
    Request {
        flow,
        up,
        cut_up: up,
        cut_down: down,
        ending: Ending::ClientResets,
        ..Request::download(flow, down, duration + GRACE)
    }
}

/// A flow and what was counted of it.
struct Followed {
    client: Flow,
    samples: Vec<(Duration, u64)>,
}

impl Followed {
    fn into_watch(self, wrong: u64) -> Watch {
        let broke = match self.client.outcome.end {
            End::Stopped => None,
            end => Some(format!("{end:?}")),
        };
        Watch { began: self.client.began, samples: self.samples, wrong, broke }
    }
}

/// Runs `request` and samples `count` until the flow ends or its time is over.
fn follow(
    addr: SocketAddr,
    request: &Request,
    progress: &AtomicU64,
    sample: Duration,
    mut count: impl FnMut() -> u64,
) -> io::Result<Followed> {
    let stop = AtomicBool::new(false);
    let duration = request.budget - GRACE;
    thread::scope(|scope| {
        let began = Instant::now();
        let flow = scope.spawn(|| client::run(addr, request, &stop, progress));
        let mut samples = vec![(Duration::ZERO, 0)];
        let mut next = began + sample;
        while began.elapsed() < duration && !flow.is_finished() {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            samples.push((began.elapsed(), count()));
            next += sample;
        }
        stop.store(true, Relaxed);
        let flow = flow.join().map_err(|_| io::Error::other("the flow's thread panicked"))?;
        Ok(Followed { client: flow?, samples })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::{
        Server,
        relay::{Fault, Relay},
    };

    const SAMPLE: Duration = Duration::from_millis(10);
    const HALF: Duration = Duration::from_millis(500);

    fn millis(times: &[(u64, u64)]) -> Watch {
        let samples = times.iter().map(|(time, bytes)| (Duration::from_millis(*time), *bytes));
        Watch { began: Instant::now(), samples: samples.collect(), wrong: 0, broke: None }
    }

    #[test]
    fn gaps_are_counted_from_the_first_byte_to_the_end() {
        let watch = millis(&[(0, 0), (100, 0), (110, 5), (120, 6), (150, 6), (160, 7), (170, 8)]);
        assert_eq!(watch.longest_gap(Duration::ZERO, Duration::MAX).as_millis(), 40);
        assert_eq!(watch.longest_gap(Duration::from_millis(140), Duration::MAX).as_millis(), 20);
        assert_eq!(watch.longest_gap(Duration::from_millis(165), Duration::MAX).as_millis(), 5);
        let before = Duration::from_millis(135);
        assert_eq!(watch.longest_gap(Duration::ZERO, before).as_millis(), 15);
        let dead = millis(&[(0, 0), (10, 5), (20, 5), (90, 5)]);
        assert_eq!(dead.longest_gap(Duration::ZERO, Duration::MAX).as_millis(), 80);
        assert_eq!(
            millis(&[(0, 0), (70, 0)]).longest_gap(Duration::ZERO, Duration::MAX).as_millis(),
            70
        );
    }

    #[test]
    fn goodput_is_per_interval() {
        let watch = millis(&[(0, 0), (50, 50_000), (100, 125_000), (150, 125_000), (200, 250_000)]);
        let rates = watch.goodput(Duration::from_millis(100));
        assert_eq!(rates.iter().map(|rate| rate.round()).collect::<Vec<_>>(), [10.0, 10.0]);
        assert!(watch.goodput(Duration::ZERO).is_empty());
        let fifty = Duration::from_millis(50);
        assert_eq!(watch.mbit(fifty, fifty).round(), 12.0);
        assert_eq!(watch.mbit(Duration::from_millis(200), fifty), 0.0);
    }

    #[test]
    fn both_directions_are_followed() {
        let server = Server::start(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let addr = server.addrs()[0];
        let down = download_watch(addr, HALF, SAMPLE).unwrap();
        let up = upload_watch(addr, &server.ledger(), HALF, SAMPLE).unwrap();
        for watch in [down, up] {
            assert_eq!((watch.wrong, watch.broke.as_deref()), (0, None));
            assert!(watch.samples.len() > 10 && watch.samples.last().unwrap().1 > 1_000_000);
            assert!(watch.longest_gap(Duration::ZERO, Duration::MAX) < HALF);
        }
    }

    #[test]
    fn a_flow_that_breaks_or_is_wrong_is_reported() {
        let server = Server::start(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let through = |fault| {
            let relay = Relay::start(server.addrs()[0], fault).unwrap();
            let down = download_watch(relay.addr(), HALF, SAMPLE).unwrap();
            (down, upload_watch(relay.addr(), &server.ledger(), HALF, SAMPLE).unwrap())
        };
        let (down, up) = through(Fault::Flip(1_000_000));
        assert_eq!((down.wrong, up.wrong), (1, 1));
        let (down, up) = through(Fault::Truncate(1_000_000));
        assert!(down.broke.is_some() && up.broke.is_some());
    }

    #[test]
    fn a_refused_watch_is_an_error_at_once() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(download_watch(closed, HALF, SAMPLE).is_err());
    }
}
