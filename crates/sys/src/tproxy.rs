//! Transparent sockets (`Documentation/networking/tproxy.rst`): listeners that are handed
//! intercepted flows, and connections that leave with a host's own address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

/// Waiting flows a listener holds before the kernel drops SYNs; capped by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A non-blocking listener for intercepted flows of one family, on the loopback address and a
/// port of the kernel's choice, so that no host can reach it but through the ruleset.
///
/// It is plain TCP: a host that speaks MPTCP itself falls back.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN; EAFNOSUPPORT without that family.
pub fn listener(v6: bool) -> io::Result<TcpListener> {
    let loopback: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let socket = transparent_socket(v6)?;
    socket.bind(&SocketAddr::new(loopback, 0).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A non-blocking TCP socket that will leave with the host's address `source`, from its own port
/// where that is free.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN; EADDRINUSE when no port is left.
pub fn dialling_from(source: SocketAddr) -> io::Result<TcpStream> {
    let socket = transparent_socket(source.is_ipv6())?;
    match socket.bind(&source.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            socket.bind(&SocketAddr::new(source.ip(), 0).into())?;
        }
        other => other?,
    }
    Ok(socket.into())
}

/// A non-blocking TCP socket with this box's own address.
///
/// # Errors
/// From `socket`.
pub fn dialling(v6: bool) -> io::Result<TcpStream> {
    Ok(tcp_socket(v6)?.into())
}

/// Closes the sending direction of a connection, behind what is written already.
///
/// # Errors
/// ENOTCONN when the connection is gone.
pub fn shut_sending(socket: &impl AsFd) -> io::Result<()> {
    socket2::SockRef::from(socket).shutdown(Shutdown::Write)
}

fn transparent_socket(v6: bool) -> io::Result<Socket> {
    let socket = tcp_socket(v6)?;
    if v6 {
        socket.set_ip_transparent_v6(true)?;
    } else {
        socket.set_ip_transparent_v4(true)?;
    }
    Ok(socket)
}

fn tcp_socket(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if v6 {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    // A host that has left the LAN is noticed some day; accepted sockets inherit it.
    socket.set_keepalive(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_gives_way_to_another() {
        // A transparent socket may have any address, this one from the documentation range.
        let first = Socket::from(dialling_from("192.0.2.9:0".parse().unwrap()).unwrap());
        let source = first.local_addr().unwrap().as_socket().unwrap();
        first.set_reuse_address(false).unwrap();
        let second = Socket::from(dialling_from(source).unwrap());
        let second = second.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(second.ip(), source.ip());
        assert_ne!(second.port(), source.port());
    }
}
