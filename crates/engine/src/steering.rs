//! Joins carriers over all paths: the task between the kernel's MPTCP events and `core::joins`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use braid_core::joins::Joins;
use braid_core::path::Pairing;
use braid_sys::mptcp_pm::{Event, EventKind, PathManager, PmError, Subflow};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tracing::{debug, trace};

/// How long the task sleeps when no carrier wants anything.
const IDLE: Duration = Duration::from_secs(3600);

/// Sends carriers to the task that joins them.
#[derive(Clone, Debug)]
pub struct Steering {
    commands: mpsc::UnboundedSender<Command>,
}

/// Keeps a carrier joined for as long as it is held.
#[derive(Debug)]
pub struct Registration {
    token: u32,
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
enum Command {
    Register { token: u32, ways: Arc<[Pairing]>, first: usize },
    Forget { token: u32 },
}

impl Steering {
    /// Subscribes to the kernel's events and starts the task.
    ///
    /// # Errors
    /// When the kernel lets us neither listen nor steer.
    pub async fn start() -> Result<Self, PmError> {
        let manager = PathManager::connect()?;
        let events = manager.events().await?;
        let (commands, receiver) = mpsc::unbounded_channel();
        tokio::spawn(Task { manager, carriers: HashMap::new() }.run(events, receiver));
        Ok(Self { commands })
    }

    /// Has the connection `token`, dialled over the way numbered `first`, joined over the others.
    #[must_use]
    pub fn register(&self, token: u32, ways: Arc<[Pairing]>, first: usize) -> Registration {
        let _ = self.commands.send(Command::Register { token, ways, first });
        Registration { token, commands: self.commands.clone() }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Forget { token: self.token });
    }
}

struct Task {
    manager: PathManager,
    carriers: HashMap<u32, Joins>,
}

impl Task {
    async fn run(
        mut self,
        mut events: impl futures_util::Stream<Item = Event> + Unpin,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) {
        loop {
            let wake = self.wake();
            tokio::select! {
                // Registrations first: an event must find its carrier.
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                event = events.next() => match event {
                    Some(event) => self.event(event),
                    None => return,
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.ask().await;
        }
    }

    fn wake(&self) -> Instant {
        let soonest = self.carriers.values().filter_map(Joins::wake).min();
        soonest.unwrap_or_else(|| Instant::now() + IDLE)
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Register { token, ways, first } => {
                self.carriers.insert(token, Joins::new(&ways, first, Instant::now()));
            }
            Command::Forget { token } => {
                self.carriers.remove(&token);
            }
        }
    }

    fn event(&mut self, event: Event) {
        trace!(token = event.token, kind = ?event.kind, "MPTCP event");
        let Some(joins) = self.carriers.get_mut(&event.token) else { return };
        match event.kind {
            EventKind::Established => joins.handle_established(Instant::now()),
            EventKind::SubflowJoined { local } => joins.handle_joined(local),
            EventKind::SubflowClosed { local, error } => {
                debug!(token = event.token, %local, error, "subflow closed");
                joins.handle_closed(local, Instant::now());
            }
            EventKind::Closed => {
                self.carriers.remove(&event.token);
            }
        }
    }

    async fn ask(&mut self) {
        let now = Instant::now();
        for (token, joins) in &mut self.carriers {
            for way in joins.poll(now) {
                if let Err(error) = self.manager.create(*token, &subflow(&way)).await {
                    debug!(token, local = %way.local, %error, "subflow refused");
                    joins.handle_closed(way.local, now);
                }
            }
        }
    }
}

fn subflow(way: &Pairing) -> Subflow {
    // Identifier 0 is the first subflow's address, so paths count from 1.
    let local_id = u8::try_from(way.path + 1).unwrap_or(u8::MAX);
    Subflow { local_id, local: way.local, remote: way.remote, backup: way.backup }
}
