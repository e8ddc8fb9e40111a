//! What a user sees who asked for what cannot be: one line with the remedy, an exit code by kind,
//! and a kernel as it was.

mod common;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use braid_lab::boxes::{Boxes, Running, keygen};
use braid_lab::topology::{Topology, sink_address};
use common::spoilt::Spoilt;
use common::talk::says;
use common::{BRAID, Family, boxes, kernel_state, shell, topology};

const UNAVAILABLE: i32 = 69;
const IN_USE: i32 = 73;
const PERMISSION: i32 = 77;
const CONFIGURATION: i32 = 78;

const PATH: &str = "[[path]]\ninterface = \"wan1\"\n";

impl Spoilt {
    /// Runs it by way of `before` (a shell's words), which must fail.
    fn run(&self, before: &str) -> Result<Output> {
        let line = format!("{before} {BRAID} run -c box.toml");
        let mut command = Command::new("sh");
        command.args(["-c", &line]).current_dir(self.files.path());
        Ok(self.topology.ingress.run(move || command.output())??)
    }

    /// It must end with this code, one line that has all of `words`, and the kernel as before.
    fn must_refuse(&self, before: &str, code: i32, words: &[&str]) -> Result<()> {
        let state = kernel_state(&self.topology.ingress)?;
        let output = self.run(&format!("timeout 20 {before}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().last().unwrap_or_default();
        let problems: Vec<&str> = text.lines().filter(|l| l.starts_with("braid: ")).collect();
        ensure!(output.status.code() == Some(code), "{:?}: {text}", output.status);
        ensure!(problems == [last], "not one line:\n{text}");
        for word in words {
            ensure!(last.contains(word), "no \"{word}\" in: {last}");
        }
        let after = kernel_state(&self.topology.ingress)?;
        ensure!(state == after, "before:\n{state}\nafter:\n{after}");
        Ok(())
    }
}

#[test]
fn an_unknown_key_in_the_configuration() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    bad.spoil("interfaces", "interfases")?;
    bad.must_refuse("", CONFIGURATION, &["box.toml:9:", "unknown field `interfases`", "interfaces"])
}

#[test]
fn a_key_file_that_is_missing_or_none() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    fs::write(bad.files.path().join("key"), "not a key\n")?;
    bad.must_refuse("", CONFIGURATION, &["key", "44 characters", "braid keygen"])?;
    fs::remove_file(bad.files.path().join("key"))?;
    bad.must_refuse("", CONFIGURATION, &["key", "No such file", "braid keygen"])
}

#[test]
fn a_public_key_that_is_none() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    bad.spoil("public_key = \"", "public_key = \"xx")?;
    bad.must_refuse("", CONFIGURATION, &["box.toml:13:", "peer.public_key", "braid pubkey"])
}

/// They may come later: the box runs, and says what it waits for.
#[test]
fn interfaces_and_ways_that_are_not_there() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    let file = bad.files.path().join("box.toml");
    bad.spoil("\"lan0\"", "\"lan7\"")?;
    bad.spoil("\"wan1\"", "\"wan7\"")?;
    let mut running = Running::start(&bad.topology.ingress, Path::new(BRAID), &file, "info")?;
    says(
        &mut running,
        "intercept.interfaces: there is no interface \"lan7\" here (see `ip link`)",
    )?;
    says(&mut running, "path is down: there is no interface \"wan7\" here (see `ip link`)")?;
    says(&mut running, "no [[path]] leads to peer \"egress\" now")?;
    running.stop()
}

#[test]
fn a_port_in_use() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    let _taken = bad.topology.ingress.run(|| std::net::TcpListener::bind("[::]:4770"))??;
    bad.must_refuse("", IN_USE, &["node.listen", "[::]:4770", "in use"])
}

#[test]
fn a_udp_port_in_use() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    let _taken = bad.topology.ingress.run(|| std::net::UdpSocket::bind("[::]:4770"))??;
    bad.must_refuse("", IN_USE, &["node.listen", "UDP", "[::]:4770", "in use"])
}

#[test]
fn the_boxs_own_key() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    bad.spoil("/key\"", "/peer\"")?;
    bad.must_refuse("", CONFIGURATION, &["peer.public_key of \"egress\"", "this box's own"])
}

