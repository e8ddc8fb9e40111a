//! Asks a peer over every way whether it hears us, and has carriers keep off the ways that are dead:
//! the task between sockets, the clock and `core::health`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use braid_core::health::{Action, Health, Report, State, TcpSigns, Trouble};
use braid_core::heartbeat::{HEARTBEAT_LEN, Heartbeat, Opener, Sealer};
use braid_core::keys::SessionId;
use braid_core::path::Pairing;
use braid_sys::mptcp::SubflowInfo;
use braid_sys::udp;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::dial::{Dialler, attempt};
use crate::peering::Peering;
use crate::session::Session;

/// Answers that may wait to be looked at; more are as lost.
const WAITING: usize = 256;

/// Without a session there are no keys, and nothing to ask.
const LOOK: Duration = Duration::from_secs(1);

/// How long a way may take to connect by TCP, to show that it lives.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// What is known of the ways to a peer, for all who ask.
#[derive(Debug)]
pub(crate) struct Vitals(Mutex<Health>);

/// What came to the task.
enum Came {
    Datagram([u8; HEARTBEAT_LEN]),
    Connected(Pairing),
}

/// The way's socket; what reads it ends with it.
struct Line {
    way: Pairing,
    socket: Arc<UdpSocket>,
    _reader: JoinSet<()>,
}

/// The keys of the session in use.
struct Keys {
    session: SessionId,
    sealer: Sealer,
    opener: Opener,
}

struct Asking {
    peering: Arc<Peering>,
    dialler: Arc<Dialler>,
    /// As they were looked at last, and when to try again those that have no socket.
    ways: Vec<Pairing>,
    retry: Option<Instant>,
    lines: BTreeMap<usize, Line>,
    keys: Option<Keys>,
    news: mpsc::Sender<Came>,
    /// Attempts to connect by TCP.
    attempts: JoinSet<()>,
}

