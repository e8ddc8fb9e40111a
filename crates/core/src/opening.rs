//! How a carrier and a flow open: the preamble, the `open` payload and the failure codes
//! (PROTOCOL.md, "Preamble", "Opening a flow").
//!
//! The preamble of this version names the boxes and proves nothing: `braid run` therefore asks
//! for `--insecure-lab`. The authenticated session takes its place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::addr::{HostAddr, SinkAddr};
use crate::key::{KEY_LEN, PublicKey};

/// First bytes of every carrier.
pub const MAGIC: [u8; 4] = *b"brd0";

/// Bytes of a preamble: magic, dialler's key, acceptor's key.
pub const PREAMBLE_LEN: usize = MAGIC.len() + 2 * KEY_LEN;

/// What the dialler sends before any record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The box that dialled.
    pub dialler: PublicKey,
    /// The box that the dialler means to have reached.
    pub acceptor: PublicKey,
}

/// The payload of an `open` record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Where the flow is to go.
    pub sink: SinkAddr,
    /// Who opened it.
    pub host: HostAddr,
}

/// Why a sink was not reached; the payload of a `failed` record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Failure {
    /// The sink answered with a reset.
    #[error("connection refused")]
    Refused = 1,
    /// No such host, or it does not answer below TCP.
    #[error("host unreachable")]
    HostUnreachable = 2,
    /// No route to the sink's network.
    #[error("network unreachable")]
    NetUnreachable = 3,
    /// A filter on the way said no.
    #[error("administratively prohibited")]
    Prohibited = 4,
    /// No answer at all.
    #[error("timed out")]
    TimedOut = 5,
    /// The egress box does not let this peer reach this sink, or come from this source.
    #[error("not allowed by the egress box")]
    NotAllowed = 6,
    /// The egress box could not try: out of descriptors, ports or memory.
    #[error("the egress box is out of resources")]
    Resources = 7,
}

/// Bytes that are not what they should be at the opening of a carrier or flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// Not a braid box, or one of another version.
    #[error("the first bytes are not those of this protocol version")]
    Magic,
    /// An `open` or `failed` payload that is cut short, too long or of an unknown kind.
    #[error("malformed payload")]
    Malformed,
}

impl Preamble {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; PREAMBLE_LEN] {
        let mut bytes = [0; PREAMBLE_LEN];
        let (magic, keys) = bytes.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        keys[..KEY_LEN].copy_from_slice(&self.dialler.0);
        keys[KEY_LEN..].copy_from_slice(&self.acceptor.0);
        bytes
    }

    /// Reads a preamble.
    ///
    /// # Errors
    /// When the magic is another.
    pub fn parse(bytes: &[u8; PREAMBLE_LEN]) -> Result<Self, OpeningError> {
        let (magic, keys) = bytes.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(OpeningError::Magic);
        }
        let key = |half: &[u8]| half.try_into().map(PublicKey).map_err(|_| OpeningError::Malformed);
        Ok(Self { dialler: key(&keys[..KEY_LEN])?, acceptor: key(&keys[KEY_LEN..])? })
    }
}

impl Open {
    /// The payload's bytes: the sink's address, then the host's.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(38);
        put_address(&mut bytes, self.sink.0);
        put_address(&mut bytes, self.host.0);
        bytes
    }

    /// Reads the payload of an `open` record.
    ///
    /// # Errors
    /// When it is not two addresses of one family.
    pub fn parse(payload: &[u8]) -> Result<Self, OpeningError> {
        let (sink, rest) = take_address(payload)?;
        let (host, rest) = take_address(rest)?;
        if !rest.is_empty() || sink.is_ipv4() != host.is_ipv4() {
            return Err(OpeningError::Malformed);
        }
        Ok(Self { sink: SinkAddr(sink), host: HostAddr(host) })
    }
}

