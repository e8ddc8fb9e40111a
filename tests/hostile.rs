//! Whoever sits on the path, and whoever only knows the port: turned away with a word in the log,
//! and of no effect on anybody else.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use braid_lab::topology::{Topology, sink_address};
use common::relay::{CARRIER, CONTROL, Fault, Relay, Way, What, relayed};
use common::talk::{
    HAND_PORT, Pair, download, downloading, fill, knock, listen, said, says, says_times, serve,
    storm_to,
};
use common::{Family, boxes, setup, topology, until};

/// Preamble and `start`.
const GREETING: u64 = 13 + 24;

/// `ready`, or `opened`.
const EMPTY: u64 = 23;

/// An `open` record with IPv4 addresses.
const OPEN: u64 = 2 + 5 + 4 + 14 + 16;

/// Enough to last while others are troubled, at the rate of one path.
const LONG: u64 = 60_000_000;

const fn carrier(way: Way, at: u64, what: What) -> Fault {
    Fault { of: CARRIER, way, at, what }
}

fn up(flips: &[(u64, u8)]) -> impl Iterator<Item = (Way, u64, u8)> {
    flips.iter().map(|(at, bit)| (Way::Up, *at, *bit))
}

fn down(flips: &[(u64, u8)]) -> impl Iterator<Item = (Way, u64, u8)> {
    flips.iter().map(|(at, bit)| (Way::Down, *at, *bit))
}

/// Has something happen to the next carrier that gets so far, and downloads until it has; how many
/// of the downloads failed. They may be reset, and nothing else.
fn strike(topology: &Topology, relay: &Relay, fault: Fault) -> Result<usize> {
    let mut failed = 0;
    relay.arm(fault);
    until(&format!("{fault:?}"), || {
        if let Err(error) = download(topology, 100_000)? {
            ensure!(error.contains("reset"), "{fault:?}: {error}");
            failed += 1;
        }
        Ok(relay.fired())
    })?;
    // What was struck may be in use from now on.
    for _ in 0..3 {
        if let Err(error) = download(topology, 1000)? {
            ensure!(error.contains("reset"), "{fault:?}: {error}");
            failed += 1;
        }
    }
    Ok(failed)
}

#[test]
fn a_flipped_bit() -> Result<()> {
    let topology = topology()?;
    let (mut boxes, relay) = relayed(&topology, &setup(), false)?;
    let server = serve(&topology)?;
    download(&topology, 1000)?.map_err(anyhow::Error::msg)?;
    downloading(&topology, &server, LONG, || {
        // Version, session, number, then length, what is sealed and tag of `start`; and `ready`.
        // A length that is made longer only holds its carrier up, so it is made another.
        let start = [(0, 1), (4, 1), (11, 1), (13, 0x80), (14, 0x10), (17, 1), (30, 1)];
        let ready = [(0, 0x80), (1, 0x10), (3, 1), (20, 1)];
        for (way, at, bit) in up(&start).chain(down(&ready)) {
            let failed = strike(&topology, &relay, carrier(way, at, What::Flip(bit)))?;
            ensure!(failed == 0, "{failed} flows on a carrier that never was, byte {at} {way:?}");
        }
        for words in ["its session is not", "its first byte is 0x00", "carrier is refused"] {
            says(&mut boxes.egress, words)?;
        }
        // Length, type, addresses and tag of `open`; flow and bytes of the request.
        let (open, data) = (GREETING, GREETING + OPEN);
        let asks = [(open, 0x80), (open + 1, 0x20), (open + 2, 1), (data - 20, 1), (data - 1, 1)];
        let request = [(data, 0x80), (data + 4, 1), (data + 10, 1)];
        // The same of `opened` and the answer; bytes far into it, among them tags.
        let data = 2 * EMPTY;
        let opened = [(EMPTY, 0x80), (EMPTY + 1, 0x10), (EMPTY + 2, 1), (data - 1, 1)];
        let answer = [(data, 0x80), (data + 3, 1), (data + 9, 1), (20_001, 1), (99_999, 1)];
        let back = opened.iter().chain(&answer).copied().collect::<Vec<_>>();
        for (way, at, bit) in up(&asks).chain(up(&request)).chain(down(&back)) {
            let failed = strike(&topology, &relay, carrier(way, at, What::Flip(bit)))?;
            ensure!(failed > 0, "a flow on a carrier that was spoilt, byte {at} {way:?}");
        }
        Ok(())
    })?;
    ensure!(server.stats().wrong == 0, "{:?}", server.stats());
    storm_to(&topology.host, &server, 20, 5, 100_000)?;
    boxes.stop()
}

