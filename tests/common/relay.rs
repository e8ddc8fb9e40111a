//! A box in the middle: it passes on what ingress and egress say to each other, keeps the first of
//! it, and spoils it as it is told.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use braid_lab::boxes::{Boxes, Setup};
use braid_lab::topology::{CARRIER_PORT, Topology};
use portable_atomic::AtomicU64;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// First byte of a carrier, and of a control connection.
pub(crate) const CARRIER: u8 = 0x01;
pub(crate) const CONTROL: u8 = 0x16;

/// Where the relay listens, in the egress box's namespace.
const PORT: u16 = 4771;

/// IPPROTO_MPTCP.
const MPTCP: i32 = 262;

/// How much of what a dialler says first is kept.
const KEPT: usize = 4096;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the dialler.
    Up,
    /// To the dialler.
    Down,
}

/// What is done to the bytes of a connection, once: to the first one that gets so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) of: u8,
    pub(crate) way: Way,
    /// Where in the connection's bytes.
    pub(crate) at: u64,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// These bits are others.
    Flip(u8),
    /// An orderly end from there on.
    Truncate,
    /// Nothing is passed on from there, both ways.
    Swallow,
}

/// The relay; its threads end with the connections.
pub(crate) struct Relay(Arc<Shared>);

#[derive(Default)]
struct Shared {
    connections: Mutex<Vec<Arc<Connection>>>,
    fault: Mutex<Option<Fault>>,
    stop: AtomicBool,
}

pub(crate) struct Connection {
    dialler: TcpStream,
    acceptor: TcpStream,
    moved: [AtomicU64; 2],
    said: Mutex<Vec<u8>>,
    swallows: AtomicBool,
}

/// Both boxes at work with a relay between them. Over `mptcp` carriers have all their paths, else
/// they fall back to plain TCP.
pub(crate) fn relayed(topology: &Topology, setup: &Setup, mptcp: bool) -> Result<(Boxes, Relay)> {
    let mut boxes = Boxes::start(topology, setup)?;
    let relay = Relay::start(topology, mptcp)?;
    let file = boxes.files().join("ingress.toml");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace(&format!(":{CARRIER_PORT}"), &format!(":{PORT}")))?;
    boxes.ingress.stop()?;
    boxes.ingress.restart(&topology.ingress)?;
    Ok((boxes, relay))
}

impl Relay {
    fn start(topology: &Topology, mptcp: bool) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let protocol = if mptcp { Protocol::from(MPTCP) } else { Protocol::TCP };
        topology.egress.run(move || -> std::io::Result<()> {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(protocol))?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new("::".parse().expect("an address"), PORT).into())?;
            socket.listen(1024)?;
            // So that the thread ends when nobody needs it.
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let listener = TcpListener::from(socket);
            thread::spawn(move || accept(&listener, protocol, &of_thread));
            Ok(())
        })??;
        Ok(Self(shared))
    }

    /// All connections of this kind so far, the oldest first.
    pub(crate) fn connections(&self, of: u8) -> Vec<Arc<Connection>> {
        let all = lock(&self.0.connections);
        all.iter().filter(|connection| connection.first() == Some(of)).cloned().collect()
    }

    /// Has this happen once.
    pub(crate) fn arm(&self, fault: Fault) {
        *lock(&self.0.fault) = Some(fault);
    }

    /// Whether it has happened.
    pub(crate) fn fired(&self) -> bool {
        lock(&self.0.fault).is_none()
    }

    /// Resets the newest connection of this kind at both ends.
    pub(crate) fn cut_newest(&self, of: u8) -> Result<()> {
        self.connections(of).last().context("no such connection")?.cut();
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl Connection {
    /// What the dialler has said first.
    pub(crate) fn said(&self) -> Vec<u8> {
        lock(&self.said).clone()
    }

    fn first(&self) -> Option<u8> {
        lock(&self.said).first().copied()
    }

    /// Bytes that came so far.
    pub(crate) fn moved(&self, way: Way) -> u64 {
        self.moved[way as usize].load(Ordering::Relaxed)
    }

    fn cut(&self) {
        for end in [&self.dialler, &self.acceptor] {
            // A disconnected socket resets its connection at once.
            let _ = rustix::net::connect_unspec(end);
        }
    }

    fn pump(&self, shared: &Shared, way: Way) {
        let (mut from, mut to) = match way {
            Way::Up => (&self.dialler, &self.acceptor),
            Way::Down => (&self.acceptor, &self.dialler),
        };
        let (mut buffer, mut ended) = (vec![0; 1 << 16], false);
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) if ended || self.swallows.load(Ordering::Relaxed) => return,
                Ok(0) => return drop(to.shutdown(Shutdown::Write)),
                Ok(count) => count,
                Err(_) => return self.cut(),
            };
            let offset = self.moved[way as usize].fetch_add(count as u64, Ordering::Relaxed);
            if way == Way::Up {
                let mut said = lock(&self.said);
                let room = KEPT.saturating_sub(said.len()).min(count);
                said.extend_from_slice(&buffer[..room]);
            }
            let mut passed = count;
            if let Some((at, what)) = self.fault(shared, way, offset, count) {
                match what {
                    What::Flip(bits) => buffer[at] ^= bits,
                    What::Truncate => (passed, ended) = (at, true),
                    What::Swallow => self.swallows.store(true, Ordering::Relaxed),
                }
                if ended {
                    let _ = to.write_all(&buffer[..passed]);
                    let _ = to.shutdown(Shutdown::Write);
                }
            }
            let silent = ended || self.swallows.load(Ordering::Relaxed);
            if !silent && to.write_all(&buffer[..passed]).is_err() {
                return self.cut();
            }
        }
    }

    /// What is to be done to the bytes from `offset` on, and where among them.
    fn fault(&self, shared: &Shared, way: Way, offset: u64, count: usize) -> Option<(usize, What)> {
        let of = self.first();
        let mut fault = lock(&shared.fault);
        let here = |fault: &mut Fault| {
            let reached = (offset..offset + count as u64).contains(&fault.at);
            fault.way == way && Some(fault.of) == of && reached
        };
        let fault = fault.take_if(here)?;
        Some(((fault.at - offset) as usize, fault.what))
    }
}

fn accept(listener: &TcpListener, protocol: Protocol, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((dialler, _)) = listener.accept() else { continue };
        // A box that does not run: the dialler learns it by the reset.
        let Ok(acceptor) = dial(protocol) else {
            let _ = SockRef::from(&dialler).set_linger(Some(Duration::ZERO));
            continue;
        };
        let _ = (dialler.set_read_timeout(None), dialler.set_nodelay(true));
        let connection = Arc::new(Connection {
            dialler,
            acceptor,
            moved: Default::default(),
            said: Mutex::default(),
            swallows: AtomicBool::new(false),
        });
        lock(&shared.connections).push(Arc::clone(&connection));
        for way in [Way::Up, Way::Down] {
            let (connection, shared) = (Arc::clone(&connection), Arc::clone(shared));
            thread::spawn(move || connection.pump(&shared, way));
        }
    }
}

fn dial(protocol: Protocol) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(protocol))?;
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], CARRIER_PORT)).into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
