//! One direction of a link as a pure state machine: queue, serializer, loss, delay.
//!
//! Time comes in as nanoseconds since a start of the caller's choice and never goes backwards.
//! A frame is any value with a length; reading and writing real ones is the driver's.

use std::collections::VecDeque;

use super::shape::{Burst, Shape};

/// For how long a drawn jitter holds. Frames that a falling jitter would let overtake are held
/// and delivered together, as a radio's aggregation does.
const JITTER_HOLD: u64 = 10_000_000;

/// What became of the frames of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Tally {
    /// Frames that entered.
    pub frames_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Frames that came out.
    pub frames_delivered: u64,
    /// Their bytes.
    pub bytes_delivered: u64,
    /// Frames dropped because the queue was full.
    pub dropped_queue: u64,
    /// Frames lost by the asked loss.
    pub dropped_loss: u64,
    /// Frames that vanished in a black hole or with the carrier.
    pub dropped_hole: u64,
    /// Bytes that the rate allowed so far, whether there was something to send or not; none while
    /// the direction was cut.
    pub bytes_allowed: u64,
}

/// A frame with its length in bytes.
#[derive(Debug)]
struct Sized<F> {
    length: usize,
    frame: F,
}

/// One direction of a link, carrying frames of type `F`.
#[derive(Debug)]
pub struct Model<F> {
    shape: Shape,
    rng: fastrand::Rng,
    tally: Tally,
    /// Waiting frames; the first is being sent and has left at `sent_at`.
    queue: VecDeque<Sized<F>>,
    queued_bytes: u64,
    sent_at: u64,
    /// Sent frames with the time of their delivery, which never falls.
    flight: VecDeque<(u64, Sized<F>)>,
    last_due: u64,
    in_burst: bool,
    jitter: u64,
    jitter_until: u64,
    cut: bool,
    spent: Vec<F>,
    /// Until when `allowed` counts, and what it has come to in bits a second times nanoseconds.
    allowed_until: u64,
    allowed: u128,
}

impl<F> Model<F> {
    /// An empty direction. The same seed and calls give the same results.
    pub fn new(shape: Shape, seed: u64) -> Model<F> {
        Model {
            shape,
            rng: fastrand::Rng::with_seed(seed),
            tally: Tally::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            sent_at: 0,
            flight: VecDeque::new(),
            last_due: 0,
            in_burst: false,
            jitter: 0,
            jitter_until: 0,
            cut: false,
            spent: Vec::new(),
            allowed_until: 0,
            allowed: 0,
        }
    }

    /// A frame enters. Whether it is dropped shows in the tally; see also [`Model::reclaim`].
    pub fn offer(&mut self, now: u64, length: usize, frame: F) {
        self.advance(now);
        self.tally.frames_in += 1;
        self.tally.bytes_in += length as u64;
        let fits = self.queue.is_empty() || self.queued_bytes + length as u64 <= self.shape.queue;
        if self.cut {
            self.tally.dropped_hole += 1;
            self.spent.push(frame);
        } else if fits {
            if self.queue.is_empty() {
                self.sent_at = now + self.shape.rate.nanos(length);
            }
            self.queued_bytes += length as u64;
            self.queue.push_back(Sized { length, frame });
        } else {
            self.tally.dropped_queue += 1;
            self.spent.push(frame);
        }
    }

    /// The next frame that is to be delivered by `now`.
    pub fn deliver(&mut self, now: u64) -> Option<F> {
        self.advance(now);
        if self.flight.front()?.0 > now {
            return None;
        }
        let (_, Sized { length, frame }) = self.flight.pop_front()?;
        self.tally.frames_delivered += 1;
        self.tally.bytes_delivered += length as u64;
        Some(frame)
    }

    /// When to call [`Model::deliver`] next: not after this is a frame due. `None` when empty.
    ///
    /// Sending alone needs no call, since any later call finds out what was sent when.
    pub fn wake_at(&self) -> Option<u64> {
        let sent = || self.sent_at + nanos(self.shape.delay) + nanos(self.shape.jitter.min);
        let next = || (!self.queue.is_empty()).then(sent);
        self.flight.front().map(|(due, _)| *due).or_else(next)
    }

