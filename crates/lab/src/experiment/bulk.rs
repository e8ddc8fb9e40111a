//! One bulk download whose every byte is checked, followed closely while something happens.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};

use super::{Plan, Session, times::PORT};
use crate::generator::{Server, Watch, download_watch};
use crate::link::Direction;
use crate::report::figure::{Family, PathAlone};
use crate::topology::{Topology, sink_address};

/// Between two looks at what has arrived.
pub(super) const SAMPLE: Duration = Duration::from_millis(2);

/// How long plain routing is measured over a path whose rate wanders: some fifty draws.
const WANDERING: Duration = Duration::from_secs(30);

/// Downloads for `time` over whatever leads to the sink, while `meanwhile` runs; it is told when the
/// download began, and must be over when that ends.
pub(super) fn while_downloading<T>(
    topology: &Topology,
    time: Duration,
    meanwhile: impl FnOnce(Instant) -> Result<T>,
) -> Result<(Watch, T)> {
    let address = sink_address(Family::V4, PORT)?;
    let _server = topology.sink.run(move || Server::start(&[address]))??;
    thread::scope(|scope| {
        let host = &topology.host;
        let download = scope.spawn(move || host.run(move || download_watch(address, time, SAMPLE)));
        let told = meanwhile(Instant::now());
        let watch = download.join().map_err(|_| anyhow!("the download panicked"))???;
        Ok((watch, told?))
    })
}

/// What went wrong with a download, if anything did.
pub(super) fn check(watch: &Watch) -> Result<()> {
    ensure!(watch.wrong == 0, "{} bytes of the download were wrong", watch.wrong);
    if let Some(why) = &watch.broke {
        bail!("the download broke: {why}");
    }
    Ok(())
}

/// Sleeps until so long after `began`.
pub(super) fn sleep_until(began: Instant, time: Duration) {
    thread::sleep(time.saturating_sub(began.elapsed()));
}

impl Session<'_> {
    /// What plain routing downloads over each path alone; measured once for the setting.
    pub(super) fn paths_alone(&mut self) -> Result<Vec<PathAlone>> {
        if self.alone.is_empty() {
            let mut alone = Vec::new();
            for path in 0..self.profile.paths.len() {
                alone.push(self.path_alone(path)?);
                let step = format!("download plain over wan{}", path + 1);
                self.step(&step, &format!("{:7.1} Mbit/s", alone[path].mbit));
            }
            self.alone = alone;
        }
        Ok(self.alone.clone())
    }

    fn path_alone(&self, path: usize) -> Result<PathAlone> {
        let topology = self.topology(0)?;
        topology.route_over(path)?;
        topology.restart_wander()?;
        let link = &topology.links[path];
        let wanders = self.profile.paths[path].wander.is_some();
        let time = if wanders { WANDERING.max(self.plan.duration) } else { self.plan.duration };
        let from = Plan::omit(self.profile);
        let allowed = || link.counters(Direction::Down).tally.bytes_allowed;
        let (watch, (began, ended, allowed)) =
            while_downloading(&topology, from + time + 2 * SAMPLE, |began| {
                sleep_until(began, from);
                let (counted_from, before) = (Instant::now(), allowed());
                sleep_until(began, from + time);
                Ok((counted_from, Instant::now(), allowed() - before))
            })?;
        check(&watch)?;
        let (from, to) = (since(&watch, began), since(&watch, ended));
        let bytes = watch.arrived(to) - watch.arrived(from);
        Ok(PathAlone {
            path: link.name().to_owned(),
            mbit: watch.mbit(from, to - from),
            allowed_percent: bytes as f64 / allowed.max(1) as f64 * 100.0,
        })
    }
}

/// A moment in a watch's own time.
pub(super) fn since(watch: &Watch, moment: Instant) -> Duration {
    moment.saturating_duration_since(watch.began)
}
