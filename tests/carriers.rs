//! What flows have carriers to thank for: used again and again, shared when they are few, asked for
//! by either box, and standing when a session falls.

mod common;

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use braid_lab::boxes::{Boxes, Running, Setup};
use braid_lab::experiment;
use braid_lab::generator::{Server, burst, fetch};
use braid_lab::report::figure::Verdict;
use braid_lab::topology::{Topology, host_address, sink_address};
use braid_sys::mptcp::reset_on_close;
use braid_sys::netns::Netns;
use common::relay::{CONTROL, relayed};
use common::talk::{
    LIMIT, PORT, Pair, download, downloading, drain, fill, listen, said, says, says_times, serve,
    storm_to,
};
use common::{Family, boxes, setup, shell, topology, until};

/// MPTCP connections accepted in a namespace so far.
fn accepted(node: &Netns) -> Result<u64> {
    let text = shell(node, "nstat -asz MPTcpExtMPCapableSYNRX")?;
    let line = text.lines().find(|line| line.starts_with("MPTcp")).context("no counter")?;
    Ok(line.split_whitespace().nth(1).context("no count")?.parse()?)
}

#[test]
fn a_carrier_is_used_a_thousand_times() -> Result<()> {
    let topology = topology()?;
    let boxes = Boxes::start(&topology, &Setup { carriers: Some(4), ..setup() })?;
    let server = serve(&topology)?;
    let address = sink_address(Family::V4, PORT)?;
    topology.host.run(move || {
        (0..700u64).try_for_each(|seed| fetch(address, 1 + seed * 7, seed, LIMIT).map(drop))
    })??;
    storm_to(&topology.host, &server, 60, 2, 20_000)?;
    storm_to(&topology.host, &server, 240, 12, 20_000)?;
    ensure!(server.stats().wrong == 0, "{:?}", server.stats());
    // One is the session; a carrier that is not clean in time after a reset is made anew.
    let connections = accepted(&topology.egress)?;
    ensure!(connections < 100, "{connections} connections for 1,000 flows");
    boxes.stop()
}

#[test]
fn more_flows_than_carriers_share_them() -> Result<()> {
    let topology = topology()?;
    let boxes = Boxes::start(&topology, &Setup { carriers: Some(8), ..setup() })?;
    let (server, listener) = (serve(&topology)?, listen(&topology)?);
    let mut pairs: Vec<Pair> =
        (0..60).map(|_| Pair::open(&topology, &listener)).collect::<Result<_>>()?;
    // Beyond the fourth none has a carrier of its own. Two readers stall, one at each end.
    let (mut at_sink, mut at_host) = (pairs.remove(40), pairs.remove(30));
    let (up, down) = (fill(&mut at_sink.host)?, fill(&mut at_host.sink)?);
    for (number, pair) in pairs.iter_mut().enumerate() {
        pair.talk().with_context(|| format!("flow {number} beside those that stall"))?;
    }
    storm_to(&topology.host, &server, 40, 10, 300_000)?;
    for pair in pairs.drain(30..35) {
        pair.reset_by_host()?;
    }
    for pair in pairs.drain(30..35) {
        pair.reset_by_sink()?;
    }
    for pair in &mut pairs[20..30] {
        pair.half_close()?;
    }
    drain(&mut at_sink.sink, up)?;
    drain(&mut at_host.host, down)?;
    for pair in [&mut at_sink, &mut at_host].into_iter().chain(&mut pairs[..20]) {
        pair.talk()?;
    }
    // A stalled flow that is reset, too.
    fill(&mut at_sink.host)?;
    at_sink.reset_by_host()?;
    pairs.remove(0).close()?;
    let connections = accepted(&topology.egress)?;
    ensure!(connections < 40, "{connections} connections with a bound of 8 carriers");
    boxes.stop()
}

