//! That nobody on the paths can read what they carry.
//!
//! A flow says the same 32 bytes again and again, both ways, from a known address and port. Neither
//! may be in what any frame on the paths carries behind its own headers. Of IPv4 addresses alone
//! sealed bytes hold some by chance, so they are looked for with their ports.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::link::{Counters, Direction, Link, Pattern};
use crate::report::figure::{Family, Taps, Watched};
use crate::topology::{Topology, host_address, sink_address};

/// What the flow says. It repeats often enough for segments to hold it whole.
const WORDS: &[u8; 32] = b"this is for the sink's eyes only";

/// How often it says so each way.
const TIMES: usize = 8192;

/// Of the flow's two ends.
const HOST_PORT: u16 = 40_404;
const SINK_PORT: u16 = 4243;

/// A flow that is silent for longer has failed.
const LIMIT: Duration = Duration::from_secs(20);

/// Sends a flow in each family over whatever leads from host to sink now, and says what of it was
/// to be read on the links.
///
/// # Errors
/// When a flow fails, or did not cross the links.
pub fn tap(topology: &Topology) -> Result<Taps> {
    let before: Vec<Seen> = topology.links.iter().map(seen).collect();
    let mut found = Vec::new();
    for family in [Family::V4, Family::V6] {
        let (host, sink) = (host_address(family, HOST_PORT)?, sink_address(family, SINK_PORT)?);
        let patterns = patterns(host, sink);
        topology.links.iter().try_for_each(|link| link.watch_for(&patterns))?;
        let flow = talk(topology, host, sink).context("the flow that is tapped");
        let finds: Vec<String> = topology.links.iter().flat_map(finds).collect();
        found.extend(finds.into_iter().filter(|find| !found.contains(find)).collect::<Vec<_>>());
        topology.links.iter().try_for_each(|link| link.watch_for(&[]))?;
        flow?;
    }
    let after = topology.links.iter().map(seen);
    let seen: Vec<Seen> = after.zip(&before).map(|(after, before)| after.since(before)).collect();
    let bytes: u64 = seen.iter().map(|seen| seen.bytes).sum();
    ensure!(bytes > 4 * (WORDS.len() * TIMES) as u64, "only {bytes} bytes crossed the links");
    let watched = |(link, seen): (&Link, &Seen)| Watched {
        wire: link.name().to_owned(),
        examined: seen.frames,
        forbidden: seen.found,
    };
    Ok(Taps { paths: topology.links.iter().zip(&seen).map(watched).collect(), found })
}

/// What a link has counted both ways.
struct Seen {
    frames: u64,
    bytes: u64,
    found: u64,
}

impl Seen {
    fn since(&self, before: &Self) -> Self {
        Self {
            frames: self.frames - before.frames,
            bytes: self.bytes - before.bytes,
            found: self.found - before.found,
        }
    }
}

fn seen(link: &Link) -> Seen {
    let ways = [Direction::Up, Direction::Down].map(|way| link.counters(way));
    let sum = |of: fn(&Counters) -> u64| ways.iter().map(of).sum();
    Seen {
        frames: sum(|counters| counters.tally.frames_in),
        bytes: sum(|counters| counters.tally.bytes_in),
        found: sum(|counters| counters.found),
    }
}

fn finds(link: &Link) -> Vec<String> {
    let told = |(way, name): (Direction, String)| {
        let way = if way == Direction::Up { "up" } else { "down" };
        format!("{} {way}: {name}", link.name())
    };
    link.finds().into_iter().map(told).collect()
}

/// The flow's words, and either end as bytes in either order.
fn patterns(host: SocketAddr, sink: SocketAddr) -> Vec<Pattern> {
    let mut patterns = vec![Pattern { name: "the flow's bytes".into(), bytes: WORDS.to_vec() }];
    for (end, address) in [("host", host), ("sink", sink)] {
        let port = address.port().to_be_bytes();
        let bytes = match address.ip() {
            IpAddr::V4(ip) => {
                vec![[&ip.octets()[..], &port].concat(), [&port, &ip.octets()[..]].concat()]
            }
            IpAddr::V6(ip) => vec![ip.octets().to_vec()],
        };
        let name =
            format!("the {end}'s {} address", if address.is_ipv4() { "IPv4" } else { "IPv6" });
        patterns.extend(bytes.into_iter().map(|bytes| Pattern { name: name.clone(), bytes }));
    }
    patterns
}

/// The host says it all, then the sink does.
fn talk(topology: &Topology, host: SocketAddr, sink: SocketAddr) -> Result<()> {
    let listener = topology.sink.run(move || TcpListener::bind(sink))??;
    let stream = topology.host.run(move || connect(host, sink))??;
    let listen = || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        limit(&stream)?;
        hear(&mut stream)?;
        stream.write_all(&WORDS.repeat(TIMES))?;
        // Until the host has closed: its port is free again then.
        stream.read(&mut [0]).map(|_| ())
    };
    thread::scope(|scope| {
        let sink = scope.spawn(listen);
        let host = (|| -> io::Result<()> {
            let mut stream = stream;
            stream.write_all(&WORDS.repeat(TIMES))?;
            hear(&mut stream)
        })();
        let sink = sink.join().map_err(|_| anyhow::anyhow!("the sink's thread panicked"))?;
        host.context("at the host")?;
        sink.context("at the sink")
    })
}

fn connect(host: SocketAddr, sink: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(host), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&host.into())?;
    socket.connect_timeout(&sink.into(), LIMIT)?;
    let stream = socket.into();
    limit(&stream)?;
    Ok(stream)
}

fn limit(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))
}

fn hear(stream: &mut TcpStream) -> io::Result<()> {
    let mut heard = vec![0; WORDS.len() * TIMES];
    stream.read_exact(&mut heard)?;
    let right = heard.chunks(WORDS.len()).all(|words| words == WORDS);
    if right { Ok(()) } else { Err(io::Error::other("other bytes came than were sent")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_end_is_looked_for_with_its_port_in_either_order() {
        let patterns =
            patterns("192.0.2.1:258".parse().unwrap(), "[2001:db8::]:1".parse().unwrap());
        let bytes: Vec<_> = patterns.iter().map(|pattern| pattern.bytes.as_slice()).collect();
        assert_eq!(bytes[1..3], [&[192, 0, 2, 1, 1, 2], &[1, 2, 192, 0, 2, 1]]);
        assert_eq!((bytes[0], bytes[3].len(), bytes.len()), (&WORDS[..], 16, 4));
    }
}
