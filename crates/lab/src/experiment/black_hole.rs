//! A path that swallows everything without a word, in the middle of a bulk download.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{meter, times::PORT};
use crate::generator::{Server, Watch, download_watch};
use crate::report::figure::{BlackHole, Direction, Family};
use crate::topology::{Topology, sink_address};

/// When the path goes, when it comes back and when the download ends, from its beginning.
const HIT: Duration = Duration::from_secs(8);
const RETURN: Duration = Duration::from_secs(11);
const END: Duration = Duration::from_secs(20);

/// Between two looks at what has arrived.
const SAMPLE: Duration = Duration::from_millis(5);

/// Goodput is taken over this much to tell whether the sum is back: what was held back by a gap
/// and is let go at once is less than that.
const WINDOW: Duration = Duration::from_secs(1);

/// `whole` is what braid reaches over all paths, in Mbit/s.
///
/// # Errors
/// When the download breaks, or does not use all paths before the hit.
pub(super) fn measure(topology: &Topology, path: usize, whole: f64) -> Result<BlackHole> {
    let address = sink_address(Family::V4, PORT)?;
    let _server = topology.sink.run(move || Server::start(&[address]))??;
    let (outcome, series) = meter::while_watching(&topology.links, Direction::Down, || {
        thread::scope(|scope| -> Result<(Watch, Duration, Duration)> {
            let host = &topology.host;
            let download =
                scope.spawn(move || host.run(move || download_watch(address, END, SAMPLE)));
            let began = Instant::now();
            let (hit, back) = cut(topology, path, began)?;
            let watch =
                download.join().map_err(|_| anyhow::anyhow!("the download panicked"))???;
            Ok((watch, hit, back))
        })
    });
    let (watch, hit, back) = outcome?;
    ensure!(watch.wrong == 0, "{} bytes of the download were wrong", watch.wrong);
    if let Some(why) = &watch.broke {
        bail!("the download broke: {why}");
    }
    let before = rate(&watch, hit.saturating_sub(2 * WINDOW), 2 * WINDOW);
    ensure!(
        before > 0.6 * whole && before > 0.0,
        "before the hit there were {before:.1} of {whole:.1} Mbit/s"
    );
    Ok(BlackHole {
        path: topology.links[path].name().to_owned(),
        direction: Direction::Down,
        hit_s: hit.as_secs_f64(),
        returned_s: back.as_secs_f64(),
        longest_stall_ms: watch.longest_gap(hit).as_secs_f64() * 1e3,
        recovered_ms: recovered(&watch, back, before).map(|time| time.as_secs_f64() * 1e3),
        series: Some(series),
    })
}

fn cut(topology: &Topology, path: usize, began: Instant) -> Result<(Duration, Duration)> {
    let link = &topology.links[path];
    thread::sleep(HIT.saturating_sub(began.elapsed()));
    link.black_hole(true)?;
    let hit = began.elapsed();
    thread::sleep(RETURN.saturating_sub(began.elapsed()));
    link.black_hole(false)?;
    Ok((hit, began.elapsed()))
}

/// From the path's return to the first moment from which on goodput is, for a window, 90 % of what
/// it was before.
fn recovered(watch: &Watch, back: Duration, before: f64) -> Option<Duration> {
    let end = watch.samples.last()?.0;
    let mut from = back;
    while from + WINDOW <= end {
        if rate(watch, from, WINDOW) >= 0.9 * before {
            return Some(from - back);
        }
        from += WINDOW / 50;
    }
    None
}

/// Mbit/s over a time.
fn rate(watch: &Watch, from: Duration, length: Duration) -> f64 {
    let at = |time: Duration| {
        let before = watch.samples.partition_point(|(when, _)| *when <= time);
        watch.samples.get(before.saturating_sub(1)).map_or(0, |(_, bytes)| *bytes)
    };
    (at(from + length) - at(from)) as f64 * 8.0 / 1e6 / length.as_secs_f64()
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
        let before = rate(&watch(0), Duration::from_secs(6), 2 * WINDOW);
        assert!((before - 8.0).abs() < 0.1, "{before}");
        // 90 % over a second that begins 800 ms before all of it is back.
        let after = recovered(&watch(12_000), RETURN, before).unwrap();
        assert!((780..=840).contains(&after.as_millis()), "{after:?}");
        assert_eq!(recovered(&watch(20_000), RETURN, before), None);
    }
}
