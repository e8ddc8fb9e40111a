//! A path that swallows everything without a word, in the middle of a bulk download.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{meter, times::PORT};
use crate::generator::{Server, Watch, download_watch};
use crate::report::figure::{BlackHole, Direction, Family};
use crate::topology::{Topology, sink_address};

/// When the path goes, when it comes back and when the download ends, from its beginning.
const HIT: Duration = Duration::from_secs(4);
const RETURN: Duration = Duration::from_secs(7);
const END: Duration = Duration::from_secs(16);

/// Between two looks at what has arrived.
const SAMPLE: Duration = Duration::from_millis(5);

/// Goodput is taken over this much to tell whether the sum is back.
const WINDOW: Duration = Duration::from_millis(200);

pub(super) fn measure(topology: &Topology, path: usize) -> Result<BlackHole> {
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
    Ok(BlackHole {
        path: topology.links[path].name().to_owned(),
        direction: Direction::Down,
        hit_s: hit.as_secs_f64(),
        returned_s: back.as_secs_f64(),
        longest_stall_ms: watch.longest_gap(hit).as_secs_f64() * 1e3,
        recovered_ms: recovered(&watch, hit, back).map(|time| time.as_secs_f64() * 1e3),
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

/// From the path's return until goodput is 90 % of what it was before the path went.
fn recovered(watch: &Watch, hit: Duration, back: Duration) -> Option<Duration> {
    let at = |time: Duration| {
        let before = watch.samples.partition_point(|(when, _)| *when <= time);
        watch.samples.get(before.saturating_sub(1)).map_or(0, |(_, bytes)| *bytes)
    };
    let settled = hit / 2;
    let before = (at(hit) - at(settled)) as f64 / (hit - settled).as_secs_f64();
    let end = watch.samples.last()?.0;
    let mut from = back;
    while from + WINDOW <= end {
        let now = (at(from + WINDOW) - at(from)) as f64 / WINDOW.as_secs_f64();
        if now >= 0.9 * before {
            return Some(from + WINDOW - back);
        }
        from += WINDOW / 10;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1000 bytes a millisecond, half of that from the hit until `full`.
    fn watch(full: u64) -> Watch {
        let mut bytes = 0;
        let samples = (0..10_000u64).map(|ms| {
            bytes += if (4000..full).contains(&ms) { 500 } else { 1000 };
            (Duration::from_millis(ms), bytes)
        });
        let samples = samples.collect();
        Watch { began: Instant::now(), samples, wrong: 0, broke: None }
    }

    #[test]
    fn recovery_is_counted_from_the_return() {
        let after = recovered(&watch(8000), HIT, RETURN).unwrap();
        assert!((1100..=1250).contains(&after.as_millis()), "{after:?}");
        assert_eq!(recovered(&watch(20_000), HIT, RETURN), None);
    }
}
