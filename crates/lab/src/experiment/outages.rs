//! Bulk downloads in which one path after the other goes away and comes back.
//!
//! How often is the plan's repeats. Each run begins with the path after the one that the run before
//! began with, and chance says when a path goes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::bulk::{self, since};
use super::{Session, flap, framing};
use crate::generator::Watch;
use crate::link::Link;
use crate::report::figure::{Family, Flap, Outage, OutageTarget, Outages, Watched};

/// The download before the first path goes: its slow start is over on every path.
const WARM: Duration = Duration::from_secs(8);

/// A path goes at a time drawn from this much.
const SPREAD: Duration = Duration::from_secs(1);

/// How long a path is away, and how long it is back before the next one goes.
const AWAY: Duration = Duration::from_secs(3);
const BACK: Duration = Duration::from_secs(5);

/// Goodput is back at the first moment from which on it is at the bar for `WINDOW`, and for `HELD`
/// within a tenth of it: what a gap held back and let go at once fills a short window, but not
/// that.
const WINDOW: Duration = Duration::from_millis(250);
const HELD: Duration = Duration::from_secs(1);
const HELD_PART: f64 = 0.9;

/// Goodput before the first path goes must be this part of the bar, or it does not use all paths.
const BEFORE: f64 = 0.6;

/// No stall may be longer than this, in ms.
const WORST_STALL: f64 = 1_000.0;

/// When one path is to go, to be back, and no longer to be looked at; since the beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Hit {
    path: usize,
    goes: Duration,
    returns: Duration,
    ends: Duration,
}

impl Session<'_> {
    pub(super) fn outages(&mut self, seen: &mut Vec<Watched>) -> Result<()> {
        let alone = self.paths_alone()?;
        for kind in [Flap::Silence, Flap::CarrierLoss] {
            let mut figure = Outages {
                kind,
                runs: self.plan.repeat,
                alone: alone.clone(),
                framing_factor: framing(Family::V4),
                bar_percent: bar(&self.profile.name),
                broken: 0,
                unmeasured: 0,
                outages: Vec::new(),
                target: target(&self.profile.name, kind),
            };
            for run in 0..self.plan.repeat {
                self.outage_run(&mut figure, run, seen);
            }
            self.setting.outages.push(figure);
        }
        Ok(())
    }

    fn outage_run(&mut self, figure: &mut Outages, run: usize, seen: &mut Vec<Watched>) {
        let step = format!("{}, run {}", figure.kind, run + 1);
        let outcome = match self.watch_outages(figure.kind, run, seen) {
            Ok((watch, _)) if bulk::check(&watch).is_err() => {
                figure.broken += 1;
                bulk::check(&watch)
            }
            Ok((watch, hits)) => self.take_outages(figure, run, &watch, &hits),
            Err(error) => {
                figure.unmeasured += 1;
                Err(error)
            }
        };
        let told = if outcome.is_ok() { self.told(figure) } else { "failed".to_owned() };
        if let Err(error) = outcome {
            self.failed(&step, &error);
        }
        self.step(&step, &told);
    }

    fn watch_outages(
        &self,
        kind: Flap,
        run: usize,
        seen: &mut Vec<Watched>,
    ) -> Result<(Watch, Vec<(Instant, Instant)>)> {
        let bond = self.bond(run)?;
        let hits = self.hits(run);
        let end = hits.last().map_or(WARM, |hit| hit.ends);
        let links = &bond.topology.links;
        let watched =
            bulk::while_downloading(&bond.topology, end, |began| play(links, kind, &hits, began));
        bond.stop(seen)?;
        watched
    }

    /// Adds what one run showed.
    fn take_outages(
        &self,
        figure: &mut Outages,
        run: usize,
        watch: &Watch,
        moments: &[(Instant, Instant)],
    ) -> Result<()> {
        let bar = figure.bar_mbit();
        let outages = outages(watch, &self.hits(run), moments, bar);
        let before = outages.first().map_or(0.0, |outage| outage.before_mbit);
        if before < BEFORE * bar {
            figure.unmeasured += 1;
            bail!("before the first path went there were {before:.1} Mbit/s");
        }
        figure.outages.extend(outages);
        Ok(())
    }

    fn told(&self, figure: &Outages) -> String {
        let of_this_run = figure.outages.iter().rev().take(self.profile.paths.len());
        let stalls: Vec<_> = of_this_run.map(|o| format!("{:.0}", o.stall_ms)).collect();
        format!("stalls {} ms", stalls.into_iter().rev().collect::<Vec<_>>().join(", "))
    }

    fn hits(&self, run: usize) -> Vec<Hit> {
        let seed = self.plan.seed.wrapping_add(1000 * run as u64);
        hits(self.profile.paths.len(), run, seed)
    }
}

/// In their order: one after the other, beginning with the path that has the run's number.
fn hits(paths: usize, run: usize, seed: u64) -> Vec<Hit> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut from = WARM;
    let mut hits: Vec<Hit> = Vec::new();
    for number in 0..paths {
        let goes = from + SPREAD.mul_f64(random.f64());
        let returns = goes + AWAY;
        from = returns + BACK;
        if let Some(last) = hits.last_mut() {
            last.ends = goes;
        }
        hits.push(Hit { path: (run + number) % paths, goes, returns, ends: from });
    }
    hits
}

/// Takes the paths away and gives them back, and says when it did.
fn play(
    links: &[Link],
    kind: Flap,
    hits: &[Hit],
    began: Instant,
) -> Result<Vec<(Instant, Instant)>> {
    let mut moments = Vec::new();
    for hit in hits {
        bulk::sleep_until(began, hit.goes);
        let gone = Instant::now();
        flap::set_away(&links[hit.path], kind, true)?;
        thread::sleep(hit.returns - hit.goes);
        flap::set_away(&links[hit.path], kind, false)?;
        moments.push((gone, Instant::now()));
    }
    Ok(moments)
}

