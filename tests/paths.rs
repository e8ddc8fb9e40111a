//! What happens to paths and to kernel state while a download runs: it goes on, every byte is right, and
//! afterwards all paths carry again.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use braid_lab::boxes::Boxes;
use braid_lab::topology::{CARRIER_PORT, Topology};
use braid_sys::mptcp;
use braid_sys::netns::Netns;
use common::carry::{CARRIES, downloading, slow, until_carry};
use common::talk::{Pair, listen, said, says, says_times};
use common::{boxes, setup, shell, until};
use socket2::Socket;

/// How many TCP connections a node has from or to an address.
fn connections(node: &Netns, address: &str) -> Result<usize> {
    let all = shell(node, "ss -Htn state established")?;
    Ok(all.lines().filter(|line| line.contains(&format!("{address}]:"))).count()
        + all.lines().filter(|line| line.contains(&format!(" {address}:"))).count())
}

/// Waits until a box has no subflow from or to an address.
fn until_left(node: &Netns, address: &str) -> Result<()> {
    until(&format!("{} has left {address}", node.label()), || Ok(connections(node, address)? == 0))
}

fn until_same(node: &Netns, look: &str, before: &str) -> Result<()> {
    until(&format!("it is as before: {look}"), || {
        Ok(shell(node, &format!("{look} || true"))? == before)
    })
}

#[test]
fn an_address_changes() -> Result<()> {
    let topology = slow()?;
    let mut boxes = boxes(&topology)?;
    downloading(&topology, &mut boxes.ingress, |_| {
        until_carry(&topology, &[0, 1])?;
        let change = "ip address add 10.77.2.77/24 dev wan2; ip address del 10.77.2.1/24 dev wan2";
        shell(&topology.ingress, change)?;
        until_left(&topology.ingress, "10.77.2.1")?;
        until_carry(&topology, &[0, 1])?;
        ensure!(connections(&topology.ingress, "10.77.2.77")? > 0, "no subflow from there");
        // For a while there is none, as a DHCP client does it.
        shell(&topology.ingress, "ip address del 10.77.2.77/24 dev wan2")?;
        until_left(&topology.ingress, "10.77.2.77")?;
        shell(&topology.ingress, "ip address add 10.77.2.1/24 dev wan2")?;
        until_carry(&topology, &[0, 1])
    })?;
    boxes.stop()
}

/// The one over which all carriers were dialled, too.
#[test]
fn carrier_is_lost() -> Result<()> {
    let topology = slow()?;
    let mut boxes = boxes(&topology)?;
    downloading(&topology, &mut boxes.ingress, |ingress| {
        for (times, path, address) in [(1, 1, "10.77.2.1"), (2, 0, "10.77.1.1")] {
            until_carry(&topology, &[0, 1])?;
            topology.links[path].carrier(false)?;
            // The peer hears of it over the other path.
            until_left(&topology.ingress, address)?;
            until_left(&topology.egress, address)?;
            until_carry(&topology, &[1 - path])?;
            // Heartbeats may have been faster than the kernel's word.
            says_times(ingress, "path is down", times)?;
            topology.links[path].carrier(true)?;
            says_times(ingress, "path is up", 2 + times)?;
        }
        until_carry(&topology, &[0, 1])?;
        topology.links.iter().try_for_each(|link| link.carrier(false))?;
        until("no way is left", || {
            let rules = shell(&topology.ingress, "ip rule")?;
            Ok(!rules.contains("4710:") && !rules.contains("4711:"))
        })?;
        topology.links.iter().try_for_each(|link| link.carrier(true))?;
        until_carry(&topology, &[0, 1])
    })?;
    says_times(&mut boxes.ingress, "path is down", 4)?;
    says_times(&mut boxes.ingress, "path is up", 6)?;
    boxes.stop()
}

/// A third way between the boxes, whose interface can be deleted: it vanishes at both ends.
fn add_interface(topology: &Topology) -> Result<()> {
    let peer = topology.egress.path();
    let peer = peer.display();
    let near = format!(
        "ip link add wan3 type veth peer name wan3 netns {peer}; \
         ip address add 10.77.3.1/24 dev wan3; ip link set wan3 up; \
         tc qdisc add dev wan3 root tbf rate 40mbit burst 16k latency 50ms"
    );
    shell(&topology.ingress, &near)?;
    let far = "ip address add 10.77.3.2/24 dev wan3; ip link set wan3 up; \
               tc qdisc add dev wan3 root tbf rate 40mbit burst 16k latency 50ms";
    shell(&topology.egress, far).map(drop)
}

