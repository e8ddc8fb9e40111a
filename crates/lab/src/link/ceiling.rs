//! What the emulator itself can carry, and how exact its delays are: no figure of the experiment
//! may come near to either.

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::awake::Awake;
use super::handle::Direction;
use super::pair::Pair;
use super::shape::{Duplex, Rate, Shape};
use super::traffic;
use crate::profile::Profile;

/// Summed rates that are tried, in Mbit/s.
const STEPS: [f64; 5] = [200.0, 400.0, 600.0, 800.0, 1000.0];
const PATHS: usize = 2;
const DELAY: Duration = Duration::from_millis(10);
const TIME: Duration = Duration::from_secs(3);

/// The share of the asked rate that has to come through. A TCP stream needs some of its time to
/// find the rate.
const UDP_SHARE: f64 = 0.99;
const TCP_SHARE: f64 = 0.9;

/// What was measured over two links with traffic one way, all rates being of Ethernet frames.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ceiling {
    /// Without load.
    pub idle: Lateness,
    /// Paced UDP over links that are much faster.
    pub udp: Vec<Step>,
    /// One TCP stream on each link, at the links' rate.
    pub tcp: Vec<Step>,
    /// The highest summed rate at which UDP lost nothing, in Mbit/s.
    pub udp_mbit: f64,
    /// The highest summed rate that TCP filled while the emulator lost nothing of its own.
    pub tcp_mbit: f64,
}

/// One summed rate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Offered, or the links' rates, in Mbit/s.
    pub asked_mbit: f64,
    /// Delivered, in Mbit/s.
    pub carried_mbit: f64,
    /// Frames lost other than by the links' own queues.
    pub own_loss: u64,
    /// Of probes beside UDP; beside TCP they wait in the queue, as they should.
    pub lateness: Option<Lateness>,
}

/// By how much the one-way delay was longer than asked, in µs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Lateness {
    /// Of half of the probes.
    pub p50_us: f64,
    /// Of 99 in 100.
    pub p99_us: f64,
    /// The worst.
    pub max_us: f64,
}

impl Ceiling {
    /// What both UDP and TCP reached, in Mbit/s summed over the paths.
    pub fn mbit(&self) -> f64 {
        self.udp_mbit.min(self.tcp_mbit)
    }
}

/// Measures for about half a minute; needs root and an otherwise idle machine.
pub fn measure() -> io::Result<Ceiling> {
    let _awake = Awake::start()?;
    let idle = udp(0.0)?.lateness.ok_or_else(|| io::Error::other("no probe came through"))?;
    let (udp, udp_mbit) = climb(udp, UDP_SHARE)?;
    let (tcp, tcp_mbit) = climb(tcp, TCP_SHARE)?;
    Ok(Ceiling { idle, udp, tcp, udp_mbit, tcp_mbit })
}

/// A warning when the profile asks for more than `ceiling_mbit`: its results would show the
/// emulator.
pub fn warn_if_exceeds(profile: &Profile, ceiling_mbit: f64) -> Option<String> {
    let asked = profile.summed_mbit();
    (asked > ceiling_mbit).then(|| {
        format!(
            "profile {} asks for {asked:.0} Mbit/s in sum, but the emulator carries only \
             {ceiling_mbit:.0} on this machine: what is measured is the emulator",
            profile.name
        )
    })
}

/// Measures step by step to the first that is too much, and returns the rate of the one before.
fn climb(measure: impl Fn(f64) -> io::Result<Step>, share: f64) -> io::Result<(Vec<Step>, f64)> {
    let (mut steps, mut highest) = (Vec::new(), 0.0);
    for mbit in STEPS {
        let step = measure(mbit)?;
        let good = step.own_loss == 0 && step.carried_mbit >= share * mbit;
        steps.push(step);
        if !good {
            break;
        }
        highest = mbit;
    }
    Ok((steps, highest))
}

fn udp(mbit: f64) -> io::Result<Step> {
    // So fast that nothing waits in the links' queues.
    let pair = pair(10_000.0)?;
    probe_all(&pair, Duration::from_millis(20))?; // resolves the addresses
    let before = delivered(&pair);
    let start = Instant::now();
    let (sent, probes) = thread::scope(|scope| -> io::Result<_> {
        let loads: Vec<_> = (0..PATHS)
            .map(|index| (index, &pair))
            .map(|(index, pair)| {
                scope.spawn(move || traffic::load(pair, index, mbit / PATHS as f64, TIME))
            })
            .collect();
        let probes = probe_all(&pair, TIME)?;
        let sent: io::Result<u64> = loads.into_iter().map(join).sum();
        Ok((sent?, probes))
    })?;
    // Probes end one time-out later than the traffic, when all has come through.
    let time = start.elapsed().min(TIME);
    let (frames, bytes) = difference(delivered(&pair), before);
    let probe_frames = probes.iter().map(|(sent, _)| sent).sum::<u64>();
    let delays = probes.into_iter().flat_map(|(_, delays)| delays).collect();
    Ok(Step {
        asked_mbit: mbit,
        carried_mbit: bytes as f64 * 8.0 / time.as_secs_f64() / 1e6,
        own_loss: (sent + probe_frames).saturating_sub(frames),
        lateness: lateness(delays),
    })
}

