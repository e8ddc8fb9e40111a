//! What a box says of itself while it runs, and what `braid check` says before.

mod common;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use braid_core::status::{PeerStatus, Status, WayState};
use braid_engine::status::parse;
use braid_lab::boxes::Boxes;
use braid_lab::topology::{Topology, sink_address};
use braid_sys::netns::Netns;
use common::spoilt::Spoilt;
use common::talk::{Pair, download, listen, serve};
use common::{BRAID, Family, boxes, kernel_state, shell, topology, until};

const UNAVAILABLE: i32 = 69;
const CONFIGURATION: i32 = 78;

fn braid(node: &Netns, words: &str) -> Result<Output> {
    let mut command = Command::new(BRAID);
    command.args(words.split_whitespace());
    Ok(node.run(move || command.output())??)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn status(node: &Netns) -> Result<Status> {
    let output = braid(node, "status --json")?;
    ensure!(output.status.success(), "{output:?}");
    Ok(parse(&said(&output))?)
}

fn peer(node: &Netns) -> Result<PeerStatus> {
    status(node)?.peers.pop().context("no peer")
}

/// Waits until each path is joined and there are more carriers than a test takes.
fn until_ready(topology: &Topology) -> Result<()> {
    until("carriers are ready", || {
        let peer = peer(&topology.ingress)?;
        let joined = peer.ways.iter().filter(|way| way.carriers > 8 && way.jitter_ms.is_some());
        let joined = joined.count();
        Ok(joined == 2 && peer.carriers.ours.idle > 8 && peer.carriers.dialling == 0)
    })
}

#[test]
fn both_boxes_show_ways_session_and_flows() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let listener = listen(&topology)?;
    until_ready(&topology)?;
    let mut pairs: Vec<Pair> =
        (0..3).map(|_| Pair::open(&topology, &listener)).collect::<Result<_>>()?;
    pairs.iter_mut().try_for_each(Pair::talk)?;

    let here = peer(&topology.ingress)?;
    ensure!((here.carriers.ours.busy, here.flows.ours) == (3, 3), "{here:?}");
    ensure!(here.session.as_ref().is_some_and(|s| s.dialled_here), "{here:?}");
    for (way, name) in here.ways.iter().zip(["wan1", "wan2"]) {
        ensure!(way.path.as_deref() == Some(name) && way.carriers > 0, "{way:?}");
        // The links take 2 ms each way.
        ensure!(way.least_rtt_ms.is_some_and(|rtt| (4.0..1000.0).contains(&rtt)), "{way:?}");
        ensure!(way.rtt_ms.is_some() && way.delivery_rate_mbit.is_some(), "{way:?}");
        ensure!(way.state == Some(WayState::Up) && way.state_s.is_some(), "{way:?}");
        ensure!(way.jitter_ms.is_some(), "{way:?}");
    }
    let there = peer(&topology.egress)?;
    ensure!((there.carriers.theirs.busy, there.flows.theirs) == (3, 3), "{there:?}");
    ensure!(there.session.as_ref().is_some_and(|s| !s.dialled_here), "{there:?}");
    let known: Vec<_> = here.ways.iter().map(|way| (way.remote, way.local, way.carriers)).collect();
    let seen: Vec<_> = there.ways.iter().map(|way| (way.local, way.remote, way.carriers)).collect();
    ensure!(known == seen, "{known:?} here, {seen:?} there");

    let text = said(&braid(&topology.ingress, "status")?);
    for words in ["peer egress: session up", "wan2 10.77.2.1 > 10.77.2.2", "3 busy", "3 ours"] {
        ensure!(text.contains(words), "no \"{words}\" in:\n{text}");
    }
    pairs.into_iter().try_for_each(Pair::close)?;
    until("no flow is left", || {
        let (here, there) = (peer(&topology.ingress)?, peer(&topology.egress)?);
        let busy = here.carriers.ours.busy + there.carriers.theirs.busy;
        Ok(busy + here.flows.ours + there.flows.theirs == 0)
    })?;
    boxes.stop()
}

#[test]
fn a_changed_sysctl_and_a_met_bound_are_shown() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let changed = status(&topology.ingress)?.kernel.changed;
    let manager = changed.iter().find(|changed| changed.now == "userspace");
    ensure!(manager.is_some_and(|changed| changed.before == "kernel"), "{changed:?}");
    let address = topology.endpoints(Family::V4)?[0];
    // One more than may be unproved.
    let strangers = topology.ingress.run(move || {
        (0..257).map(|_| TcpStream::connect(address)).collect::<std::io::Result<Vec<_>>>()
    })??;
    until(
        "the bound is met",
        || Ok(status(&topology.egress)?.bounds_met.unproved_connections > 0),
    )?;
    drop(strangers);
    boxes.stop()
}

