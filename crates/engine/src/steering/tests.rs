//! Many connections between two namespaces, over two paths, one of which dies and lives again.

use std::process::Command;

use braid_core::health::State;
use braid_core::path::{Link, Path, Role};
use braid_sys::mptcp;
use braid_sys::netns::Netns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::dial::{Dialled, Dialler};

/// As many as a peer may have.
const CONNECTIONS: usize = 256;

const NEAR: &str = "
    set -e
    ip link add near0 type veth peer name far0 netns $PEER
    sysctl -qw net.mptcp.path_manager=userspace
    for n in 1 2; do ip address add 10.7.$n.1/24 dev near0; done
    ip link set near0 up";
const FAR: &str = "
    set -e
    for n in 1 2; do ip address add 10.7.$n.2/24 dev far0; done
    ip link set far0 up; ip mptcp limits set subflow 8";

fn shell(node: &Netns, script: &str, peer: &Netns) {
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("PEER", peer.path());
    assert!(node.spawn(command).unwrap().wait().unwrap().success(), "{script}");
}

fn path(number: u8) -> Path {
    Path {
        interface: format!("path{number}"),
        link: Link::Up,
        index: 2,
        role: Role::Normal,
        addresses: vec![format!("10.7.{number}.1/24").parse().unwrap()],
        routes: Vec::new(),
    }
}

/// Both ends, established as the kernel wants it: with data each way.
async fn connect(dialler: &Dialler, listener: &TcpListener) -> (Dialled, TcpStream) {
    let (dialled, accepted) = tokio::join!(dialler.dial(), listener.accept());
    let (mut dialled, mut far) = (dialled.unwrap(), accepted.unwrap().0);
    dialled.stream.write_all(b"a").await.unwrap();
    far.read_exact(&mut [0]).await.unwrap();
    far.write_all(b"b").await.unwrap();
    dialled.stream.read_exact(&mut [0]).await.unwrap();
    (dialled, far)
}

/// Waits until all connections go over these paths, and have as many subflows at the far end.
async fn until_over(connections: &[(Dialled, TcpStream)], paths: u64) {
    let is_over = |(dialled, far): &(Dialled, TcpStream)| {
        let state = dialled.place.as_ref().unwrap().state();
        let subflows = mptcp::subflows(far).unwrap();
        let established = subflows.iter().filter(|subflow| subflow.state == 1).count();
        state.joined == paths && established == paths.count_ones() as usize
    };
    let started = Instant::now();
    while !connections.iter().all(is_over) {
        assert!(started.elapsed() < Duration::from_secs(60), "never over {paths:b}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn a_path_dies_and_lives(listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener).unwrap();
    let (steering, task) = Steering::start().await.unwrap();
    let task = tokio::spawn(task);
    let endpoints = ["10.7.1.2:4000", "10.7.2.2:4000"].map(|text| text.parse().unwrap());
    let dialler = Dialler::new(endpoints.to_vec(), steering);
    assert!(dialler.set_paths(&[path(1), path(2)]));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(connect(&dialler, &listener).await);
    }
    until_over(&connections, 0b11).await;
    let ways = dialler.ways().get().all();
    for (dead, rest) in [(1, 0b01), (0, 0b10), (1, 0b01)] {
        dialler.set_state(&ways[dead], State::Down);
        until_over(&connections, rest).await;
        // What is dialled meanwhile keeps off it, too.
        connections.push(connect(&dialler, &listener).await);
        until_over(&connections, rest).await;
        dialler.set_state(&ways[dead], State::Up);
        until_over(&connections, 0b11).await;
    }
    assert!(dialler.set_paths(&[path(1)]) && !dialler.set_paths(&[path(1)]));
    until_over(&connections, 0b01).await;
    drop((connections, dialler));
    task.await.unwrap();
}

fn between(near: &Netns, far: &Netns) {
    let listener = far.run(|| mptcp::listener("[::]:4000".parse().unwrap()).unwrap()).unwrap();
    let here = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(a_path_dies_and_lives(listener));
    };
    near.run(here).unwrap();
}

#[test]
fn connections_leave_a_dead_path_and_take_it_when_it_lives() {
    let (near, far) = (Netns::new("near").unwrap(), Netns::new("far").unwrap());
    shell(&near, NEAR, &far);
    shell(&far, FAR, &near);
    between(&near, &far);
}

/// The far box dials others: its kernel leaves subflows to it, and takes joins only while somebody hears
/// its events.
#[test]
fn the_far_box_manages_its_own_connections() {
    let (near, far) = (Netns::new("near").unwrap(), Netns::new("far").unwrap());
    shell(&near, NEAR, &far);
    shell(&far, FAR, &near);
    shell(&far, "sysctl -qw net.mptcp.path_manager=userspace", &near);
    let mut monitor = Command::new("ip");
    monitor.args(["mptcp", "monitor"]).stdout(std::process::Stdio::null());
    let mut monitor = far.spawn(monitor).unwrap();
    between(&near, &far);
    monitor.kill().unwrap();
    monitor.wait().unwrap();
}