fn tcp(mbit: f64) -> io::Result<Step> {
    let pair = pair(mbit / PATHS as f64)?;
    let start = Instant::now();
    thread::scope(|scope| {
        let streams: Vec<_> = (0..PATHS)
            .map(|index| (index, &pair))
            .map(|(index, pair)| scope.spawn(move || traffic::stream(pair, index, TIME)))
            .collect();
        streams.into_iter().try_for_each(join)
    })?;
    let (_, bytes) = delivered(&pair);
    Ok(Step {
        asked_mbit: mbit,
        carried_mbit: bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e6,
        own_loss: traffic::device_drops(&pair)?,
        lateness: None,
    })
}

/// Two links of `mbit` each way, with queues of 50 ms.
fn pair(mbit: f64) -> io::Result<Pair> {
    let rate = Rate::from_mbit(mbit).ok_or_else(|| io::Error::other("a rate of zero"))?;
    let shape = Shape::plain(rate, DELAY, rate.bytes_in(Duration::from_millis(50)));
    Pair::new(&vec![Duplex { up: shape, down: shape, wander: None }; PATHS])
}

/// Probes sent and their delays, for each path.
fn probe_all(pair: &Pair, time: Duration) -> io::Result<Vec<(u64, Vec<Duration>)>> {
    thread::scope(|scope| {
        let probes: Vec<_> = (0..PATHS)
            .map(|index| scope.spawn(move || traffic::probe(pair, index, time)))
            .collect();
        probes.into_iter().map(join).collect()
    })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Frames and bytes that have come out of all links upwards.
fn delivered(pair: &Pair) -> (u64, u64) {
    let tallies = pair.links.iter().map(|link| link.counters(Direction::Up).tally);
    tallies.fold((0, 0), |(frames, bytes), tally| {
        (frames + tally.frames_delivered, bytes + tally.bytes_delivered)
    })
}

fn difference(after: (u64, u64), before: (u64, u64)) -> (u64, u64) {
    (after.0 - before.0, after.1 - before.1)
}

/// `None` when there are no delays.
fn lateness(mut delays: Vec<Duration>) -> Option<Lateness> {
    delays.sort_unstable();
    let late = |delay: Duration| delay.saturating_sub(DELAY).as_nanos() as f64 / 1e3;
    let quantile = |percent: usize| late(delays[delays.len() * percent / 100]);
    let worst = delays.last()?;
    Some(Lateness { p50_us: quantile(50), p99_us: quantile(99), max_us: late(*worst) })
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "The emulator carries {:.0} Mbit/s over two links with no loss of its own \
             (UDP {:.0}, TCP {:.0}).\nOne-way delay beyond the {} ms asked: idle {}.\n",
            self.mbit(),
            self.udp_mbit,
            self.tcp_mbit,
            DELAY.as_millis(),
            self.idle
        )?;
        writeln!(f, "      asked  carried Mbit/s  own loss  delay error")?;
        for (kind, steps) in [("UDP", &self.udp), ("TCP", &self.tcp)] {
            for step in steps {
                let Step { asked_mbit, carried_mbit, own_loss, lateness } = step;
                let late = lateness.map(|late| late.to_string()).unwrap_or_default();
                writeln!(f, "{kind}  {asked_mbit:6.0}  {carried_mbit:14.1}  {own_loss:8}  {late}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lateness { p50_us, p99_us, max_us } = self;
        write!(f, "p50 {p50_us:.0} µs, p99 {p99_us:.0} µs, max {max_us:.0} µs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profiles;

    #[test]
    fn a_profile_beyond_the_ceiling_is_warned_of() {
        let profiles = Profiles::load(None).unwrap();
        let fat = profiles.get("fat").unwrap();
        assert_eq!(warn_if_exceeds(fat, 500.0), None);
        assert!(warn_if_exceeds(fat, 400.0).unwrap().contains("fat asks for 500 Mbit/s"));
    }

    #[test]
    fn a_step_that_lost_frames_ends_the_climb() {
        let measure = |carried: fn(f64) -> f64, loss_at| {
            climb(
                |asked_mbit| {
                    let own_loss = u64::from(asked_mbit == loss_at);
                    let carried_mbit = carried(asked_mbit);
                    Ok(Step { asked_mbit, carried_mbit, own_loss, lateness: None })
                },
                0.99,
            )
            .unwrap()
        };
        let (steps, highest) = measure(|mbit| mbit, 600.0);
        assert_eq!((steps.len(), highest), (3, 400.0));
        assert_eq!(measure(|mbit| mbit.min(790.0), 0.0).1, 600.0);
        assert_eq!(measure(|mbit| mbit / 2.0, 0.0).1, 0.0);
    }

    #[test]
    fn lateness_is_what_is_beyond_the_asked() {
        let delays = (1..=100).map(|late| DELAY + Duration::from_micros(late)).collect();
        let late = lateness(delays).unwrap();
        assert_eq!((late.p50_us, late.p99_us, late.max_us), (51.0, 100.0, 100.0));
        assert_eq!(lateness(Vec::new()), None);
    }
}