    /// Changes the shape for frames not yet sent; the one being sent goes on at the new rate.
    /// Frames on their way keep their time of delivery, and none is overtaken. A smaller queue
    /// drops nothing that is in it already.
    pub fn set_shape(&mut self, now: u64, shape: Shape) {
        self.advance(now);
        if !self.queue.is_empty() {
            let left = u128::from(self.sent_at.saturating_sub(now));
            let scaled = left * u128::from(self.shape.rate.bits()) / u128::from(shape.rate.bits());
            self.sent_at = now + scaled as u64;
        }
        if shape.jitter != self.shape.jitter {
            self.jitter_until = 0;
        }
        self.shape = shape;
    }

    /// The shape in force.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// While cut, what is inside and all that enters vanishes without a sign.
    pub fn set_cut(&mut self, now: u64, cut: bool) {
        self.advance(now);
        self.cut = cut;
        if cut {
            self.tally.dropped_hole += (self.queue.len() + self.flight.len()) as u64;
            self.spent.extend(self.queue.drain(..).map(|sized| sized.frame));
            self.spent.extend(self.flight.drain(..).map(|(_, sized)| sized.frame));
            self.queued_bytes = 0;
        }
    }

    /// The frames dropped since the last call, for use again.
    pub fn reclaim(&mut self) -> impl Iterator<Item = F> {
        self.spent.drain(..)
    }

    /// What became of the frames, as of the last call that took the time.
    pub fn tally(&self) -> Tally {
        let bytes_allowed = (self.allowed / 8_000_000_000) as u64;
        Tally { bytes_allowed, ..self.tally }
    }

    /// Bytes and frames not fully sent, as of the last call that took the time.
    pub fn queued(&self) -> (u64, u64) {
        (self.queued_bytes, self.queue.len() as u64)
    }

    /// Catches up with what was sent until `now`.
    fn advance(&mut self, now: u64) {
        let passed = now.saturating_sub(self.allowed_until);
        if !self.cut {
            self.allowed += u128::from(self.shape.rate.bits()) * u128::from(passed);
        }
        self.allowed_until += passed;
        while self.sent_at <= now
            && let Some(sent) = self.queue.pop_front()
        {
            let at = self.sent_at;
            self.queued_bytes -= sent.length as u64;
            if let Some(next) = self.queue.front() {
                self.sent_at = at + self.shape.rate.nanos(next.length);
            }
            self.send(at, sent);
        }
    }

    /// A frame's last bit was sent at `at`: it is lost or on its way.
    fn send(&mut self, at: u64, sent: Sized<F>) {
        if self.loses() {
            self.tally.dropped_loss += 1;
            self.spent.push(sent.frame);
            return;
        }
        let due = at + nanos(self.shape.delay) + self.jitter(at);
        self.last_due = self.last_due.max(due);
        self.flight.push_back((self.last_due, sent));
    }

    fn loses(&mut self) -> bool {
        let loss = self.shape.loss;
        let bursting = loss.burst.is_some_and(|burst| self.burst_loses(burst));
        let random = loss.random.get();
        bursting || (random > 0.0 && self.rng.f64() < random)
    }

    fn burst_loses(&mut self, burst: Burst) -> bool {
        let change = if self.in_burst { burst.leave } else { burst.enter };
        self.in_burst ^= self.rng.f64() < change.get();
        self.in_burst && self.rng.f64() < burst.loss.get()
    }

    fn jitter(&mut self, at: u64) -> u64 {
        if at >= self.jitter_until {
            let jitter = self.shape.jitter;
            self.jitter = self.rng.u64(nanos(jitter.min)..=nanos(jitter.max));
            self.jitter_until = at + JITTER_HOLD;
        }
        self.jitter
    }
}

fn nanos(duration: std::time::Duration) -> u64 {
    duration.as_nanos() as u64
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