/// A control connection is spoilt: the session falls, another comes, and flows do not notice.
#[test]
fn a_flipped_bit_of_a_session() -> Result<()> {
    let topology = topology()?;
    let (mut boxes, relay) = relayed(&topology, &setup(), false)?;
    let (server, listener) = (serve(&topology)?, listen(&topology)?);
    let mut pair = Pair::open(&topology, &listener)?;
    pair.talk()?;
    downloading(&topology, &server, 20_000_000, || {
        for (round, way) in [Way::Up, Way::Down].into_iter().enumerate() {
            let control = relay.connections(CONTROL).pop().context("no session")?;
            // In the next record, behind its header.
            relay.arm(Fault { of: CONTROL, way, at: control.moved(way) + 8, what: What::Flip(1) });
            // A sink that the peer is asked about; it is asked again in the next session.
            let address = sink_address(Family::V4, HAND_PORT + 1 + u16::try_from(round)?)?;
            let late = topology.sink.run(move || std::net::TcpListener::bind(address))??;
            let mut asked = Pair::open(&topology, &late)?;
            if way == Way::Down {
                // The connection stood and the ingress was not told.
                asked.comes_again(&late)?;
            }
            asked.talk()?;
            ensure!(relay.fired(), "nothing was said {way:?}");
            says_times(&mut boxes.ingress, "session is down", round + 1)?;
        }
        pair.talk()
    })?;
    boxes.stop()
}

#[test]
fn a_truncated_stream() -> Result<()> {
    let topology = topology()?;
    let (boxes, relay) = relayed(&topology, &setup(), false)?;
    let server = serve(&topology)?;
    download(&topology, 1000)?.map_err(anyhow::Error::msg)?;
    downloading(&topology, &server, LONG, || {
        let opened = GREETING + OPEN;
        for at in [opened, opened + 2, opened + 30] {
            let failed = strike(&topology, &relay, carrier(Way::Up, at, What::Truncate))?;
            ensure!(failed > 0, "a flow whose carrier was cut off at byte {at}");
        }
        // Between two records, within one, and before the last bytes of all.
        for at in [EMPTY, 2 * EMPTY, 2 * EMPTY + 7, 20_000, 99_990] {
            let failed = strike(&topology, &relay, carrier(Way::Down, at, What::Truncate))?;
            ensure!(failed > 0, "a flow whose carrier was cut off at byte {at} back");
        }
        Ok(())
    })?;
    // What the host sends is cut off: the sink sees a reset, not the end.
    let listener = listen(&topology)?;
    let at = GREETING + OPEN + 50_000;
    let mut pair = Pair::open(&topology, &listener)?;
    relay.arm(carrier(Way::Up, at, What::Truncate));
    let mut host = pair.host.try_clone()?;
    let says = thread::spawn(move || host.write_all(&vec![1; 300_000]));
    let seen = pair.sink.read_to_end(&mut Vec::new());
    let reset = seen.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
    ensure!(reset && relay.fired(), "the sink saw {seen:?}");
    let _ = says.join();
    boxes.stop()
}

