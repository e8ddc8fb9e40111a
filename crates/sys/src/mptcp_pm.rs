//! The MPTCP path manager by generic netlink (`linux/mptcp_pm.h`, family `mptcp_pm`): subflows
//! made and closed one connection at a time, the events that tell of them, and the limits of the
//! kernel's own manager.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use futures_util::stream::{BoxStream, StreamExt as _};
use genetlink::{GenetlinkError, GenetlinkHandle};
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::AsyncSocket as _;

/// Bytes for events not read yet. A burst of 256 carriers closing makes some 1,000 of about 130.
const EVENT_BUFFER: usize = 1 << 20;

/// A request that the kernel refused, or could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum PmError {
    /// From netlink itself, or no such family: a kernel without MPTCP.
    #[error("generic netlink family mptcp_pm: {0}")]
    Netlink(#[from] GenetlinkError),
    /// From the socket.
    #[error("generic netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The kernel's answer to a request.
    #[error("{0}: {1}")]
    Refused(&'static str, std::io::Error),
    /// An answer that makes no sense.
    #[error("malformed answer: {0}")]
    Malformed(#[from] DecodeError),
}

/// How many subflows and addresses the kernel's own manager allows a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Addresses of the peer that are taken up.
    pub accepted_addresses: u32,
    /// Subflows beside the first.
    pub subflows: u32,
}

/// An address that the kernel's own manager has made an endpoint of by itself, because a peer
/// joined it. It stays when its connections are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImplicitEndpoint {
    /// Its identifier.
    pub id: u8,
    /// The address.
    pub address: IpAddr,
}

/// One subflow to be: where it leaves from and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subflow {
    /// Identifier of the local address, 1 to 255, the same for the same address.
    pub local_id: u8,
    /// The local address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: SocketAddr,
    /// Whether it carries only when no other does.
    pub backup: bool,
}

/// What the kernel tells of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The connection.
    pub token: u32,
    /// What happened to it.
    pub kind: EventKind,
}

/// Kinds of event; those that braid has no use for are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Subflows can be made from now on.
    Established,
    /// The connection is gone.
    Closed,
    /// A subflow has joined.
    SubflowJoined {
        /// Its local address.
        local: IpAddr,
    },
    /// A subflow is gone.
    SubflowClosed {
        /// Its local address.
        local: IpAddr,
        /// The `errno` it ended with, 0 for an orderly end.
        error: u8,
    },
}

/// A connection to the family; its answers are read by a task of the runtime it was made in.
#[derive(Clone, Debug)]
pub struct PathManager {
    handle: GenetlinkHandle,
}

impl PathManager {
    /// Opens a connection in the calling thread's namespace.
    ///
    /// # Errors
    /// From `socket`.
    pub fn connect() -> Result<Self, PmError> {
        let (connection, handle, _) = genetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The stream of events of this namespace. While it is open, and `net.mptcp.path_manager` is
    /// `userspace`, the kernel lets peers join connections that this box accepted.
    ///
    /// # Errors
    /// When the kernel has no such family or refuses membership (CAP_NET_ADMIN).
    pub async fn events(&self) -> Result<BoxStream<'static, Event>, PmError> {
        let family = self.handle.resolve_family::<Message>().await?;
        let group = family.multicast_groups.get("mptcp_pm_events").copied();
        let group = group.ok_or_else(|| {
            PmError::Refused("subscribe to mptcp_pm_events", std::io::ErrorKind::NotFound.into())
        })?;
        let (mut connection, handle, messages) = genetlink::new_connection()?;
        let socket = connection.socket_mut().socket_mut();
        socket.set_rx_buf_sz(EVENT_BUFFER)?;
        // An unbound socket has the kernel's own port number, and the kernel does not tell itself.
        socket.bind_auto()?;
        socket.add_membership(group)?;
        tokio::spawn(connection);
        Ok(Box::pin(messages.filter_map(move |(message, _)| {
            // The handle is kept: the connection ends with the last of them.
            let _keep = &handle;
            let event = match message.payload {
                NetlinkPayload::InnerMessage(raw) => raw
                    .parse_into_genlmsg::<Message>()
                    .ok()
                    .and_then(|message| event(&message.payload)),
                _ => None,
            };
            async move { event }
        })))
    }

    /// Adds a subflow to the connection `token`.
    ///
    /// # Errors
    /// The kernel's refusal, e.g. before the connection is fully established.
    pub async fn create(&self, token: u32, subflow: &Subflow) -> Result<(), PmError> {
        let mut flags = FLAG_SUBFLOW;
        if subflow.backup {
            flags |= FLAG_BACKUP;
        }
        let mut local = address_attributes(subflow.local);
        local.push(DefaultNla::new(ADDRESS_ID, vec![subflow.local_id]));
        local.push(DefaultNla::new(ADDRESS_FLAGS, flags.to_ne_bytes().to_vec()));
        let mut remote = address_attributes(subflow.remote.ip());
        let port = subflow.remote.port().to_ne_bytes().to_vec();
        remote.push(DefaultNla::new(ADDRESS_PORT, port));
        let body = [
            DefaultNla::new(ATTR_TOKEN, token.to_ne_bytes().to_vec()),
            nested(ATTR_ADDR, &local),
            nested(ATTR_ADDR_REMOTE, &remote),
        ];
        self.request("create subflow", CMD_SUBFLOW_CREATE, &body).await.map(|_| ())
    }

