//! Traffic with which the emulator's ceiling is found: paced UDP, TCP streams, delay probes.
//!
//! The experiment proper has generators of its own; these know nothing of boxes.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use braid_sys::sched;
use socket2::SockRef;

use super::pair::{End, Pair, address};

const LOAD_PORT: u16 = 7001;
const PROBE_PORT: u16 = 7002;
const STREAM_PORT: u16 = 7003;

/// Between a generator's bursts: at 300 Mbit/s, five frames.
const PACE: Duration = Duration::from_micros(200);

/// Between two probes of one path.
const PROBE_GAP: Duration = Duration::from_millis(1);

/// The payload of a full frame: 1514 bytes without Ethernet, IPv4 and UDP headers.
const PAYLOAD: usize = 1472;

/// Probes are above the links' own threads, so that they measure these and not themselves.
const PROBE_PRIORITY: u8 = 20;

/// Sends `mbit` of full frames over link `index` from its first end for `time`, and returns how
/// many frames it sent. Nobody reads them: what was delivered, the link has counted.
pub(super) fn load(pair: &Pair, index: usize, mbit: f64, time: Duration) -> io::Result<u64> {
    // Without a socket the other end would answer each with an ICMP error.
    let _sink = pair.b.run(move || UdpSocket::bind((address(index, End::B), LOAD_PORT)))??;
    pair.a.run(move || -> io::Result<u64> {
        sched::set_exact_timers()?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((address(index, End::B), LOAD_PORT))?;
        let (start, mut sent) = (Instant::now(), 0);
        let per_second = mbit * 1e6 / (1514.0 * 8.0);
        loop {
            let elapsed = start.elapsed();
            if elapsed >= time {
                return Ok(sent);
            }
            if (sent as f64) < elapsed.as_secs_f64() * per_second {
                socket.send(&[0; PAYLOAD])?;
                sent += 1;
            } else {
                thread::sleep(PACE);
            }
        }
    })?
}

/// Measures the one-way delay over link `index` each millisecond for `time`, and returns how many
/// probes were sent and the delays of those that came.
pub(super) fn probe(pair: &Pair, index: usize, time: Duration) -> io::Result<(u64, Vec<Duration>)> {
    let base = Instant::now();
    let receiver = pair.b.run(move || UdpSocket::bind((address(index, End::B), PROBE_PORT)))??;
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    let receive = move || -> io::Result<Vec<Duration>> {
        sched::set_realtime(PROBE_PRIORITY)?;
        let (mut delays, mut stamp) = (Vec::new(), [0; 8]);
        // It ends when probes have stopped for the time-out.
        while receiver.recv(&mut stamp).is_ok() {
            delays.push(base.elapsed() - Duration::from_nanos(u64::from_ne_bytes(stamp)));
        }
        Ok(delays)
    };
    let send = move || -> io::Result<u64> {
        sched::set_realtime(PROBE_PRIORITY)?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((address(index, End::B), PROBE_PORT))?;
        let (start, mut sent) = (Instant::now(), 0);
        while start.elapsed() < time {
            socket.send(&(base.elapsed().as_nanos() as u64).to_ne_bytes())?;
            sent += 1;
            thread::sleep(PROBE_GAP);
        }
        Ok(sent)
    };
    let received = thread::spawn(receive);
    let sent = pair.a.run(send)??;
    let delays = received.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok((sent, delays))
}

/// Sends one TCP stream (cubic) over link `index` as fast as it goes for `time`.
pub(super) fn stream(pair: &Pair, index: usize, time: Duration) -> io::Result<()> {
    let to = SocketAddr::from((address(index, End::B), STREAM_PORT));
    let listener = pair.b.run(move || TcpListener::bind(to))??;
    let receive = move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 256 * 1024];
        while stream.read(&mut buffer)? > 0 {}
        Ok(())
    };
    let received = thread::spawn(receive);
    pair.a.run(move || -> io::Result<()> {
        let mut stream = TcpStream::connect(to)?;
        // The namespace's default cannot be set: a namespace may choose only what is unrestricted.
        SockRef::from(&stream).set_tcp_congestion(b"cubic")?;
        let (start, data) = (Instant::now(), vec![0; 256 * 1024]);
        while start.elapsed() < time {
            stream.write_all(&data)?;
        }
        Ok(())
    })??;
    received.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Frames that the devices of both ends have dropped before the emulator saw them.
pub(super) fn device_drops(pair: &Pair) -> io::Result<u64> {
    let read = || std::fs::read_to_string("/proc/thread-self/net/dev");
    let drops = |text: String| -> u64 {
        let devices = text.lines().filter(|line| line.trim_start().starts_with('p'));
        // name: eight figures received, then sent: bytes, packets, errors, dropped.
        devices.filter_map(|line| line.split_whitespace().nth(12)?.parse::<u64>().ok()).sum()
    };
    Ok(drops(pair.a.run(read)??) + drops(pair.b.run(read)??))
}
