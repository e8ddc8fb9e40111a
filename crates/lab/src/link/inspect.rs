//! Looking for packets that must not cross a link: those of given prefixes, in plain.
//!
//! Nothing else of a frame is looked at.

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

    proptest! {
        #[test]
        fn no_frame_is_too_strange(
            kind in prop::sample::select(vec![[8u8, 0], [0x86, 0xdd], [1, 2]]),
            rest in prop::collection::vec(any::<u8>(), 0..64), cut in 0usize..80,
        ) {
            let mut bytes = frame(kind, 0, &rest);
            bytes.truncate(cut);
            sight(&bytes, &["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
        }
    }
}