fn outages(watch: &Watch, hits: &[Hit], moments: &[(Instant, Instant)], bar: f64) -> Vec<Outage> {
    let outage = |(hit, (gone, returned)): (&Hit, &(Instant, Instant))| {
        let (gone, returned) = (since(watch, *gone), since(watch, *returned));
        let back = regained(watch, returned, hit.ends, bar);
        Outage {
            path: format!("wan{}", hit.path + 1),
            gone_s: gone.as_secs_f64(),
            returned_s: returned.as_secs_f64(),
            before_mbit: watch.mbit(gone.saturating_sub(HELD), HELD),
            stall_ms: watch.longest_gap(gone, hit.ends).as_secs_f64() * 1e3,
            back_ms: back.map(|time| time.as_secs_f64() * 1e3),
        }
    };
    hits.iter().zip(moments).map(outage).collect()
}

/// How long after the return goodput was back at the bar; none if it was not by `end`.
fn regained(watch: &Watch, returned: Duration, end: Duration, bar: f64) -> Option<Duration> {
    let mut from = returned;
    while from + HELD <= end {
        if watch.mbit(from, WINDOW) >= bar && watch.mbit(from, HELD) >= HELD_PART * bar {
            return Some(from - returned);
        }
        from += bulk::SAMPLE;
    }
    None
}

/// What counts as the sum, in per cent of what the links allow: what throughput has to reach; over
/// unequal paths less, since there is more to put in order.
fn bar(profile: &str) -> f64 {
    if profile == "eq" { super::target(profile) } else { 90.0 }
}

fn target(profile: &str, kind: Flap) -> Option<OutageTarget> {
    let (silence, back_ms) = match profile {
        "eq" => (250.0, 1_000.0),
        "dsl" => (500.0, 3_000.0),
        _ => return None,
    };
    let stall_ms = if kind == Flap::Silence { silence } else { 150.0 };
    Some(OutageTarget { stall_ms, worst_stall_ms: WORST_STALL, back_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// 1000 bytes a millisecond but for what `rate` says.
    fn watch(rate: impl Fn(u64) -> Option<u64>) -> Watch {
        let mut bytes = 0;
        let samples = (0..30_000u64).map(|ms| {
            bytes += rate(ms).unwrap_or(1000);
            (Duration::from_millis(ms), bytes)
        });
        Watch { began: Instant::now(), samples: samples.collect(), wrong: 0, broke: None }
    }

    #[test]
    fn each_path_goes_once_and_never_two_at_a_time() {
        let first = hits(3, 4, 7);
        assert_eq!(first.iter().map(|hit| hit.path).collect::<Vec<_>>(), [1, 2, 0]);
        for pair in first.windows(2) {
            assert!(pair[0].returns + BACK <= pair[1].goes && pair[0].ends == pair[1].goes);
            assert!(pair[1].goes <= pair[0].returns + BACK + SPREAD);
        }
        assert_eq!(first, hits(3, 4, 7));
        assert_ne!(first[0].goes, hits(3, 4, 8)[0].goes);
    }

    #[test]
    fn a_stall_and_the_time_back_are_those_of_their_outage() {
        let hits = [
            Hit { path: 0, goes: 8000 * MS, returns: 11_000 * MS, ends: 17_000 * MS },
            Hit { path: 1, goes: 17_000 * MS, returns: 20_000 * MS, ends: 25_000 * MS },
        ];
        let watch = watch(|ms| match ms {
            8000..8200 | 17_000..17_700 => Some(0),
            8200..11_400 | 17_700..30_000 => Some(500),
            _ => None,
        });
        let moments = hits.map(|hit| (watch.began + hit.goes, watch.began + hit.returns));
        let found = outages(&watch, &hits, &moments, 7.6);
        let rounded = |ms: f64| (ms / 10.0).round() * 10.0;
        assert_eq!((rounded(found[0].stall_ms), rounded(found[1].stall_ms)), (200.0, 700.0));
        let back = found[0].back_ms.unwrap();
        assert!((370.0..=400.0).contains(&back), "{back}");
        assert_eq!((found[1].back_ms, found[1].path.as_str()), (None, "wan2"));
        assert!((found[0].before_mbit - 8.0).abs() < 0.1);
    }

    #[test]
    fn what_is_let_go_at_once_is_not_the_sum() {
        // Half the rate, of which 200 ms are held back and let go in one.
        let burst = watch(|ms| match ms {
            11_000..11_200 => Some(0),
            11_200 => Some(100_000),
            8000..14_000 => Some(500),
            _ => None,
        });
        let at = |from| burst.mbit(Duration::from_millis(from), WINDOW);
        assert!(at(11_199) > 6.0, "{}", at(11_199));
        assert_eq!(regained(&burst, 11_000 * MS, 13_500 * MS, 6.0), None);
        assert!(regained(&burst, 11_000 * MS, 16_000 * MS, 6.0).is_some());
    }

    #[test]
    fn a_lost_carrier_is_told_and_so_has_less_time() {
        let stall = |profile, kind| target(profile, kind).map(|target| target.stall_ms);
        assert_eq!(stall("dsl", Flap::Silence), Some(500.0));
        assert_eq!(stall("dsl", Flap::CarrierLoss), Some(150.0));
        assert_eq!(stall("fat", Flap::Silence), None);
        assert_eq!((bar("eq"), bar("dsl")), (97.0, 90.0));
    }
}
