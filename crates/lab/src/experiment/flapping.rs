//! A long bulk download while paths go silent in turn, with small flows beside it.
//!
//! What the live links allow: for each path the bytes that its emulated rate, with all its
//! wandering, allowed in this very run while the path was not silent, times the part of such bytes
//! that plain routing made goodput of over that path alone, in the same setting and from the same
//! seed; less Multipath TCP's own bytes in each segment. The small flows' bytes, 20 kB a second, are
//! not counted as goodput.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::bulk::{self, since, sleep_until};
use super::times::{LIMIT, PORT};
use super::{Session, flap, framing};
use crate::generator::{FlowTimes, Watch, steady};
use crate::link::{Direction, Link};
use crate::report::figure::{Family, Flap, Flapping, FlappingPath, PathAlone, Watched};
use crate::topology::{Topology, sink_address};

/// The download before the first path goes, not counted.
const WARM: Duration = Duration::from_secs(5);

/// How long a path is silent, and how long all paths live before the next one is.
const HALF: Duration = Duration::from_secs(5);

/// The small flows: bytes of each, and the time between two.
const SIZE: u64 = 20_000;
const EVERY: Duration = Duration::from_secs(1);

/// What has to be reached, in per cent of what the live links allow.
const TARGET: f64 = 90.0;

/// How many failures of small flows are told.
const TOLD: usize = 5;

/// What happened from when the paths began to flap until they stopped.
struct Flapped {
    began: Instant,
    ended: Instant,
    /// Bytes that each path's rate allowed while it was live.
    allowed: Vec<u64>,
}

impl Session<'_> {
    pub(super) fn flapping(&mut self, seen: &mut Vec<Watched>) -> Result<()> {
        let alone = self.paths_alone()?;
        let bond = self.bond(0)?;
        let measured = measure(&bond.topology, &alone, self.plan.flapping);
        bond.stop(seen)?;
        if let Ok((_, problems)) = &measured
            && !problems.is_empty()
        {
            self.failed("flapping", &anyhow!("flows lost: {}", problems.join("; ")));
        }
        self.keep("flapping", measured, |setting, (figure, _)| setting.flapping = Some(figure));
        Ok(())
    }
}

/// The figure, and what the first of the lost flows died of.
fn measure(
    topology: &Topology,
    alone: &[PathAlone],
    time: Duration,
) -> Result<(Flapping, Vec<String>)> {
    topology.restart_wander()?;
    let whole = WARM + time + 2 * bulk::SAMPLE;
    let (watch, (flapped, flows)) = bulk::while_downloading(topology, whole, |began| {
        std::thread::scope(|scope| {
            let small = scope.spawn(|| small_flows(topology, began, time));
            let flapped = flap_in_turn(&topology.links, began, time);
            let flows = small.join().map_err(|_| anyhow!("the small flows panicked"))??;
            Ok((flapped?, flows))
        })
    })?;
    let problems = problems(&watch, &flows);
    let figure = Flapping {
        kind: Flap::Silence,
        half_s: HALF.as_secs_f64(),
        seconds: (flapped.ended - flapped.began).as_secs_f64(),
        paths: alone.iter().zip(&flapped.allowed).map(path).collect(),
        framing_factor: framing(Family::V4),
        bytes: watch.arrived(since(&watch, flapped.ended))
            - watch.arrived(since(&watch, flapped.began)),
        flows: flows.len() as u64 + 1,
        lost: problems.len() as u64,
        target_percent: TARGET,
    };
    Ok((figure, problems.into_iter().take(TOLD).collect()))
}

fn path((alone, live_bytes): (&PathAlone, &u64)) -> FlappingPath {
    FlappingPath {
        path: alone.path.clone(),
        plain_percent: alone.allowed_percent,
        live_bytes: *live_bytes,
    }
}

fn small_flows(
    topology: &Topology,
    began: Instant,
    time: Duration,
) -> Result<Vec<std::io::Result<FlowTimes>>> {
    let address = sink_address(Family::V4, PORT)?;
    sleep_until(began, WARM);
    Ok(topology.host.run(move || steady(address, SIZE, EVERY, time, LIMIT))??)
}

/// One after the other each path is silent and back again, until the time is over.
fn flap_in_turn(links: &[Link], began: Instant, time: Duration) -> Result<Flapped> {
    let allowed = |link: &Link| link.counters(Direction::Down).tally.bytes_allowed;
    sleep_until(began, WARM);
    let (counted_from, before) = (Instant::now(), links.iter().map(allowed).collect::<Vec<_>>());
    for turn in turns(links.len(), time) {
        sleep_until(began, WARM + turn.goes);
        flap::set_away(&links[turn.path], Flap::Silence, true)?;
        sleep_until(began, WARM + turn.returns);
        flap::set_away(&links[turn.path], Flap::Silence, false)?;
    }
    sleep_until(began, WARM + time);
    let ended = Instant::now();
    let allowed = links.iter().zip(before).map(|(link, before)| allowed(link) - before).collect();
    Ok(Flapped { began: counted_from, ended, allowed })
}

/// When a path is silent, since the first one was.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Turn {
    path: usize,
    goes: Duration,
    returns: Duration,
}

fn turns(paths: usize, time: Duration) -> Vec<Turn> {
    let turn = |number: u32| {
        let goes = 2 * HALF * number;
        Turn { path: number as usize % paths, goes, returns: (goes + HALF).min(time) }
    };
    (0..).map(turn).take_while(|turn| turn.goes < time).collect()
}

/// What became of each flow that was lost, the download among them.
fn problems(watch: &Watch, flows: &[std::io::Result<FlowTimes>]) -> Vec<String> {
    let download = bulk::check(watch).err().map(|error| error.to_string());
    let numbered = flows.iter().enumerate();
    let small = numbered.filter_map(|(number, flow)| {
        flow.as_ref().err().map(|error| format!("flow {number}: {error}"))
    });
    download.into_iter().chain(small).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_take_turns_and_the_last_one_is_back_at_the_end() {
        let turns = turns(2, Duration::from_secs(23));
        let seconds = |turn: &Turn| (turn.path, turn.goes.as_secs(), turn.returns.as_secs());
        let all: Vec<_> = turns.iter().map(seconds).collect();
        assert_eq!(all, [(0, 0, 5), (1, 10, 15), (0, 20, 23)]);
    }

    #[test]
    fn a_lost_flow_is_told_and_so_is_a_broken_download() {
        let watch = |broke| Watch { began: Instant::now(), samples: Vec::new(), wrong: 0, broke };
        let ok = FlowTimes {
            connect: Duration::ZERO,
            first_byte: Duration::ZERO,
            complete: Duration::ZERO,
        };
        let flows = [Ok(ok), Err(std::io::ErrorKind::TimedOut.into())];
        assert_eq!(problems(&watch(None), &flows), ["flow 1: timed out"]);
        assert_eq!(problems(&watch(Some("Reset".into())), &flows[..1]).len(), 1);
        assert!(problems(&watch(None), &flows[..1]).is_empty());
    }
}
