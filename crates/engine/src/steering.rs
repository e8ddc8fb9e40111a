//! Joins carriers over all paths: the task between the kernel's MPTCP events and `core::joins`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use braid_core::joins::Joins;
use braid_core::path::Pairing;
use braid_sys::mptcp_pm::{Event, EventKind, PathManager, PmError, Subflow};
use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tracing::{debug, error, trace};

/// How long the task sleeps when no carrier wants anything.
const IDLE: Duration = Duration::from_secs(3600);

/// Between two attempts to subscribe to the kernel's events.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);

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
    /// Subscribes to the kernel's events; also returns the task, which ends with its last user.
    ///
    /// # Errors
    /// When the kernel lets us neither listen nor steer.
    pub async fn start() -> Result<(Self, impl Future<Output = ()> + Send), PmError> {
        let manager = PathManager::connect()?;
        let events = manager.events().await?;
        let (commands, receiver) = mpsc::unbounded_channel();
        let task = Task { manager, carriers: HashMap::new() };
        Ok((Self { commands }, task.run(events, receiver)))
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
        mut events: BoxStream<'static, Event>,
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
                    None => events = self.subscribe_again().await,
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.ask().await;
        }
    }

    /// Without events nobody would join carriers any more, and peers could not join ours.
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
