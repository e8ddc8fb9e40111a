//! UDP sockets between boxes: one that asks over one way, and one that answers from the address that
//! it was asked at, whichever of the box's that is.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;

/// A non-blocking socket that leaves from `local`, and takes nothing but from `remote`.
///
/// # Errors
/// From `bind` (no such local address) and `connect` (no route).
pub fn asking(local: IpAddr, remote: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(local, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(remote)?;
    tokio::net::UdpSocket::from_std(socket)
}

/// Sends at once, if there is room: tokio would first ask whether there is.
///
/// # Errors
/// From `send`.
pub fn send(socket: &tokio::net::UdpSocket, datagram: &[u8]) -> io::Result<usize> {
    SockRef::from(socket).send(datagram)
}

/// A socket for datagrams from anybody.
#[derive(Debug)]
pub struct Answering {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
}

/// Where datagrams came from, and to.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// Where they came from.
    pub from: SocketAddr,
    /// To which of the box's addresses.
    pub to: Option<IpAddr>,
    /// Bytes in all.
    pub length: usize,
    /// Bytes of each: the kernel may hand over several at once, of which the last may be shorter.
    pub each: usize,
}

impl Answering {
    /// Binds `address`; `[::]` takes both families.
    ///
    /// # Errors
    /// From `socket` and `bind`: port in use.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        // It makes the socket non-blocking.
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket: tokio::net::UdpSocket::from_std(socket)?, state })
    }

    /// Waits for datagrams, which are put into `room`, 64 KiB of it.
    ///
    /// # Errors
    /// From `recvmsg`.
    pub async fn receive(&self, room: &mut [u8]) -> io::Result<Came> {
        let mut meta = [RecvMeta::default()];
        self.socket
            .async_io(Interest::READABLE, || {
                let mut room = [IoSliceMut::new(room)];
                self.state.recv((&self.socket).into(), &mut room, &mut meta)
            })
            .await?;
        let [meta] = meta;
        Ok(Came { from: meta.addr, to: meta.dst_ip, length: meta.len, each: meta.stride.max(1) })
    }

    /// Answers one that came, if there is room now.
    ///
    /// # Errors
    /// From `sendmsg`.
    pub fn answer(&self, came: &Came, contents: &[u8]) -> io::Result<()> {
        let transmit = Transmit {
            destination: came.from,
            ecn: None,
            contents,
            segment_size: None,
            src_ip: came.to,
        };
        let send = || self.state.try_send((&self.socket).into(), &transmit);
        self.socket.try_io(Interest::WRITABLE, send)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer_comes_from_the_address_that_was_asked() {
        let answering = Answering::bind("[::]:0".parse().unwrap()).unwrap();
        let port = answering.socket.local_addr().unwrap().port();
        let mut room = vec![0; 1 << 16];
        // A connected socket hears nobody else.
        for address in ["127.0.0.1", "127.0.0.2", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            let local = if address.is_ipv4() { "127.0.0.3" } else { "::1" };
            let asking = asking(local.parse().unwrap(), SocketAddr::new(address, port)).unwrap();
            assert_eq!(send(&asking, b"question").unwrap(), 8);
            let came = answering.receive(&mut room).await.unwrap();
            assert_eq!(&room[..came.length], b"question");
            answering.answer(&came, b"answer").unwrap();
            let length = asking.recv(&mut room).await.unwrap();
            assert_eq!(&room[..length], b"answer");
        }
    }
}
