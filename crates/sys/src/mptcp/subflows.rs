//! What the kernel knows of each subflow of a connection: `MPTCP_FULL_INFO` (Linux 6.5,
//! `net/mptcp/sockopt.c`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use braid_core::addr::canonical;

use super::SOL_MPTCP;

/// One subflow of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubflowInfo {
    /// Its number in the connection: each new subflow has the next one.
    pub id: u32,
    /// Where it leaves from.
    pub local: SocketAddr,
    /// Where it goes.
    pub remote: SocketAddr,
    /// The state of its TCP: 1 established, 7 closed (`include/net/tcp_states.h`).
    pub state: u8,
    /// Round trip, smoothed.
    pub rtt: Duration,
    /// The mean deviation of the round trip.
    pub rtt_var: Duration,
    /// The least round trip of the last minutes (`net.ipv4.tcp_min_rtt_wlen`), if one was measured.
    pub min_rtt: Option<Duration>,
    /// The time-out of the next retransmission.
    pub rto: Duration,
    /// The time since data came in last.
    pub last_data_received: Duration,
    /// The time since an acknowledgement came in last.
    pub last_ack_received: Duration,
    /// Bytes of a full segment.
    pub snd_mss: u32,
    /// The congestion window, in segments.
    pub snd_cwnd: u32,
    /// Segments on their way.
    pub unacked: u32,
    /// Of these, the ones taken for lost.
    pub lost: u32,
    /// Time-outs in a row for the oldest segment on its way.
    pub retransmits: u8,
    /// Segments sent again, ever.
    pub total_retrans: u32,
    /// Bytes a second that arrived at the far end, as last measured.
    pub delivery_rate: u64,
    /// Whether that was less than the path would have taken, for want of data to send.
    pub app_limited: bool,
    /// Bytes handed to the subflow and not sent yet.
    pub not_sent: u32,
    /// Bytes acknowledged, ever.
    pub bytes_acked: u64,
    /// Bytes received, ever.
    pub bytes_received: u64,
    /// Bytes sent again, ever.
    pub bytes_retrans: u64,
}

impl SubflowInfo {
    /// Whether it carries, or could.
    #[must_use]
    pub fn is_established(&self) -> bool {
        /// `TCP_ESTABLISHED` of `include/net/tcp_states.h`.
        const ESTABLISHED: u8 = 1;
        self.state == ESTABLISHED
    }
}

/// The subflows of a connection, in the order of the kernel's list.
///
/// The first in it is the one that the connection was made with, then come the others in the order
/// in which they joined. The first stays in the list after its own end, as closed, for as long as
/// the connection lives (`__mptcp_close_ssk`), and its addresses may read as unspecified then;
/// others vanish with their end. The list is empty when the connection is not
/// MPTCP, or not any more, and on kernels before Linux 6.5. Whether a subflow is backup is not told.
///
/// # Errors
/// From `getsockopt`, other than those that say "not MPTCP".
pub fn subflows(socket: &impl AsFd) -> io::Result<Vec<SubflowInfo>> {
    let mut room = 8;
    loop {
        let asked = Question::ask(socket, room);
        match asked {
            // More have joined than there was room for.
            Ok(answer) if answer.count() > room => room = answer.count(),
            Ok(answer) => return answer.subflows(),
            Err(error) => match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT) => return Ok(Vec::new()),
                _ => return Err(error),
            },
        }
    }
}

/// `MPTCP_FULL_INFO` of `linux/mptcp.h`.
const MPTCP_FULL_INFO: i32 = 4;

/// `struct mptcp_full_info` up to its `mptcp_info`, which may be left out.
#[repr(C)]
#[derive(Default)]
struct RawFullInfo {
    size_tcpinfo_kernel: u32,
    size_tcpinfo_user: u32,
    size_sfinfo_kernel: u32,
    size_sfinfo_user: u32,
    num_subflows: u32,
    size_arrays_user: u32,
    subflow_info: u64,
    tcp_info: u64,
}

/// As much of `struct tcp_info` as is read here.
const TCP_INFO_LEN: usize = 216;

/// A `struct __kernel_sockaddr_storage`.
const STORAGE_LEN: usize = 128;

/// A `struct mptcp_subflow_info`: the number, padding on 64-bit kernels, two addresses.
const SUBFLOW_INFO_LEN: usize = 8 + 2 * STORAGE_LEN;

