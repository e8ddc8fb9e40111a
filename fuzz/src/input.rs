//! The fuzzer's bytes as choices: every input is one, and behind its end all are 0.

use std::net::{IpAddr, SocketAddr};

/// What is left of an input.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// At most `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.take(N);
        let mut bytes = [0; N];
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.array())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    pub(crate) fn address(&mut self, ipv6: bool) -> SocketAddr {
        let ip =
            if ipv6 { IpAddr::from(self.array::<16>()) } else { IpAddr::from(self.array::<4>()) };
        SocketAddr::new(ip, self.u16())
    }
}

/// Calls `step` with a buffer that grows by pieces of the given lengths, in turn, until it has
/// been given all bytes or says to stop. Without lengths there is one piece.
pub(crate) fn in_pieces(bytes: &[u8], lengths: &[u8], mut step: impl FnMut(&mut Vec<u8>) -> bool) {
    let mut buffer = Vec::new();
    if lengths.is_empty() {
        buffer.extend_from_slice(bytes);
        step(&mut buffer);
        return;
    }
    // Not so many that a long input takes a second.
    let least = 1 + bytes.len() / 256;
    let mut rest = Input::new(bytes);
    for length in lengths.iter().cycle() {
        buffer.extend_from_slice(rest.take(usize::from(*length).max(least)));
        if !step(&mut buffer) || rest.is_empty() {
            return;
        }
    }
}
