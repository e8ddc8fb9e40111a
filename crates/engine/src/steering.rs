//! Joins connections to peers over all paths, and keeps flows that are soon over off the far ones:
//! the task between the kernel's MPTCP events and `core::joins`.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use braid_core::joins::{Ask, Joins};
use braid_core::path::Ends;
use braid_sys::mptcp_pm::{Event, EventKind, PathManager, PmError, Subflow};
use futures_util::stream::{BoxStream, StreamExt as _};
use portable_atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;
use tracing::{debug, error, trace};

use crate::dial::KnownWays;

/// How long the task sleeps when no connection wants anything.
const IDLE: Duration = Duration::from_secs(3600);

/// Between two attempts to subscribe to the kernel's events.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);

/// Bytes after which a flow is bulk, and worth a far way's while.
const BULK: usize = 128 * 1024;

/// Sends connections to the task that joins them.
#[derive(Clone, Debug)]
pub struct Steering {
    commands: mpsc::UnboundedSender<Command>,
}

/// Keeps a connection joined for as long as it is held, and shows over which ways it is.
#[derive(Debug)]
pub struct Registration {
    token: u32,
    commands: mpsc::UnboundedSender<Command>,
    state: Arc<Mutex<PlaceState>>,
    /// Bytes since the connection last came to rest.
    moved: AtomicUsize,
}

/// Over which ways a connection goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaceState {
    /// The path of the first subflow in the kernel's list, on which a lone record leaves; none
    /// while there is no subflow, and while that is over no way to the peer any more.
    pub first: Option<usize>,
    /// The paths that have a subflow, a bit each by their number.
    pub joined: u64,
}

#[derive(Debug)]
enum Command {
    Register { token: u32, connection: Connection },
    Spread { token: u32, spread: bool },
    Forget { token: u32 },
    WaysChanged,
}

impl Steering {
    /// Subscribes to the kernel's events; also returns the task, which ends with its last user.
    ///
    /// # Errors
    /// When the kernel lets us neither listen nor steer.
    pub async fn start() -> Result<(Self, impl Future<Output = ()> + Send), PmError> {
        let manager = PathManager::connect()?;
        let events = manager.events().await?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let task = Task { manager, connections: HashMap::new(), wakes: BTreeSet::new() };
        Ok((Self { commands }, task.run(events, receiver)))
    }

    /// Has the connection `token` joined over all ways; `first` is what it was dialled over.
    #[must_use]
    pub fn register(&self, token: u32, ways: &KnownWays, first: Ends) -> Registration {
        let joins = Joins::new(&ways.get().all(), first, Instant::now());
        let state = Arc::new(Mutex::new(place_state(&joins)));
        let (ways, of_task) = (ways.clone(), Arc::clone(&state));
        let connection = Connection { joins, ways, state: of_task, wake: None };
        let _ = self.commands.send(Command::Register { token, connection });
        let moved = AtomicUsize::new(0);
        Registration { token, commands: self.commands.clone(), state, moved }
    }

    /// Ways are others now, dead or alive again: all connections leave and take ways accordingly.
    pub fn ways_changed(&self) {
        let _ = self.commands.send(Command::WaysChanged);
    }
}

impl Registration {
    /// Over which ways the connection goes now.
    #[must_use]
    pub fn state(&self) -> PlaceState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes more go over the connection: from a certain number on, over its far ways too.
    pub fn moved(&self, bytes: usize) {
        let before = self.moved.fetch_add(bytes, Ordering::Relaxed);
        if before < BULK && before + bytes >= BULK {
            let _ = self.commands.send(Command::Spread { token: self.token, spread: true });
        }
    }

    /// The connection is one of many at work: together they are bulk.
    pub fn crowded(&self) {
        self.moved(BULK);
    }

    /// The connection carries nothing for now.
    pub fn rests(&self) {
        if self.moved.swap(0, Ordering::Relaxed) >= BULK {
            let _ = self.commands.send(Command::Spread { token: self.token, spread: false });
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Forget { token: self.token });
    }
}

fn place_state(joins: &Joins) -> PlaceState {
    PlaceState { first: joins.first(), joined: joins.joined() }
}

struct Task {
    manager: PathManager,
    connections: HashMap<u32, Connection>,
    /// When which connection wants to be polled.
    wakes: BTreeSet<(Instant, u32)>,
}

#[derive(Debug)]
struct Connection {
    joins: Joins,
    ways: KnownWays,
    state: Arc<Mutex<PlaceState>>,
    wake: Option<Instant>,
}