#[test]
fn filtered_ports_hold_no_carrier() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let _server = serve(&topology)?;
    let filter = "nft add table inet f; \
                  nft 'add chain inet f in { type filter hook input priority 0; }'; \
                  nft add rule inet f in tcp dport 10000-10999 drop";
    shell(&topology.sink, filter)?;
    download(&topology, 1000)?.map_err(anyhow::Error::msg)?;
    let before = boxes.descriptors()?;
    let base = sink_address(Family::V4, 0)?.ip();
    let waiting = topology.host.run(move || {
        (10_000..11_000)
            .map(|port| TcpStream::connect((base, port)))
            .collect::<std::io::Result<Vec<_>>>()
    })??;
    let asked = || -> Result<usize> {
        Ok(shell(&topology.egress, "ss -Htn state syn-sent")?.lines().count())
    };
    until("the egress knocks at all ports", || Ok(asked()? == 1000))?;
    let address = sink_address(Family::V4, PORT)?;
    topology.host.run(move || burst(address, 10_000, 20, LIMIT))??;
    let connections = accepted(&topology.egress)?;
    ensure!(connections < 60, "{connections} connections for 20 flows");
    for stream in waiting {
        reset_on_close(&stream)?;
    }
    until("the egress knocks no more", || Ok(asked()? == 0))?;
    // Carriers for the burst, in either box.
    until("descriptors closed", || Ok(boxes.descriptors()? <= before + 2 * 40))?;
    boxes.stop()
}

#[test]
fn half_closed_flows_hold_up_nobody() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let (server, listener) = (serve(&topology)?, listen(&topology)?);
    let mut held = Vec::new();
    for _ in 0..300 {
        let mut pair = Pair::open(&topology, &listener)?;
        pair.half_close()?;
        held.push(pair);
    }
    storm_to(&topology.host, &server, 60, 20, 100_000)?;
    for mut pair in held {
        let words = [3; 100];
        std::io::Write::write_all(&mut pair.sink, &words)?;
        drop(pair.sink);
        let mut heard = Vec::new();
        std::io::Read::read_to_end(&mut pair.host, &mut heard)?;
        ensure!(heard == words, "{} bytes", heard.len());
    }
    boxes.stop()
}

/// A server at the host, for flows that the egress box's LAN opens.
fn serve_at_host(topology: &Topology) -> Result<Server> {
    let addresses = [host_address(Family::V4, PORT)?, host_address(Family::V6, PORT)?];
    Ok(topology.host.run(move || Server::start(&addresses))??)
}

fn storms_both_ways(topology: &Topology, at_host: &Server, at_sink: &Server) -> Result<()> {
    thread::scope(|scope| {
        let back = scope.spawn(|| storm_to(&topology.sink, at_host, 60, 15, 200_000));
        storm_to(&topology.host, at_sink, 60, 15, 200_000).context("from host to sink")?;
        back.join().expect("the storm's thread").context("from sink to host").map(drop)
    })
}

#[test]
fn flows_go_both_ways() -> Result<()> {
    let topology = topology()?;
    let boxes = Boxes::start(&topology, &Setup { reverse: true, ..setup() })?;
    let (at_host, at_sink) = (serve_at_host(&topology)?, serve(&topology)?);
    storm_to(&topology.sink, &at_host, 40, 1, 10_000).context("from sink to host alone")?;
    storms_both_ways(&topology, &at_host, &at_sink)?;
    boxes.stop()
}

/// Whether a box has dialled the session that stands; `None` if none does.
fn standing(running: &mut Running) -> Option<bool> {
    running.log().iter().fold(None, |standing, line| {
        if line.contains("session is up") {
            Some(line.contains("dialled_here=true"))
        } else if line.contains("session is down") {
            None
        } else {
            standing
        }
    })
}

/// Waits until one session stands, at both boxes the same.
fn until_one_stands(boxes: &mut Boxes) -> Result<()> {
    let one = until("one session stands", || {
        let (here, there) = (standing(&mut boxes.ingress), standing(&mut boxes.egress));
        Ok(here.is_some() && there.is_some() && here != there)
    });
    let logs = |boxes: &mut Boxes| [boxes.ingress.log().join("\n"), boxes.egress.log().join("\n")];
    one.map_err(|error| error.context(logs(boxes).join("\n\n")))
}

/// Of session, dialling box and carrier number, from which a carrier's keys come, no two are alike;
/// the boxes' numbers by themselves are.
fn no_number_is_used_twice(boxes: &mut Boxes) -> Result<()> {
    let mut dialled = [BTreeSet::new(), BTreeSet::new()];
    for (running, dialled) in [&mut boxes.ingress, &mut boxes.egress].into_iter().zip(&mut dialled)
    {
        for line in running.log().iter().filter(|line| line.contains("carrier dialled")) {
            let words = line.split_whitespace();
            let name: Vec<_> = words
                .filter(|word| word.starts_with("session=") || word.starts_with("number="))
                .map(str::to_owned)
                .collect();
            ensure!(name.len() == 2, "{line}");
            ensure!(dialled.insert(name), "used twice: {line}");
        }
    }
    let [ingress, egress] = dialled;
    ensure!(ingress.intersection(&egress).next().is_some(), "{ingress:?} and {egress:?}");
    Ok(())
}

