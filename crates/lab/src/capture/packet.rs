//! Finds the TCP options in an Ethernet frame, of which only a part may have been kept.
//!
//! Frames come from the wire: whatever they hold, this returns.

const TCP: u8 = 6;
const MPTCP: u8 = 30;

/// What a frame is, as far as the counts care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Not TCP.
    Other,
    /// A later fragment: its first part tells what it is.
    Fragment,
    /// Ends before its headers do.
    Truncated,
    /// Headers that contradict themselves.
    Malformed,
    /// TCP, with its options whole.
    Tcp { syn: bool, mptcp: bool },
}

/// Why a frame has no options to read.
type Stop = Seen;

/// What `frame` is.
pub(super) fn look(frame: &[u8]) -> Seen {
    let found = ethernet(frame).and_then(tcp);
    found.unwrap_or_else(|stop| stop)
}

/// The TCP header of `frame` and what follows.
fn ethernet(frame: &[u8]) -> Result<&[u8], Stop> {
    let mut at = 12;
    loop {
        let kind = u16::from_be_bytes(part(frame, at)?);
        at += 2;
        match kind {
            0x0800 => return ipv4(rest(frame, at)?),
            0x86dd => return ipv6(rest(frame, at)?),
            // VLAN tags: two bytes, and another type.
            0x8100 | 0x88a8 => at += 2,
            _ => return Err(Seen::Other),
        }
    }
}

fn ipv4(packet: &[u8]) -> Result<&[u8], Stop> {
    let [version] = part(packet, 0)?;
    let header = usize::from(version & 0xf) * 4;
    if version >> 4 != 4 || header < 20 {
        return Err(Seen::Malformed);
    }
    let [protocol] = part(packet, 9)?;
    if protocol != TCP {
        return Err(Seen::Other);
    }
    if u16::from_be_bytes(part(packet, 6)?) & 0x1fff != 0 {
        return Err(Seen::Fragment);
    }
    rest(packet, header)
}

fn ipv6(packet: &[u8]) -> Result<&[u8], Stop> {
    let [version] = part(packet, 0)?;
    if version >> 4 != 6 {
        return Err(Seen::Malformed);
    }
    let [mut next] = part(packet, 6)?;
    let mut at = 40;
    while next != TCP {
        let [following, len] = match next {
            // Hop-by-hop, routing, fragment, authentication, destination options.
            0 | 43 | 44 | 51 | 60 => part(packet, at)?,
            _ => return Err(Seen::Other),
        };
        if next == 44 && u16::from_be_bytes(part(packet, at + 2)?) & !7 != 0 {
            return Err(if following == TCP { Seen::Fragment } else { Seen::Other });
        }
        at += match next {
            44 => 8,
            51 => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        next = following;
    }
    rest(packet, at)
}

fn tcp(segment: &[u8]) -> Result<Seen, Stop> {
    let [offset, flags] = part(segment, 12)?;
    let end = usize::from(offset >> 4) * 4;
    if end < 20 {
        return Err(Seen::Malformed);
    }
    let options = segment.get(20..end).ok_or(Seen::Truncated)?;
    Ok(Seen::Tcp { syn: flags & 2 != 0, mptcp: has_option(options, MPTCP)? })
}

/// Whether `options`, which are whole, have one of `kind`.
fn has_option(mut options: &[u8], kind: u8) -> Result<bool, Stop> {
    while let [this, rest @ ..] = options {
        options = match this {
            0 => return Ok(false),
            1 => rest,
            _ => {
                let len = usize::from(*rest.first().ok_or(Seen::Malformed)?);
                let after = options.get(len..).filter(|_| len >= 2).ok_or(Seen::Malformed)?;
                if *this == kind {
                    return Ok(true);
                }
                after
            }
        };
    }
    Ok(false)
}

/// The `N` bytes at `at`.
fn part<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Stop> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or(Seen::Truncated)
}

/// What follows from `at` on.
fn rest(bytes: &[u8], at: usize) -> Result<&[u8], Stop> {
    bytes.get(at..).ok_or(Seen::Truncated)
}
