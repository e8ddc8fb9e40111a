//! Plays one end of a flow on a socket, both directions at once, and reports how it ended.
//!
//! One thread, one non-blocking socket: read before write in every round, so that which of an end of
//! stream and a reset came first is never left to a race of two threads. What should have happened is
//! `judge`'s.

use super::script::Script;
use portable_atomic::AtomicU64;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const CHUNK: usize = 64 << 10;

/// The longest that a thread here goes without looking at its stop flag.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// How a flow ended, seen from one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Everything sent, and the other side's end seen where it is due.
    Complete,
    /// Reset by this end, as its script says.
    Aborted,
    /// The connection broke with this error.
    Broken(String),
    /// A clean end of stream where bytes are missing or a reset is due.
    EarlyEof,
    /// Nothing of the above before the deadline.
    Hung,
    /// Stopped from outside.
    Stopped,
}

/// What one end saw of a flow.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Received bytes that differ from what belongs there, or that are too many.
    pub(super) wrong: u64,
    /// Offset of the first of them.
    pub(super) first_wrong: Option<u64>,
    pub(super) first_byte: Option<Instant>,
    /// When the last byte that is due arrived.
    pub(super) last_byte: Option<Instant>,
    pub(super) end: End,
}

/// What bounds a flow from outside, and who follows it.
#[derive(Clone, Copy)]
pub(super) struct Bounds<'a> {
    /// From here on it counts as hung.
    pub(super) deadline: Instant,
    /// Set to end it early.
    pub(super) stop: &'a AtomicBool,
    /// Follows the bytes received.
    pub(super) progress: &'a AtomicU64,
}

/// Plays `script` on `stream` and closes it: with a reset, unless the flow is complete.
pub(super) fn play(stream: TcpStream, script: Script, bounds: Bounds<'_>) -> Outcome {
    let mut endpoint = Endpoint::new(&stream, script, bounds);
    let end = endpoint.run().unwrap_or_else(|error| End::Broken(error.to_string()));
    let outcome = Outcome { end, ..endpoint.outcome };
    if outcome.end != End::Complete {
        reset(stream);
    }
    outcome
}

/// Closes `stream` with a reset.
pub(super) fn reset(stream: TcpStream) {
    // Fails only for a socket that has no connection left to reset.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

/// Waits until `stream` has one of `events` or `limit` has passed.
pub(super) fn wait(stream: &TcpStream, events: PollFlags, limit: Duration) -> io::Result<()> {
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(stream, events)], Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

struct Endpoint<'a> {
    stream: &'a TcpStream,
    script: Script,
    bounds: Bounds<'a>,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// The part of `outbox` that is still to be written.
    staged: std::ops::Range<usize>,
    paused_until: Option<Instant>,
    saw_eof: bool,
    closed: bool,
    outcome: Outcome,
}

impl<'a> Endpoint<'a> {
    fn new(stream: &'a TcpStream, script: Script, bounds: Bounds<'a>) -> Self {
        let outcome = Outcome {
            sent: 0,
            received: 0,
            wrong: 0,
            first_wrong: None,
            first_byte: None,
            last_byte: None,
            end: End::Hung,
        };
        Self {
            stream,
            inbox: vec![0; CHUNK],
            outbox: vec![0; script.send.min(CHUNK as u64) as usize],
            staged: 0..0,
            script,
            bounds,
            paused_until: None,
            saw_eof: false,
            closed: false,
            outcome,
        }
    }

    fn run(&mut self) -> io::Result<End> {
        self.stream.set_nonblocking(true)?;
        loop {
            self.close_when_sent()?;
            if let Some(end) = self.ended() {
                return Ok(end);
            }
            self.wait()?;
            if self.wants_read() && self.read()? {
                return Ok(End::EarlyEof);
            }
            if self.wants_write() > 0
                && let Err(error) = self.write()
            {
                return self.after_failed_write(error);
            }
        }
    }

    fn ended(&self) -> Option<End> {
        let Outcome { sent, received, .. } = self.outcome;
        if self.script.abort.is_some_and(|(out, inc)| sent >= out && received >= inc) {
            Some(End::Aborted)
        } else if self.saw_eof && self.closed {
            Some(End::Complete)
        } else if self.bounds.stop.load(Ordering::Relaxed) {
            Some(End::Stopped)
        } else {
            (Instant::now() >= self.bounds.deadline).then_some(End::Hung)
        }
    }

