//! The lab itself: a whole run on small links, a run whose steps fail, two at once.

mod common;

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use braid_lab::experiment::{self, Plan};
use braid_lab::report::figure::{Proofs, Verdict};
use braid_lab::report::model::{Results, Run};
use braid_lab::report::{self, table};
use braid_sys::sysctl;
use common::{BRAID, profile};

fn plan(braid: &str) -> Result<Plan> {
    Ok(Plan {
        braid: Path::new(braid).to_owned(),
        settings: vec![(profile(20.0)?, "cubic".to_owned())],
        streams: vec![1],
        duration: Duration::from_secs(1),
        repeat: 1,
        times: false,
        black_hole: false,
        storm_flows: 0,
        seed: 1,
    })
}

fn run(braid: &str) -> Result<Results> {
    let mut results = Results::new(Run::default());
    experiment::run(&plan(braid)?, &mut results, &|_| {}, &|_| {});
    Ok(results)
}

const ALLOWED: &str = "net.ipv4.tcp_allowed_congestion_control";

#[test]
fn two_runs_at_once_measure_and_prove() -> Result<()> {
    let allowed = sysctl::read(ALLOWED)?;
    let runs = [thread::spawn(|| run(BRAID)), thread::spawn(|| run(BRAID))];
    for finished in runs {
        let results = finished.join().expect("a run's thread")?;
        ensure!(results.failures.is_empty(), "{:#?}", results.failures);
        let setting = &results.settings[0];
        ensure!(setting.throughput.len() == 4, "{}", setting.throughput.len());
        for figure in &setting.throughput {
            // No threshold here: that there is a figure, from both paths.
            ensure!(figure.reached_percent().is_some_and(|percent| percent > 60.0), "{figure:?}");
        }
        ensure!(setting.proofs.as_ref().map(Proofs::verdict) == Some(Verdict::Met), "{setting:#?}");
        let place = tempfile::tempdir()?;
        let files = report::write(&results, place.path())?;
        ensure!(report::load(&files.json)?.settings.len() == 1);
        ensure!(table::text(&results, false).contains("test / cubic"));
    }
    ensure!(sysctl::read(ALLOWED)? == allowed, "the machine's sysctl was changed");
    Ok(())
}

#[test]
fn a_step_that_fails_is_in_the_results() -> Result<()> {
    let results = run("/bin/false")?;
    ensure!(!results.failures.is_empty());
    let setting = &results.settings[0];
    ensure!(setting.throughput.iter().all(|figure| figure.limit().is_some()), "{setting:#?}");
    ensure!(setting.throughput.iter().all(|figure| figure.verdict().is_none()), "{setting:#?}");
    Ok(())
}