#[test]
fn an_interface_goes_and_comes_back() -> Result<()> {
    let topology = slow()?;
    let mut boxes = Boxes::start(&topology, &setup())?;
    let file = boxes.files().join("ingress.toml");
    let text = std::fs::read_to_string(&file)?;
    let text = text.replace("\"wan2\"", "\"wan3\"").replace("10.77.2.2:", "10.77.3.2:");
    std::fs::write(&file, text)?;
    boxes.ingress.stop()?;
    // It is not there when the box starts.
    boxes.ingress.restart(&topology.ingress)?;
    says(&mut boxes.ingress, "there is no interface \"wan3\"")?;
    let carries = || {
        until("wan3 carries", || {
            let received = "awk '$1 == \"wan3:\" { print $2 }' /proc/net/dev";
            Ok(shell(&topology.ingress, received)?.trim().parse::<u64>()? > CARRIES)
        })
    };
    downloading(&topology, &mut boxes.ingress, |_| {
        until_carry(&topology, &[0])?;
        for _ in 0..2 {
            add_interface(&topology)?;
            carries()?;
            shell(&topology.ingress, "ip link delete wan3")?;
            until_left(&topology.ingress, "10.77.3.1")?;
            until_carry(&topology, &[0])?;
        }
        add_interface(&topology)?;
        carries()
    })?;
    boxes.stop()
}

#[test]
fn a_box_starts_without_its_paths() -> Result<()> {
    let topology = slow()?;
    let mut boxes = boxes(&topology)?;
    boxes.ingress.stop()?;
    shell(&topology.ingress, "ip link set wan1 down; ip link set wan2 down")?;
    boxes.ingress.restart(&topology.ingress)?;
    says(&mut boxes.ingress, "no [[path]] leads to peer \"egress\" now")?;
    says(&mut boxes.ingress, "no session")?;
    shell(&topology.ingress, "ip link set wan2 up")?;
    says(&mut boxes.ingress, "session is up")?;
    downloading(&topology, &mut boxes.ingress, |_| {
        until_carry(&topology, &[1])?;
        shell(&topology.ingress, "ip link set wan1 up")?;
        until_carry(&topology, &[0, 1])
    })?;
    boxes.stop()
}

/// The egress box is behind a gateway on either path.
#[test]
fn a_gateway_changes() -> Result<()> {
    let topology = slow()?;
    let mut boxes = Boxes::start(&topology, &setup())?;
    let addresses = "ip address add 203.0.113.7/32 dev lo; ip address add 10.77.2.3/24 dev wan2";
    shell(&topology.egress, addresses)?;
    let routes = "ip route add default via 10.77.1.2 metric 1; \
                  ip route add default via 10.77.2.2 metric 2";
    shell(&topology.ingress, routes)?;
    let file = boxes.files().join("ingress.toml");
    let text = std::fs::read_to_string(&file)?;
    let (head, tail) = text.split_once("endpoints = [").context("endpoints")?;
    let (_, tail) = tail.split_once(']').context("endpoints")?;
    std::fs::write(&file, format!("{head}endpoints = [\"203.0.113.7:{CARRIER_PORT}\"]{tail}"))?;
    boxes.ingress.stop()?;
    boxes.ingress.restart(&topology.ingress)?;
    downloading(&topology, &mut boxes.ingress, |_| {
        until_carry(&topology, &[0, 1])?;
        shell(&topology.ingress, "ip route change default via 10.77.2.3 metric 2")?;
        until("the path's table has it", || {
            Ok(shell(&topology.ingress, "ip route show table 4772")?.contains("via 10.77.2.3 "))
        })?;
        // The old one answers no more.
        shell(&topology.egress, "ip address del 10.77.2.2/24 dev wan2")?;
        shell(&topology.ingress, "ip neighbour flush dev wan2")?;
        until_carry(&topology, &[0, 1])
    })?;
    boxes.stop()
}