    /// Sends our end of stream after our last byte, unless a reset is to end the flow.
    fn close_when_sent(&mut self) -> io::Result<()> {
        let closes = self.script.abort.is_none() && !self.script.awaits_reset;
        if closes && !self.closed && self.outcome.sent == self.script.send {
            self.closed = true;
            match self.stream.shutdown(Shutdown::Write) {
                // Reset under our hands: the next read tells by what.
                Err(error) if error.kind() == ErrorKind::NotConnected && !self.saw_eof => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn wants_read(&self) -> bool {
        !self.saw_eof && self.paused_until.is_none()
    }

    /// How many bytes may be written now.
    fn wants_write(&self) -> u64 {
        let hold = self.script.hold.filter(|_| !self.saw_eof);
        let abort = self.script.abort.map(|(sent, _)| sent);
        let bound = self.script.send.min(hold.unwrap_or(u64::MAX)).min(abort.unwrap_or(u64::MAX));
        bound.saturating_sub(self.outcome.sent)
    }

    fn wait(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let mut limit = TICK.min(self.bounds.deadline.saturating_duration_since(now));
        if let Some(until) = self.paused_until {
            limit = limit.min(until.saturating_duration_since(now));
            self.paused_until = Some(until).filter(|until| *until > now);
        }
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, self.wants_read());
        events.set(PollFlags::OUT, self.wants_write() > 0);
        if events.is_empty() {
            // A poll for nothing would still return at once for a hang-up.
            std::thread::sleep(limit);
            return Ok(());
        }
        wait(self.stream, events, limit)
    }

    /// Reads once; true for an end of stream that is not due.
    fn read(&mut self) -> io::Result<bool> {
        let mut stream = self.stream;
        match stream.read(&mut self.inbox) {
            Ok(0) => {
                self.saw_eof = true;
                Ok(self.outcome.received < self.script.receive
                    || self.script.awaits_reset
                    || self.script.abort.is_some())
            }
            Ok(len) => {
                self.arrived(len);
                Ok(false)
            }
            Err(error) if is_transient(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Checks and counts the first `len` bytes of the inbox.
    fn arrived(&mut self, len: usize) {
        let now = Instant::now();
        let outcome = &mut self.outcome;
        let due = self.script.receive.saturating_sub(outcome.received).min(len as u64);
        if let Err(found) = self.script.incoming.check(&self.inbox[..due as usize]) {
            outcome.wrong += found.wrong;
            outcome.first_wrong.get_or_insert(found.first);
        }
        if due < len as u64 {
            outcome.wrong += len as u64 - due;
            outcome.first_wrong.get_or_insert(self.script.receive);
        }
        outcome.received += len as u64;
        outcome.first_byte.get_or_insert(now);
        if outcome.received >= self.script.receive {
            outcome.last_byte.get_or_insert(now);
        }
        self.bounds.progress.store(outcome.received, Ordering::Relaxed);
        if let Some((_, pause)) = self.script.pause.take_if(|(at, _)| outcome.received >= *at) {
            self.paused_until = Some(now + pause);
        }
    }

    fn write(&mut self) -> io::Result<()> {
        if self.staged.is_empty() {
            let len = self.wants_write().min(CHUNK as u64) as usize;
            self.script.outgoing.fill(&mut self.outbox[..len]);
            self.staged = 0..len;
        }
        let mut stream = self.stream;
        match stream.write(&self.outbox[self.staged.clone()]) {
            Ok(len) => {
                self.staged.start += len;
                self.outcome.sent += len as u64;
                Ok(())
            }
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads what had arrived before the connection broke, and says how it broke.
    ///
    /// A write takes the socket's error, so reads after a reset see an end of stream; but it gets
    /// ECONNRESET only where none was received before, and EPIPE where one was.
    fn after_failed_write(&mut self, error: io::Error) -> io::Result<End> {
        while !self.saw_eof {
            let before = self.outcome.received;
            let early = self.read()?;
            if early && error.kind() != ErrorKind::ConnectionReset {
                return Ok(End::EarlyEof);
            }
            if before == self.outcome.received {
                break;
            }
        }
        Err(error)
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
