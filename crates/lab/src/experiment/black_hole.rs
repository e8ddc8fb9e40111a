//! A path that swallows everything without a word, in the middle of a bulk download.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{bulk, meter};
use crate::generator::Watch;
use crate::report::figure::{BlackHole, Direction};
use crate::topology::Topology;

/// When the path goes, when it comes back and when the download ends, from its beginning.
const HIT: Duration = Duration::from_secs(8);
const RETURN: Duration = Duration::from_secs(11);
const END: Duration = Duration::from_secs(20);

/// Goodput is taken over this much to tell whether the sum is back: what was held back by a gap
/// and is let go at once is less than that.
const WINDOW: Duration = Duration::from_secs(1);

/// `whole` is what braid reaches over all paths, in Mbit/s.
///
/// # Errors
/// When the download breaks, or does not use all paths before the hit.
pub(super) fn measure(topology: &Topology, path: usize, whole: f64) -> Result<BlackHole> {
    let (outcome, series) = meter::while_watching(&topology.links, Direction::Down, || {
        bulk::while_downloading(topology, END, |began| cut(topology, path, began))
    });
    let (watch, (hit, back)) = outcome?;
    bulk::check(&watch)?;
    let before = watch.mbit(hit.saturating_sub(2 * WINDOW), 2 * WINDOW);
    ensure!(
        before > 0.6 * whole && before > 0.0,
        "before the hit there were {before:.1} of {whole:.1} Mbit/s"
    );
    Ok(BlackHole {
        path: topology.links[path].name().to_owned(),
        direction: Direction::Down,
        hit_s: hit.as_secs_f64(),
        returned_s: back.as_secs_f64(),
        longest_stall_ms: watch.longest_gap(hit, Duration::MAX).as_secs_f64() * 1e3,
        recovered_ms: recovered(&watch, back, before).map(|time| time.as_secs_f64() * 1e3),
        series: Some(series),
    })
}

fn cut(topology: &Topology, path: usize, began: Instant) -> Result<(Duration, Duration)> {
    let link = &topology.links[path];
    bulk::sleep_until(began, HIT);
    link.black_hole(true)?;
    let hit = began.elapsed();
    bulk::sleep_until(began, RETURN);
    link.black_hole(false)?;
    Ok((hit, began.elapsed()))
}

/// From the path's return to the first moment from which on goodput is, for a window, 90 % of what
/// it was before.
fn recovered(watch: &Watch, back: Duration, before: f64) -> Option<Duration> {
    let end = watch.samples.last()?.0;
    let mut from = back;
    while from + WINDOW <= end {
        if watch.mbit(from, WINDOW) >= 0.9 * before {
            return Some(from - back);
        }
        from += WINDOW / 50;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1000 bytes a millisecond, half of that from the hit until `full`.
    fn watch(full: u64) -> Watch {
        let mut bytes = 0;
        let samples = (0..20_000u64).map(|ms| {
            bytes += if (8000..full).contains(&ms) { 500 } else { 1000 };
            (Duration::from_millis(ms), bytes)
        });
        let samples = samples.collect();
        Watch { began: Instant::now(), samples, wrong: 0, broke: None }
    }

    #[test]
    fn recovery_is_counted_from_the_return() {
        let before = watch(0).mbit(Duration::from_secs(6), 2 * WINDOW);
        assert!((before - 8.0).abs() < 0.1, "{before}");
        // 90 % over a second that begins 800 ms before all of it is back.
        let after = recovered(&watch(12_000), RETURN, before).unwrap();
        assert!((780..=840).contains(&after.as_millis()), "{after:?}");
        assert_eq!(recovered(&watch(20_000), RETURN, before), None);
    }
}