impl Failure {
    /// Reads the payload of a `failed` record.
    ///
    /// # Errors
    /// When it is not one known code.
    pub fn parse(payload: &[u8]) -> Result<Self, OpeningError> {
        Ok(match payload {
            [1] => Self::Refused,
            [2] => Self::HostUnreachable,
            [3] => Self::NetUnreachable,
            [4] => Self::Prohibited,
            [5] => Self::TimedOut,
            [6] => Self::NotAllowed,
            [7] => Self::Resources,
            _ => return Err(OpeningError::Malformed),
        })
    }
}

fn put_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend_from_slice(&ip.octets());
        }
    }
    bytes.extend_from_slice(&address.port().to_be_bytes());
}

fn take_address(bytes: &[u8]) -> Result<(SocketAddr, &[u8]), OpeningError> {
    let (&family, rest) = bytes.split_first().ok_or(OpeningError::Malformed)?;
    let (ip, rest) = match family {
        4 => {
            let (ip, rest) = rest.split_first_chunk::<4>().ok_or(OpeningError::Malformed)?;
            (IpAddr::V4(Ipv4Addr::from(*ip)), rest)
        }
        6 => {
            let (ip, rest) = rest.split_first_chunk::<16>().ok_or(OpeningError::Malformed)?;
            let ip = Ipv6Addr::from(*ip);
            // An IPv4 address has one notation here: what is judged is what is connected to.
            if ip.to_ipv4_mapped().is_some() {
                return Err(OpeningError::Malformed);
            }
            (IpAddr::V6(ip), rest)
        }
        _ => return Err(OpeningError::Malformed),
    };
    let (port, rest) = rest.split_first_chunk::<2>().ok_or(OpeningError::Malformed)?;
    Ok((SocketAddr::new(ip, u16::from_be_bytes(*port)), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn preamble_round_trip_and_wrong_magic() {
        let preamble = Preamble { dialler: PublicKey([1; 32]), acceptor: PublicKey([2; 32]) };
        let mut bytes = preamble.encode();
        assert_eq!(Preamble::parse(&bytes), Ok(preamble));
        bytes[3] = b'9';
        assert_eq!(Preamble::parse(&bytes), Err(OpeningError::Magic));
    }

    #[test]
    fn bytes_of_an_open() {
        let open = Open {
            sink: SinkAddr("192.0.2.1:80".parse().unwrap()),
            host: HostAddr("10.0.0.2:1025".parse().unwrap()),
        };
        assert_eq!(open.encode(), [4, 192, 0, 2, 1, 0, 80, 4, 10, 0, 0, 2, 4, 1]);
    }

    #[test]
    fn families_do_not_mix() {
        let mut bytes = Vec::new();
        put_address(&mut bytes, "192.0.2.1:80".parse().unwrap());
        put_address(&mut bytes, "[2001:db8::1]:80".parse().unwrap());
        assert_eq!(Open::parse(&bytes), Err(OpeningError::Malformed));
    }

    #[test]
    fn a_mapped_address_is_refused() {
        let mut bytes = Vec::new();
        put_address(&mut bytes, "[::ffff:192.0.2.1]:80".parse().unwrap());
        put_address(&mut bytes, "[2001:db8::1]:80".parse().unwrap());
        assert_eq!(Open::parse(&bytes), Err(OpeningError::Malformed));
    }

    #[test]
    fn every_failure_has_a_code_that_reads_back() {
        for code in 1..=7 {
            assert_eq!(Failure::parse(&[code]).unwrap() as u8, code);
        }
        assert!(Failure::parse(&[0]).is_err() && Failure::parse(&[]).is_err());
    }

    proptest! {
        #[test]
        fn open_round_trip(sink in any::<u128>(), host in any::<u128>(), ports in any::<[u16; 2]>()) {
            let open = Open {
                sink: SinkAddr(SocketAddr::new(Ipv6Addr::from(sink).into(), ports[0])),
                host: HostAddr(SocketAddr::new(Ipv6Addr::from(host).into(), ports[1])),
            };
            prop_assume!(sink >> 32 != 0xffff && host >> 32 != 0xffff);
            prop_assert_eq!(Open::parse(&open.encode()), Ok(open));
        }

        #[test]
        fn any_payload_parses_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(open) = Open::parse(&bytes) {
                prop_assert_eq!(open.encode(), bytes);
            }
        }
    }
}
