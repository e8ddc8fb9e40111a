//! Real connections: over the loopback, and between two addresses each of a namespace.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use braid_core::addr::canonical;
use socket2::Socket;

use super::*;
use crate::mptcp::{self, SubflowInfo};
use crate::netns::Netns;

#[tokio::test]
async fn the_kernel_has_the_family_and_tells_of_connections() {
    let manager = PathManager::connect().unwrap();
    assert!(manager.limits().await.unwrap().subflows <= 8);
    let mut events = manager.events().await.unwrap();
    let listener = mptcp::listener("[::1]:0".parse().unwrap()).unwrap();
    let remote = listener.local_addr().unwrap();
    let (socket, to) = mptcp::dialling(remote.ip(), remote).unwrap();
    let mut stream = tokio::net::TcpSocket::from_std_stream(socket).connect(to).await.unwrap();
    let token = mptcp::info(&stream).unwrap().unwrap().token;
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"data").await.unwrap();
    let established = Event { token, kind: EventKind::Established };
    while events.next().await.unwrap() != established {}
}

/// Two addresses at either end of a connection, which both ends manage as in real life: the dialling
/// one by hand, the other by its kernel. Both families, as one box sees them.
const TWO_WAYS: &str = "
    set -e
    ip link add near0 type veth peer name far0 netns $PEER
    sysctl -qw net.mptcp.path_manager=userspace
    for n in 1 2; do
        ip address add 10.7.$n.1/24 dev near0; ip address add fd07:$n::1/64 dev near0 nodad
    done
    ip link set near0 up";
const FAR_END: &str = "
    set -e
    for n in 1 2; do
        ip address add 10.7.$n.2/24 dev far0; ip address add fd07:$n::2/64 dev far0 nodad
    done
    ip link set far0 up; ip mptcp limits set subflow 8";

fn shell(node: &Netns, script: &str, peer: &Netns) {
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("PEER", peer.path());
    assert!(node.spawn(command).unwrap().wait().unwrap().success(), "{script}");
}

/// A connection over the first way, its far end, and the near end's path manager.
struct Connection {
    near: TcpStream,
    far: TcpStream,
    token: u32,
    manager: PathManager,
    events: BoxStream<'static, Event>,
    /// Joins come to it.
    _listener: TcpListener,
}

async fn with_connection(
    addresses: [&'static str; 2],
    test: impl AsyncFnOnce(&mut Connection, [Ends; 2]) + Send + 'static,
) {
    let (near, far) = (Netns::new("near").unwrap(), Netns::new("far").unwrap());
    shell(&near, TWO_WAYS, &far);
    shell(&far, FAR_END, &near);
    let listener = far.run(|| mptcp::listener("[::]:4000".parse().unwrap()).unwrap()).unwrap();
    listener.set_nonblocking(false).unwrap();
    let here = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let [first, second] = addresses.map(|prefix| Ends {
                local: SocketAddr::new(format!("{prefix}1").parse().unwrap(), 0),
                remote: SocketAddr::new(format!("{prefix}2").parse().unwrap(), 4000),
            });
            let manager = PathManager::connect().unwrap();
            let mut events = manager.events().await.unwrap();
            let (socket, to) = mptcp::dialling(first.local.ip(), first.remote).unwrap();
            let socket = Socket::from(socket);
            socket.set_nonblocking(false).unwrap();
            socket.connect(&to.into()).unwrap();
            let (far, _) = listener.accept().unwrap();
            let near = TcpStream::from(socket);
            let token = mptcp::info(&near).unwrap().unwrap().token;
            let local = canonical(near.local_addr().unwrap());
            let mut connection = Connection {
                near,
                far,
                token,
                manager,
                events: Box::pin(futures_util::stream::pending()),
                _listener: listener,
            };
            connection.talk();
            let established = Event { token, kind: EventKind::Established };
            while events.next().await.unwrap() != established {}
            connection.events = events;
            test(&mut connection, [Ends { local, ..first }, second]).await;
        });
    };
    near.run(here).unwrap();
}