impl Task {
    async fn run(
        mut self,
        mut events: BoxStream<'static, Event>,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) {
        loop {
            let wake = self.wakes.first().map_or_else(|| Instant::now() + IDLE, |(at, _)| *at);
            tokio::select! {
                // Registrations first: an event must find its connection.
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => return,
                },
                event = events.next() => match event {
                    Some(event) => self.event(event).await,
                    None => events = self.subscribe_again().await,
                },
                () = tokio::time::sleep_until(wake.into()) => self.woken().await,
            }
        }
    }

    /// Without events nobody would join connections any more, and peers could not join ours.
    async fn subscribe_again(&self) -> BoxStream<'static, Event> {
        error!("the kernel's MPTCP events have ended: subscribing again");
        loop {
            match self.manager.events().await {
                Ok(events) => return events,
                Err(error) => error!("cannot subscribe to MPTCP events: {error}"),
            }
            tokio::time::sleep(SUBSCRIBE_AGAIN).await;
        }
    }

    async fn woken(&mut self) {
        let now = Instant::now();
        while let Some((_, token)) = self.wakes.first().copied().filter(|(at, _)| *at <= now) {
            self.ask(token).await;
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Register { token, connection } => {
                self.forget(token);
                self.connections.insert(token, connection);
                // They may have changed while it was on its way here.
                self.take_ways(token);
                self.ask(token).await;
            }
            Command::Spread { token, spread } => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.joins.set_spread(spread);
                    self.ask(token).await;
                }
            }
            Command::Forget { token } => self.forget(token),
            Command::WaysChanged => self.ways_changed().await,
        }
    }

    fn take_ways(&mut self, token: u32) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.joins.set_ways(&connection.ways.get().all(), Instant::now());
        }
    }

    async fn ways_changed(&mut self) {
        let began = Instant::now();
        let tokens: Vec<u32> = self.connections.keys().copied().collect();
        let count = tokens.len();
        for token in tokens {
            self.take_ways(token);
            self.ask(token).await;
        }
        debug!(connections = count, took = ?began.elapsed(), "connections follow their ways");
    }

    fn forget(&mut self, token: u32) {
        if let Some(Connection { wake: Some(at), .. }) = self.connections.remove(&token) {
            self.wakes.remove(&(at, token));
        }
    }

    async fn event(&mut self, event: Event) {
        trace!(token = event.token, kind = ?event.kind, "MPTCP event");
        let Some(connection) = self.connections.get_mut(&event.token) else { return };
        let (joins, now) = (&mut connection.joins, Instant::now());
        match event.kind {
            EventKind::Established => joins.handle_established(now),
            EventKind::SubflowJoined { ends } => {
                if let Some((path, round_trip)) = joins.handle_joined(ends, now) {
                    connection.ways.get().answered(path, round_trip);
                }
            }
            EventKind::SubflowClosed { ends, error } => {
                debug!(token = event.token, local = %ends.local, error, "subflow closed");
                joins.handle_closed(ends, now);
            }
            EventKind::Closed => return self.forget(event.token),
        }
        self.ask(event.token).await;
    }

    /// Asks the kernel for what a connection lacks, and notes when to look again.
    async fn ask(&mut self, token: u32) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let (joins, now) = (&mut connection.joins, Instant::now());
        let asks = {
            let ways = connection.ways.get();
            joins.poll(now, |path| ways.worth(path))
        };
        for ask in asks {
            if let Err(error) = tell(&self.manager, token, ask).await {
                trace!(token, ?ask, %error, "refused");
                joins.handle_refused(ask, now);
            }
        }
        *connection.state.lock().unwrap_or_else(PoisonError::into_inner) = place_state(joins);
        let wake = joins.wake();
        if let Some(old) = std::mem::replace(&mut connection.wake, wake) {
            self.wakes.remove(&(old, token));
        }
        if let Some(new) = wake {
            self.wakes.insert((new, token));
        }
    }
}

async fn tell(manager: &PathManager, token: u32, ask: Ask) -> Result<(), PmError> {
    match ask {
        Ask::Create { way, id, backup } => {
            let (local, remote) = (way.local, way.remote);
            manager.create(token, &Subflow { local_id: id, local, remote, backup }).await
        }
        Ask::SetBackup { way, backup } => {
            manager.set_backup(token, way.local, way.remote, backup).await
        }
        Ask::Destroy { ends, withdrawn } => {
            // While the subflow is there the identifier is known. The far end may have dropped it.
            if let Some(id) = withdrawn
                && let Err(error) = manager.remove(token, id).await
            {
                trace!(token, id, %error, "address not withdrawn");
            }
            manager.destroy(token, ends).await
        }
    }
}

#[cfg(test)]
mod tests;
