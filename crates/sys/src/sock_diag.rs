//! Ending TCP sockets by their ends, by `sock_diag` (sock_diag(7), `linux/inet_diag.h`): of a Multipath
//! TCP connection one subflow.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

/// Where in a `struct inet_diag_msg` a `struct inet_diag_sockid` is, and where in a request.
const IDENTITY: Range<usize> = 4..52;
const IDENTITY_ASKED: usize = 8;

/// Ends the established TCP sockets with these ends, ours first, by a reset, as `ss --kill` does, and
/// says how many there were. A subflow of a Multipath TCP connection ends alone: the connection goes
/// on over the others, which carry again what that one still had.
///
/// # Errors
/// From the netlink socket: a kernel without `inet_diag`; EOPNOTSUPP on a kernel without CONFIG_INET_DIAG_DESTROY.
pub fn end(sockets: &[(SocketAddr, SocketAddr)]) -> io::Result<usize> {
    let mut found: Vec<(u8, [u8; IDENTITY.end - IDENTITY.start])> = Vec::new();
    dump(|message| {
        let is_it = ends(message).is_some_and(|ends| sockets.contains(&ends));
        let identity = message.get(IDENTITY).filter(|_| is_it).and_then(|it| it.try_into().ok());
        found.extend(identity.map(|identity| (message[0], identity)));
    })?;
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    let mut ended = 0;
    for (family, identity) in &found {
        ended += usize::from(destroy(&socket, *family, identity)?);
    }
    Ok(ended)
}

/// By its identity, in which is the kernel's cookie: by its ends alone the kernel would find the listener
/// in place of one that has gone.
fn destroy(socket: &Socket, family: u8, identity: &[u8]) -> io::Result<bool> {
    let mut asked = request(SOCK_DESTROY, NLM_F_REQUEST_ACK, family);
    let place = HEADER_LEN + IDENTITY_ASKED;
    asked[place..place + identity.len()].copy_from_slice(identity);
    socket.send(&asked, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    match next_message(&answer) {
        Some((NLMSG_ERROR, code, _)) => match error(code).raw_os_error() {
            Some(0) => Ok(true),
            Some(libc::ENOENT) => Ok(false),
            _ => Err(error(code)),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLM_F_REQUEST_ACK: u16 = 0x5;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const ESTABLISHED: u32 = 1 << 1;

/// `struct nlmsghdr`, `struct inet_diag_req_v2`, `struct inet_diag_msg`, bytes.
const HEADER_LEN: usize = 16;
const REQUEST_LEN: usize = 56;
const MESSAGE_LEN: usize = 72;

/// Each established socket; a dual-stack one that carries IPv4 is among those of IPv6.
fn dump(mut each: impl FnMut(&[u8])) -> io::Result<()> {
    [libc::AF_INET6, libc::AF_INET]
        .iter()
        .try_for_each(|family| dump_family(*family as u8, &mut each))
}

fn dump_family(family: u8, each: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.send(&request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, family), 0)?;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while let Some((kind, message, next)) = next_message(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(error(message)),
                _ => each(message),
            }
            rest = next;
        }
    }
}

fn request(kind: u16, flags: u16, family: u8) -> [u8; HEADER_LEN + REQUEST_LEN] {
    let mut bytes = [0; HEADER_LEN + REQUEST_LEN];
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    let body = &mut bytes[HEADER_LEN..];
    (body[0], body[1]) = (family, libc::IPPROTO_TCP as u8);
    body[4..8].copy_from_slice(&ESTABLISHED.to_ne_bytes());
    bytes
}

/// The first message's type and body, and what is behind it.
fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER_LEN..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn error(message: &[u8]) -> io::Error {
    let code = message.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    io::Error::from_raw_os_error(-code)
}

/// The addresses in a `struct inet_diag_msg`.
fn ends(message: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let head = message.get(..MESSAGE_LEN)?;
    let port = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let end = |at: Range<usize>, port| Some(SocketAddr::new(address(head[0], &head[at])?, port));
    Some((end(8..24, port(4))?, end(24..40, port(6))?))
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(*bytes.first_chunk()?).into()),
        _ => Some(IpAddr::V6(Ipv6Addr::from(*bytes.first_chunk()?)).to_canonical()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use braid_core::addr::canonical;

    use super::*;

    /// As carriers are on the box that accepts them.
    #[test]
    fn ipv4_on_a_dual_stack_socket_is_ended() {
        let listener = crate::mptcp::listener("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let remote = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let (socket, to) = crate::mptcp::dialling(remote.ip(), remote).unwrap();
        let socket = socket2::Socket::from(socket);
        socket.set_nonblocking(false).unwrap();
        socket.connect(&to.into()).unwrap();
        let near = socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(end(&[(remote, canonical(near))]).unwrap(), 1);
    }

    #[test]
    fn a_connection_is_ended_and_its_neighbour_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let from = |local: [u8; 4]| {
            let kind = socket2::Type::STREAM;
            let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
            socket.bind(&SocketAddr::from((local, 0)).into()).unwrap();
            socket.connect(&address.into()).unwrap();
            (TcpStream::from(socket), listener.accept().unwrap().0)
        };
        let (mut ended, _other) = from([127, 0, 0, 5]);
        let (mut stays, mut far) = from([127, 0, 0, 6]);
        let ends = [(address, ended.local_addr().unwrap())];
        assert_eq!(end(&ends).unwrap(), 1);
        assert!(ended.read(&mut [0]).is_err());
        far.write_all(b"x").unwrap();
        stays.read_exact(&mut [0]).unwrap();
        assert_eq!(end(&ends).unwrap(), 0);
    }

    #[test]
    fn bytes_that_are_no_answer_are_none() {
        assert!(next_message(&[1, 0, 0, 0]).is_none());
        assert!(next_message(&[200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(ends(&[0; 8]).is_none());
    }
}
