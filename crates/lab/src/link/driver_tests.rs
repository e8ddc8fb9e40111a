//! Links between real namespaces; they need root.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::super::handle::Link;
use super::super::pair::{End, Pair, address};
use super::super::shape::{Rate, Wander};
use super::*;

fn duplex(mbit: f64, delay_ms: u64) -> Duplex {
    let rate = Rate::from_mbit(mbit).unwrap();
    let shape = Shape::plain(rate, Duration::from_millis(delay_ms), 100_000);
    Duplex { up: shape, down: shape, wander: None }
}

/// A link with a socket at each end, connected to each other.
struct Bed {
    pair: Pair,
    a: UdpSocket,
    b: UdpSocket,
}

impl Bed {
    fn new(duplex: Duplex) -> Bed {
        let pair = Pair::new(&[duplex]).unwrap();
        let open = |from, to| {
            move || -> io::Result<UdpSocket> {
                let socket = UdpSocket::bind((address(0, from), 7))?;
                socket.connect((address(0, to), 7))?;
                socket.set_read_timeout(Some(Duration::from_secs(10)))?;
                Ok(socket)
            }
        };
        let a = pair.a.run(open(End::A, End::B)).unwrap().unwrap();
        let b = pair.b.run(open(End::B, End::A)).unwrap().unwrap();
        let bed = Bed { pair, a, b };
        bed.round_trip();
        bed
    }

    fn link(&self) -> &Link {
        &self.pair.links[0]
    }

    fn round_trip(&self) -> Duration {
        let start = Instant::now();
        self.a.send(b"there").unwrap();
        assert_eq!(self.b.recv(&mut [0; 100]).unwrap(), 5);
        self.b.send(b"back").unwrap();
        assert_eq!(self.a.recv(&mut [0; 100]).unwrap(), 4);
        start.elapsed()
    }

    /// Waits until what entered upwards is `frames`.
    fn entered(&self, frames: u64) {
        while self.link().counters(Direction::Up).tally.frames_in < frames {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_round_trip_takes_both_delays_and_shapes_change_while_it_runs() {
    let bed = Bed::new(duplex(100.0, 20));
    assert!(bed.link().is_realtime());
    let best = |bed: &Bed| (0..5).map(|_| bed.round_trip()).min().unwrap();
    let round_trip = best(&bed);
    assert!((40..50).contains(&round_trip.as_millis()), "{round_trip:?}");
    bed.link().set_shape(Direction::Up, duplex(100.0, 0).up).unwrap();
    let round_trip = best(&bed);
    assert!((20..30).contains(&round_trip.as_millis()), "{round_trip:?}");
    let up = bed.link().counters(Direction::Up);
    assert_eq!(up.tally.frames_in, up.tally.frames_delivered);
    assert_eq!((up.queue_bytes, up.undeliverable), (0, 0));
}

#[test]
fn a_black_hole_keeps_the_carrier_and_ends() {
    let bed = Bed::new(duplex(100.0, 1));
    let before = bed.link().counters(Direction::Up).tally.frames_in;
    bed.link().black_hole(true).unwrap();
    bed.a.send(b"lost").unwrap();
    bed.entered(before + 1);
    assert_eq!(bed.link().counters(Direction::Up).tally.dropped_hole, 1);
    bed.link().black_hole(false).unwrap();
    bed.round_trip();
}

#[test]
fn the_carrier_falls_at_both_ends_and_returns() {
    let bed = Bed::new(duplex(100.0, 1));
    let follow = || std::fs::write("/proc/sys/net/ipv4/conf/p0/ignore_routes_with_linkdown", "1");
    bed.pair.a.run(follow).unwrap().unwrap();
    bed.link().carrier(false).unwrap();
    for ns in [&bed.pair.a, &bed.pair.b] {
        let mut show = std::process::Command::new("ip");
        show.args(["link", "show", "p0"]).stdout(std::process::Stdio::piped());
        let output = ns.spawn(show).unwrap().wait_with_output().unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().contains("NO-CARRIER"));
    }
    // The kernel changes the route a little after the carrier.
    while bed.a.send(b"lost").is_ok() {
        std::thread::yield_now();
    }
    bed.link().carrier(true).unwrap();
    while bed.a.send(b"flushed").is_err() {
        std::thread::yield_now();
    }
    assert_eq!(bed.b.recv(&mut [0; 100]).unwrap(), 7);
}

#[test]
fn forbidden_packets_are_counted_and_described() {
    let bed = Bed::new(duplex(100.0, 1));
    bed.link().forbid(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    bed.round_trip();
    assert_eq!(bed.link().counters(Direction::Up).forbidden, 0);
    bed.link().forbid(&["10.77.0.2/32".parse().unwrap()]).unwrap();
    bed.round_trip();
    assert_eq!(bed.link().counters(Direction::Up).forbidden, 1);
    assert_eq!(bed.link().counters(Direction::Down).forbidden, 1);
    let (direction, sighting) = &bed.link().sightings()[0];
    assert_eq!(*direction, Direction::Up);
    assert_eq!(sighting.to_string(), "10.77.0.1 to 10.77.0.2, protocol 17");
}

#[test]
fn bytes_that_are_watched_for_are_counted_and_named() {
    let bed = Bed::new(duplex(100.0, 1));
    let pattern = |name: &str, bytes: &[u8]| Pattern { name: name.into(), bytes: bytes.into() };
    bed.link().watch_for(&[pattern("there", b"here"), pattern("nowhere", b"nowhere")]).unwrap();
    bed.round_trip();
    bed.round_trip();
    assert_eq!(bed.link().counters(Direction::Up).found, 2);
    assert_eq!(bed.link().counters(Direction::Down).found, 0);
    assert_eq!(bed.link().finds(), [(Direction::Up, "there".to_owned())]);
    bed.link().watch_for(&[]).unwrap();
    bed.round_trip();
    assert_eq!(bed.link().counters(Direction::Up).found, 2);
    assert_eq!(bed.link().finds(), []);
}

#[test]
fn a_wandering_rate_replaces_that_of_the_shape() {
    let rate = Rate::from_mbit(1.0).unwrap();
    let wander =
        Wander { rates: rate..=rate, every: Duration::from_secs(9)..=Duration::from_secs(9) };
    let bed = Bed::new(Duplex { wander: Some(wander), ..duplex(1000.0, 0) });
    let start = Instant::now();
    for _ in 0..10 {
        bed.a.send(&[0; 1208]).unwrap(); // 1250 bytes with its headers: 10 ms
    }
    for _ in 0..10 {
        assert_eq!(bed.b.recv(&mut [0; 2000]).unwrap(), 1208);
    }
    let took = start.elapsed().as_millis();
    assert!((99..150).contains(&took), "{took}");
}

#[test]
fn a_link_ends_with_a_device() {
    let bed = Bed::new(duplex(100.0, 1));
    let mut delete = std::process::Command::new("ip");
    delete.args(["link", "delete", "p0"]);
    assert!(bed.pair.a.spawn(delete).unwrap().wait().unwrap().success());
    while bed.link().forbid(&[]).is_ok() {
        std::thread::yield_now();
    }
}