impl Vitals {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Health::new(now)))
    }

    /// How the ways are, by their paths' numbers.
    pub(crate) fn reports(&self) -> BTreeMap<usize, Report> {
        self.health().reports().collect()
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the ways to a peer for as long as the box runs.
pub(crate) async fn keep(peering: Arc<Peering>, dialler: Arc<Dialler>) {
    let (news, mut came) = mpsc::channel(WAITING);
    let (lines, attempts) = (BTreeMap::new(), JoinSet::new());
    let (ways, retry) = (Vec::new(), None);
    let mut asking = Asking { peering, dialler, ways, retry, lines, keys: None, news, attempts };
    loop {
        asking.renew();
        let (wake, is_active) = asking.wake();
        tokio::select! {
            () = tokio::time::sleep_until(wake.into()) => {}
            () = asking.peering.pulse.moved(), if !is_active => {}
            Some(came) = came.recv() => asking.take(&came),
            Some(_) = asking.attempts.join_next() => {}
        }
        asking.poll();
    }
}

impl Asking {
    /// Takes up the session and the ways as they are now.
    fn renew(&mut self) {
        let session = self.peering.session();
        let current = session.as_ref().map(|session| session.id);
        if self.keys.as_ref().map(|keys| keys.session) != current {
            self.keys = session.and_then(|session| keys_of(&session));
            self.peering.vitals.health().handle_new_keys(Instant::now());
        }
        let (now, ways) = (Instant::now(), self.dialler.ways().get().all());
        if self.ways == ways && self.retry.is_none_or(|at| now < at) {
            return;
        }
        let mut health = self.peering.vitals.health();
        // One that leads elsewhere now is another one.
        self.lines.retain(|_, line| ways.contains(&line.way));
        health.set_ways(self.lines.keys().copied(), now);
        for way in ways.iter().filter(|way| !self.lines.contains_key(&way.path)).collect::<Vec<_>>()
        {
            self.lines.extend(line(*way, &self.news).map(|line| (way.path, line)));
        }
        health.set_ways(self.lines.keys().copied(), now);
        // They may be known to the dialler from another time, or new to it.
        for (number, report) in health.reports() {
            if let Some(line) = self.lines.get(&number) {
                self.dialler.set_state(&line.way, report.state);
            }
        }
        self.retry = (self.lines.len() < ways.len()).then_some(now + LOOK);
        self.ways = ways;
    }

    fn wake(&self) -> (Instant, bool) {
        let (now, health) = (Instant::now(), self.peering.vitals.health());
        let look = now + LOOK;
        let wake = if self.keys.is_some() { health.wake().min(look) } else { look };
        (wake, health.is_active(now))
    }

    fn take(&mut self, came: &Came) {
        let now = Instant::now();
        let mut health = self.peering.vitals.health();
        match came {
            Came::Datagram(datagram) => {
                let keys = self.keys.as_mut();
                if let Some((answer, _)) = keys.and_then(|keys| keys.opener.open(datagram)) {
                    health.handle_answer(answer, now);
                }
            }
            Came::Connected(way) if self.ways.contains(way) => {
                health.handle_connected(way.path, now);
            }
            Came::Connected(_) => {}
        }
    }

    fn poll(&mut self) {
        if self.keys.is_none() {
            return;
        }
        let now = Instant::now();
        let actions = {
            let mut health = self.peering.vitals.health();
            if self.peering.pulse.take() {
                health.handle_traffic(now);
            }
            health.poll(now, |way| self.signs(way))
        };
        for action in actions {
            match action {
                Action::Send(heartbeat) => self.send(heartbeat),
                Action::Turn { way, state } => self.turn(way, state),
                Action::Connect { way } => self.connect(way),
            }
        }
    }

    /// What TCP shows of a way: of the subflows of all carriers over it.
    fn signs(&self, way: usize) -> Option<TcpSigns> {
        let way = self.lines.get(&way)?.way;
        let carriers = self.peering.census.subflows();
        let over_it = |subflow: &&SubflowInfo| {
            subflow.local.ip() == way.local && subflow.remote == way.remote
        };
        let over_it: Vec<_> = carriers.iter().flatten().filter(over_it).collect();
        let silent =
            |subflow: &&SubflowInfo| subflow.last_data_received.min(subflow.last_ack_received);
        Some(TcpSigns {
            silent: over_it.iter().map(silent).min()?,
            timeouts: over_it.iter().map(|subflow| subflow.retransmits).max()?,
        })
    }

    fn send(&mut self, heartbeat: Heartbeat) {
        let line = self.lines.get(&heartbeat.way.into());
        let sealed = self.keys.as_mut().and_then(|keys| keys.sealer.seal(heartbeat));
        if let (Some(line), Some(datagram)) = (line, sealed) {
            // What the kernel refuses is as lost: that is what counts.
            let _ = udp::send(&line.socket, &datagram);
        }
    }

    fn turn(&self, way: usize, state: State) {
        let Some(Line { way, .. }) = self.lines.get(&way) else { return };
        self.dialler.set_state(way, state);
        let (peer, local, remote) = (&self.peering.peer.name, way.local, way.remote);
        match state {
            State::Up => info!(peer, %local, %remote, "way is up"),
            State::Degraded(Trouble::Loss) => {
                warn!(peer, %local, %remote, "way loses too much: it is a backup for now");
            }
            State::Degraded(Trouble::Delay) => {
                warn!(peer, %local, %remote, "way takes too long: it is a backup for now");
            }
            State::Down => warn!(peer, %local, %remote, "way is down: nothing comes back over it"),
        }
    }

    fn connect(&mut self, way: usize) {
        let Some(Line { way, .. }) = self.lines.get(&way) else { return };
        let (way, news, ways) = (*way, self.news.clone(), self.dialler.ways().clone());
        self.attempts.spawn(async move {
            // The connection is closed at once.
            let connected = tokio::time::timeout(CONNECT_LIMIT, attempt(&ways, way)).await;
            if let Ok(Ok(_)) = connected {
                drop(news.send(Came::Connected(way)).await);
            }
        });
    }
}

fn keys_of(session: &Session) -> Option<Keys> {
    let (sealer, opener) = session.asking()?;
    Some(Keys { session: session.id, sealer, opener })
}

/// `None` while the kernel refuses: the address is gone, and so will the way be.
fn line(way: Pairing, news: &mpsc::Sender<Came>) -> Option<Line> {
    let socket = udp::asking(way.local, way.remote);
    let socket = socket.inspect_err(|error| debug!(local = %way.local, %error, "no heartbeats"));
    let (socket, news) = (Arc::new(socket.ok()?), news.clone());
    let mut reader = JoinSet::new();
    let of_reader = Arc::clone(&socket);
    reader.spawn(async move {
        let mut room = [0; HEARTBEAT_LEN + 1];
        loop {
            match of_reader.recv(&mut room).await {
                Ok(HEARTBEAT_LEN) => {
                    let datagram = room.first_chunk().copied().unwrap_or([0; HEARTBEAT_LEN]);
                    // One that finds no room is as one that is lost.
                    let _ = news.try_send(Came::Datagram(datagram));
                }
                Ok(_) => {}
                // Nobody listens there, or a router says that there is no way: each once for what
                // was sent.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    Some(Line { way, socket, _reader: reader })
}
