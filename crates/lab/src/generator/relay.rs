//! A relay between client and server that can spoil what it carries, for tests of the judge.
//!
//! With `Fault::None` it is honest: ends of stream and resets cross as what they are.

use super::endpoint::reset;
use rustix::event::{PollFd, PollFlags, poll};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

/// What it does to a flow; offsets are in bytes, in each direction, the request included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    Flip(usize),
    Double(usize),
    Drop(usize),
    /// Ends the stream there.
    Truncate(usize),
    /// Hands a reset on as an end of stream.
    ResetToFin,
    /// Hands no end of stream on.
    KeepFin,
}

/// A relay that runs until the test's process ends.
pub(super) struct Relay(SocketAddr);

impl Relay {
    pub(super) fn start(target: SocketAddr, fault: Fault) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let far = TcpStream::connect(target);
                thread::spawn(move || far.and_then(|far| relay(near, far, fault)));
            }
        });
        Ok(Self(addr))
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.0
    }
}

/// One direction.
#[derive(Default)]
struct Lane {
    waiting: Vec<u8>,
    carried: usize,
    ended: bool,
    closed: bool,
}

fn relay(near: TcpStream, far: TcpStream, fault: Fault) -> io::Result<()> {
    let streams = [near, far];
    for stream in &streams {
        stream.set_nonblocking(true)?;
    }
    // Lane i reads from stream i and writes to the other.
    let mut lanes = [Lane::default(), Lane::default()];
    while !lanes.iter().all(|lane| lane.closed) {
        await_work(&streams, &lanes)?;
        for (from, lane) in lanes.iter_mut().enumerate() {
            if let Err(side) = lane.carry(from, &streams, fault) {
                return break_off(streams, side, fault);
            }
        }
    }
    Ok(())
}

fn await_work(streams: &[TcpStream; 2], lanes: &[Lane; 2]) -> io::Result<()> {
    let mut fds = Vec::new();
    for (side, stream) in streams.iter().enumerate() {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, !lanes[side].ended && lanes[side].waiting.is_empty());
        events.set(PollFlags::OUT, !lanes[1 - side].waiting.is_empty());
        if !events.is_empty() {
            fds.push(PollFd::new(stream, events));
        }
    }
    poll(&mut fds, None)?;
    Ok(())
}

impl Lane {
    /// Moves what can be moved; the side that broke is the error.
    fn carry(&mut self, from: usize, streams: &[TcpStream; 2], fault: Fault) -> Result<(), usize> {
        if self.waiting.is_empty() && !self.ended {
            let mut buf = [0; 16 << 10];
            match (&streams[from]).read(&mut buf) {
                Ok(0) => self.ended = true,
                Ok(len) => self.take(&buf[..len], fault),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(from),
            }
        }
        if !self.waiting.is_empty() {
            match (&streams[1 - from]).write(&self.waiting) {
                Ok(len) => drop(self.waiting.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(1 - from),
            }
        }
        if self.ended && self.waiting.is_empty() && !self.closed {
            self.closed = true;
            if fault != Fault::KeepFin {
                streams[1 - from].shutdown(Shutdown::Write).map_err(|_| 1 - from)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], fault: Fault) {
        let before = self.carried;
        self.carried += bytes.len();
        self.waiting = bytes.to_vec();
        let place = |at: usize| at.checked_sub(before).filter(|place| *place < bytes.len());
        match fault {
            Fault::Flip(at) => place(at).into_iter().for_each(|at| self.waiting[at] ^= 4),
            Fault::Double(at) => {
                place(at).into_iter().for_each(|at| self.waiting.insert(at, bytes[at]));
            }
            Fault::Drop(at) => place(at).into_iter().for_each(|at| {
                self.waiting.remove(at);
            }),
            Fault::Truncate(at) if self.carried > at => {
                self.waiting.truncate(at.saturating_sub(before));
                self.ended = true;
            }
            _ => {}
        }
    }
}

/// Stream `side` broke: tells the other, truly or not.
fn break_off(streams: [TcpStream; 2], side: usize, fault: Fault) -> io::Result<()> {
    let [near, far] = streams;
    let (broken, mut other) = if side == 0 { (near, far) } else { (far, near) };
    drop(broken);
    if fault != Fault::ResetToFin {
        reset(other);
        return Ok(());
    }
    other.shutdown(Shutdown::Write)?;
    other.set_nonblocking(false)?;
    other.set_read_timeout(Some(Duration::from_secs(2)))?;
    io::copy(&mut other, &mut io::sink())?;
    Ok(())
}