/// The option's head and the two arrays that it points to.
struct Question {
    head: RawFullInfo,
    subflow_infos: Vec<u8>,
    tcp_infos: Vec<u8>,
}

impl Question {
    fn ask(socket: &impl AsFd, room: usize) -> io::Result<Self> {
        let mut subflow_infos = vec![0; room * SUBFLOW_INFO_LEN];
        let mut tcp_infos = vec![0; room * TCP_INFO_LEN];
        let mut head = RawFullInfo {
            size_tcpinfo_user: TCP_INFO_LEN as u32,
            size_sfinfo_user: SUBFLOW_INFO_LEN as u32,
            size_arrays_user: room as u32,
            subflow_info: subflow_infos.as_mut_ptr().expose_provenance() as u64,
            tcp_info: tcp_infos.as_mut_ptr().expose_provenance() as u64,
            ..RawFullInfo::default()
        };
        let mut length = size_of::<RawFullInfo>() as libc::socklen_t;
        // SAFETY: `head` is valid for `length` bytes, of which the kernel writes no more, and each
        // array for `size_arrays_user` elements of the size given, of which it writes no more
        // either. All three outlive the call, and integers are all they are made of.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                SOL_MPTCP,
                MPTCP_FULL_INFO,
                (&raw mut head).cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { head, subflow_infos, tcp_infos })
    }

    fn count(&self) -> usize {
        self.head.num_subflows as usize
    }

    /// The kernel has made the sizes of the elements the lesser of its own and ours.
    fn subflows(&self) -> io::Result<Vec<SubflowInfo>> {
        let infos = self.subflow_infos.chunks_exact(self.head.size_sfinfo_user.max(1) as usize);
        let tcps = self.tcp_infos.chunks_exact(self.head.size_tcpinfo_user.max(1) as usize);
        // Its own size says whether it pads, whatever this program's pointers are.
        let addresses = (self.head.size_sfinfo_kernel as usize).checked_sub(2 * STORAGE_LEN);
        let read = |(info, tcp)| subflow(info, addresses?, tcp);
        let found: Option<_> = infos.zip(tcps).take(self.count()).map(read).collect();
        found.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "MPTCP_FULL_INFO"))
    }
}

/// Offsets are those of `struct tcp_info` in `linux/tcp.h`, the same on every machine.
fn subflow(info: &[u8], addresses: usize, tcp: &[u8]) -> Option<SubflowInfo> {
    // What an older kernel does not have is 0.
    let byte = |at: usize| tcp.get(at).copied().unwrap_or(0);
    let u32_at = |at| u32_of(tcp, at).unwrap_or(0);
    let u64_at = |at| u64_of(tcp, at).unwrap_or(0);
    let micros = |at| Duration::from_micros(u32_at(at).into());
    let millis = |at| Duration::from_millis(u32_at(at).into());
    Some(SubflowInfo {
        id: u32_of(info, 0)?,
        local: address(info.get(addresses..)?)?,
        remote: address(info.get(addresses + STORAGE_LEN..)?)?,
        state: byte(0),
        rtt: micros(68),
        rtt_var: micros(72),
        min_rtt: Some(micros(148)).filter(|_| ![0, NO_MIN_RTT].contains(&u32_at(148))),
        rto: micros(8),
        last_data_received: millis(52),
        last_ack_received: millis(56),
        snd_mss: u32_at(16),
        snd_cwnd: u32_at(80),
        unacked: u32_at(24),
        lost: u32_at(32),
        retransmits: byte(2),
        total_retrans: u32_at(100),
        delivery_rate: u64_at(160),
        app_limited: byte(7) & APP_LIMITED != 0,
        not_sent: u32_at(144),
        bytes_acked: u64_at(120),
        bytes_received: u64_at(128),
        bytes_retrans: u64_at(208),
    })
}

/// `tcpi_min_rtt` before the first measurement.
const NO_MIN_RTT: u32 = u32::MAX;

/// `tcpi_delivery_rate_app_limited`, a bit-field: the first bit is the highest on big-endian ones.
const APP_LIMITED: u8 = if cfg!(target_endian = "big") { 0x80 } else { 1 };

