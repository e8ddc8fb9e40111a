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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::pattern::Pattern;
    use std::{net::TcpListener, thread};

    const RECEIVED: u64 = 1000;

    /// Plays a receiver of 1000 bytes, changed by `change`, against `peer`, who is given those bytes.
    fn played(change: impl FnOnce(&mut Script), peer: fn(TcpStream, Vec<u8>)) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let mut script = Script {
            outgoing: Pattern::new(1),
            send: 0,
            incoming: Pattern::new(2),
            receive: RECEIVED,
            hold: None,
            abort: None,
            pause: None,
            awaits_reset: false,
        };
        let mut bytes = vec![0; RECEIVED as usize];
        Pattern::new(2).fill(&mut bytes);
        change(&mut script);
        let deadline = Instant::now() + Duration::from_secs(5);
        let (stop, progress) = (AtomicBool::new(false), AtomicU64::new(0));
        let bounds = Bounds { deadline, stop: &stop, progress: &progress };
        let peer = thread::spawn(move || peer(other, bytes));
        let outcome = play(ours, script, bounds);
        peer.join().unwrap();
        outcome
    }

    /// Sends without end, and after the first bytes reads nothing for a while.
    fn writes_blindly(script: &mut Script) {
        script.send = u64::MAX;
        script.pause = Some((1, Duration::from_millis(500)));
        script.awaits_reset = true;
    }

    #[test]
    fn exactly_the_bytes_due_are_right() {
        let outcome = played(|_| {}, |mut peer, bytes| peer.write_all(&bytes).unwrap());
        assert_eq!((outcome.end, outcome.wrong, outcome.received), (End::Complete, 0, RECEIVED));
        assert!(outcome.first_byte.unwrap() <= outcome.last_byte.unwrap());
    }

    #[test]
    fn bytes_after_the_last_are_wrong() {
        let outcome = played(
            |_| {},
            |mut peer, bytes| peer.write_all(&[&bytes[..], b"xyz"].concat()).unwrap(),
        );
        assert_eq!((outcome.wrong, outcome.first_wrong), (3, Some(RECEIVED)));
    }

    #[test]
    fn an_end_of_stream_one_byte_early_is_early() {
        let outcome =
            played(|_| {}, |mut peer, bytes| peer.write_all(&bytes[..bytes.len() - 1]).unwrap());
        assert_eq!((outcome.end, outcome.wrong), (End::EarlyEof, 0));
    }

    #[test]
    fn an_end_of_stream_where_a_reset_is_due_is_early_even_after_every_byte() {
        let outcome = played(
            |script| script.awaits_reset = true,
            |mut peer, bytes| peer.write_all(&bytes).unwrap(),
        );
        assert_eq!(outcome.end, End::EarlyEof);
    }

    #[test]
    fn a_reset_found_by_a_write_is_a_reset() {
        let outcome = played(writes_blindly, |mut peer, bytes| {
            peer.write_all(&bytes).unwrap();
            thread::sleep(Duration::from_millis(50));
            reset(peer);
        });
        assert!(matches!(outcome.end, End::Broken(_)), "{outcome:?}");
    }

    #[test]
    fn a_reset_after_an_end_of_stream_does_not_hide_it() {
        let outcome = played(writes_blindly, |mut peer, bytes| {
            peer.write_all(&bytes).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            thread::sleep(Duration::from_millis(50));
            reset(peer);
        });
        assert_eq!(outcome.end, End::EarlyEof);
    }

    #[test]
    fn silence_is_a_hang_and_a_stop_is_a_stop() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for (stopped, end) in [(false, End::Hung), (true, End::Stopped)] {
            let silent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let deadline = Instant::now() + Duration::from_millis(200);
            let (stop, progress) = (AtomicBool::new(stopped), AtomicU64::new(0));
            let bounds = Bounds { deadline, stop: &stop, progress: &progress };
            let request = crate::generator::wire::Request::download(1, 10, Duration::ZERO);
            let (ours, _) = listener.accept().unwrap();
            assert_eq!(play(ours, Script::client(&request), bounds).end, end);
            drop(silent);
        }
    }
}
