//! The sink's side: accepts flows, plays what each asks for, counts and files the outcomes.
//!
//! One thread a connection, with a small stack: hundreds at once cost little and block nobody.

use super::{
    endpoint::{self, Bounds, End, Outcome, TICK},
    judge,
    ledger::Ledger,
    script::Script,
    wire::{REQUEST_LEN, Request},
};
use portable_atomic::AtomicU64;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, ErrorKind, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

const BACKLOG: i32 = 4096;
const STACK: usize = 128 << 10;

/// How long a connection may take to say what it wants.
const REQUEST_WAIT: Duration = Duration::from_secs(30);

/// A running sink; stops, and cuts its flows, when dropped.
pub struct Server {
    addrs: Vec<SocketAddr>,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ledger: Ledger,
    stop: AtomicBool,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    strays: AtomicU64,
    flows: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    wrong: AtomicU64,
    resets_seen: AtomicU64,
    misended: AtomicU64,
    hung: AtomicU64,
}

/// What a server has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServerStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that ended before a whole and valid request.
    pub strays: u64,
    /// Flows that have ended.
    pub flows: u64,
    /// Bytes received in ended flows.
    pub received: u64,
    /// Bytes sent in ended flows, as far as the kernel took them.
    pub sent: u64,
    /// Received bytes that were wrong or too many.
    pub wrong: u64,
    /// Flows that ended with an error from the network: a reset, most often.
    pub resets_seen: u64,
    /// Flows whose end was not what the client asked for.
    pub misended: u64,
    /// Flows that did not end within their budget; among `misended` too.
    pub hung: u64,
}

impl Server {
    /// Listens on all of `addrs` (port 0 picks one) in the calling thread's network namespace.
    ///
    /// Errors are those of bind and listen; the addresses of both families may share a port.
    pub fn start(addrs: &[SocketAddr]) -> io::Result<Self> {
        let listeners = addrs.iter().map(listen).collect::<io::Result<Vec<_>>>()?;
        let addrs = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let shared = Arc::<Shared>::default();
        let acceptor = Builder::new().name("gen-accept".into()).spawn({
            let shared = Arc::clone(&shared);
            move || accept_all(&listeners, &shared)
        })?;
        Ok(Self { addrs, shared, acceptor: Some(acceptor) })
    }

    /// The addresses it listens on, with their ports, in the order they were given.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Its account of single flows, which `storm` and `upload_watch` need.
    pub fn ledger(&self) -> Ledger {
        self.shared.ledger.clone()
    }

    /// What it has counted so far.
    pub fn stats(&self) -> ServerStats {
        let counts = &self.shared.counts;
        ServerStats {
            accepted: counts.accepted.load(Relaxed),
            strays: counts.strays.load(Relaxed),
            flows: counts.flows.load(Relaxed),
            received: counts.received.load(Relaxed),
            sent: counts.sent.load(Relaxed),
            wrong: counts.wrong.load(Relaxed),
            resets_seen: counts.resets_seen.load(Relaxed),
            misended: counts.misended.load(Relaxed),
            hung: counts.hung.load(Relaxed),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            // A panic there has been printed; it must not become a second one here.
            let _ = acceptor.join();
        }
    }
}

fn listen(addr: &SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(*addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&(*addr).into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Accepts until told to stop, then waits for the flows, which are told alike.
fn accept_all(listeners: &[TcpListener], shared: &Arc<Shared>) {
    let mut flows: Vec<JoinHandle<()>> = Vec::new();
    let tick = Timespec::try_from(TICK).ok();
    while !shared.stop.load(Relaxed) {
        let mut ready: Vec<_> =
            listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)).collect();
        // An interrupted poll is one more round.
        let _ = poll(&mut ready, tick.as_ref());
        flows.retain(|flow| !flow.is_finished());
        for listener in listeners {
            while let Ok((stream, _)) = listener.accept() {
                shared.counts.accepted.fetch_add(1, Relaxed);
                let shared = Arc::clone(shared);
                let serve = move || serve(stream, &shared);
                // Without a thread the connection is closed, and the client's side reports it.
                flows.extend(Builder::new().stack_size(STACK).spawn(serve));
            }
        }
    }
    for flow in flows {
        let _ = flow.join();
    }
}

fn serve(stream: TcpStream, shared: &Shared) {
    let Ok(request) = read_request(&stream, &shared.stop) else {
        shared.counts.strays.fetch_add(1, Relaxed);
        return endpoint::reset(stream);
    };
    let progress = shared.ledger.open(request.flow);
    let deadline = Instant::now() + request.budget;
    let bounds = Bounds { deadline, stop: &shared.stop, progress: &progress };
    let outcome = endpoint::play(stream, Script::server(&request), bounds);
    shared.counts.add(&request, &outcome);
    shared.ledger.close(request.flow, outcome);
}

fn read_request(mut stream: &TcpStream, stop: &AtomicBool) -> io::Result<Request> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let deadline = Instant::now() + REQUEST_WAIT;
    let mut wire = [0; REQUEST_LEN];
    let mut filled = 0;
    while filled < REQUEST_LEN {
        if stop.load(Relaxed) || Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        match stream.read(&mut wire[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(len) => filled += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                endpoint::wait(stream, PollFlags::IN, TICK)?;
            }
            Err(error) => return Err(error),
        }
    }
    Request::decode(&wire)
}

impl Counts {
    fn add(&self, request: &Request, outcome: &Outcome) {
        self.flows.fetch_add(1, Relaxed);
        self.received.fetch_add(outcome.received, Relaxed);
        self.sent.fetch_add(outcome.sent, Relaxed);
        self.wrong.fetch_add(outcome.wrong, Relaxed);
        let count = |counter: &AtomicU64, seen: bool| counter.fetch_add(u64::from(seen), Relaxed);
        count(&self.resets_seen, matches!(outcome.end, End::Broken(_)));
        count(&self.misended, !judge::is_due_at_sink(request, outcome));
        count(&self.hung, outcome.end == End::Hung);
    }
}
