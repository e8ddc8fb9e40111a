//! Captures with the real tcpdump, to show whether MPTCP is on a wire.
//!
//! tcpdump is started by the caller's `Spawn`, which knows the namespace. What it wrote is read by
//! `pcap` (the file) and `packet` (each packet); what the counts mean for a run is the report's.

mod packet;
mod pcap;

use crate::iperf::{Spawn, child::Reaped};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Bytes kept of each packet: Ethernet, IPv6 and a whole TCP header take 114.
const SNAP: &str = "128";

/// How long tcpdump may take to begin, and to end.
const WAIT: Duration = Duration::from_secs(5);

/// What is in a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets, of any kind.
    pub packets: u64,
    /// TCP packets whose options could be read.
    pub tcp: u64,
    /// Of these, those with SYN, with or without ACK.
    pub syns: u64,
    /// Of these, those with option kind 30, which is MPTCP.
    pub mptcp: u64,
    /// Packets cut off before the end of their TCP options, or of the headers before.
    pub truncated: u64,
    /// Packets whose headers contradict themselves.
    pub malformed: u64,
    /// Later fragments of a packet, which have no TCP header.
    pub fragments: u64,
    /// Packets that the kernel had no room to hand to tcpdump.
    pub missed: u64,
    /// Whether the file ends within a packet or is damaged from some place on.
    pub incomplete: bool,
}

impl Counts {
    /// Whether this shows plain TCP: some of it, none with MPTCP, and none that could not be seen.
    pub fn is_plain_tcp(&self) -> bool {
        let unseen = self.truncated + self.malformed + self.fragments + self.missed;
        self.tcp > 0 && self.mptcp == 0 && unseen == 0 && !self.incomplete
    }
}

/// A capture that is running; dropped, it is killed and its file removed.
pub struct Capture {
    process: Reaped,
    file: tempfile::NamedTempFile,
    said: Receiver<String>,
    reader: JoinHandle<()>,
}

impl Capture {
    /// Captures on `interface` what matches `filter` (pcap-filter syntax, empty for all).
    ///
    /// Returns when packets are being captured. Errors: tcpdump could not be started, or what it
    /// said instead of beginning.
    pub fn start(interface: &str, filter: &str, spawn: Spawn<'_>) -> Result<Self> {
        let file = tempfile::NamedTempFile::new().context("a file for the capture")?;
        let mut process = spawn(command(interface, filter, file.path())).context("tcpdump")?;
        let stderr = process.stderr.take();
        let process = Reaped::new(process);
        let stderr = stderr.context("tcpdump's stderr is not a pipe")?;
        let (tell, said) = channel();
        let reader = thread::Builder::new().name("tcpdump".into()).spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // Nobody listens any more once the capture is given up; read on all the same.
                let _ = tell.send(line);
            }
        })?;
        let capture = Self { process, file, said, reader };
        capture.await_begin()?;
        Ok(capture)
    }

    /// Ends the capture and counts what is in it.
    ///
    /// Errors: tcpdump does not end, or its file is no capture of Ethernet packets.
    pub fn stop(mut self) -> Result<Counts> {
        self.await_rest()?;
        self.process.interrupt().context("interrupt tcpdump")?;
        if self.process.wait(WAIT)?.is_none() {
            bail!("tcpdump does not end");
        }
        // Its stderr has ended with it, and so does its reader.
        let _ = self.reader.join();
        let missed = dropped(self.said.try_iter()).context("tcpdump did not say what it missed")?;
        Ok(Counts { missed, ..count_file(self.file.path())? })
    }

    /// Waits until tcpdump has written what was captured so far.
    ///
    /// An interrupt ends it before it reads what waits in the kernel's ring; but in immediate mode
    /// it sleeps only while that ring is empty.
    fn await_rest(&mut self) -> Result<()> {
        let stat = format!("/proc/{}/stat", self.process.id());
        let until = Instant::now() + WAIT;
        while Instant::now() < until {
            let stat = std::fs::read_to_string(&stat).context("tcpdump's state")?;
            // The state follows the name, which is in brackets.
            match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
                Some('S') => return Ok(()),
                _ if self.process.wait(Duration::from_millis(1))?.is_some() => {
                    bail!("tcpdump ended: {}", self.said.try_iter().collect::<Vec<_>>().join("; "))
                }
                _ => {}
            }
        }
        bail!("tcpdump does not keep up")
    }

    fn await_begin(&self) -> Result<()> {
        let until = Instant::now() + WAIT;
        let mut heard = Vec::new();
        loop {
            match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains("listening on") => return Ok(()),
                Ok(line) => heard.push(line),
                Err(RecvTimeoutError::Disconnected) => bail!("tcpdump: {}", heard.join("; ")),
                Err(RecvTimeoutError::Timeout) => bail!("tcpdump does not begin"),
            }
        }
    }
}

/// Counts what is in a capture file; `missed` stays 0.
///
/// Errors: the file cannot be opened, or is no classic pcap of Ethernet packets.
pub fn count_file(path: &Path) -> Result<Counts> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    count(BufReader::new(file))
}

/// Counts what is in a capture; see `count_file`.
pub fn count(capture: impl Read) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut records = pcap::Records::open(capture)?;
    while let Some(packet) = records.next_packet() {
        counts.add(packet::look(packet));
    }
    counts.incomplete = records.is_damaged();
    Ok(counts)
}

impl Counts {
    fn add(&mut self, seen: packet::Seen) {
        use packet::Seen;
        self.packets += 1;
        match seen {
            Seen::Other => {}
            Seen::Fragment => self.fragments += 1,
            Seen::Truncated => self.truncated += 1,
            Seen::Malformed => self.malformed += 1,
            Seen::Tcp { syn, mptcp } => {
                self.tcp += 1;
                self.syns += u64::from(syn);
                self.mptcp += u64::from(mptcp);
            }
        }
    }
}

fn command(interface: &str, filter: &str, file: &Path) -> Command {
    let mut command = Command::new("tcpdump");
    command.args(["-i", interface, "-n", "-p", "-s", SNAP]);
    // Each packet goes to the file at once: none is in a buffer when it is told to end.
    command.args(["--immediate-mode", "-U"]);
    // KiB: a second of the fastest profile, should tcpdump not get a processor for so long.
    command.args(["-B", "65536"]);
    // Debian's gives up root before it opens the file, which is ours.
    command.args(["-Z", "root", "-w"]).arg(file);
    if !filter.is_empty() {
        command.arg(filter);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// How many packets tcpdump's last words say that the kernel dropped.
fn dropped(mut lines: impl Iterator<Item = String>) -> Option<u64> {
    lines.find_map(|line| {
        let words = line.strip_suffix(" dropped by kernel")?;
        words.split(' ').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests;
