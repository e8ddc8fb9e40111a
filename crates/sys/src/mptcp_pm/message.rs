//! Messages of the family `mptcp_pm`: numbers of `linux/mptcp_pm.h`, attributes to bytes and back, and
//! what events say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use braid_core::path::Ends;
use netlink_packet_core::{DecodeError, DefaultNla, Emitable, NlasIterator, ParseableParametrized};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use super::{Event, EventKind, ImplicitEndpoint};

pub(super) const CMD_DEL_ADDR: u8 = 2;
pub(super) const CMD_GET_ADDR: u8 = 3;
pub(super) const CMD_SET_LIMITS: u8 = 5;
pub(super) const CMD_GET_LIMITS: u8 = 6;
pub(super) const CMD_SET_FLAGS: u8 = 7;
pub(super) const CMD_REMOVE: u8 = 9;
pub(super) const CMD_SUBFLOW_CREATE: u8 = 10;
pub(super) const CMD_SUBFLOW_DESTROY: u8 = 11;

pub(super) const ATTR_ADDR: u16 = 1;
pub(super) const ATTR_RCV_ADD_ADDRS: u16 = 2;
pub(super) const ATTR_SUBFLOWS: u16 = 3;
pub(super) const ATTR_TOKEN: u16 = 4;
pub(super) const ATTR_LOCAL_ID: u16 = 5;
pub(super) const ATTR_ADDR_REMOTE: u16 = 6;

pub(super) const ADDRESS_FAMILY: u16 = 1;
pub(super) const ADDRESS_ID: u16 = 2;
pub(super) const ADDRESS_ADDR4: u16 = 3;
pub(super) const ADDRESS_ADDR6: u16 = 4;
pub(super) const ADDRESS_PORT: u16 = 5;
pub(super) const ADDRESS_FLAGS: u16 = 6;

pub(super) const FLAG_SUBFLOW: u32 = 1 << 1;
pub(super) const FLAG_BACKUP: u32 = 1 << 2;
const FLAG_IMPLICIT: u32 = 1 << 4;

const EVENT_ESTABLISHED: u8 = 2;
const EVENT_CLOSED: u8 = 3;
const EVENT_SUB_ESTABLISHED: u8 = 10;
const EVENT_SUB_CLOSED: u8 = 11;

const EVENT_TOKEN: u16 = 1;
const EVENT_SADDR4: u16 = 5;
const EVENT_SADDR6: u16 = 6;
const EVENT_DADDR4: u16 = 7;
const EVENT_DADDR6: u16 = 8;
const EVENT_SPORT: u16 = 9;
const EVENT_DPORT: u16 = 10;
const EVENT_ERROR: u16 = 12;

/// A message of the family: its command or event, and its attributes as they are on the wire.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) command: u8,
    pub(super) body: Vec<u8>,
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        "mptcp_pm"
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer[..self.body.len()].copy_from_slice(&self.body);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self { command: header.cmd, body: bytes.to_vec() })
    }
}

pub(super) fn address_attributes(ip: IpAddr) -> Vec<DefaultNla> {
    let (family, kind, octets) = match ip {
        IpAddr::V4(v4) => (libc::AF_INET, ADDRESS_ADDR4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, ADDRESS_ADDR6, v6.octets().to_vec()),
    };
    let family = (family as u16).to_ne_bytes().to_vec();
    vec![DefaultNla::new(ADDRESS_FAMILY, family), DefaultNla::new(kind, octets)]
}

pub(super) fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    const NLA_F_NESTED: u16 = 1 << 15;
    DefaultNla::new(kind | NLA_F_NESTED, bytes_of(attributes))
}

pub(super) fn bytes_of(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

pub(super) fn attributes(body: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    NlasIterator::new(body).flatten().map(|nla| (nla.kind(), nla.value().to_vec()))
}

pub(super) fn u32_of(value: &[u8]) -> u32 {
    value.try_into().map(u32::from_ne_bytes).unwrap_or_default()
}

fn v4_of(value: &[u8]) -> Option<IpAddr> {
    value.try_into().ok().map(|octets: [u8; 4]| Ipv4Addr::from(octets).into())
}

fn v6_of(value: &[u8]) -> Option<IpAddr> {
    value.try_into().ok().map(|octets: [u8; 16]| Ipv6Addr::from(octets).into())
}

pub(super) fn implicit_endpoint(body: &[u8]) -> Option<ImplicitEndpoint> {
    const NLA_TYPE_MASK: u16 = 0x3fff;
    let nested = attributes(body).find(|(kind, _)| kind & NLA_TYPE_MASK == ATTR_ADDR)?.1;
    let (mut id, mut address, mut flags) = (None, None, 0);
    for (kind, value) in attributes(&nested) {
        match kind {
            ADDRESS_ID => id = value.first().copied(),
            ADDRESS_ADDR4 => address = v4_of(&value),
            ADDRESS_ADDR6 => address = v6_of(&value),
            ADDRESS_FLAGS => flags = u32_of(&value),
            _ => {}
        }
    }
    let endpoint = ImplicitEndpoint { id: id?, address: address? };
    (flags & FLAG_IMPLICIT != 0).then_some(endpoint)
}

pub(super) fn event(message: &Message) -> Option<Event> {
    let (mut token, mut local, mut remote, mut error) = (None, None, None, 0);
    let (mut local_port, mut remote_port) = (0, 0);
    for (kind, value) in attributes(&message.body) {
        match kind {
            EVENT_TOKEN => token = Some(u32_of(&value)),
            EVENT_SADDR4 => local = v4_of(&value),
            EVENT_SADDR6 => local = v6_of(&value),
            EVENT_DADDR4 => remote = v4_of(&value),
            EVENT_DADDR6 => remote = v6_of(&value),
            EVENT_SPORT => local_port = port_of(&value),
            EVENT_DPORT => remote_port = port_of(&value),
            EVENT_ERROR => error = value.first().copied().unwrap_or(0),
            _ => {}
        }
    }
    let end = |ip: Option<IpAddr>, port| Some(SocketAddr::new(ip?.to_canonical(), port));
    let ends = || Some(Ends { local: end(local, local_port)?, remote: end(remote, remote_port)? });
    let kind = match message.command {
        EVENT_ESTABLISHED => EventKind::Established,
        EVENT_CLOSED => EventKind::Closed,
        EVENT_SUB_ESTABLISHED => EventKind::SubflowJoined { ends: ends()? },
        EVENT_SUB_CLOSED => EventKind::SubflowClosed { ends: ends()?, error },
        _ => return None,
    };
    Some(Event { token: token?, kind })
}

/// Ports of events are as on the wire; those of requests are the machine's.
fn port_of(value: &[u8]) -> u16 {
    value.try_into().map(u16::from_be_bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_back() {
        let body = bytes_of(&[
            DefaultNla::new(EVENT_TOKEN, 77u32.to_ne_bytes().to_vec()),
            DefaultNla::new(EVENT_SADDR4, vec![10, 0, 0, 1]),
            DefaultNla::new(EVENT_DADDR4, vec![10, 0, 0, 2]),
            DefaultNla::new(EVENT_SPORT, vec![0x12, 0x34]),
            DefaultNla::new(EVENT_DPORT, vec![0, 80]),
            DefaultNla::new(EVENT_ERROR, vec![110]),
        ]);
        let (local, remote) = ("10.0.0.1:4660".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let kind = EventKind::SubflowClosed { ends: Ends { local, remote }, error: 110 };
        let found = event(&Message { command: EVENT_SUB_CLOSED, body });
        assert_eq!(found, Some(Event { token: 77, kind }));
    }
}
