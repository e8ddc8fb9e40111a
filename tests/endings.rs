//! What an end sees when the other is not as hoped: refused, silent, slow, gone.

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use braid_lab::boxes::Boxes;
use braid_lab::generator::{Server, fetch};
use braid_lab::link::{Direction, Link};
use braid_lab::topology::{Topology, sink_address};
use braid_sys::mptcp::reset_on_close;
use common::{Family, boxes, shell, topology, until};

const PORT: u16 = 4242;
const LIMIT: Duration = Duration::from_secs(60);

/// Connects from the host and reads until the end, or the error.
fn read_from_host(topology: &Topology, family: Family) -> Result<std::io::Result<usize>> {
    let address = sink_address(family, PORT)?;
    Ok(topology.host.run(move || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.read_to_end(&mut Vec::new())
    })?)
}

#[test]
fn sink_refuses() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    for family in [Family::V4, Family::V6] {
        let seen = read_from_host(&topology, family)?;
        let kind = seen.err().context("the refusal looked like an orderly end")?.kind();
        ensure!(kind == ErrorKind::ConnectionReset, "{kind:?}");
    }
    boxes.stop()
}

#[test]
fn sink_is_not_allowed() -> Result<()> {
    let topology = topology()?;
    let mut boxes = boxes(&topology)?;
    // The egress box's own address on the sink's LAN: reachable, and none of the peer's business.
    let seen = topology.host.run(|| {
        let mut stream = TcpStream::connect("192.168.20.1:4770")?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.read_to_end(&mut Vec::new())
    })?;
    ensure!(seen.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "not refused");
    until("the refusal is logged", || {
        Ok(boxes.egress.log().iter().any(|line| line.contains("refused: the sink is local")))
    })?;
    boxes.stop()
}

/// A sink that answers and then resets: what it said before still arrives.
#[test]
fn sink_resets_after_an_answer() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let address = sink_address(Family::V4, PORT)?;
    let listener = topology.sink.run(move || TcpListener::bind(address))??;
    let sink = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        // What fits in the first window: a close with bytes unread throws away what has not left.
        stream.write_all(&[7; 10_000])?;
        // Bytes that nobody reads make the close a reset.
        stream.peek(&mut [0])?;
        Ok(())
    });
    let (got, error) = topology.host.run(move || -> std::io::Result<_> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"a request that is not read")?;
        let (mut got, mut buffer) = (0, [0; 4096]);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok((got, None)),
                Ok(count) => got += count,
                Err(error) => return Ok((got, Some(error.kind()))),
            }
        }
    })??;
    sink.join().expect("the sink's thread")?;
    ensure!(error == Some(ErrorKind::ConnectionReset), "{error:?} after {got} bytes");
    ensure!(got == 10_000, "{got} bytes before the reset");
    boxes.stop()
}

#[test]
fn host_stops_reading() -> Result<()> {
    /// A flow's share of kernel memory (receive and send buffers at both boxes, host and sink) and
    /// of braid's: what ARCHITECTURE.md states.
    const KERNEL_BOUND: u64 = 32 << 20;
    const BRAID_BOUND: u64 = 1 << 20;
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let address = sink_address(Family::V4, PORT)?;
    let listener = topology.sink.run(move || TcpListener::bind(address))??;
    let stream = topology.host.run(move || TcpStream::connect(address))??;
    let (mut sink, _) = listener.accept()?;
    let resident = |boxes: &Boxes| -> Result<u64> {
        Ok(boxes.ingress.resident_bytes()? + boxes.egress.resident_bytes()?)
    };
    let (kernel_before, braid_before) = (tcp_memory()?, resident(&boxes)?);
    // Send until nothing goes any more: every buffer on the way is full.
    sink.set_write_timeout(Some(Duration::from_secs(3)))?;
    let mut sent = 0;
    while let Ok(count) = sink.write(&[1; 65536]) {
        sent += count;
        ensure!(sent < 1 << 28, "{sent} bytes went to a host that reads nothing");
    }
    let kernel = tcp_memory()?.saturating_sub(kernel_before);
    let braid = resident(&boxes)?.saturating_sub(braid_before);
    ensure!(kernel < KERNEL_BOUND, "the kernel holds {kernel} bytes for one flow");
    ensure!(braid < BRAID_BOUND, "braid holds {braid} bytes for one flow");
    println!("one stuck flow: {sent} bytes sent, kernel {kernel}, braid {braid}");
    // And it goes on as if nothing had been.
    stream.set_read_timeout(Some(LIMIT))?;
    let reader = thread::spawn(move || {
        let (mut stream, mut count, mut buffer) = (stream, 0, vec![0; 1 << 16]);
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            count += read;
        }
        count
    });
    drop(sink);
    ensure!(reader.join().expect("the reader's thread") == sent, "bytes were lost");
    boxes.stop()
}

