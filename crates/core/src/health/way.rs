//! One way: its heartbeats on their way, what their answers show, and the state that follows.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Report, State, TcpSigns, Trouble};
use crate::backoff::Backoff;

/// Between two heartbeats while traffic flows; on a way that is down; and when nothing flows.
const BUSY: Duration = Duration::from_millis(20);
const DOWN: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_secs(10);

/// The same while none is answered, though TCP gets through: UDP is blocked.
const BLIND: Duration = Duration::from_secs(1);

/// A way is silent when so many heartbeats in a row are overdue, the last of them by so much.
const MISSED: usize = 3;
const OVERDUE: Duration = Duration::from_millis(40);

/// The most that a round trip's deviation adds to that.
const MOST_DEVIATION: Duration = Duration::from_millis(300);

/// TCP that has heard something so lately shows that the way lives.
const TCP_LIVES: Duration = Duration::from_millis(60);

/// TCP that has timed out so often in a row, and heard nothing for so long, shows that it does not.
const TCP_TIMEOUTS: u8 = 2;
const TCP_SILENT: Duration = Duration::from_secs(1);

/// Between two looks at TCP where heartbeats are not answered.
const LOOK: Duration = Duration::from_millis(250);

/// A way that was down is up when it has answered for so long: longer each time that it went down
/// again within [`STEADY`].
const HOLD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
const STEADY: Duration = Duration::from_secs(3);

/// How many answers in a row that takes at least.
const ANSWERS: u32 = 3;

/// How long a degraded way has to do well before it is up: longer each time.
const WELL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Of the last 64 heartbeats, so many lost make a way a degraded one, and so few let it be well.
const LOST: u32 = 6;
const LOST_WELL: u32 = 2;

/// So much more than the best way's round trip makes it a degraded one, and lets it be well.
const DELAYED: Duration = Duration::from_secs(1);
const DELAYED_WELL: Duration = Duration::from_millis(500);

/// A way that is down and answers nothing is tried by TCP so often, while traffic flows and when
/// nothing does.
const CONNECT: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));

/// Heartbeats that may be on their way: an answer to an older one says nothing of now.
const MOST_SENT: usize = 512;

#[derive(Clone, Debug)]
pub(super) struct Way {
    state: State,
    since: Instant,
    /// No heartbeat was answered lately, and TCP gets through, as far as is known.
    blind: bool,
    /// When TCP is looked at again: that takes a look at every socket of the box.
    look_at: Instant,
    sequence: u32,
    /// Sent and not answered, behind the last that was.
    sent: VecDeque<(u32, Instant)>,
    next: Instant,
    /// Smoothed, and its mean deviation (RFC 6298 section 2).
    round_trip: Option<(Duration, Duration)>,
    /// Which of the last heartbeats were lost, a bit each, and of how many that is known.
    lost: u64,
    judged: u32,
    /// Since when, and how often, it has answered without a gap; or has done well.
    well_since: Option<Instant>,
    answers: u32,
    hold: Backoff,
    well: Backoff,
    connect_at: Instant,
}

impl Way {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Up,
            since: now,
            blind: true,
            look_at: now,
            sequence: 0,
            sent: VecDeque::new(),
            next: now,
            round_trip: None,
            lost: 0,
            judged: 0,
            well_since: None,
            answers: 0,
            hold: Backoff::new(HOLD),
            well: Backoff::new(WELL),
            connect_at: now,
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// The round trip of a way that carries.
    pub(super) fn useful(&self) -> Option<Duration> {
        self.round_trip
            .filter(|_| self.state == State::Up && !self.blind)
            .map(|(smoothed, _)| smoothed)
    }

    pub(super) fn report(&self) -> Report {
        let enough = self.judged == u64::BITS;
        Report {
            state: self.state,
            since: self.since,
            is_blind: self.blind,
            round_trip: self.round_trip,
            loss: enough.then(|| f64::from(self.lost.count_ones()) / f64::from(u64::BITS)),
        }
    }

    pub(super) fn forget_sent(&mut self) {
        self.sent.clear();
    }

    pub(super) fn send_at(&mut self, at: Instant) {
        self.next = self.next.min(at);
    }

    /// The number of the heartbeat that is due now.
    pub(super) fn send_if_due(&mut self, now: Instant, is_active: bool) -> Option<u32> {
        if let Some((_, last)) = self.sent.back()
            && self.is_in_doubt(now)
        {
            self.next = self.next.min(*last + BUSY);
        }
        if now < self.next {
            return None;
        }
        self.sequence = self.sequence.wrapping_add(1);
        if self.sent.len() == MOST_SENT {
            self.sent.pop_front();
        }
        self.sent.push_back((self.sequence, now));
        self.next = now + self.interval(now, is_active);
        Some(self.sequence)
    }

    pub(super) fn handle_answer(&mut self, sequence: u32, now: Instant) {
        let Some(place) = self.sent.iter().position(|(sent, _)| *sent == sequence) else { return };
        let (_, at) = self.sent[place];
        self.sent.drain(..=place);
        // What was sent before anything was answered says nothing of losses.
        let place = if self.blind { 0 } else { place };
        for missing in (0..=place).rev() {
            self.lost = self.lost << 1 | u64::from(missing > 0);
            self.judged = (self.judged + 1).min(u64::BITS);
        }
        self.learn(now.saturating_duration_since(at));
        self.blind = false;
        if self.state == State::Down {
            self.well_since.get_or_insert(now);
            self.answers += 1;
            self.send_at(now + DOWN);
        }
    }

    pub(super) fn handle_connected(&mut self) {
        if self.state == State::Down && self.well_since.is_none() {
            self.blind = true;
        }
    }