#[test]
fn an_address_that_is_not_ours() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    bad.spoil("[::]:4770", "203.0.113.9:4770")?;
    bad.must_refuse("", CONFIGURATION, &["node.listen", "203.0.113.9:4770"])
}

#[test]
fn no_permission() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    bad.must_refuse("setpriv --bounding-set -net_admin", PERMISSION, &["CAP_NET_ADMIN", "root"])
}

#[test]
fn mptcp_switched_off() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    shell(&bad.topology.ingress, "sysctl -qw net.mptcp.enabled=0")?;
    bad.must_refuse("", UNAVAILABLE, &["MPTCP is switched off", "sysctl -w net.mptcp.enabled=1"])
}

/// A kernel without the module: `nft` answers as it does there.
#[test]
fn no_tproxy_in_the_kernel() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    let fake = bad.files.path().join("nft");
    fs::write(
        &fake,
        "#!/bin/sh\nt=$(cat)\ncase \"$t\" in *tproxy*) echo 'Error: Could not process rule: No such \
         file or directory' >&2; exit 1;; esac\nexit 0\n",
    )?;
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755))?;
    bad.must_refuse("env PATH=$PWD:$PATH", UNAVAILABLE, &["nft_tproxy", "kmod-nft-tproxy"])
}

#[test]
fn no_nft_program() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    bad.must_refuse("env PATH=/nowhere", UNAVAILABLE, &["cannot run `nft`", "install nftables"])
}

#[test]
fn a_second_braid() -> Result<()> {
    let bad = Spoilt::new(PATH)?;
    let config = bad.files.path().join("box.toml");
    let mut first = Running::start(&bad.topology.ingress, Path::new(BRAID), &config, "info")?;
    let process = format!("process {}", first.id());
    bad.must_refuse("", IN_USE, &["another braid runs here", &process])?;
    first.stop()
}

/// A peer that means another box, and one that nobody knows: named in the log, of no effect.
#[test]
fn a_wrong_key_of_a_peer() -> Result<()> {
    let topology = topology()?;
    for spoilt in ["egress.toml", "ingress.toml"] {
        let boxes = boxes(&topology)?;
        let mut boxes = with_other_key(&topology, boxes, spoilt)?;
        let address = sink_address(Family::V4, 4242)?;
        let listener = topology.sink.run(move || std::net::TcpListener::bind(address))??;
        let mut host = topology.host.run(move || TcpStream::connect(address))??;
        if spoilt == "egress.toml" {
            let key = public_key(&boxes, "ingress.key")?;
            says(
                &mut boxes.egress,
                &format!(
                    "connection rejected: its control connection is refused: the key {key} is no peer's"
                ),
            )?;
            says(&mut boxes.ingress, "no session: the peer does not know this box's key")?;
        } else {
            let key = public_key(&boxes, "egress.key")?;
            let words = format!("no session: another box answered: its key is {key}");
            says(&mut boxes.ingress, &words)?;
        }
        boxes.stop()?;
        host.set_read_timeout(Some(Duration::from_secs(20)))?;
        let seen = std::io::Read::read(&mut host, &mut [0]);
        let reset = seen.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
        ensure!(reset, "the host saw {seen:?}");
        listener.set_nonblocking(true)?;
        ensure!(listener.accept().is_err(), "the sink saw a connection");
    }
    Ok(())
}

fn public_key(boxes: &Boxes, file: &str) -> Result<String> {
    let output = Command::new(BRAID).arg("pubkey").arg(boxes.files().join(file)).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Starts both boxes again, one of them with another public key for its peer.
fn with_other_key(topology: &Topology, mut boxes: Boxes, file: &str) -> Result<Boxes> {
    let other = keygen(Path::new(BRAID), &boxes.files().join("other.key"))?;
    let file = boxes.files().join(file);
    let text = fs::read_to_string(&file)?;
    let old = text.lines().find(|line| line.starts_with("public_key")).context("no key")?;
    let text = text.replace(old, &format!("public_key = \"{other}\""));
    fs::write(&file, text)?;
    boxes.ingress.stop()?;
    boxes.egress.stop()?;
    boxes.egress.restart(&topology.egress)?;
    boxes.ingress.restart(&topology.ingress)?;
    Ok(boxes)
}
