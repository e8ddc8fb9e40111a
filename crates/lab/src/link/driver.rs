//! The thread of a link: moves frames between two TAP devices as a model each way says.
//!
//! One system call reads a frame and one writes it, since TAP has no batch calls; the write runs
//! the receiving namespace's network stack. What the link is told comes from its handle.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use braid_sys::{sched, tap::Tap};
use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::handle::{Command, Counters, Direction, Inbox, Shared};
use super::inspect::{self, Pattern};
use super::model::Model;
use super::shape::{Duplex, Schedule, Shape, Wander};

/// Above ordinary programs, below what must measure the link.
const PRIORITY: u8 = 10;

/// Room for a frame; one that fills it may have been cut, and is not carried.
const FRAME_ROOM: usize = 2001;

/// Frames moved each way before the other way and the commands have their turn.
const BATCH: usize = 16;

/// A frame, in a buffer that is used again.
#[derive(Debug)]
struct Frame {
    length: usize,
    room: Box<[u8; FRAME_ROOM]>,
}

/// One direction: from one of the ends to the other.
struct Lane {
    direction: Direction,
    model: Model<Frame>,
    undeliverable: u64,
    forbidden: u64,
    found: u64,
}

/// What must not enter.
#[derive(Default)]
struct Watched {
    prefixes: Vec<IpNet>,
    patterns: Vec<Pattern>,
}

/// The state of a link's thread.
pub(super) struct Driver {
    ends: [Tap; 2],
    lanes: [Lane; 2],
    wander: Option<(Schedule, u64)>,
    /// What `wander` is started from.
    wander_seed: Option<(Wander, u64)>,
    watched: Watched,
    black_hole: bool,
    carrier: bool,
    pool: Vec<Frame>,
    inbox: Inbox,
    wake: Arc<OwnedFd>,
    shared: Arc<Shared>,
    start: Instant,
}

impl Driver {
    pub(super) fn new(
        ends: [Tap; 2],
        duplex: &Duplex,
        seed: u64,
        inbox: Inbox,
        wake: Arc<OwnedFd>,
        shared: Arc<Shared>,
    ) -> Driver {
        // One stream of chance for each use, so that traffic one way changes nothing the other.
        let mut seeds = fastrand::Rng::with_seed(seed);
        let mut lane = |direction, shape| Lane {
            direction,
            model: Model::new(shape, seeds.u64(..)),
            undeliverable: 0,
            forbidden: 0,
            found: 0,
        };
        let lanes = [lane(Direction::Up, duplex.up), lane(Direction::Down, duplex.down)];
        let wander_seed = duplex.wander.clone().map(|wander| (wander, seeds.u64(..)));
        let schedule = |(wander, seed): (Wander, u64)| (Schedule::new(wander, seed), 0);
        let wander = wander_seed.clone().map(schedule);
        Driver {
            ends,
            lanes,
            wander,
            wander_seed,
            watched: Watched::default(),
            black_hole: false,
            carrier: true,
            pool: Vec::new(),
            inbox,
            wake,
            shared,
            start: Instant::now(),
        }
    }

    /// Runs until told to end, or until a device is gone. `ready` hears whether the thread is
    /// under real-time priority.
    pub(super) fn run(mut self, ready: impl FnOnce(bool)) {
        let realtime = sched::set_realtime(PRIORITY).is_ok();
        if !realtime {
            // The next best; refused by no kernel.
            let _ = sched::set_exact_timers();
        }
        ready(realtime);
        // The one error is that a device is gone, and with it the link.
        while let Ok(true) = self.turn() {}
    }

