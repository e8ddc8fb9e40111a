//! The lab itself: a whole run on small links, a run whose steps fail, two at once.

mod common;

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use braid_lab::experiment::{self, Part, Plan};
use braid_lab::report::figure::{Flap, Proofs, Verdict};
use braid_lab::report::model::{Results, Run};
use braid_lab::report::{self, table};
use braid_sys::sysctl;
use common::{BRAID, profile};

fn plan(braid: &str, parts: &[Part]) -> Result<Plan> {
    Ok(Plan {
        braid: Path::new(braid).to_owned(),
        settings: vec![(profile(20.0)?, "cubic".to_owned())],
        parts: parts.to_vec(),
        everywhere: true,
        streams: vec![1],
        duration: Duration::from_secs(1),
        repeat: 1,
        flapping: Duration::from_secs(1),
        idle: Duration::from_secs(1),
        storm_flows: 0,
        unsealed: false,
        seed: 1,
    })
}

fn run(braid: &str, parts: &[Part]) -> Result<Results> {
    let mut results = Results::new(Run::default());
    experiment::run(&plan(braid, parts)?, &mut results, &|_| {}, &|_| {});
    Ok(results)
}

const ALLOWED: &str = "net.ipv4.tcp_allowed_congestion_control";

#[test]
fn two_runs_at_once_measure_and_prove() -> Result<()> {
    let allowed = sysctl::read(ALLOWED)?;
    let both = || run(BRAID, &[Part::Throughput, Part::Proofs]);
    let runs = [thread::spawn(both), thread::spawn(both)];
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
    let results = run("/bin/false", &[Part::Throughput, Part::Burst])?;
    ensure!(!results.failures.is_empty());
    let setting = &results.settings[0];
    ensure!(setting.throughput.iter().all(|figure| figure.limit().is_some()), "{setting:#?}");
    ensure!(setting.throughput.iter().all(|figure| figure.verdict().is_none()), "{setting:#?}");
    let burst = setting.bursts.first().context("a burst")?;
    ensure!(burst.plain.is_some() && burst.braid.is_none(), "{burst:#?}");
    Ok(())
}

#[test]
fn paths_flap_and_carriers_are_used_up() -> Result<()> {
    let results = run(BRAID, &[Part::Flapping, Part::Beyond])?;
    ensure!(results.failures.is_empty(), "{:#?}", results.failures);
    let setting = &results.settings[0];
    let flapping = setting.flapping.as_ref().context("flapping")?;
    ensure!(flapping.lost == 0 && flapping.flows == 2 && flapping.bytes > 0, "{flapping:#?}");
    // The first path is silent for all of the one second, the second one lives.
    ensure!(flapping.paths[0].live_bytes < flapping.paths[1].live_bytes, "{flapping:#?}");
    let beyond = setting.beyond.as_ref().context("flows beyond the bound")?;
    ensure!(beyond.goodput.iter().all(|figure| figure.ratio().is_some()), "{beyond:#?}");
    ensure!(beyond.times.iter().all(|figure| figure.ratio().is_some()), "{beyond:#?}");
    ensure!((beyond.goodput.len(), beyond.times.len()) == (2, 2), "{beyond:#?}");
    Ok(())
}

#[test]
fn flows_are_timed_at_once_and_after_a_flap() -> Result<()> {
    let results = run(BRAID, &[Part::Burst, Part::Crowd, Part::Flap, Part::Idle])?;
    ensure!(results.failures.is_empty(), "{:#?}", results.failures);
    let setting = &results.settings[0];
    ensure!(setting.throughput.is_empty() && setting.proofs.is_none(), "{setting:#?}");
    let flows: Vec<usize> = setting.bursts.iter().map(|burst| burst.flows).collect();
    ensure!(flows == [30, 200], "{flows:?}");
    ensure!(setting.bursts.iter().all(|burst| burst.ratio().is_some()), "{:#?}", setting.bursts);
    let flaps: Vec<_> = setting.flow_times.iter().map(|flow| flow.after).collect();
    ensure!(flaps == [Some(Flap::Silence), Some(Flap::CarrierLoss)], "{flaps:?}");
    ensure!(setting.flow_times.iter().all(|flow| flow.ratio().is_some()), "{setting:#?}");
    let idle = setting.idle.as_ref().context("an idle time")?;
    ensure!(idle.seconds >= 1.0 && idle.paths.len() == 2, "{idle:#?}");
    let place = tempfile::tempdir()?;
    let files = report::write(&results, place.path())?;
    let read = report::load(&files.json)?.settings.remove(0);
    ensure!(read.bursts.len() == 2 && read.flow_times.len() == 2 && read.idle.is_some());
    Ok(())
}
