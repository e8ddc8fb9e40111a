//! Reads classic pcap files: either byte order, micro- or nanoseconds, Ethernet only.
//!
//! A file that breaks off is read up to there. What is in the packets is `packet`'s.

use anyhow::{Context, Result, bail};
use std::io::Read;

const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;

/// libpcap's own bound on what is kept of a packet, in bytes; more is damage.
const MAX_PACKET: usize = 262_144;

/// The packets of a capture, one after the other.
pub(super) struct Records<R> {
    capture: R,
    big_endian: bool,
    packet: Vec<u8>,
    damaged: bool,
}

impl<R: Read> Records<R> {
    /// Reads the file's header.
    pub(super) fn open(mut capture: R) -> Result<Self> {
        let mut header = [0; 24];
        capture.read_exact(&mut header).context("a pcap file's header")?;
        let big_endian = match word(&header, 0, false) {
            MAGIC_MICROS | MAGIC_NANOS => false,
            other if matches!(other.swap_bytes(), MAGIC_MICROS | MAGIC_NANOS) => true,
            other => bail!("no pcap file: it begins with {other:#010x}"),
        };
        // The upper bits say how long a frame check sequence is.
        let link = word(&header, 20, big_endian) & 0x03ff_ffff;
        if link != ETHERNET {
            bail!("a capture of link type {link}, not of Ethernet");
        }
        Ok(Self { capture, big_endian, packet: Vec::new(), damaged: false })
    }

    /// What was kept of the next packet; `None` at the end, or from where the file is damaged.
    pub(super) fn next_packet(&mut self) -> Option<&[u8]> {
        let mut header = [0; 16];
        let filled = fill(&mut self.capture, &mut header);
        if filled < header.len() {
            self.damaged |= filled > 0;
            return None;
        }
        let kept = word(&header, 8, self.big_endian) as usize;
        self.packet.resize(kept.min(MAX_PACKET), 0);
        if kept > MAX_PACKET || fill(&mut self.capture, &mut self.packet) < kept {
            self.damaged = true;
            return None;
        }
        Some(&self.packet)
    }

    /// Whether the file ended elsewhere than after a packet.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged
    }
}

/// Reads until `buf` is full or nothing more can be read; how much that was.
fn fill(source: &mut impl Read, buf: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buf.len() {
        match source.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    filled
}

/// The word of `header` at `at`, which lies within it.
fn word(header: &[u8], at: usize, big_endian: bool) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&header[at..at + 4]);
    if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
}
