//! MPTCP sockets (RFC 8684, `net/mptcp/sockopt.c`): making them and asking what became of them.
//!
//! Dual-stack throughout: an AF_INET connection cannot be joined over IPv6, so IPv4 goes as
//! IPv4-mapped IPv6, unless the kernel has no IPv6 at all.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use braid_core::addr::mapped;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

mod subflows;

pub use subflows::{SubflowInfo, subflows};

/// `SOL_MPTCP` of `linux/socket.h` and `MPTCP_INFO` of `linux/mptcp.h`.
const SOL_MPTCP: i32 = 284;
const MPTCP_INFO: i32 = 1;

/// Flag of `mptcpi_flags`: the connection has fallen back to plain TCP.
const FLAG_FALLBACK: u32 = 1;

/// What the kernel says of an MPTCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// The connection's name on the generic netlink family `mptcp_pm`.
    pub token: u32,
    /// Whether it has fallen back to plain TCP.
    pub fallback: bool,
}

/// The head of `struct mptcp_info`; the kernel writes as much of it as it is asked for.
#[repr(C)]
struct RawInfo {
    counters: [u8; 6],
    flags: u32,
    token: u32,
}

/// A non-blocking MPTCP socket that will leave from `local`, and the address to connect it to.
///
/// # Errors
/// From `socket` (see `probe::mptcp` for their meaning), `bind` (no such local address).
pub fn dialling(local: IpAddr, remote: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, dual) = stream_socket(remote.is_ipv6())?;
    socket.set_tcp_nodelay(true)?;
    let address = |plain: SocketAddr| if dual { mapped(plain) } else { plain };
    socket.bind(&address(SocketAddr::new(local, 0)).into())?;
    Ok((socket.into(), address(remote)))
}

/// A non-blocking MPTCP listener. `[::]` takes both families.
///
/// # Errors
/// From `socket`, `bind` (port in use) and `listen`.
pub fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let (socket, dual) = stream_socket(address.is_ipv6())?;
    let everything = address.ip().is_unspecified() && address.is_ipv6();
    if dual {
        socket.set_only_v6(address.is_ipv6() && !everything)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&if dual { mapped(address) } else { address }.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// An AF_INET6 socket, and true; on a kernel without IPv6 an AF_INET socket, and false.
fn stream_socket(needs_v6: bool) -> io::Result<(Socket, bool)> {
    let kind = Type::STREAM.nonblocking();
    match Socket::new(Domain::IPV6, kind, Some(Protocol::MPTCP)) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            Ok((socket, true))
        }
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) && !needs_v6 => {
            Ok((Socket::new(Domain::IPV4, kind, Some(Protocol::MPTCP))?, false))
        }
        Err(error) => Err(error),
    }
}

/// Asks the kernel about a connection; `None` when it is not MPTCP, because the peer was not.
///
/// # Errors
/// From `getsockopt`, other than those that say "not MPTCP".
pub fn info(socket: &impl AsFd) -> io::Result<Option<Info>> {
    let mut raw = MaybeUninit::<RawInfo>::zeroed();
    let mut length = size_of::<RawInfo>() as libc::socklen_t;
    // SAFETY: `raw` is valid for `length` bytes and outlives the call, which writes at most that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            SOL_MPTCP,
            MPTCP_INFO,
            raw.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT) => Ok(None),
            _ => Err(error),
        };
    }
    // SAFETY: zeroed before, and every bit pattern is a valid `RawInfo`.
    let raw = unsafe { raw.assume_init() };
    Ok(Some(Info { token: raw.token, fallback: raw.flags & FLAG_FALLBACK != 0 }))
}

/// Bytes written that the far end's kernel has not acknowledged (`SIOCOUTQ`, Linux 5.17).
///
/// # Errors
/// From `ioctl`.
pub fn unacknowledged(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ, writes one int through the pointer, which is valid.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(bytes.max(0) as usize) }
}

/// Makes the close of `socket` a reset (RST, or MP_FASTCLOSE) instead of an orderly end.
///
/// # Errors
/// From `setsockopt`.
pub fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// Makes the close of `socket` an orderly end again.
///
/// # Errors
/// From `setsockopt`.
pub fn end_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(None)
}

/// Lets the kernel probe each subflow of `socket` that has been silent for `idle`, every
/// `interval`, and end it after `count` probes without answer. Both are whole seconds.
///
/// It holds for the subflows there are and for those that join later. A kernel whose MPTCP does
/// not know the three numbers (before Linux 6.10) keeps those of its sysctls, and that is no error.
///
/// # Errors
/// From `setsockopt`: a number out of bounds (1 to 32767 s, 1 to 127 probes).
pub fn keep_alive(
    socket: &impl AsFd,
    idle: Duration,
    interval: Duration,
    count: u32,
) -> io::Result<()> {
    let wanted = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count);
    unless_unknown(SockRef::from(socket).set_tcp_keepalive(&wanted))
}

/// An option that MPTCP does not have is EOPNOTSUPP, where TCP has it.
fn unless_unknown(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Ok(()),
        _ => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use super::*;

    fn connected(dialled: TcpStream, to: SocketAddr) -> TcpStream {
        let socket = Socket::from(dialled);
        socket.set_nonblocking(false).unwrap();
        socket.connect(&to.into()).unwrap();
        socket.into()
    }

    #[test]
    fn a_dual_stack_listener_takes_ipv4_and_both_ends_are_mptcp() {
        let listener = listener("[::]:0".parse().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let remote =
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.local_addr().unwrap().port());
        let (socket, to) = dialling(Ipv4Addr::LOCALHOST.into(), remote).unwrap();
        let client = connected(socket, to);
        let (server, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_canonical(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let (client, server) = (info(&client).unwrap().unwrap(), info(&server).unwrap().unwrap());
        assert!(!client.fallback && !server.fallback && client.token != 0);
    }

    #[test]
    fn a_plain_peer_is_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = listener.local_addr().unwrap();
        let (socket, to) = dialling(Ipv4Addr::LOCALHOST.into(), remote).unwrap();
        let client = connected(socket, to);
        assert!(info(&client).unwrap().is_none_or(|info| info.fallback));
    }

    #[test]
    fn a_reset_crosses() {
        use std::io::Read as _;
        let listener = listener("[::1]:0".parse().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let remote = listener.local_addr().unwrap();
        let (socket, to) = dialling(remote.ip(), remote).unwrap();
        let client = connected(socket, to);
        let (mut server, _) = listener.accept().unwrap();
        reset_on_close(&client).unwrap();
        drop(client);
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let started = Instant::now();
        let error = server.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn mptcp_takes_keep_alive_on_both_ends() {
        let listener = listener("[::1]:0".parse().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let remote = listener.local_addr().unwrap();
        let (socket, to) = dialling(remote.ip(), remote).unwrap();
        let (idle, interval) = (Duration::from_secs(25), Duration::from_secs(5));
        // Before the connection, and behind it.
        keep_alive(&socket, idle, interval, 3).unwrap();
        let client = connected(socket, to);
        let (server, _) = listener.accept().unwrap();
        keep_alive(&server, idle, interval, 3).unwrap();
        for end in [&client, &server] {
            let end = SockRef::from(end);
            assert!(end.keepalive().unwrap());
            assert_eq!(end.tcp_keepalive_time().unwrap(), idle);
            assert_eq!(end.tcp_keepalive_interval().unwrap(), interval);
            assert_eq!(end.tcp_keepalive_retries().unwrap(), 3);
        }
        assert!(keep_alive(&client, idle, interval, 1000).is_err());
        assert_eq!(unacknowledged(&client).unwrap(), 0);
    }
}