    /// One round; false when told to end.
    fn turn(&mut self) -> io::Result<bool> {
        if !self.obey() {
            return Ok(false);
        }
        self.wander();
        let mut busy = false;
        for index in 0..2 {
            busy |= self.take(index)?;
            busy |= self.give(index)?;
            self.lanes[index].publish(&self.shared);
            self.pool.extend(self.lanes[index].model.reclaim());
        }
        if !busy {
            self.wait()?;
        }
        Ok(true)
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Does what was told since the last turn; false at the end.
    fn obey(&mut self) -> bool {
        while let Ok((command, answer)) = self.inbox.try_recv() {
            if matches!(command, Command::End) {
                return false;
            }
            // Whoever asked may have stopped waiting.
            let _ = answer.send(self.act(command));
        }
        true
    }

    fn act(&mut self, command: Command) -> io::Result<()> {
        let now = self.now();
        match command {
            Command::Shape(direction, shape) => {
                self.lanes[direction.index()].model.set_shape(now, shape);
            }
            Command::BlackHole(on) => {
                self.black_hole = on;
                self.cut(now);
            }
            Command::Carrier(on) => {
                self.carrier = on;
                self.cut(now);
                self.ends.iter().try_for_each(|end| end.set_carrier(on))?;
            }
            Command::Forbid(prefixes) => self.watched.prefixes = prefixes,
            Command::WatchFor(patterns) => self.watched.patterns = patterns,
            Command::RestartWander => {
                let start = |(wander, seed)| (Schedule::new(wander, seed), now);
                self.wander = self.wander_seed.clone().map(start);
            }
            Command::End => {}
        }
        self.lanes.iter().for_each(|lane| lane.publish(&self.shared));
        Ok(())
    }

    fn cut(&mut self, now: u64) {
        let cut = self.black_hole || !self.carrier;
        self.lanes.iter_mut().for_each(|lane| lane.model.set_cut(now, cut));
    }

    /// Draws the next rate when it is time.
    fn wander(&mut self) {
        let now = self.now();
        let Some((schedule, next)) = &mut self.wander else { return };
        while *next <= now {
            let Some((rate, hold)) = schedule.next() else { return };
            for lane in &mut self.lanes {
                let shape = Shape { rate, ..lane.model.shape() };
                lane.model.set_shape((*next).max(now), shape);
            }
            *next += hold.as_nanos() as u64;
        }
    }

    /// Takes frames that the namespace sent; true when there may be more.
    fn take(&mut self, index: usize) -> io::Result<bool> {
        for _ in 0..BATCH {
            let mut frame = self.pool.pop().unwrap_or_else(Frame::new);
            match self.ends[index].read(&mut frame.room[..]) {
                Ok(length) => frame.length = length,
                Err(error) => {
                    self.pool.push(frame);
                    return if error.kind() == io::ErrorKind::WouldBlock {
                        Ok(false)
                    } else {
                        Err(error)
                    };
                }
            }
            let now = self.now();
            self.lanes[index].enter(now, frame, &self.watched, &self.shared);
        }
        Ok(true)
    }

    /// Hands over frames that are due; true when there may be more.
    fn give(&mut self, index: usize) -> io::Result<bool> {
        for _ in 0..BATCH {
            let now = self.now();
            let lane = &mut self.lanes[index];
            let Some(frame) = lane.model.deliver(now) else { return Ok(false) };
            let written = self.ends[1 - index].write(&frame.room[..frame.length]);
            self.pool.push(frame);
            if let Err(error) = written {
                if error.raw_os_error() == Some(Errno::BADFD.raw_os_error()) {
                    return Err(error);
                }
                lane.undeliverable += 1;
            }
        }
        Ok(true)
    }

    /// Sleeps until a frame comes, one is due, the rate changes, or we are told something.
    fn wait(&mut self) -> io::Result<()> {
        let due = self.lanes.iter().filter_map(|lane| lane.model.wake_at());
        let wake_at = due.chain(self.wander.as_ref().map(|(_, next)| *next)).min();
        let left = |at: u64| timespec(Duration::from_nanos(at.saturating_sub(self.now())));
        let timeout = wake_at.map(left);
        let [a, b] = &self.ends;
        let mut fds = [
            PollFd::new(a, PollFlags::IN),
            PollFd::new(b, PollFlags::IN),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !fds[2].revents().is_empty() {
            rustix::io::read(&self.wake, &mut [0u8; 8])?;
        }
        Ok(())
    }
}

impl Lane {
    fn enter(&mut self, now: u64, frame: Frame, watched: &Watched, shared: &Shared) {
        let bytes = &frame.room[..frame.length];
        if let Some(sighting) = inspect::sight(bytes, &watched.prefixes) {
            self.forbidden += 1;
            shared.describe(self.direction, sighting);
        }
        for pattern in inspect::find(bytes, &watched.patterns) {
            self.found += 1;
            shared.name(self.direction, pattern);
        }
        if frame.length < FRAME_ROOM {
            self.model.offer(now, frame.length, frame);
        } else {
            self.undeliverable += 1;
        }
    }

    fn publish(&self, shared: &Shared) {
        let (queue_bytes, queue_frames) = self.model.queued();
        let counters = Counters {
            tally: self.model.tally(),
            undeliverable: self.undeliverable,
            forbidden: self.forbidden,
            found: self.found,
            queue_bytes,
            queue_frames,
        };
        shared.publish(self.direction, &counters);
    }
}

impl Frame {
    fn new() -> Frame {
        Frame { length: 0, room: Box::new([0; FRAME_ROOM]) }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