/// A `sockaddr_in` or `sockaddr_in6`; IPv4 on a dual-stack socket reads as IPv4.
fn address(storage: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(storage.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(storage.get(2..4)?.try_into().ok()?);
    let ip: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(storage.get(4..8)?).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(storage.get(8..24)?).ok()?).into(),
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, port)))
}

fn u32_of(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_of(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::time::Instant;

    use socket2::Socket;

    use super::*;
    use crate::mptcp::{dialling, listener};
    use crate::netns::Netns;

    /// Both ends, and the listener, which takes joins.
    fn pair(ip: &str) -> (TcpStream, TcpStream, TcpListener) {
        let listener = listener("[::]:0".parse().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let remote = SocketAddr::new(ip.parse().unwrap(), listener.local_addr().unwrap().port());
        let (socket, to) = dialling(remote.ip(), remote).unwrap();
        let socket = Socket::from(socket);
        socket.set_nonblocking(false).unwrap();
        socket.connect(&to.into()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        (socket.into(), accepted, listener)
    }

    fn crossed(near: &mut TcpStream, far: &mut TcpStream, bytes: usize) {
        near.write_all(&vec![1; bytes]).unwrap();
        far.read_exact(&mut vec![0; bytes]).unwrap();
        far.write_all(&[1]).unwrap();
        near.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn the_offsets_are_the_kernels() {
        for ip in ["127.0.0.1", "::1"] {
            let (mut near, mut far, _listener) = pair(ip);
            crossed(&mut near, &mut far, 20_000);
            let [one] = subflows(&near).unwrap()[..] else { panic!("one subflow") };
            let [other] = subflows(&far).unwrap()[..] else { panic!("one subflow") };
            assert_eq!(one.local, canonical(near.local_addr().unwrap()));
            assert_eq!(one.remote, canonical(near.peer_addr().unwrap()));
            assert_eq!((one.local, one.remote), (other.remote, other.local));
            assert_eq!((one.state, other.state), (1, 1));
            // The handshake's SYN counts as a byte acknowledged.
            assert!((20_000..20_002).contains(&one.bytes_acked), "{one:?}");
            assert!((20_000..20_002).contains(&other.bytes_received), "{other:?}");
            assert_eq!((one.bytes_received, one.bytes_retrans, one.total_retrans), (1, 0, 0));
            let second = Duration::from_secs(1);
            assert!(Duration::ZERO < one.rtt && one.rtt < second, "{one:?}");
            assert!(one.min_rtt.is_some_and(|least| least <= one.rtt), "{one:?}");
            assert!(one.rto >= one.rtt && one.last_data_received < 60 * second, "{one:?}");
            assert!(one.snd_cwnd > 1 && one.snd_mss > 500 && one.delivery_rate > 0, "{one:?}");
        }
    }

    #[test]
    fn a_joined_subflow_is_behind_the_first() {
        let namespace = Netns::new("subflows").unwrap();
        namespace.run(joined).unwrap();
    }

    fn joined() {
        for arguments in ["limits set subflow 8", "endpoint add 127.0.0.2 dev lo subflow"] {
            let mut command = Command::new("ip");
            command.arg("mptcp").args(arguments.split(' '));
            assert!(command.status().unwrap().success(), "{arguments}");
        }
        let (mut near, mut far, _listener) = pair("127.0.0.1");
        let started = Instant::now();
        let found = loop {
            crossed(&mut near, &mut far, 1);
            let found = subflows(&near).unwrap();
            if found.len() == 2 {
                break found;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "{found:?}");
        };
        assert_eq!(found[0].local, canonical(near.local_addr().unwrap()));
        assert_eq!(found[1].local.ip(), "127.0.0.2".parse::<IpAddr>().unwrap());
        assert!(found[1].id > found[0].id);
        // Too little room is asked again with more.
        assert_eq!(Question::ask(&near, 1).unwrap().count(), 2);
    }

    #[test]
    fn plain_tcp_has_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = listener.local_addr().unwrap();
        let plain = TcpStream::connect(remote).unwrap();
        assert_eq!(subflows(&plain).unwrap(), []);
        let (socket, to) = dialling(remote.ip(), remote).unwrap();
        let fallen_back = Socket::from(socket);
        fallen_back.set_nonblocking(false).unwrap();
        fallen_back.connect(&to.into()).unwrap();
        assert_eq!(subflows(&fallen_back).unwrap(), []);
    }
}
