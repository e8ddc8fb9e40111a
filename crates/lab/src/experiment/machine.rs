//! The machine that a run was made on.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::report::model::Run;

/// What a reader must know to compare the figures with his own.
#[must_use]
pub fn describe(braid: &Path, seed: u64) -> Run {
    let output = |program: &Path, words: &[&str]| {
        let output = Command::new(program).args(words).output().ok().filter(|o| o.status.success());
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let file = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = file("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let commit = ["describe", "--always", "--dirty", "--abbrev=10"];
    let words = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    Run {
        date: output(Path::new("date"), &["-u", "+%F %H:%M UTC"]),
        version: output(braid, &["--version"]),
        commit: output(Path::new("git"), &commit),
        kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
        cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        cpu: cpu.map(|name| name.trim().to_owned()).unwrap_or_default(),
        seed,
        command_line: format!("braid-lab {words}"),
        emulator_ceiling_mbit: None,
        warnings: Vec::new(),
    }
}

/// A seed for a run that was given none.
#[must_use]
pub fn any_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() % 1_000_000
}
