//! What is asked of the other side when a flow is opened, and why it says no (PROTOCOL.md,
//! "Flows").
//!
//! Encoding and parsing only: the addresses are also those of a `connect` on the control
//! connection (`control`), the failure codes those of its `failed`. Who may go where is `policy`'s.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::addr::{HostAddr, SinkAddr};

/// The payload of an `open` record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The connection that the other side holds for it, asked for by `connect`; 0 for none.
    pub connect: u32,
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

/// A payload that is cut short, too long or of an unknown kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed addresses or failure code")]
pub struct OpeningError;

impl Open {
    /// The payload's bytes: the connect number, the sink's address, then the host's.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 + 2 * 19);
        bytes.extend_from_slice(&self.connect.to_be_bytes());
        put_addresses(&mut bytes, self.sink, self.host);
        bytes
    }

    /// Reads the payload of an `open` record.
    ///
    /// # Errors
    /// When it is not a number and two addresses of one family, or something follows them.
    pub fn parse(payload: &[u8]) -> Result<Self, OpeningError> {
        let (connect, rest) = payload.split_first_chunk().ok_or(OpeningError)?;
        let (sink, host, rest) = take_addresses(rest)?;
        if !rest.is_empty() {
            return Err(OpeningError);
        }
        Ok(Self { connect: u32::from_be_bytes(*connect), sink, host })
    }
}

impl Failure {
    /// The byte that stands for it.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

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
            _ => return Err(OpeningError),
        })
    }
}

/// Appends a sink's and a host's address.
pub(crate) fn put_addresses(bytes: &mut Vec<u8>, sink: SinkAddr, host: HostAddr) {
    put_address(bytes, sink.0);
    put_address(bytes, host.0);
}

/// A sink's and a host's address of one family, and what follows them.
pub(crate) fn take_addresses(bytes: &[u8]) -> Result<(SinkAddr, HostAddr, &[u8]), OpeningError> {
    let (sink, rest) = take_address(bytes)?;
    let (host, rest) = take_address(rest)?;
    if sink.is_ipv4() != host.is_ipv4() {
        return Err(OpeningError);
    }
    Ok((SinkAddr(sink), HostAddr(host), rest))
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
    let (&family, rest) = bytes.split_first().ok_or(OpeningError)?;
    let (ip, rest) = match family {
        4 => {
            let (ip, rest) = rest.split_first_chunk::<4>().ok_or(OpeningError)?;
            (IpAddr::V4(Ipv4Addr::from(*ip)), rest)
        }
        6 => {
            let (ip, rest) = rest.split_first_chunk::<16>().ok_or(OpeningError)?;
            let ip = Ipv6Addr::from(*ip);
            // An IPv4 address has one notation here: what is judged is what is connected to.
            if ip.to_ipv4_mapped().is_some() {
                return Err(OpeningError);
            }
            (IpAddr::V6(ip), rest)
        }
        _ => return Err(OpeningError),
    };
    let (port, rest) = rest.split_first_chunk::<2>().ok_or(OpeningError)?;
    Ok((SocketAddr::new(ip, u16::from_be_bytes(*port)), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_of_an_open() {
        let open = Open {
            connect: 0x0102_0304,
            sink: SinkAddr("192.0.2.1:80".parse().unwrap()),
            host: HostAddr("10.0.0.2:1025".parse().unwrap()),
        };
        let bytes = [1, 2, 3, 4, 4, 192, 0, 2, 1, 0, 80, 4, 10, 0, 0, 2, 4, 1];
        assert_eq!(open.encode(), bytes);
    }

    #[test]
    fn families_do_not_mix() {
        refused("192.0.2.1:80", "[2001:db8::1]:80");
        refused("[2001:db8::1]:80", "192.0.2.1:80");
    }

    #[test]
    fn a_mapped_address_is_refused() {
        refused("[::ffff:192.0.2.1]:80", "[2001:db8::1]:80");
        refused("[2001:db8::1]:80", "[::ffff:192.0.2.1]:80");
    }

    fn refused(sink: &str, host: &str) {
        let (sink, host) = (SinkAddr(sink.parse().unwrap()), HostAddr(host.parse().unwrap()));
        assert_eq!(Open::parse(&Open { connect: 0, sink, host }.encode()), Err(OpeningError));
    }

    #[test]
    fn every_failure_has_a_code_that_reads_back() {
        for code in 1..=7 {
            assert_eq!(Failure::parse(&[code]).unwrap().code(), code);
        }
        for payload in [&[][..], &[0], &[8], &[1, 1]] {
            assert_eq!(Failure::parse(payload), Err(OpeningError));
        }
    }

    proptest! {
        #[test]
        fn open_round_trip(
            connect in any::<u32>(),
            sink in any::<u128>(),
            host in any::<u128>(),
            ports in any::<[u16; 2]>(),
        ) {
            prop_assume!(sink >> 32 != 0xffff && host >> 32 != 0xffff);
            let open = Open {
                connect,
                sink: SinkAddr(SocketAddr::new(Ipv6Addr::from(sink).into(), ports[0])),
                host: HostAddr(SocketAddr::new(Ipv6Addr::from(host).into(), ports[1])),
            };
            let mut bytes = open.encode();
            prop_assert_eq!(Open::parse(&bytes), Ok(open));
            prop_assert_eq!(Open::parse(&bytes[..bytes.len() - 1]), Err(OpeningError));
            bytes.push(0);
            prop_assert_eq!(Open::parse(&bytes), Err(OpeningError));
        }

        #[test]
        fn any_payload_parses_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(open) = Open::parse(&bytes) {
                prop_assert_eq!(open.encode(), bytes);
            }
        }
    }
}
