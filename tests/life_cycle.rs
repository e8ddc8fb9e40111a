//! Starting, stopping, being killed: what is left in the kernel.

mod common;

use anyhow::{Result, ensure};
use braid_lab::generator::{Server, fetch};
use braid_lab::topology::sink_address;
use common::{Family, boxes, kernel_state, shell, topology, until};
use std::time::Duration;

#[test]
fn a_stop_leaves_nothing() -> Result<()> {
    let topology = topology()?;
    let before = [kernel_state(&topology.ingress)?, kernel_state(&topology.egress)?];
    let boxes = boxes(&topology)?;
    let during = kernel_state(&topology.ingress)?;
    for sign in ["table inet braid", "fwmark 0x42000000", "proto 147", "userspace", "33554432"] {
        ensure!(during.contains(sign), "no {sign} in\n{during}");
    }
    boxes.stop()?;
    let after = [kernel_state(&topology.ingress)?, kernel_state(&topology.egress)?];
    ensure!(before == after, "before:\n{}\nafter:\n{}", before.join("\n"), after.join("\n"));
    Ok(())
}

#[test]
fn a_kill_and_a_start_leave_what_one_start_does() -> Result<()> {
    let topology = topology()?;
    let before = [kernel_state(&topology.ingress)?, kernel_state(&topology.egress)?];
    let mut boxes = boxes(&topology)?;
    let ports =
        |state: String| state.lines().filter(|line| !line.contains("tproxy")).collect::<String>();
    let once = ports(kernel_state(&topology.ingress)?);
    for _ in 0..2 {
        boxes.ingress.kill()?;
        boxes.egress.kill()?;
        boxes.egress.restart(&topology.egress)?;
        boxes.ingress.restart(&topology.ingress)?;
    }
    ensure!(
        ports(kernel_state(&topology.ingress)?) == once,
        "a restart adds to the kernel's state"
    );
    let address = sink_address(Family::V4, 4242)?;
    let _server = topology.sink.run(move || Server::start(&[address]))??;
    let limit = Duration::from_secs(60);
    topology.host.run(move || fetch(address, 100_000, 1, limit))??;
    boxes.stop()?;
    let after = [kernel_state(&topology.ingress)?, kernel_state(&topology.egress)?];
    ensure!(before == after, "before:\n{}\nafter:\n{}", before.join("\n"), after.join("\n"));
    Ok(())
}

#[test]
fn others_state_is_left_alone() -> Result<()> {
    let topology = topology()?;
    let others = "nft add table inet other; nft add chain inet other c; \
                  ip rule add from 10.9.9.9 lookup 99 priority 4710; \
                  ip route add 10.9.9.0/24 dev lan0 table 4771; sysctl -qw net.mptcp.stale_loss_cnt=7";
    shell(&topology.ingress, others)?;
    let before = kernel_state(&topology.ingress)?;
    for sign in ["table inet other", "4710:", "table 4771", "stale_loss_cnt:7"] {
        ensure!(before.contains(sign), "no {sign} in\n{before}");
    }
    let boxes = boxes(&topology)?;
    boxes.stop()?;
    let after = kernel_state(&topology.ingress)?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    Ok(())
}

#[test]
fn carriers_join_over_every_path() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let address = sink_address(Family::V4, 4242)?;
    let _server = topology.sink.run(move || Server::start(&[address]))??;
    let limit = Duration::from_secs(60);
    topology.host.run(move || fetch(address, 20_000_000, 1, limit))??;
    let carried = |path: usize| {
        topology.links[path].counters(braid_lab::link::Direction::Down).tally.bytes_delivered
    };
    until("both paths carried", || Ok(carried(0) > 1_000_000 && carried(1) > 1_000_000))?;
    boxes.stop()
}

#[test]
fn ipv6_is_switched_off() -> Result<()> {
    let topology = topology()?;
    for node in [&topology.ingress, &topology.egress] {
        shell(node, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1")?;
    }
    let boxes = boxes(&topology)?;
    let address = sink_address(Family::V4, 4242)?;
    let _server = topology.sink.run(move || Server::start(&[address]))??;
    let limit = Duration::from_secs(60);
    topology.host.run(move || fetch(address, 1_000_000, 1, limit))??;
    boxes.stop()
}
