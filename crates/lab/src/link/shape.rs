//! What one direction of a link is like, in types that cannot hold nonsense.
//!
//! Acting on it is the model's; reading it from a file is the profile's.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A rate in bits a second of whole Ethernet frames, without preamble and checksum: a full frame
/// is 1514 bytes. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    /// Bits a second; `None` for zero.
    pub const fn from_bits(bits: u64) -> Option<Rate> {
        if bits == 0 { None } else { Some(Rate(bits)) }
    }

    /// Millions of bits a second; `None` below one bit a second and above 10^12.
    pub fn from_mbit(mbit: f64) -> Option<Rate> {
        let bits = mbit * 1e6;
        if (1.0..=1e18).contains(&bits) { Rate::from_bits(bits as u64) } else { None }
    }

    /// Bits a second.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Millions of bits a second.
    pub fn mbit(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Bytes sent in `time`.
    pub fn bytes_in(self, time: Duration) -> u64 {
        (u128::from(self.0) * time.as_nanos() / 8_000_000_000) as u64
    }

    /// Nanoseconds to send `bytes`.
    pub(crate) fn nanos(self, bytes: usize) -> u64 {
        (bytes as u128 * 8_000_000_000).div_ceil(u128::from(self.0)) as u64
    }
}

/// A probability from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub struct Probability(f64);

impl Probability {
    /// `None` outside 0 to 1.
    pub fn new(value: f64) -> Option<Probability> {
        (0.0..=1.0).contains(&value).then_some(Probability(value))
    }

    /// From 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// How frames are lost after they have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Loss {
    /// Of each frame, whatever became of the others.
    pub random: Probability,
    /// Loss that comes in bursts, on top.
    pub burst: Option<Burst>,
}

/// The Gilbert-Elliott model: a good state without this loss, a bad one with it; a transition is
/// drawn at each frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Burst {
    /// Of going from good to bad at a frame.
    pub enter: Probability,
    /// Of going from bad to good at a frame.
    pub leave: Probability,
    /// Of losing a frame in the bad state.
    pub loss: Probability,
}

/// A time added to the delay: drawn evenly between the two, and held for 10 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Jitter {
    /// The least that is added.
    pub min: Duration,
    /// The most that is added; not less than `min`.
    pub max: Duration,
}

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// At which frames leave the queue.
    pub rate: Rate,
    /// From a frame's last bit sent to its delivery.
    pub delay: Duration,
    /// Added to `delay`.
    pub jitter: Jitter,
    /// Of frames that have been sent.
    pub loss: Loss,
    /// The queue's bound in bytes, with the frame being sent; an empty queue takes any frame.
    pub queue: u64,
}

impl Shape {
    /// A direction without jitter or loss.
    pub fn plain(rate: Rate, delay: Duration, queue: u64) -> Shape {
        Shape { rate, delay, jitter: Jitter::default(), loss: Loss::default(), queue }
    }
}

/// A rate that wanders, the same in both directions: they share the air.
#[derive(Debug, Clone, PartialEq)]
pub struct Wander {
    /// Between which it is drawn, evenly.
    pub rates: RangeInclusive<Rate>,
    /// Between which the time to the next draw is drawn, evenly.
    pub every: RangeInclusive<Duration>,
}

/// A whole link: its two directions, and whether its rate wanders.
#[derive(Debug, Clone, PartialEq)]
pub struct Duplex {
    /// From the first end to the second: ingress box to egress box.
    pub up: Shape,
    /// From the second end to the first: egress box to ingress box, towards the host.
    pub down: Shape,
    /// Replaces the rate of both directions, from the start on.
    pub wander: Option<Wander>,
}

/// The rates of a [`Wander`], one after the other; the same for the same seed.
#[derive(Debug, Clone)]
pub struct Schedule {
    wander: Wander,
    rng: fastrand::Rng,
}

impl Schedule {
    /// Starts over from `seed`.
    pub fn new(wander: Wander, seed: u64) -> Schedule {
        Schedule { wander, rng: fastrand::Rng::with_seed(seed) }
    }
}

impl Iterator for Schedule {
    type Item = (Rate, Duration);

    /// The next rate and how long it holds. Never `None`.
    fn next(&mut self) -> Option<(Rate, Duration)> {
        let rate = self.rng.u64(self.wander.rates.start().0..=self.wander.rates.end().0);
        let every = &self.wander.every;
        let hold = self.rng.u64(every.start().as_nanos() as u64..=every.end().as_nanos() as u64);
        Some((Rate(rate), Duration::from_nanos(hold)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_frame_at_100_mbit_takes_121_microseconds() {
        let rate = Rate::from_mbit(100.0).unwrap();
        assert_eq!(rate.nanos(1514), 121_120);
        assert_eq!(rate.bytes_in(Duration::from_millis(50)), 625_000);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Rate::from_mbit(0.0), None);
        assert_eq!(Rate::from_mbit(-1.0), None);
        assert_eq!(Rate::from_mbit(f64::NAN), None);
        assert_eq!(Probability::new(1.1), None);
        assert_eq!(Probability::new(f64::NAN), None);
    }

    #[test]
    fn a_schedule_stays_in_its_bounds_and_repeats() {
        let rates = Rate::from_mbit(30.0).unwrap()..=Rate::from_mbit(120.0).unwrap();
        let every = Duration::from_millis(100)..=Duration::from_secs(1);
        let wander = Wander { rates: rates.clone(), every: every.clone() };
        let draws: Vec<_> = Schedule::new(wander.clone(), 7).take(1000).collect();
        assert!(draws.iter().all(|(rate, hold)| rates.contains(rate) && every.contains(hold)));
        assert_eq!(draws, Schedule::new(wander.clone(), 7).take(1000).collect::<Vec<_>>());
        assert_ne!(draws, Schedule::new(wander, 8).take(1000).collect::<Vec<_>>());
    }
}