#[test]
fn what_others_take_away_is_counted() -> Result<()> {
    const MANAGER: &str = "net.mptcp.path_manager";
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let node = &topology.ingress;
    ensure!(status(node)?.kernel.restored.is_empty(), "something is restored already");
    let until_restored = |what: &str, times| {
        until(&format!("{what} is restored {times} times"), || {
            let restored = status(node)?.kernel.restored;
            Ok(restored.iter().any(|it| it.what == what && it.times == times))
        })
    };
    for times in 1..=2 {
        shell(node, "nft flush ruleset")?;
        until_restored("nftables table", times)?;
    }
    shell(node, "ip rule del priority 4710")?;
    until_restored("rules", 1)?;
    shell(node, &format!("sysctl -qw {MANAGER}=kernel; ip mptcp limits set subflow 2"))?;
    until_restored(&format!("sysctl {MANAGER}"), 1)?;
    until_restored("MPTCP limits", 1)?;
    let kernel = status(node)?.kernel;
    let known = kernel.restored.len();
    ensure!(known == 4, "{kernel:?}");
    // Restored, it is changed as before, and not once more.
    let changed = kernel.changed.iter().filter(|changed| changed.sysctl == MANAGER);
    ensure!(changed.map(|changed| &changed.before).eq(["kernel"]), "{kernel:?}");
    let text = said(&braid(node, "status")?);
    ensure!(text.contains("kernel nftables table restored 2 times"), "{text}");
    boxes.stop()
}

#[test]
fn nobody_runs_here() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    // Another namespace's box is not ours.
    let elsewhere = braid(&topology.host, "status")?;
    boxes.stop()?;
    for output in [elsewhere, braid(&topology.ingress, "status --json")?] {
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(UNAVAILABLE), "{output:?}");
        ensure!(words.contains("does not run") && words.contains("braid run -c"), "{words}");
        ensure!(words.lines().count() == 1 && output.stdout.is_empty(), "{output:?}");
    }
    Ok(())
}

#[test]
fn a_status_socket_is_left_by_a_kill() -> Result<()> {
    let topology = topology()?;
    let mut boxes = boxes(&topology)?;
    boxes.ingress.kill()?;
    let output = braid(&topology.ingress, "status")?;
    ensure!(output.status.code() == Some(UNAVAILABLE), "{output:?}");
    boxes.ingress.restart(&topology.ingress)?;
    ensure!(status(&topology.ingress)?.process == boxes.ingress.id());
    boxes.stop()
}

/// More readers than there may be, none of which reads or goes.
#[test]
fn readers_that_do_not_read() -> Result<()> {
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let _server = serve(&topology)?;
    let socket = shell(&topology.ingress, "ls /run/braid/status-*.sock")?.trim().to_owned();
    ensure!(fs::metadata(&socket).is_err(), "the box's /run is not its own");
    let mode = shell(&topology.ingress, &format!("stat -c %a {socket}"))?;
    ensure!(mode.trim() == "600", "{mode}");
    let before = boxes.ingress.descriptors()?;
    let readers = topology.ingress.run(move || {
        (0..40).map(|_| UnixStream::connect(&socket)).collect::<std::io::Result<Vec<_>>>()
    })??;
    for _ in 0..10 {
        ensure!(status(&topology.ingress)?.process == boxes.ingress.id());
    }
    download(&topology, 100_000)?.map_err(anyhow::Error::msg)?;
    // Carriers may be dialled meanwhile: readers are more than those.
    until("the readers are let go", || Ok(boxes.ingress.descriptors()? < before + 40))?;
    drop(readers);
    boxes.stop()
}

const PATHS: &str =
    "[[path]]\ninterface = \"wan1\"\nrole = \"normal\"\n\n[[path]]\ninterface = \"wan2\"\n";

impl Spoilt {
    /// The exit code and the lines of a check, which must change nothing.
    fn check(&self) -> Result<(i32, Vec<String>)> {
        let state = kernel_state(&self.topology.ingress)?;
        let file = self.config();
        let output = braid(&self.topology.ingress, &format!("check -c {}", file.display()))?;
        let after = kernel_state(&self.topology.ingress)?;
        ensure!(state == after, "before:\n{state}\nafter:\n{after}");
        let lines = said(&output).lines().map(str::to_owned).collect();
        Ok((output.status.code().context("no code")?, lines))
    }
}

fn named(lines: &[String], severity: &str, words: &[&str]) -> Result<()> {
    let is_it =
        |line: &&String| line.starts_with(severity) && words.iter().all(|word| line.contains(word));
    ensure!(lines.iter().any(|line| is_it(&line)), "no {severity} {words:?} in {lines:#?}");
    Ok(())
}

#[test]
fn a_good_machine() -> Result<()> {
    let good = Spoilt::new(PATHS)?;
    let (code, lines) = good.check()?;
    ensure!(code == 0 && lines.len() == 1 && lines[0].ends_with("braid can start"), "{lines:#?}");
    Ok(())
}