/// Bytes that TCP holds on the whole machine: "mem" of /proc/net/sockstat, in pages.
fn tcp_memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/sockstat")?;
    let line = text.lines().find(|line| line.starts_with("TCP:")).context("no TCP line")?;
    let pages: u64 = line.rsplit(' ').next().context("no mem")?.parse()?;
    Ok(pages * 4096)
}

/// Downloads 100 MB twice; when a tenth has come, something happens to a path, each path in turn.
fn download_while(happens: impl Fn(&Link, bool) -> std::io::Result<()>) -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let address = sink_address(Family::V4, PORT)?;
    let server = topology.sink.run(move || Server::start(&[address]))??;
    for link in &topology.links {
        let carried = || link.counters(Direction::Down).tally.bytes_delivered;
        let before = carried();
        thread::scope(|scope| -> Result<()> {
            let host = &topology.host;
            let download = move || host.run(move || fetch(address, 100_000_000, 3, LIMIT));
            let download = scope.spawn(download);
            until("a tenth has come", || Ok(carried() > before + 10_000_000))?;
            happens(link, true)?;
            download.join().expect("the download's thread")??;
            Ok(happens(link, false)?)
        })?;
    }
    ensure!(server.stats().wrong == 0, "{:?}", server.stats());
    boxes.stop()
}

#[test]
fn path_goes_silent() -> Result<()> {
    download_while(Link::black_hole)
}

#[test]
fn path_loses_its_carrier() -> Result<()> {
    download_while(|link, down| link.carrier(!down))
}

/// Whoever has a flow through a box that goes is told by a reset, and the box serves again.
fn box_goes(goes: impl Fn(&mut Boxes) -> Result<()>) -> Result<()> {
    let topology = topology()?;
    let mut boxes = boxes(&topology)?;
    let address = sink_address(Family::V4, PORT)?;
    let listener = topology.sink.run(move || TcpListener::bind(address))??;
    let mut host = topology.host.run(move || TcpStream::connect(address))??;
    let (mut sink, _) = listener.accept()?;
    goes(&mut boxes)?;
    for (end, name) in [(&mut host, "host"), (&mut sink, "sink")] {
        end.set_read_timeout(Some(LIMIT))?;
        let seen = end.read(&mut [0]);
        let told = seen.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset);
        ensure!(told, "the {name} saw {seen:?}");
    }
    boxes.ingress.restart(&topology.ingress)?;
    drop(listener);
    let _server = topology.sink.run(move || Server::start(&[address]))??;
    topology.host.run(move || fetch(address, 1_000_000, 5, LIMIT))??;
    boxes.stop()
}

#[test]
fn a_box_is_killed() -> Result<()> {
    box_goes(|boxes| boxes.ingress.kill())
}

#[test]
fn a_box_is_stopped() -> Result<()> {
    box_goes(|boxes| boxes.ingress.stop())
}

/// A host that closes its direction, and reads on when the sink has long finished.
#[test]
fn host_reads_on_after_the_sink_has_finished() -> Result<()> {
    const ANSWER: usize = 3_000_000;
    let topology = topology()?;
    // The time after which the kernel resets a connection closed with bytes unread: 60 s usually.
    for node in [&topology.ingress, &topology.egress] {
        shell(node, "sysctl -qw net.mptcp.close_timeout=1")?;
    }
    let boxes = boxes(&topology)?;
    let address = sink_address(Family::V4, PORT)?;
    let listener = topology.sink.run(move || TcpListener::bind(address))??;
    let sink = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.read_to_end(&mut Vec::new())?;
        stream.write_all(&[9; ANSWER])
    });
    let mut host = topology.host.run(move || TcpStream::connect(address))??;
    host.write_all(b"all I have to say")?;
    host.shutdown(std::net::Shutdown::Write)?;
    sink.join().expect("the sink's thread")?;
    // Longer than the kernel's time-out: what is tested is that nothing happens meanwhile.
    thread::sleep(Duration::from_secs(3));
    host.set_read_timeout(Some(LIMIT))?;
    let mut answer = Vec::new();
    host.read_to_end(&mut answer)?;
    ensure!(answer.len() == ANSWER, "{} bytes of {ANSWER}", answer.len());
    boxes.stop()
}

/// A host that has closed its direction and then resets: the sink is told.
#[test]
fn host_resets_after_it_has_closed() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let address = sink_address(Family::V4, PORT)?;
    let listener = topology.sink.run(move || TcpListener::bind(address))??;
    let host = topology.host.run(move || TcpStream::connect(address))??;
    let (mut sink, _) = listener.accept()?;
    host.shutdown(std::net::Shutdown::Write)?;
    ensure!(sink.read(&mut [0])? == 0, "no end of file at the sink");
    reset_on_close(&host)?;
    drop(host);
    until("the sink is told", || Ok(sink.take_error()?.is_some() || sink.write(b"x").is_err()))?;
    boxes.stop()
}