    /// Takes the state that follows from what is known now. `best` is the shortest round trip of the
    /// other ways that carry.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        is_active: bool,
        may_judge: bool,
        best: Option<Duration>,
        signs: impl FnOnce() -> Option<TcpSigns>,
    ) {
        if self.state == State::Down {
            return self.judge_return(now);
        }
        if self.blind {
            if may_judge && is_active && now >= self.look_at {
                self.look_at = now + LOOK;
                if signs().is_some_and(TcpSigns::is_stuck) {
                    self.go_down(now);
                }
            }
        } else if may_judge && self.is_silent(now) {
            if signs().is_some_and(|signs| signs.silent < TCP_LIVES) {
                self.blind = true;
                self.sent.clear();
            } else {
                self.go_down(now);
            }
        } else {
            self.judge_quality(now, best);
        }
    }

    /// When there is something to judge or to send.
    pub(super) fn wake(&self, now: Instant, is_active: bool) -> Instant {
        let is_judged = self.state != State::Down && !self.blind;
        let silent = self.silent_at().filter(|at| is_judged && *at > now);
        let back = self.well_since.map(|since| (since + self.hold.peek()).max(now + OVERDUE / 4));
        let back = back.filter(|_| self.state == State::Down);
        let connect = (self.state == State::Down).then_some(self.connect_at);
        let look = (self.blind && is_active).then(|| self.look_at.max(now + LOOK / 4));
        [silent, back, connect, look].into_iter().flatten().fold(self.next, Instant::min)
    }

    pub(super) fn connect_is_due(&mut self, now: Instant, is_active: bool) -> bool {
        if self.state != State::Down || now < self.connect_at {
            return false;
        }
        self.connect_at = now + if is_active { CONNECT.0 } else { CONNECT.1 };
        self.well_since.is_none()
    }

    fn interval(&self, now: Instant, is_active: bool) -> Duration {
        if self.state == State::Down {
            return if is_active || self.well_since.is_some() { DOWN } else { IDLE };
        }
        if self.blind {
            return if is_active { BLIND } else { IDLE };
        }
        if is_active || self.is_in_doubt(now) { BUSY } else { IDLE }
    }

    /// A heartbeat should have been answered: is it lost, or the way?
    fn is_in_doubt(&self, now: Instant) -> bool {
        let is_judged = self.state != State::Down && !self.blind;
        is_judged && self.sent.front().is_some_and(|(_, at)| now >= *at + self.patience())
    }

    /// How long an answer may take.
    fn patience(&self) -> Duration {
        let (smoothed, deviation) = self.round_trip.unwrap_or_default();
        smoothed + (4 * deviation).min(MOST_DEVIATION) + OVERDUE
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.sent.len() >= MISSED && self.silent_at().is_some_and(|at| now >= at)
    }

    /// When it is silent if nothing comes: the time at which the last of so many is overdue, or, while
    /// there are not so many, the one that makes it doubtful.
    fn silent_at(&self) -> Option<Instant> {
        let (_, at) = self.sent.get(MISSED - 1).or(self.sent.back())?;
        Some(*at + self.patience())
    }

    fn go_down(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= STEADY {
            self.hold.reset();
        }
        self.turn(State::Down, now);
        // An answer to what was sent before says nothing of now.
        self.sent.clear();
        (self.answers, self.round_trip, self.blind) = (0, None, false);
        // It may be UDP alone that gets through no more, while TCP had nothing to say.
        self.connect_at = now;
        self.send_at(now);
    }

    fn judge_return(&mut self, now: Instant) {
        if self.blind {
            // TCP got through, and no heartbeat was answered.
            self.hold.pause();
            return self.turn(State::Up, now);
        }
        let Some(since) = self.well_since else { return };
        let gap = self.sent.get(MISSED).is_some_and(|(_, at)| now >= *at + self.patience());
        if gap {
            (self.well_since, self.answers) = (None, 0);
        } else if self.answers >= ANSWERS && now >= since + self.hold.peek() {
            self.hold.pause();
            self.turn(State::Up, now);
        }
    }

    fn judge_quality(&mut self, now: Instant, best: Option<Duration>) {
        let delay = self.round_trip.zip(best).map(|((own, _), best)| own.saturating_sub(best));
        let is_delayed_by = |least| delay.is_some_and(|delay| delay >= least);
        let lost = self.lost.count_ones();
        let is_known = self.judged == u64::BITS;
        if self.state == State::Up {
            let trouble = if lost >= LOST {
                Trouble::Loss
            } else if is_delayed_by(DELAYED) {
                Trouble::Delay
            } else {
                return;
            };
            if now.saturating_duration_since(self.since) >= WELL.1 {
                self.well.reset();
            }
            self.turn(State::Degraded(trouble), now);
        } else if !is_known || lost > LOST_WELL || is_delayed_by(DELAYED_WELL) {
            self.well_since = None;
        } else if now >= *self.well_since.get_or_insert(now) + self.well.peek() {
            self.well.pause();
            self.turn(State::Up, now);
        }
    }

    fn turn(&mut self, state: State, now: Instant) {
        (self.state, self.since, self.well_since) = (state, now, None);
        (self.lost, self.judged) = (0, 0);
    }

    fn learn(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => (sample, sample / 2),
            Some((smoothed, deviation)) => {
                ((smoothed * 7 + sample) / 8, (deviation * 3 + smoothed.abs_diff(sample)) / 4)
            }
        });
    }
}

impl TcpSigns {
    fn is_stuck(self) -> bool {
        self.timeouts >= TCP_TIMEOUTS && self.silent >= TCP_SILENT
    }
}
