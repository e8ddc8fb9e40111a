//! Looking for what must not cross a link: packets of given prefixes, and bytes behind TCP's and
//! UDP's headers that somebody could read there.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A packet seen where it must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address.
    pub destination: IpAddr,
    /// Its IP protocol number; for IPv6 the first next-header.
    pub protocol: u8,
}

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}, protocol {}", self.source, self.destination, self.protocol)
    }
}

/// The IP packet in an Ethernet frame, when its source or destination is in one of `prefixes`.
pub fn sight(frame: &[u8], prefixes: &[IpNet]) -> Option<Sighting> {
    if prefixes.is_empty() {
        return None;
    }
    let sighting = ip_header(frame)?;
    let inside = |address| prefixes.iter().any(|prefix| prefix.contains(address));
    (inside(&sighting.source) || inside(&sighting.destination)).then_some(sighting)
}

/// Bytes that must not be in the payload of TCP or UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// What they are, in words.
    pub name: String,
    /// At least one. Six of them turn up by chance once in 2^48 bytes.
    pub bytes: Vec<u8>,
}

/// The patterns that the payload in an Ethernet frame holds.
pub fn find<'a>(frame: &[u8], patterns: &'a [Pattern]) -> impl Iterator<Item = &'a Pattern> {
    let payload = if patterns.is_empty() { None } else { payload(frame) };
    let payload = payload.unwrap_or_default();
    patterns.iter().filter(move |pattern| holds(payload, &pattern.bytes))
}

/// Searched for by its first byte: a frame costs its length, which a link at work can afford.
fn holds(mut payload: &[u8], pattern: &[u8]) -> bool {
    let Some((first, _)) = pattern.split_first() else { return false };
    while let Some(at) = payload.iter().position(|byte| byte == first) {
        payload = &payload[at..];
        if payload.starts_with(pattern) {
            return true;
        }
        payload = &payload[1..];
    }
    false
}

/// What is behind the header of TCP, with its options, or of UDP.
fn payload(frame: &[u8]) -> Option<&[u8]> {
    let (ether_type, packet) = frame.get(12..)?.split_first_chunk::<2>()?;
    let (protocol, rest) = match ether_type {
        [0x08, 0x00] => {
            let (header, length) = (usize::from(packet.first()? & 0xf) * 4, packet.get(2..4)?);
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            (packet.get(9)?, packet.get(header..length.min(packet.len()))?)
        }
        [0x86, 0xdd] => (packet.get(6)?, packet.get(40..)?),
        _ => return None,
    };
    match protocol {
        6 => rest.get(usize::from(rest.get(12)? >> 4) * 4..),
        17 => rest.get(8..),
        _ => None,
    }
}

fn ip_header(frame: &[u8]) -> Option<Sighting> {
    let (ether_type, packet) = frame.get(12..)?.split_first_chunk::<2>()?;
    match ether_type {
        [0x08, 0x00] => {
            let v4 = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
            let (source, destination) = (v4(12)?.into(), v4(16)?.into());
            Some(Sighting { source, destination, protocol: packet[9] })
        }
        [0x86, 0xdd] => {
            let v6 = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
            let (source, destination) = (v6(8)?.into(), v6(24)?.into());
            Some(Sighting { source, destination, protocol: packet[6] })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(ether_type: [u8; 2], addresses_at: usize, addresses: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 14 + addresses_at];
        frame[12..14].copy_from_slice(&ether_type);
        frame.extend_from_slice(addresses);
        frame
    }

    #[test]
    fn either_address_counts_in_both_families() {
        let prefixes = ["10.1.0.0/16".parse().unwrap(), "fd01::/16".parse().unwrap()];
        let mut v4 = frame([8, 0], 12, &[10, 1, 2, 3, 192, 0, 2, 1]);
        v4[14 + 9] = 17;
        let sighting = sight(&v4, &prefixes).unwrap();
        assert_eq!(sighting.to_string(), "10.1.2.3 to 192.0.2.1, protocol 17");
        assert_eq!(sight(&v4, &prefixes[1..]), None);

        let mut addresses = [0; 32];
        addresses[16..18].copy_from_slice(&[0xfd, 1]);
        let v6 = frame([0x86, 0xdd], 8, &addresses);
        assert_eq!(sight(&v6, &prefixes).unwrap().to_string(), ":: to fd01::, protocol 0");
        assert_eq!(sight(&v6, &prefixes[..1]), None);

        let arp = frame([8, 6], 12, &[10, 1, 2, 3, 10, 1, 2, 4]);
        assert_eq!(sight(&arp, &prefixes), None);
    }

    /// A TCP segment with twelve bytes of options that hold what the payload holds.
    fn segment(ether_type: [u8; 2], payload: &[u8]) -> Vec<u8> {
        let v4 = ether_type == [8, 0];
        let mut packet = vec![0; if v4 { 20 } else { 40 }];
        packet[0] = if v4 { 0x45 } else { 0x60 };
        packet[if v4 { 9 } else { 6 }] = 6;
        packet.extend([0; 12]);
        packet.extend([8 << 4, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(b"optionsecret");
        packet.extend(payload);
        let length = packet.len() as u16;
        if v4 {
            packet[2..4].copy_from_slice(&length.to_be_bytes());
        }
        frame(ether_type, 0, &packet)
    }

    #[test]
    fn a_pattern_is_found_in_the_payload_alone() {
        let pattern = |bytes: &[u8]| Pattern { name: "it".into(), bytes: bytes.into() };
        let patterns = [pattern(b"secret"), pattern(b"absent")];
        for ether_type in [[8, 0], [0x86, 0xdd]] {
            for (payload, found) in
                [(&b"my sesecret"[..], 1), (b"my secre", 0), (b"", 0), (b"secret", 1)]
            {
                let frame = segment(ether_type, payload);
                assert_eq!(find(&frame, &patterns).count(), found, "{payload:?}");
            }
        }
        let mut other = segment([8, 0], b"secret");
        other[14 + 9] = 17;
        assert_eq!(find(&other, &patterns).count(), 1);
        other[14 + 9] = 1;
        assert_eq!(find(&other, &patterns).count(), 0);
        assert_eq!(find(&segment([8, 0], b"x"), &[pattern(b"")]).count(), 0);
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(
            kind in prop::sample::select(vec![[8u8, 0], [0x86, 0xdd], [1, 2]]),
            rest in prop::collection::vec(any::<u8>(), 0..64), cut in 0usize..80,
        ) {
            let mut bytes = frame(kind, 0, &rest);
            bytes.truncate(cut);
            sight(&bytes, &["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
            let pattern = Pattern { name: "it".into(), bytes: vec![0] };
            find(&bytes, &[pattern]).count();
        }
    }
}