#[test]
fn a_replayed_preamble() -> Result<()> {
    let topology = topology()?;
    let (mut boxes, relay) = relayed(&topology, &setup(), false)?;
    let server = serve(&topology)?;
    download(&topology, 1000)?.map_err(anyhow::Error::msg)?;
    downloading(&topology, &server, LONG, || {
        let used = relay.connections(CARRIER)[0].said();
        for length in [GREETING as usize, used.len()] {
            let answer = knock(&topology, used[..length].to_vec())?;
            ensure!(answer.is_empty(), "a replay was answered: {answer:?}");
        }
        says_times(&mut boxes.egress, "was used before in this session", 2)?;
        // One that never arrived is good once, whoever brings it.
        relay.arm(carrier(Way::Up, 0, What::Swallow));
        until("a carrier is held back", || {
            download(&topology, 1000)?.map_err(anyhow::Error::msg)?;
            Ok(relay.fired())
        })?;
        let held = relay.connections(CARRIER).into_iter().map(|one| one.said());
        let held: Vec<Vec<u8>> = held.filter(|said| said.len() == GREETING as usize).collect();
        let mut fresh = 0;
        for greeting in held {
            let answers = thread::scope(|scope| -> Result<Vec<Vec<u8>>> {
                let twice = [greeting.clone(), greeting];
                let knocks = twice.map(|said| scope.spawn(|| knock(&topology, said)));
                knocks.into_iter().map(|one| one.join().expect("a knock's thread")).collect()
            })?;
            let good = answers.iter().filter(|answer| answer.len() == EMPTY as usize).count();
            let none = answers.iter().filter(|answer| answer.is_empty()).count();
            ensure!(good <= 1 && good + none == 2, "{answers:?}");
            fresh += good;
        }
        ensure!(fresh == 1, "{fresh} of the greetings were fresh");
        Ok(())
    })?;
    // Of a session that has ended.
    let old = relay.connections(CARRIER).pop().context("no carrier")?.said();
    boxes.ingress.kill()?;
    boxes.ingress.restart(&topology.ingress)?;
    download(&topology, 1000)?.map_err(anyhow::Error::msg)?;
    let before = said(&mut boxes.egress, "its session is not, or no longer, known");
    ensure!(knock(&topology, old)?.is_empty(), "an old carrier was answered");
    says_times(&mut boxes.egress, "its session is not, or no longer, known", before + 1)?;
    boxes.stop()
}

/// What is said first that no box says, and the word in the log for it.
#[test]
fn an_unknown_version() -> Result<()> {
    let topology = topology()?;
    let mut boxes = boxes(&topology)?;
    let server = serve(&topology)?;
    download(&topology, 1000)?.map_err(anyhow::Error::msg)?;
    downloading(&topology, &server, LONG, || {
        let cases: [(&[u8], &str); 6] = [
            (&[2; 100], "it is of another version, 2:"),
            (&[0; 100], "its first byte is 0x00"),
            (&[0x17; 100], "its first byte is 0x17"),
            (b"brd0 and what came behind it", "its first byte is 0x62"),
            (b"GET / HTTP/1.1\r\n\r\n", "its first byte is 0x47"),
            (b"", "it ended: unexpected end of file"),
        ];
        for (bytes, words) in cases {
            let answer = knock(&topology, bytes.to_vec())?;
            ensure!(answer.is_empty(), "{words}: answered {answer:?}");
            says(&mut boxes.egress, words)?;
        }
        Ok(())
    })?;
    boxes.stop()
}

#[test]
fn random_bytes() -> Result<()> {
    let topology = topology()?;
    let mut boxes = boxes(&topology)?;
    let server = serve(&topology)?;
    download(&topology, 1000)?.map_err(anyhow::Error::msg)?;
    let mut dice = fastrand::Rng::with_seed(3);
    downloading(&topology, &server, LONG, || {
        for number in 1..=200 {
            let mut bytes = vec![0; dice.usize(1..3000)];
            dice.fill(&mut bytes);
            match number % 3 {
                0 => bytes[0] = CARRIER,
                // A record of TLS with a length that it has.
                1 if bytes.len() > 100 => {
                    let length = u16::try_from(bytes.len() - 5)?.to_be_bytes();
                    bytes[..5].copy_from_slice(&[CONTROL, 3, 1, length[0], length[1]]);
                }
                _ => {}
            }
            let answer = knock(&topology, bytes)?;
            // TLS says what it does not like, in an alert.
            ensure!(answer.is_empty() || answer[0] == 0x15, "answered {answer:?}");
            says_times(&mut boxes.egress, "DEBUG connection rejected", number)?;
        }
        Ok(())
    })?;
    boxes.stop()
}