impl Connection {
    /// Bytes each way.
    fn talk(&mut self) {
        let (words, mut heard) = ([0x5a; 3000], [0; 3000]);
        for (from, to) in [(&self.near, &self.far), (&self.far, &self.near)] {
            let (mut from, mut to) = (from, to);
            from.write_all(&words).unwrap();
            to.read_exact(&mut heard).unwrap();
            assert_eq!(words, heard);
        }
    }

    /// Joins over a way; the subflow's ends.
    async fn join(&mut self, way: Ends, local_id: u8) -> Ends {
        let (local, remote) = (way.local.ip(), way.remote);
        let subflow = Subflow { local_id, local, remote, backup: false };
        self.manager.create(self.token, &subflow).await.unwrap();
        loop {
            if let EventKind::SubflowJoined { ends } = self.events.next().await.unwrap().kind {
                assert_eq!((ends.local.ip(), ends.remote), (local, remote));
                return ends;
            }
        }
    }

    /// Withdraws an address and destroys the subflow from it; the far end's goes, too.
    async fn leave(&mut self, ends: Ends, local_id: u8) {
        self.manager.remove(self.token, local_id).await.unwrap();
        match self.manager.destroy(self.token, ends).await {
            // The far end has been faster.
            Err(PmError::Refused(_, error)) if error.raw_os_error() == Some(libc::ESRCH) => {}
            outcome => outcome.unwrap(),
        }
        let is_closed = |event: Event| matches!(event.kind, EventKind::SubflowClosed { ends: of, .. } if of == ends);
        while !is_closed(self.events.next().await.unwrap()) {}
        let mirrored = |info: &SubflowInfo| (info.remote, info.local) == (ends.local, ends.remote);
        let started = Instant::now();
        while mptcp::subflows(&self.far).unwrap().iter().any(|s| mirrored(s) && s.state == 1) {
            assert!(started.elapsed() < Duration::from_secs(10), "the far end keeps {ends:?}");
            tokio::task::yield_now().await;
        }
        if local_id != 0 {
            // The first one stays in the kernel's list, closed, until the connection ends.
            let again = self.manager.destroy(self.token, ends).await;
            assert!(matches!(again, Err(PmError::Refused(..))), "{ends:?}: {again:?}");
        }
    }
}

/// The first subflow's address has identifier 0, and another one when it is joined from again.
async fn both_ways_go_and_come_back(connection: &mut Connection, [first, second]: [Ends; 2]) {
    let mut joined = connection.join(second, 2).await;
    for _ in 0..3 {
        connection.leave(joined, 2).await;
        connection.talk();
        joined = connection.join(second, 2).await;
        connection.talk();
    }
    connection.leave(first, 0).await;
    connection.talk();
    let again = connection.join(first, 1).await;
    connection.talk();
    connection.leave(joined, 2).await;
    connection.talk();
    let joined = connection.join(second, 2).await;
    connection.leave(again, 1).await;
    connection.talk();
    let open = |end: &TcpStream| {
        let found = mptcp::subflows(end).unwrap();
        found.into_iter().filter(|s| s.state == 1).map(|s| (s.local, s.remote)).collect::<Vec<_>>()
    };
    assert_eq!(open(&connection.near), [(joined.local, joined.remote)]);
    assert_eq!(open(&connection.far), [(joined.remote, joined.local)]);
}

#[tokio::test]
async fn subflows_are_destroyed_and_joined_again() {
    with_connection(["10.7.1.", "10.7.2."], both_ways_go_and_come_back).await;
}

#[tokio::test]
async fn subflows_are_destroyed_and_joined_again_over_ipv6() {
    with_connection(["fd07:1::", "fd07:2::"], both_ways_go_and_come_back).await;
}

#[tokio::test]
async fn a_connection_without_a_subflow_can_be_joined() {
    with_connection(["10.7.1.", "10.7.2."], async |connection, [first, second]| {
        connection.leave(first, 0).await;
        connection.join(second, 2).await;
        connection.talk();
    })
    .await;
}