    /// Makes a subflow of the connection `token` a backup, or a normal one, at both ends (MP_PRIO,
    /// RFC 8684 section 3.3.8).
    ///
    /// # Errors
    /// The kernel's refusal: no such subflow.
    pub async fn set_backup(
        &self,
        token: u32,
        local: IpAddr,
        remote: SocketAddr,
        backup: bool,
    ) -> Result<(), PmError> {
        let flags = if backup { FLAG_BACKUP } else { 0 };
        let mut own = address_attributes(local);
        own.push(DefaultNla::new(ADDRESS_FLAGS, flags.to_ne_bytes().to_vec()));
        let mut far = address_attributes(remote.ip());
        far.push(DefaultNla::new(ADDRESS_PORT, remote.port().to_ne_bytes().to_vec()));
        let body = [
            DefaultNla::new(ATTR_TOKEN, token.to_ne_bytes().to_vec()),
            nested(ATTR_ADDR, &own),
            nested(ATTR_ADDR_REMOTE, &far),
        ];
        self.request("set subflow flags", CMD_SET_FLAGS, &body).await.map(|_| ())
    }

    /// The limits of the kernel's own manager in this namespace.
    ///
    /// # Errors
    /// When the kernel refuses to answer.
    pub async fn limits(&self) -> Result<Limits, PmError> {
        let answer = self.request("get limits", CMD_GET_LIMITS, &[]).await?;
        let mut limits = Limits { accepted_addresses: 0, subflows: 0 };
        for (kind, value) in answer.iter().flat_map(|message| attributes(&message.body)) {
            match kind {
                ATTR_RCV_ADD_ADDRS => limits.accepted_addresses = u32_of(&value),
                ATTR_SUBFLOWS => limits.subflows = u32_of(&value),
                _ => {}
            }
        }
        Ok(limits)
    }

    /// Sets the limits of the kernel's own manager in this namespace.
    ///
    /// # Errors
    /// The kernel's refusal: more than 8, or no CAP_NET_ADMIN.
    pub async fn set_limits(&self, limits: Limits) -> Result<(), PmError> {
        let value = |number: u32| number.to_ne_bytes().to_vec();
        let body = [
            DefaultNla::new(ATTR_RCV_ADD_ADDRS, value(limits.accepted_addresses)),
            DefaultNla::new(ATTR_SUBFLOWS, value(limits.subflows)),
        ];
        self.request("set limits", CMD_SET_LIMITS, &body).await.map(|_| ())
    }

    /// Endpoints that the kernel has made by itself in this namespace.
    ///
    /// # Errors
    /// When the kernel refuses to answer.
    pub async fn implicit_endpoints(&self) -> Result<Vec<ImplicitEndpoint>, PmError> {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let found = self.exchange("list endpoints", flags, CMD_GET_ADDR, &[]).await?;
        Ok(found.iter().filter_map(|message| implicit_endpoint(&message.body)).collect())
    }

    /// Deletes an endpoint.
    ///
    /// # Errors
    /// When there is none of its identifier.
    pub async fn delete(&self, endpoint: ImplicitEndpoint) -> Result<(), PmError> {
        let mut address = address_attributes(endpoint.address);
        address.push(DefaultNla::new(ADDRESS_ID, vec![endpoint.id]));
        self.request("delete endpoint", CMD_DEL_ADDR, &[nested(ATTR_ADDR, &address)])
            .await
            .map(|_| ())
    }

    async fn request(
        &self,
        action: &'static str,
        command: u8,
        attributes: &[DefaultNla],
    ) -> Result<Vec<Message>, PmError> {
        self.exchange(action, NLM_F_REQUEST | NLM_F_ACK, command, attributes).await
    }