#[test]
fn a_box_that_runs_is_checked() -> Result<()> {
    let topology = topology()?;
    let boxes: Boxes = boxes(&topology)?;
    for (node, running, file) in [
        (&topology.ingress, &boxes.ingress, "ingress.toml"),
        (&topology.egress, &boxes.egress, "egress.toml"),
    ] {
        let output = braid(node, &format!("check -c {}", boxes.files().join(file).display()))?;
        let lines: Vec<String> = said(&output).lines().map(str::to_owned).collect();
        let wrong = |line: &&String| line.starts_with("error") || line.starts_with("warning");
        ensure!(output.status.success() && !lines.iter().any(|l| wrong(&l)), "{output:?}");
        named(&lines, "note", &[&format!("braid runs here (process {})", running.id())])?;
    }
    boxes.stop()
}

#[test]
fn many_mistakes_at_once() -> Result<()> {
    let bad = Spoilt::new(PATHS)?;
    let node = &bad.topology.ingress;
    let port = node.run(|| std::net::TcpListener::bind("[::]:4770"))??;
    let key = bad.files.path().join("key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    shell(node, "sysctl -qw net.mptcp.enabled=0; sysctl -qw net.ipv4.conf.lan0.src_valid_mark=1")?;
    shell(node, "ip address flush dev wan1")?;
    bad.spoil("\"lan0\"", "\"lan7\"")?;
    bad.spoil("0.0.0.0/0", "0.0.0.1/0")?;
    bad.spoil("wan2\"", "wan2\"\nrole = \"spare\"\n[[path]]\ninterface = \"wan9\"")?;
    let (code, lines) = bad.check()?;
    ensure!(code == CONFIGURATION, "{code}");
    named(&lines, "error: ", &["box.toml:11: path.role: \"spare\"", "\"backup\""])?;
    named(&lines, "error: ", &["box.toml:22: peer.routes: \"0.0.0.1/0\"", "0.0.0.0/0"])?;
    named(&lines, "error: ", &["MPTCP is switched off", "sysctl -w net.mptcp.enabled=1"])?;
    named(&lines, "warning: ", &["path.interface", "\"wan9\"", "ip link"])?;
    named(&lines, "warning: ", &["intercept.interfaces", "\"lan7\"", "ip link"])?;
    named(&lines, "warning: ", &["no [[path]] leads to peer \"egress\""])?;
    named(&lines, "warning: ", &["\"wan1\" does not lead to peer \"egress\"", "no address"])?;
    named(&lines, "warning: ", &["node.key_file", "chmod 600"])?;
    drop(port);
    shell(node, "sysctl -qw net.mptcp.enabled=1")?;
    Ok(())
}

/// They may come later, so a box starts without them.
#[test]
fn paths_that_do_not_carry_now() -> Result<()> {
    let bad = Spoilt::new(PATHS)?;
    let node = &bad.topology.ingress;
    bad.spoil("wan1\"", "wan9\"")?;
    bad.spoil("wan2\"", "wan2\"\n[[path]]\ninterface = \"lan0\"")?;
    shell(node, "ip address add 10.77.2.1/24 dev lan0")?;
    let (code, lines) = bad.check()?;
    ensure!(code == 0, "{code}: {lines:#?}");
    named(&lines, "warning: ", &["path.interface", "there is no interface \"wan9\"", "ip link"])?;
    named(&lines, "warning: ", &["\"wan2\" and \"lan0\" have the same address", "modem"])?;
    ensure!(!lines.iter().any(|line| line.contains("lead")), "{lines:#?}");
    shell(node, "ip link set wan2 down; ip link set lan0 down")?;
    let (code, lines) = bad.check()?;
    ensure!(code == 0, "{code}: {lines:#?}");
    named(&lines, "warning: ", &["path.interface", "\"wan2\" has no carrier", "ip link"])?;
    named(&lines, "warning: ", &["no [[path]] leads to peer \"egress\" now"])?;
    ensure!(!lines.iter().any(|line| line.contains("same address")), "{lines:#?}");
    Ok(())
}

#[test]
fn a_port_in_use_and_the_boxs_own_key() -> Result<()> {
    let bad = Spoilt::new(PATHS)?;
    let _ports = bad.topology.ingress.run(|| {
        let tcp = std::net::TcpListener::bind("[::]:4770")?;
        std::net::UdpSocket::bind("[::]:4770").map(|udp| (tcp, udp))
    })??;
    bad.spoil("/key\"", "/peer\"")?;
    let (_, lines) = bad.check()?;
    named(&lines, "error: ", &["node.listen: cannot listen", "[::]:4770", "in use"])?;
    named(&lines, "error: ", &["node.listen", "UDP", "[::]:4770", "in use"])?;
    named(&lines, "error: ", &["peer.public_key of \"egress\" is this box's own"])
}

#[test]
fn no_permission_and_no_nft() -> Result<()> {
    let bad = Spoilt::new(PATHS)?;
    let file = bad.config();
    let run = |before: &str| -> Result<(Option<i32>, Vec<String>)> {
        let line = format!("{before} {BRAID} check -c {}", file.display());
        let mut command = Command::new("sh");
        command.args(["-c", &line]);
        let output = bad.topology.ingress.run(move || command.output())??;
        Ok((output.status.code(), said(&output).lines().map(str::to_owned).collect()))
    };
    let (code, lines) = run("setpriv --bounding-set -net_admin")?;
    ensure!(code == Some(77), "{code:?}: {lines:#?}");
    named(&lines, "error: ", &["CAP_NET_ADMIN", "root"])?;
    named(&lines, "note: ", &["nftables", "CAP_NET_ADMIN"])?;
    let (code, lines) = run("env PATH=/nowhere")?;
    ensure!(code == Some(UNAVAILABLE), "{code:?}: {lines:#?}");
    named(&lines, "error: ", &["cannot run `nft`", "apt install nftables", "OpenWrt"])
}

/// A counter of a namespace's kernel.
fn count(node: &Netns, counter: &str) -> Result<u64> {
    let text = shell(node, &format!("nstat -asz {counter}"))?;
    let line = text.lines().find(|line| line.starts_with(counter)).context("no counter")?;
    Ok(line.split_whitespace().nth(1).context("no count")?.parse()?)
}

/// Why `check` warns of it: the kernel drops what braid intercepts, until it is switched off.
#[test]
fn src_valid_mark_keeps_flows_from_the_box() -> Result<()> {
    const NAME: &str = "net.ipv4.conf.lan0.src_valid_mark";
    let topology = topology()?;
    let boxes = boxes(&topology)?;
    let _server = serve(&topology)?;
    shell(&topology.ingress, &format!("sysctl -qw {NAME}=1"))?;
    let config = boxes.files().join("ingress.toml");
    let output = braid(&topology.ingress, &format!("check -c {}", config.display()))?;
    let lines: Vec<String> = said(&output).lines().map(str::to_owned).collect();
    named(&lines, "warning: ", &[&format!("sysctl -w {NAME}=0")])?;
    let address = sink_address(Family::V4, common::talk::PORT)?;
    thread::scope(|scope| -> Result<()> {
        let host = &topology.host;
        let connect = scope.spawn(move || host.run(move || TcpStream::connect(address)));
        until("the host asks again", || Ok(count(host, "TcpRetransSegs")? > 0))?;
        shell(&topology.ingress, &format!("sysctl -qw {NAME}=0"))?;
        connect.join().expect("the host's thread")??;
        Ok(())
    })?;
    boxes.stop()
}

/// Why `check` warns of it: who knocks at the second uplink is dropped, until rp_filter is loose there.
#[test]
fn a_strict_uplink_is_answered_by_another() -> Result<()> {
    let Spoilt { topology, files } = Spoilt::new(PATHS)?;
    let (ingress, egress) = (&topology.ingress, &topology.egress);
    shell(
        egress,
        "ip route add default via 10.77.1.1 metric 1; ip route add default via 10.77.2.1 metric 2; \
         sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.wan2.rp_filter=0",
    )?;
    // It asks for the uplink's neighbour in the name of the link's own address.
    shell(
        ingress,
        "ip address add 198.51.100.7/32 dev lo; sysctl -qw net.ipv4.conf.all.arp_announce=2",
    )?;
    let output = braid(egress, &format!("check -c {}/box.toml", files.path().display()))?;
    let lines: Vec<String> = said(&output).lines().map(str::to_owned).collect();
    named(&lines, "warning: ", &["sysctl -w net.ipv4.conf.wan2.rp_filter=2"])?;
    ensure!(!lines.iter().any(|line| line.contains("wan1.rp_filter")), "{lines:#?}");

    let _listener = egress.run(|| std::net::TcpListener::bind("10.77.2.2:4770"))??;
    thread::scope(|scope| -> Result<()> {
        let knock = "ip route add 10.77.2.2/32 dev wan2 src 198.51.100.7; \
                     exec 3<>/dev/tcp/10.77.2.2/4770";
        let mut command = Command::new("bash");
        command.args(["-ec", knock]);
        let knocking = scope.spawn(move || ingress.run(move || command.output()));
        until("what knocks is dropped", || Ok(count(egress, "TcpExtIPReversePathFilter")? > 0))?;
        shell(egress, "sysctl -qw net.ipv4.conf.wan2.rp_filter=2")?;
        let output = knocking.join().expect("the knocking thread")??;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    })
}
