//! Flows that a test plays by hand, downloads that run meanwhile, and what a box says of them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use braid_lab::boxes::Running;
use braid_lab::generator::{Server, StormPlan, StormReport, fetch, storm};
use braid_lab::topology::{Topology, sink_address};
use braid_sys::mptcp::reset_on_close;
use braid_sys::netns::Netns;
use socket2::SockRef;

use super::{Family, until};

/// Where the sink serves, and where it is played by hand.
pub(crate) const PORT: u16 = 4242;
pub(crate) const HAND_PORT: u16 = 4243;

/// A bound for a broken program.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// The sink, serving both families.
pub(crate) fn serve(topology: &Topology) -> Result<Server> {
    let addresses = [sink_address(Family::V4, PORT)?, sink_address(Family::V6, PORT)?];
    Ok(topology.sink.run(move || Server::start(&addresses))??)
}

/// Flows of every ending from `node` to a server.
pub(crate) fn storm_to(
    node: &Netns,
    server: &Server,
    flows: u64,
    concurrency: usize,
    bytes_each: u64,
) -> Result<StormReport> {
    let (addresses, ledger) = (server.addrs().to_vec(), server.ledger());
    let plan = StormPlan { flows, bytes_each, concurrency, seed: 11, deadline: LIMIT };
    let report = node.run(move || storm(&addresses, &plan, &ledger))??;
    ensure!(report.passed(), "{report:#?}");
    Ok(report)
}

/// Downloads to the host; an error's words, if it is one of the flow's.
pub(crate) fn download(topology: &Topology, bytes: u64) -> Result<Result<(), String>> {
    let address = sink_address(Family::V4, PORT)?;
    let fetched = topology.host.run(move || fetch(address, bytes, 5, LIMIT))?;
    Ok(fetched.map(drop).map_err(|error| error.to_string()))
}

/// Downloads that much from a sink that serves while something else happens; every byte is right.
pub(crate) fn downloading<T>(
    topology: &Topology,
    server: &Server,
    bytes: u64,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let accepted = server.stats().accepted;
    thread::scope(|scope| {
        let download = scope.spawn(move || download(topology, bytes));
        until("the download runs", || Ok(server.stats().accepted > accepted))?;
        let happened = meanwhile();
        let downloaded = download.join().expect("the download's thread");
        let happened = happened?;
        downloaded?.map_err(anyhow::Error::msg).context("the download meanwhile")?;
        Ok(happened)
    })
}

/// A listener at the sink for flows that are played by hand.
pub(crate) fn listen(topology: &Topology) -> Result<TcpListener> {
    let address = sink_address(Family::V4, HAND_PORT)?;
    let listener = topology.sink.run(move || TcpListener::bind(address))??;
    SockRef::from(&listener).set_read_timeout(Some(LIMIT))?;
    Ok(listener)
}

/// Both ends of a flow.
pub(crate) struct Pair {
    pub(crate) host: TcpStream,
    pub(crate) sink: TcpStream,
}

impl Pair {
    pub(crate) fn open(topology: &Topology, listener: &TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let host = topology.host.run(move || TcpStream::connect(address))??;
        let sink = accept(listener, &host)?;
        bound(&host)?;
        Ok(Self { host, sink })
    }

    /// The sink's end is reset, and the flow comes once more.
    pub(crate) fn comes_again(&mut self, listener: &TcpListener) -> Result<()> {
        was_reset(&self.sink)?;
        self.sink = accept(listener, &self.host)?;
        Ok(())
    }

    /// Some bytes each way.
    pub(crate) fn talk(&mut self) -> Result<()> {
        tell(&mut self.host, &mut self.sink).context("from host to sink")?;
        tell(&mut self.sink, &mut self.host).context("from sink to host")
    }

    /// The host closes its direction and the sink learns it.
    pub(crate) fn half_close(&mut self) -> Result<()> {
        self.host.shutdown(std::net::Shutdown::Write)?;
        ensure!(self.sink.read(&mut [0])? == 0, "bytes where the end should be");
        Ok(())
    }