#[test]
fn boxes_that_dial_each_other() -> Result<()> {
    let topology = topology()?;
    let setup = Setup { mesh: true, reverse: true, ..setup() };
    let mut boxes = Boxes::start(&topology, &setup)?;
    let (at_host, at_sink) = (serve_at_host(&topology)?, serve(&topology)?);
    for round in 0..4 {
        boxes.ingress.kill()?;
        boxes.egress.kill()?;
        let Boxes { ingress, egress, .. } = &mut boxes;
        thread::scope(|scope| {
            let ingress = scope.spawn(|| ingress.restart(&topology.ingress));
            egress.restart(&topology.egress)?;
            ingress.join().expect("the starting thread")
        })?;
        until_one_stands(&mut boxes)?;
        storms_both_ways(&topology, &at_host, &at_sink)
            .with_context(|| format!("round {round}"))?;
        until_one_stands(&mut boxes)?;
        no_number_is_used_twice(&mut boxes)?;
    }
    boxes.ingress.kill()?;
    boxes.ingress.restart(&topology.ingress)?;
    until_one_stands(&mut boxes)?;
    storms_both_ways(&topology, &at_host, &at_sink).context("with another ingress")?;
    boxes.egress.stop()?;
    boxes.egress.restart(&topology.egress)?;
    until_one_stands(&mut boxes)?;
    storms_both_ways(&topology, &at_host, &at_sink).context("with another egress")?;
    boxes.stop()
}

#[test]
fn a_session_is_lost_and_flows_go_on() -> Result<()> {
    let topology = topology()?;
    let (mut boxes, relay) = relayed(&topology, &setup(), true)?;
    let (server, listener) = (serve(&topology)?, listen(&topology)?);
    let mut pair = Pair::open(&topology, &listener)?;
    // Only then a carrier has it: until then it hangs on the session.
    pair.talk()?;
    let sessions = said(&mut boxes.ingress, "session is up");
    downloading(&topology, &server, 40_000_000, || {
        for more in 1..=3 {
            relay.cut_newest(CONTROL)?;
            says_times(&mut boxes.ingress, "session is down", more)?;
            says_times(&mut boxes.egress, "session is down", more)?;
            pair.talk()?;
            says_times(&mut boxes.ingress, "session is up", sessions + more)?;
            pair.talk()?;
            storm_to(&topology.host, &server, 10, 5, 50_000)?;
            // To a sink that the peer has to be asked about.
            Pair::open(&topology, &listener)?.close()?;
        }
        Ok(())
    })?;
    pair.close()?;
    boxes.stop()
}

#[test]
fn a_peer_that_comes_late() -> Result<()> {
    let topology = topology()?;
    let mut boxes = boxes(&topology)?;
    let _server = serve(&topology)?;
    boxes.egress.kill()?;
    boxes.ingress.stop()?;
    boxes.ingress.restart(&topology.ingress)?;
    thread::scope(|scope| {
        let download = scope.spawn(|| download(&topology, 100_000));
        says(&mut boxes.ingress, "no session")?;
        boxes.egress.restart(&topology.egress)?;
        download.join().expect("the download's thread")?.map_err(anyhow::Error::msg)
    })?;
    boxes.stop()
}

#[test]
fn nothing_is_read_on_the_paths() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let taps = experiment::tap(&topology)?;
    ensure!(taps.verdict() == Verdict::Met, "{taps:#?}");
    boxes.stop()
}

/// Payload goes in clear where both boxes want it so. Addresses and what is done to flows do not.
#[test]
fn protection_none_is_by_consent() -> Result<()> {
    let topology = topology()?;
    let mut boxes = Boxes::start(&topology, &Setup { protection: Some("none"), ..setup() })?;
    let taps = experiment::tap(&topology)?;
    let bytes = |found: &String| found.ends_with("the flow's bytes");
    ensure!(!taps.found.is_empty() && taps.found.iter().all(bytes), "{taps:#?}");
    let server = serve(&topology)?;
    storm_to(&topology.host, &server, 60, 15, 300_000)?;
    let file = boxes.files().join("egress.toml");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("protection = \"none\"", "protection = \"seal\""))?;
    boxes.ingress.stop()?;
    boxes.egress.stop()?;
    boxes.egress.restart(&topology.egress)?;
    boxes.ingress.restart(&topology.ingress)?;
    let taps = experiment::tap(&topology)?;
    ensure!(taps.verdict() == Verdict::Met, "{taps:#?}");
    boxes.stop()
}
