//! A running link as others hold it: what it is told and what it has counted.
//!
//! The thread behind it is the driver's.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use braid_sys::tap::Tap;
use ipnet::IpNet;
use portable_atomic::{AtomicU64, Ordering};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use serde::Serialize;

use super::driver::Driver;
use super::inspect::{Pattern, Sighting};
use super::model::Tally;
use super::shape::{Duplex, Shape};

/// Which way over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the first end to the second: ingress box to egress box.
    Up,
    /// From the second end to the first: egress box to ingress box, towards the host.
    Down,
}

impl Direction {
    pub(super) fn index(self) -> usize {
        match self {
            Direction::Up => 0,
            Direction::Down => 1,
        }
    }
}

/// What one direction of a link has counted since its start. Fields read together may be apart
/// by the frames of some microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// What became of the frames.
    #[serde(flatten)]
    pub tally: Tally,
    /// Frames longer than the emulator carries, and those that the receiving device refused,
    /// being down.
    pub undeliverable: u64,
    /// Frames that entered with an address of [`Link::forbid`].
    pub forbidden: u64,
    /// Patterns of [`Link::watch_for`] in frames that entered, each once a frame.
    pub found: u64,
    /// Bytes in the queue now.
    pub queue_bytes: u64,
    /// Frames in the queue now.
    pub queue_frames: u64,
}

/// What a link is told; each is answered once it is in force.
#[derive(Debug)]
pub(super) enum Command {
    Shape(Direction, Shape),
    BlackHole(bool),
    Carrier(bool),
    Forbid(Vec<IpNet>),
    WatchFor(Vec<Pattern>),
    RestartWander,
    End,
}

pub(super) type Inbox = Receiver<(Command, SyncSender<io::Result<()>>)>;

/// What the thread shows to its holder.
#[derive(Debug, Default)]
pub(super) struct Shared {
    counters: [AtomicCounters; 2],
    sightings: Mutex<Vec<(Direction, Sighting)>>,
    finds: Mutex<Vec<(Direction, String)>>,
}

/// How many forbidden packets are described; all are counted.
const SIGHTINGS: usize = 8;

impl Shared {
    pub(super) fn publish(&self, direction: Direction, counters: &Counters) {
        self.counters[direction.index()].store(counters);
    }

    pub(super) fn describe(&self, direction: Direction, sighting: Sighting) {
        let mut sightings = self.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        if sightings.len() < SIGHTINGS {
            sightings.push((direction, sighting));
        }
    }

    pub(super) fn name(&self, direction: Direction, pattern: &Pattern) {
        let mut finds = self.finds.lock().unwrap_or_else(PoisonError::into_inner);
        let known = finds.iter().any(|(way, name)| *way == direction && *name == pattern.name);
        if !known {
            finds.push((direction, pattern.name.clone()));
        }
    }
}