    async fn exchange(
        &self,
        action: &'static str,
        flags: u16,
        command: u8,
        attributes: &[DefaultNla],
    ) -> Result<Vec<Message>, PmError> {
        let message = Message { command, body: bytes_of(attributes) };
        let mut request = NetlinkMessage::from(GenlMessage::from_payload(message));
        request.header.flags = flags;
        let mut answers = self.handle.clone().request(request).await?;
        let mut found = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer?.payload {
                NetlinkPayload::InnerMessage(message) => found.push(message.payload),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(PmError::Refused(action, error.to_io()));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

const CMD_DEL_ADDR: u8 = 2;
const CMD_GET_ADDR: u8 = 3;
const CMD_SET_LIMITS: u8 = 5;
const CMD_GET_LIMITS: u8 = 6;
const CMD_SET_FLAGS: u8 = 7;
const CMD_SUBFLOW_CREATE: u8 = 10;

const ATTR_ADDR: u16 = 1;
const ATTR_RCV_ADD_ADDRS: u16 = 2;
const ATTR_SUBFLOWS: u16 = 3;
const ATTR_TOKEN: u16 = 4;
const ATTR_ADDR_REMOTE: u16 = 6;

const ADDRESS_FAMILY: u16 = 1;
const ADDRESS_ID: u16 = 2;
const ADDRESS_ADDR4: u16 = 3;
const ADDRESS_ADDR6: u16 = 4;
const ADDRESS_PORT: u16 = 5;
const ADDRESS_FLAGS: u16 = 6;

const FLAG_SUBFLOW: u32 = 1 << 1;
const FLAG_BACKUP: u32 = 1 << 2;
const FLAG_IMPLICIT: u32 = 1 << 4;

const EVENT_ESTABLISHED: u8 = 2;
const EVENT_CLOSED: u8 = 3;
const EVENT_SUB_ESTABLISHED: u8 = 10;
const EVENT_SUB_CLOSED: u8 = 11;

const EVENT_TOKEN: u16 = 1;
const EVENT_SADDR4: u16 = 5;
const EVENT_SADDR6: u16 = 6;
const EVENT_ERROR: u16 = 12;

/// A message of the family: its command or event, and its attributes as they are on the wire.
#[derive(Clone, Debug)]
struct Message {
    command: u8,
    body: Vec<u8>,
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

fn address_attributes(ip: IpAddr) -> Vec<DefaultNla> {
    let (family, kind, octets) = match ip {
        IpAddr::V4(v4) => (libc::AF_INET, ADDRESS_ADDR4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, ADDRESS_ADDR6, v6.octets().to_vec()),
    };
    let family = (family as u16).to_ne_bytes().to_vec();
    vec![DefaultNla::new(ADDRESS_FAMILY, family), DefaultNla::new(kind, octets)]
}

fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    const NLA_F_NESTED: u16 = 1 << 15;
    DefaultNla::new(kind | NLA_F_NESTED, bytes_of(attributes))
}

fn bytes_of(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

fn attributes(body: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    NlasIterator::new(body).flatten().map(|nla| (nla.kind(), nla.value().to_vec()))
}

fn u32_of(value: &[u8]) -> u32 {
    value.try_into().map(u32::from_ne_bytes).unwrap_or_default()
}

fn v4_of(value: &[u8]) -> Option<IpAddr> {
    value.try_into().ok().map(|octets: [u8; 4]| Ipv4Addr::from(octets).into())
}

fn v6_of(value: &[u8]) -> Option<IpAddr> {
    value.try_into().ok().map(|octets: [u8; 16]| Ipv6Addr::from(octets).into())
}

fn implicit_endpoint(body: &[u8]) -> Option<ImplicitEndpoint> {
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

fn event(message: &Message) -> Option<Event> {
    let (mut token, mut local, mut error) = (None, None, 0);
    for (kind, value) in attributes(&message.body) {
        match kind {
            EVENT_TOKEN => token = Some(u32_of(&value)),
            EVENT_SADDR4 => local = v4_of(&value),
            EVENT_SADDR6 => local = v6_of(&value),
            EVENT_ERROR => error = value.first().copied().unwrap_or(0),
            _ => {}
        }
    }
    let local = local.map(|ip: IpAddr| ip.to_canonical());
    let kind = match message.command {
        EVENT_ESTABLISHED => EventKind::Established,
        EVENT_CLOSED => EventKind::Closed,
        EVENT_SUB_ESTABLISHED => EventKind::SubflowJoined { local: local? },
        EVENT_SUB_CLOSED => EventKind::SubflowClosed { local: local?, error },
        _ => return None,
    };
    Some(Event { token: token?, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_back() {
        let body = bytes_of(&[
            DefaultNla::new(EVENT_TOKEN, 77u32.to_ne_bytes().to_vec()),
            DefaultNla::new(EVENT_SADDR4, vec![10, 0, 0, 1]),
            DefaultNla::new(EVENT_ERROR, vec![110]),
        ]);
        let kind = EventKind::SubflowClosed { local: "10.0.0.1".parse().unwrap(), error: 110 };
        let found = event(&Message { command: EVENT_SUB_CLOSED, body });
        assert_eq!(found, Some(Event { token: 77, kind }));
    }

    #[tokio::test]
    async fn the_kernel_has_the_family_and_tells_of_connections() {
        let manager = PathManager::connect().unwrap();
        assert!(manager.limits().await.unwrap().subflows <= 8);
        let mut events = manager.events().await.unwrap();
        let listener = crate::mptcp::listener("[::1]:0".parse().unwrap()).unwrap();
        let remote = listener.local_addr().unwrap();
        let (socket, to) = crate::mptcp::dialling(remote.ip(), remote).unwrap();
        let mut stream = tokio::net::TcpSocket::from_std_stream(socket).connect(to).await.unwrap();
        let token = crate::mptcp::info(&stream).unwrap().unwrap().token;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"data").await.unwrap();
        let established = Event { token, kind: EventKind::Established };
        while events.next().await.unwrap() != established {}
    }
}