#[test]
fn nft_ruleset_is_flushed() -> Result<()> {
    const LOOK: &str = "nft list table inet braid";
    let topology = slow()?;
    let mut boxes = boxes(&topology)?;
    let listener = listen(&topology)?;
    downloading(&topology, &mut boxes.ingress, |_| {
        for node in [&topology.ingress, &topology.egress] {
            let before = shell(node, LOOK)?;
            for line in [
                "nft flush ruleset",
                "nft flush chain inet braid prerouting",
                "nft delete chain inet braid prerouting",
            ] {
                shell(node, line)?;
                until_same(node, LOOK, &before)?;
            }
        }
        let mut pair = Pair::open(&topology, &listener)?;
        pair.talk()?;
        pair.close()?;
        until_carry(&topology, &[0, 1])
    })?;
    let restored = "restored what something else had changed: nftables table";
    for running in [&mut boxes.ingress, &mut boxes.egress] {
        says_times(running, restored, 3)?;
        ensure!(said(running, restored) == 3, "more often than it was taken away");
    }
    boxes.stop()
}

#[test]
fn rules_are_flushed() -> Result<()> {
    const LOOK: &str = "ip rule; ip -6 rule; ip route show table all proto 147; \
                        ip -6 route show table all proto 147";
    let topology = slow()?;
    let mut boxes = boxes(&topology)?;
    let listener = listen(&topology)?;
    let before = shell(&topology.ingress, LOOK)?;
    ensure!(before.contains("4710:") && before.contains("table 4772"), "{before}");
    downloading(&topology, &mut boxes.ingress, |_| {
        until_carry(&topology, &[0, 1])?;
        for line in [
            "ip rule flush; ip rule add lookup main priority 32766; \
             ip rule add lookup default priority 32767",
            "ip route flush table 4771; ip -6 route flush table 4770",
        ] {
            shell(&topology.ingress, line)?;
            until_same(&topology.ingress, LOOK, &before)?;
        }
        let mut pair = Pair::open(&topology, &listener)?;
        pair.talk()?;
        pair.close()?;
        until_carry(&topology, &[0, 1])
    })?;
    says_times(&mut boxes.ingress, "restored what something else had changed", 2)?;
    boxes.stop()
}

#[test]
fn sysctls_and_limits_are_set_back() -> Result<()> {
    const LOOK: &str = "sysctl net.mptcp.path_manager net.mptcp.blackhole_timeout \
                        net.ipv4.tcp_rmem; ip mptcp limits";
    let topology = slow()?;
    let mut boxes = boxes(&topology)?;
    let before = shell(&topology.ingress, LOOK)?;
    let change = "sysctl -qw net.mptcp.path_manager=kernel net.mptcp.blackhole_timeout=3600; \
                  ip mptcp limits set subflow 2";
    shell(&topology.ingress, change)?;
    says(&mut boxes.ingress, "restored what something else had changed: sysctl")?;
    until_same(&topology.ingress, LOOK, &before)?;
    boxes.stop()
}

/// A connection of another program in the ingress box, over the address that goes.
#[test]
fn unrelated_connections_keep_their_subflows() -> Result<()> {
    let topology = slow()?;
    let mut boxes = boxes(&topology)?;
    let remote: SocketAddr = "10.77.2.2:9000".parse()?;
    let listener = topology.egress.run(move || mptcp::listener(remote))??;
    listener.set_nonblocking(false)?;
    let mut near = topology.ingress.run(move || -> std::io::Result<TcpStream> {
        let (socket, to) = mptcp::dialling("10.77.2.1".parse().expect("an address"), remote)?;
        let socket = Socket::from(socket);
        socket.set_nonblocking(false)?;
        socket.connect(&to.into())?;
        Ok(socket.into())
    })??;
    let (mut far, _) = listener.accept()?;
    let mut talk = || -> Result<()> {
        near.write_all(b"words")?;
        far.read_exact(&mut [0; 5])?;
        far.write_all(b"words")?;
        Ok(near.read_exact(&mut [0; 5])?)
    };
    talk()?;
    downloading(&topology, &mut boxes.ingress, |_| {
        until_carry(&topology, &[0, 1])?;
        let change = "ip address add 10.77.2.77/24 dev wan2; ip address del 10.77.2.1/24 dev wan2";
        shell(&topology.ingress, change)?;
        until("only the other program's is left", || {
            Ok(connections(&topology.ingress, "10.77.2.1")? == 1)
        })?;
        shell(&topology.ingress, "ip address add 10.77.2.1/24 dev wan2")?;
        until_carry(&topology, &[0, 1])
    })?;
    talk()?;
    boxes.stop()
}
