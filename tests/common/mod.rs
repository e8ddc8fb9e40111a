//! What the end-to-end tests share: a small experiment, and kernel state as text.

#![allow(dead_code, unused_imports, reason = "each test program uses its own part")]

pub(crate) mod carry;
pub(crate) mod relay;
pub(crate) mod spoilt;
pub(crate) mod talk;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use braid_lab::boxes::{Boxes, Setup};
use braid_lab::link::{Duplex, Rate, Shape};
use braid_lab::profile::Profile;
use braid_lab::topology::Topology;
use braid_sys::netns::Netns;

pub(crate) use braid_lab::report::figure::Family;

/// The program under test.
pub(crate) const BRAID: &str = env!("CARGO_BIN_EXE_braid");

/// Two links of this rate in Mbit/s and 2 ms, with a queue of 50 ms.
pub(crate) fn profile(mbit: f64) -> Result<Profile> {
    let rate = Rate::from_mbit(mbit).context("a rate")?;
    let queue = rate.bytes_in(Duration::from_millis(50));
    let shape = Shape::plain(rate, Duration::from_millis(2), queue);
    let path = || Duplex { up: shape, down: shape, wander: None };
    Ok(Profile { name: "test".into(), about: "two links".into(), paths: vec![path(), path()] })
}

/// Host, boxes and sink with two links of 200 Mbit/s between the boxes.
pub(crate) fn topology() -> Result<Topology> {
    Topology::build(&profile(200.0)?, "cubic", 1)
}

/// Both boxes at work in a topology, logging all they know.
pub(crate) fn boxes(topology: &Topology) -> Result<Boxes> {
    Boxes::start(topology, &setup())
}

pub(crate) fn setup() -> Setup {
    Setup { log: "debug", ..Setup::new(Path::new(BRAID)) }
}

/// All that braid could have left in a namespace, as an engineer would look at it.
pub(crate) fn kernel_state(node: &Netns) -> Result<String> {
    const LOOKS: [&str; 6] = [
        "nft list ruleset",
        "ip -4 rule; ip -6 rule",
        "ip -4 route show table all; ip -6 route show table all",
        "ip mptcp limits; ip mptcp endpoint",
        "cd /proc/sys/net; grep . mptcp/* ipv4/tcp_rmem ipv4/tcp_wmem",
        "ls /run/braid 2>/dev/null || true",
    ];
    let mut state = String::new();
    for look in LOOKS {
        state.push_str(&format!("# {look}\n{}", shell(node, look)?));
    }
    Ok(state)
}

/// What a shell line prints in a namespace.
pub(crate) fn shell(node: &Netns, line: &str) -> Result<String> {
    let line = line.to_owned();
    let output = node.run(move || Command::new("sh").args(["-ec", &line]).output())??;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {words}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until something is so; the time is a bound for a broken program, not a measure.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so()? {
        ensure!(Instant::now() < deadline, "never so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
