//! The fuzz targets over the files of their corpora, without a fuzzer.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/src/lib.rs"]
pub mod targets;

#[test]
fn config() {
    replay("config", targets::config::run);
}

#[test]
fn control() {
    replay("control", targets::control::run);
}

#[test]
fn flow_machines() {
    replay("flow_machines", targets::flow_machines::run);
}

#[test]
fn heartbeat() {
    replay("heartbeat", targets::heartbeat::run);
}

#[test]
fn opening() {
    replay("opening", targets::opening::run);
}

#[test]
fn preamble() {
    replay("preamble", targets::preamble::run);
}

#[test]
fn records() {
    replay("records", targets::records::run);
}

/// Runs a target on each of its files; the last that is named is the one that failed.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("every target has a corpus") {
        let file = entry.expect("it can be listed").path();
        println!("{}", file.display());
        run(&fs::read(&file).expect("it can be read"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}