    /// Closes both directions in order.
    pub(crate) fn close(mut self) -> Result<()> {
        self.host.shutdown(std::net::Shutdown::Write)?;
        ensure!(self.sink.read(&mut [0])? == 0, "bytes where the end should be");
        drop(self.sink);
        ensure!(self.host.read(&mut [0])? == 0, "bytes where the end should be");
        Ok(())
    }

    /// The host resets; the sink learns it, whatever it has not read.
    pub(crate) fn reset_by_host(self) -> Result<()> {
        let Self { host, sink } = self;
        reset_on_close(&host)?;
        drop(host);
        was_reset(&sink).context("at the sink")
    }

    /// The sink resets; the host learns it.
    pub(crate) fn reset_by_sink(self) -> Result<()> {
        let Self { host, sink } = self;
        reset_on_close(&sink)?;
        drop(sink);
        was_reset(&host).context("at the host")
    }
}

fn accept(listener: &TcpListener, host: &TcpStream) -> Result<TcpStream> {
    let (sink, from) = listener.accept().context("no flow came to the sink")?;
    ensure!(from == host.local_addr()?, "another flow came, from {from}");
    bound(&sink)?;
    Ok(sink)
}

fn bound(end: &TcpStream) -> Result<()> {
    end.set_read_timeout(Some(LIMIT))?;
    end.set_write_timeout(Some(LIMIT))?;
    Ok(end.set_nodelay(true)?)
}

fn tell(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    let (words, mut heard) = ([0x5a; 3000], [0; 3000]);
    from.write_all(&words)?;
    to.read_exact(&mut heard)?;
    ensure!(words == heard, "other bytes came");
    Ok(())
}

fn was_reset(end: &TcpStream) -> Result<()> {
    let mut error = None;
    until("it is reset", || {
        error = error.take().or(end.take_error()?);
        Ok(error.is_some())
    })?;
    let kind = error.map(|error| error.kind());
    ensure!(kind == Some(ErrorKind::ConnectionReset), "{kind:?}");
    Ok(())
}

/// Writes until nothing goes any more; how much that was.
pub(crate) fn fill(end: &mut TcpStream) -> Result<usize> {
    end.set_write_timeout(Some(Duration::from_millis(700)))?;
    let mut sent = 0;
    loop {
        match end.write(&[7; 65536]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(sent),
            Err(error) => return Err(error.into()),
        }
        ensure!(sent < 1 << 28, "{sent} bytes went to an end that reads nothing");
    }
}

/// Reads so many bytes, as [`fill`] has written them.
pub(crate) fn drain(end: &mut TcpStream, count: usize) -> Result<()> {
    let mut bytes = vec![0; count];
    end.read_exact(&mut bytes)?;
    ensure!(bytes.iter().all(|byte| *byte == 7), "other bytes came");
    Ok(())
}

/// Waits until a box has said this.
pub(crate) fn says(running: &mut Running, words: &str) -> Result<()> {
    says_times(running, words, 1)
}

/// Waits until a box has said this so often.
pub(crate) fn says_times(running: &mut Running, words: &str, times: usize) -> Result<()> {
    until(&format!("the log says \"{words}\" {times} times"), || Ok(said(running, words) >= times))
}

/// How often a box has said this.
pub(crate) fn said(running: &mut Running, words: &str) -> usize {
    running.log().iter().filter(|line| line.contains(words)).count()
}

/// Says `bytes` to the egress box and nothing more; what it answers until it ends the connection.
pub(crate) fn knock(topology: &Topology, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let address: SocketAddr = topology.endpoints(Family::V4)?[0];
    topology.ingress.run(move || -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        // It may be reset under our hands.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(error).context("the box does not end the connection")
            }
            _ => Ok(answer),
        }
    })?
}
