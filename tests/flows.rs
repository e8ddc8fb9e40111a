//! Flows through both boxes: every byte and every ending, over all paths and no other way.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use braid_lab::boxes::{Boxes, Setup};
use braid_lab::experiment;
use braid_lab::generator::{Server, StormPlan, StormReport, fetch, storm};
use braid_lab::link::Direction;
use braid_lab::topology::{Topology, host_address, lan_prefixes, sink_address};
use common::{Family, boxes, setup, topology, until};

const PORT: u16 = 4242;

fn storm_through(topology: &Topology, flows: u64, bytes_each: u64) -> Result<StormReport> {
    let addresses = [sink_address(Family::V4, PORT)?, sink_address(Family::V6, PORT)?];
    let server = topology.sink.run(move || Server::start(&addresses))??;
    let ledger = server.ledger();
    let deadline = Duration::from_secs(60);
    let plan = StormPlan { flows, bytes_each, concurrency: 25, seed: 7, deadline };
    Ok(topology.host.run(move || storm(&addresses, &plan, &ledger))??)
}

/// Carriers stay, as many as there were flows at once and some; flows leave nothing.
#[test]
fn flows_end_in_every_way() -> Result<()> {
    const CARRIERS: u64 = 60;
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let before = boxes.descriptors()?;
    for _ in 0..2 {
        let report = storm_through(&topology, 60, 1_000_000)?;
        ensure!(report.passed(), "{report:#?}");
        ensure!(report.resets_ok > 0 && report.half_closes_ok > 0, "{report:?}");
    }
    // Each carrier has one in either box.
    until("descriptors closed", || Ok(boxes.descriptors()? <= before + 2 * CARRIERS))?;
    boxes.stop()
}

#[test]
fn nothing_goes_round_braid() -> Result<()> {
    let topology = topology()?;
    for link in &topology.links {
        link.forbid(&lan_prefixes()?)?;
    }
    let boxes = boxes(&topology)?;
    let proofs = experiment::prove(&topology)?;
    ensure!(proofs.verdict() == braid_lab::report::figure::Verdict::Met, "{proofs:#?}");
    boxes.stop()
}

/// The proofs above can fail: plain routing is seen by all of them.
#[test]
fn plain_routing_is_seen() -> Result<()> {
    let topology = topology()?;
    for link in &topology.links {
        link.forbid(&lan_prefixes()?)?;
    }
    topology.route_over(1)?;
    let proofs = experiment::prove(&topology)?;
    ensure!(proofs.paths[0].forbidden == 0 && proofs.paths[1].forbidden > 0, "{proofs:#?}");
    ensure!(proofs.lan_routes.len() == 4, "{proofs:#?}");
    Ok(())
}

/// A tap can fail, too: it reads what plain routing carries.
#[test]
fn a_tap_reads_plain_flows() -> Result<()> {
    let topology = topology()?;
    topology.route_over(1)?;
    let taps = experiment::tap(&topology)?;
    ensure!(taps.paths[0].forbidden == 0 && taps.paths[1].forbidden > 500, "{taps:#?}");
    ensure!(taps.found == ["wan2 up: the flow's bytes", "wan2 down: the flow's bytes"], "{taps:?}");
    Ok(())
}

#[test]
fn a_mesh_carries_flows_both_ways() -> Result<()> {
    let topology = topology()?;
    let boxes = Boxes::start(&topology, &Setup { mesh: true, reverse: true, ..setup() })?;
    let report = storm_through(&topology, 10, 1_000_000)?;
    ensure!(report.passed(), "{report:#?}");
    let address = host_address(Family::V6, PORT)?;
    let server = topology.host.run(move || Server::start(&[address]))??;
    let limit = Duration::from_secs(20);
    topology.sink.run(move || fetch(address, 2_000_000, 1, limit))??;
    ensure!(server.stats().sent >= 2_000_000, "{:?}", server.stats());
    boxes.stop()
}

#[test]
fn carriers_go_over_ipv6() -> Result<()> {
    let topology = topology()?;
    let boxes = Boxes::start(&topology, &Setup { family: Family::V6, ..setup() })?;
    let report = storm_through(&topology, 20, 2_000_000)?;
    ensure!(report.passed(), "{report:#?}");
    for link in &topology.links {
        let carried = link.counters(Direction::Down).tally.bytes_delivered;
        ensure!(carried > 1_000_000, "{} carried {carried} bytes", link.name());
    }
    boxes.stop()
}

#[test]
fn the_sink_sees_the_host_or_the_egress() -> Result<()> {
    for (source, seen) in [("preserve", "192.168.10.2"), ("masquerade", "192.168.20.1")] {
        let topology = topology()?;
        let boxes = Boxes::start(&topology, &Setup { source, ..setup() })?;
        let address = sink_address(Family::V4, PORT)?;
        let listener = topology.sink.run(move || TcpListener::bind(address))??;
        let host = topology.host.run(move || -> std::io::Result<SocketAddr> {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(b"hello")?;
            stream.local_addr()
        })??;
        let (mut stream, from) = listener.accept()?;
        ensure!(from.ip().to_string() == seen, "{source}: the sink saw {from}");
        ensure!(source == "masquerade" || from == host, "the host was {host}, seen as {from}");
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(text == "hello", "{text}");
        boxes.stop()?;
    }
    Ok(())
}

#[test]
fn curl_fetches_from_nginx() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let place = tempfile::tempdir()?;
    let body: Vec<u8> =
        (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(place.path().join("file"), &body)?;
    let conf = format!(
        "daemon off; master_process off; user root; pid nginx.pid; error_log stderr; events {{}} \
         http {{ access_log off; server {{ listen 80; listen [::]:80; root {}; }} }}",
        place.path().display()
    );
    std::fs::write(place.path().join("nginx.conf"), conf)?;
    let mut nginx = Command::new("nginx");
    nginx.arg("-p").arg(place.path()).args(["-c", "nginx.conf"]).stderr(Stdio::null());
    let mut nginx = topology.sink.spawn(nginx).context("start nginx")?;
    for sink in ["192.168.20.2", "[fd00:20::2]"] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--retry", "50", "--retry-all-errors", "--retry-delay", "1"]);
        curl.args(["--max-time", "60"]).arg(format!("http://{sink}/file"));
        let output = topology.host.run(move || curl.output())??;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.stdout == body, "{} bytes of {}", output.stdout.len(), body.len());
    }
    nginx.kill()?;
    nginx.wait()?;
    boxes.stop()
}