/// An emulated link at work, with a real-time thread of its own. Dropping it ends the thread and
/// takes away both devices.
#[derive(Debug)]
pub struct Link {
    name: String,
    realtime: bool,
    commands: Sender<(Command, SyncSender<io::Result<()>>)>,
    wake: Arc<OwnedFd>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Joins `a`, at the ingress side, and `b`, at the egress side. Loss, jitter and a wandering
    /// rate are the same for the same `seed`. Frames may have 2000 bytes.
    ///
    /// The link ends by itself when one of the devices is deleted. It keeps their namespaces
    /// alive.
    pub fn start(name: &str, a: Tap, b: Tap, duplex: &Duplex, seed: u64) -> io::Result<Link> {
        let (commands, inbox) = mpsc::channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let shared = Arc::new(Shared::default());
        let driver = Driver::new([a, b], duplex, seed, inbox, wake.clone(), shared.clone());
        let (ready, realtime) = mpsc::sync_channel(1);
        // The other end of `ready` is held until it has been heard.
        let run = move || driver.run(|realtime| _ = ready.send(realtime));
        let thread = Builder::new().name(name.into()).spawn(run)?;
        let realtime = realtime.recv().map_err(|_| ended(name))?;
        Ok(Link { name: name.into(), realtime, commands, wake, shared, thread: Some(thread) })
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its thread was granted real-time priority, without which its delays are worse.
    pub fn is_realtime(&self) -> bool {
        self.realtime
    }

    /// Changes one direction; see [`super::model::Model::set_shape`]. A wandering rate wanders
    /// on at its next draw. Like all that follow, it returns once in force, and fails only when
    /// the link has ended.
    pub fn set_shape(&self, direction: Direction, shape: Shape) -> io::Result<()> {
        self.tell(Command::Shape(direction, shape))
    }

    /// While on, frames in the link and those that enter it vanish; the carrier stays.
    pub fn black_hole(&self, on: bool) -> io::Result<()> {
        self.tell(Command::BlackHole(on))
    }

    /// Plugs both ends in or pulls them out; frames in the link are lost.
    pub fn carrier(&self, on: bool) -> io::Result<()> {
        self.tell(Command::Carrier(on))
    }

    /// Counts each frame that enters from now on with an IPv4 or IPv6 source or destination in
    /// one of `prefixes`, in place of those given before.
    pub fn forbid(&self, prefixes: &[IpNet]) -> io::Result<()> {
        self.tell(Command::Forbid(prefixes.to_vec()))
    }

    /// Looks for bytes in the TCP or UDP payload of each frame that enters from now on, in place of those
    /// given before. Each that is found counts once a frame.
    pub fn watch_for(&self, patterns: &[Pattern]) -> io::Result<()> {
        self.tell(Command::WatchFor(patterns.to_vec()))?;
        self.shared.finds.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    /// Has a wandering rate start over from its seed; nothing for another.
    pub fn restart_wander(&self) -> io::Result<()> {
        self.tell(Command::RestartWander)
    }

    /// The first few forbidden packets.
    pub fn sightings(&self) -> Vec<(Direction, Sighting)> {
        self.shared.sightings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The names of the patterns found since [`Link::watch_for`], once for each direction.
    pub fn finds(&self) -> Vec<(Direction, String)> {
        self.shared.finds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What one direction has counted; cheap, and never in the way of the link.
    pub fn counters(&self, direction: Direction) -> Counters {
        self.shared.counters[direction.index()].load()
    }

    fn tell(&self, command: Command) -> io::Result<()> {
        let (answer, result) = mpsc::sync_channel(1);
        self.commands.send((command, answer)).map_err(|_| ended(&self.name))?;
        rustix::io::write(&self.wake, &1u64.to_ne_bytes())?;
        result.recv().map_err(|_| ended(&self.name))?
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.tell(Command::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ended(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, format!("link {name} has ended"))
}

/// [`Counters`], written by one thread and read by others without a lock: a sampler that is
/// scheduled out must not hold up a real-time thread.
#[derive(Debug, Default)]
struct AtomicCounters([AtomicU64; 13]);

impl AtomicCounters {
    fn store(&self, counters: &Counters) {
        let Counters { tally, undeliverable, forbidden, found, queue_bytes, queue_frames } =
            *counters;
        let values = [
            tally.frames_in,
            tally.bytes_in,
            tally.frames_delivered,
            tally.bytes_delivered,
            tally.dropped_queue,
            tally.dropped_loss,
            tally.dropped_hole,
            undeliverable,
            forbidden,
            queue_bytes,
            queue_frames,
            found,
            tally.bytes_allowed,
        ];
        for (cell, value) in self.0.iter().zip(values) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    fn load(&self) -> Counters {
        let value = |index: usize| self.0[index].load(Ordering::Relaxed);
        let tally = Tally {
            frames_in: value(0),
            bytes_in: value(1),
            frames_delivered: value(2),
            bytes_delivered: value(3),
            dropped_queue: value(4),
            dropped_loss: value(5),
            dropped_hole: value(6),
            bytes_allowed: value(12),
        };
        Counters {
            tally,
            undeliverable: value(7),
            forbidden: value(8),
            queue_bytes: value(9),
            queue_frames: value(10),
            found: value(11),
        }
    }
}
