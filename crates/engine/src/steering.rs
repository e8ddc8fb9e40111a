//! Joins connections to peers over all paths: the task between the kernel's MPTCP events and
//! `core::joins`.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use braid_core::joins::Joins;
use braid_core::path::Pairing;
use braid_sys::mptcp_pm::{Event, EventKind, PathManager, PmError, Subflow};
use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tracing::{debug, error, trace};

/// How long the task sleeps when no connection wants anything.
const IDLE: Duration = Duration::from_secs(3600);

/// Between two attempts to subscribe to the kernel's events.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);

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
}

/// Over which ways a connection goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaceState {
    /// The way of the first subflow in the kernel's list, on which a lone record leaves; none
    /// while there is no subflow.
    pub first: Option<usize>,
    /// How many ways have a subflow.
    pub joined: usize,
}

#[derive(Debug)]
enum Command {
    Register { token: u32, joins: Joins, state: Arc<Mutex<PlaceState>> },
    Forget { token: u32 },
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

    /// Has the connection `token`, dialled over the way numbered `first`, joined over the others.
    #[must_use]
    pub fn register(&self, token: u32, ways: &[Pairing], first: usize) -> Registration {
        let joins = Joins::new(ways, first, Instant::now());
        let state = Arc::new(Mutex::new(place_state(&joins)));
        let command = Command::Register { token, joins, state: Arc::clone(&state) };
        let _ = self.commands.send(command);
        Registration { token, commands: self.commands.clone(), state }
    }
}

impl Registration {
    /// Over which ways the connection goes now.
    #[must_use]
    pub fn state(&self) -> PlaceState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

struct Connection {
    joins: Joins,
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
            Command::Register { token, joins, state } => {
                self.forget(token);
                self.connections.insert(token, Connection { joins, state, wake: None });
                self.ask(token).await;
            }
            Command::Forget { token } => self.forget(token),
        }
    }

    fn forget(&mut self, token: u32) {
        if let Some(Connection { wake: Some(at), .. }) = self.connections.remove(&token) {
            self.wakes.remove(&(at, token));
        }
    }

    async fn event(&mut self, event: Event) {
        trace!(token = event.token, kind = ?event.kind, "MPTCP event");
        let Some(Connection { joins, .. }) = self.connections.get_mut(&event.token) else { return };
        match event.kind {
            EventKind::Established => joins.handle_established(Instant::now()),
            EventKind::SubflowJoined { local } => joins.handle_joined(local),
            EventKind::SubflowClosed { local, error } => {
                debug!(token = event.token, %local, error, "subflow closed");
                joins.handle_closed(local, Instant::now());
            }
            EventKind::Closed => return self.forget(event.token),
        }
        self.ask(event.token).await;
    }

    /// Asks the kernel for the subflows that a connection lacks, and notes when to look again.
    async fn ask(&mut self, token: u32) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let (joins, now) = (&mut connection.joins, Instant::now());
        for way in joins.poll(now) {
            if let Err(error) = self.manager.create(token, &subflow(&way)).await {
                debug!(token, local = %way.local, %error, "subflow refused");
                joins.handle_closed(way.local, now);
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

fn subflow(way: &Pairing) -> Subflow {
    // Identifier 0 is the first subflow's address, so paths count from 1.
    let local_id = u8::try_from(way.path + 1).unwrap_or(u8::MAX);
    Subflow { local_id, local: way.local, remote: way.remote, backup: way.backup }
}
