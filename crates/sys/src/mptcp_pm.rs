//! The MPTCP path manager by generic netlink (`linux/mptcp_pm.h`, family `mptcp_pm`): subflows
//! made and closed one connection at a time, the events that tell of them, and the limits of the
//! kernel's own manager.

use std::net::{IpAddr, SocketAddr};

use braid_core::addr::mapped;
use braid_core::path::Ends;
use futures_util::stream::{BoxStream, StreamExt as _};
use genetlink::{GenetlinkError, GenetlinkHandle};
use netlink_packet_core::{
    DecodeError, DefaultNla, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_generic::GenlMessage;
use netlink_sys::AsyncSocket as _;

mod message;

use message::{
    ADDRESS_FLAGS, ADDRESS_ID, ADDRESS_PORT, ATTR_ADDR, ATTR_ADDR_REMOTE, ATTR_LOCAL_ID,
    ATTR_RCV_ADD_ADDRS, ATTR_SUBFLOWS, ATTR_TOKEN, CMD_DEL_ADDR, CMD_GET_ADDR, CMD_GET_LIMITS,
    CMD_REMOVE, CMD_SET_FLAGS, CMD_SET_LIMITS, CMD_SUBFLOW_CREATE, CMD_SUBFLOW_DESTROY,
    FLAG_BACKUP, FLAG_SUBFLOW, Message, address_attributes, attributes, bytes_of, event,
    implicit_endpoint, nested, u32_of,
};

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
        /// Its two ends.
        ends: Ends,
    },
    /// A subflow is gone.
    SubflowClosed {
        /// Its two ends.
        ends: Ends,
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
        let body = [
            DefaultNla::new(ATTR_TOKEN, token.to_ne_bytes().to_vec()),
            nested(ATTR_ADDR, &local),
            nested(ATTR_ADDR_REMOTE, &socket_attributes(subflow.remote)),
        ];
        self.request("create subflow", CMD_SUBFLOW_CREATE, &body).await.map(|_| ())
    }

    /// Destroys a subflow of the connection `token`; the connection lives on over the others. Linux
    /// closes it by FIN, tells [`EventKind::SubflowClosed`], and forgets the identifier of its local
    /// address, so that the same one can be joined from again. The first subflow stays in its list,
    /// closed.
    ///
    /// # Errors
    /// The kernel's refusal: no such subflow or connection.
    pub async fn destroy(&self, token: u32, ends: Ends) -> Result<(), PmError> {
        let body = |local: SocketAddr, remote: SocketAddr| {
            [
                DefaultNla::new(ATTR_TOKEN, token.to_ne_bytes().to_vec()),
                nested(ATTR_ADDR, &socket_attributes(local)),
                nested(ATTR_ADDR_REMOTE, &socket_attributes(remote)),
            ]
        };
        let destroy = async |body: [DefaultNla; 3]| {
            self.request("destroy subflow", CMD_SUBFLOW_DESTROY, &body).await.map(|_| ())
        };
        // The first subflow of a dual-stack socket is IPv6 with mapped addresses, one that joined
        // over IPv4 is IPv4, and the kernel compares families, too.
        match destroy(body(ends.local, ends.remote)).await {
            Err(PmError::Refused(_, error))
                if ends.local.is_ipv4() && error.raw_os_error() == Some(libc::ESRCH) =>
            {
                destroy(body(mapped(ends.local), mapped(ends.remote))).await
            }
            outcome => outcome,
        }
    }

    /// Tells the far end of the connection `token` that the local address by this identifier is gone
    /// (RM_ADDR, RFC 8684 section 3.4.2), so that it closes its subflows to it; 0 is the address that
    /// the connection was made from. Linux sends that once, on one subflow, and forgets an identifier
    /// other than 0. Subflows from the address stay until they are destroyed, or until the far end,
    /// which closes its own at once, is heard.
    ///
    /// # Errors
    /// The kernel's refusal: no such identifier or connection.
    pub async fn remove(&self, token: u32, local_id: u8) -> Result<(), PmError> {
        let body = [
            DefaultNla::new(ATTR_TOKEN, token.to_ne_bytes().to_vec()),
            DefaultNla::new(ATTR_LOCAL_ID, vec![local_id]),
        ];
        self.request("remove address", CMD_REMOVE, &body).await.map(|_| ())
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
        let far = socket_attributes(remote);
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

fn socket_attributes(address: SocketAddr) -> Vec<DefaultNla> {
    let mut found = address_attributes(address.ip());
    found.push(DefaultNla::new(ADDRESS_PORT, address.port().to_ne_bytes().to_vec()));
    found
}

#[cfg(test)]
mod tests;