#[test]
fn tls_of_a_stranger() -> Result<()> {
    let topology = topology()?;
    let mut boxes = boxes(&topology)?;
    let server = serve(&topology)?;
    download(&topology, 1000)?.map_err(anyhow::Error::msg)?;
    downloading(&topology, &server, LONG, || {
        for (number, words) in ["-tls1_3", "-tls1_3 -alpn braid/1", "-tls1_2"].iter().enumerate() {
            let mut client = Command::new("openssl");
            client.args(["s_client", "-connect", "10.77.1.2:4770"]).args(words.split(' '));
            client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let status = topology.ingress.run(move || client.status())?.context("openssl")?;
            ensure!(!status.success(), "{words}: a stranger got in");
            let refused = "DEBUG connection rejected: its control connection is refused";
            says_times(&mut boxes.egress, refused, number + 1)?;
        }
        Ok(())
    })?;
    boxes.stop()
}

/// On carriers of their own: for those that are shared see `carriers`.
#[test]
fn a_reset_while_the_sinks_window_is_shut() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let (server, listener) = (serve(&topology)?, listen(&topology)?);
    download(&topology, 1000)?.map_err(anyhow::Error::msg)?;
    let mut other = Pair::open(&topology, &listener)?;
    let mut pair = Pair::open(&topology, &listener)?;
    fill(&mut pair.host)?;
    pair.reset_by_host()?;
    let mut pair = Pair::open(&topology, &listener)?;
    fill(&mut pair.sink)?;
    pair.reset_by_sink()?;
    other.talk()?;
    storm_to(&topology.host, &server, 20, 10, 100_000)?;
    other.close()?;
    boxes.stop()
}

/// A crowd that says nothing, and one that says the first byte of TLS.
#[test]
fn a_thousand_silent_connections() -> Result<()> {
    /// For carriers that came meanwhile, and what the allocator keeps.
    const DESCRIPTORS: u64 = 60;
    const MEMORY: u64 = 16 << 20;
    let topology = topology()?;
    let mut boxes = boxes(&topology)?;
    let server = serve(&topology)?;
    storm_to(&topology.host, &server, 20, 10, 100_000)?;
    let before = (boxes.egress.descriptors()?, boxes.egress.resident_bytes()?);
    downloading(&topology, &server, LONG, || {
        let crowd = crowd(&topology, 2000)?;
        says(&mut boxes.egress, "bound met: too many connections that have not proved a key")?;
        storm_to(&topology.host, &server, 20, 10, 100_000)?;
        let bound = before.0 + 256 + DESCRIPTORS;
        until("no more than the bound is held", || Ok(boxes.egress.descriptors()? <= bound))?;
        drop(crowd);
        Ok(())
    })?;
    let crowd = crowd(&topology, 1000)?;
    boxes.ingress.kill()?;
    boxes.ingress.restart(&topology.ingress)?;
    storm_to(&topology.host, &server, 20, 10, 100_000)?;
    // They are still there, and turned away when their time is over.
    says(&mut boxes.egress, "it did not say in time who it is")?;
    until("descriptors are closed", || Ok(boxes.egress.descriptors()? <= before.0 + DESCRIPTORS))?;
    drop(crowd);
    let after = boxes.egress.resident_bytes()?;
    ensure!(after < before.1 + MEMORY, "{} bytes became {after}", before.1);
    println!("resident: {} bytes before, {after} after", before.1);
    boxes.stop()
}

/// So many connections to the egress box; every other one says the first byte of TLS.
fn crowd(topology: &Topology, count: usize) -> Result<Vec<TcpStream>> {
    let address = topology.endpoints(Family::V4)?[0];
    let one = move |number: usize| {
        let mut stream = TcpStream::connect(address)?;
        if number.is_multiple_of(2) {
            // Those that came first may be gone already.
            let _ = stream.write(&[CONTROL]);
        }
        Ok(stream)
    };
    let twentieth = move || (0..count / 20).map(one).collect::<std::io::Result<Vec<_>>>();
    topology.ingress.run(move || -> Result<Vec<TcpStream>> {
        let threads: Vec<_> = (0..20).map(|_| thread::spawn(twentieth)).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().expect("a thread of the crowd")?);
        }
        Ok(all)
    })?
}
