//! How many carriers a pool dials and lets go of: the policy over what it holds, without the
//! carriers themselves.
//!
//! How many are wanted is `demand`'s; holding and dialling them the engine's.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::demand::Demand;

/// The most shared carriers, and how many flows each should have before there is another.
const SHARED_MOST: usize = 8;
const SHARED_LOAD: usize = 16;

/// From so many busy carriers on, flows use far ways at once: together they fill the best one.
const CROWD: usize = 8;

/// The first and longest pause between two attempts to replace misplaced carriers.
const REPLACE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(120));

/// What an idle carrier is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// As good as a new one.
    Good = 0,
    /// A lone record leaves on a way that is not the best.
    Misplaced = 1,
    /// Of an old session.
    Old = 2,
}

/// What a pool holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Idle single carriers, by their [`Worth`].
    pub idle: [usize; 3],
    /// Single carriers that carry a flow, or still drain.
    pub busy: usize,
    /// Being dialled: single, shared.
    pub coming: [usize; 2],
    /// Flows on each shared carrier of this session that takes more.
    pub shared: Vec<usize>,
    /// Shared carriers in all: also full ones, those of old sessions and those that end.
    pub shared_in_all: usize,
}

/// The policy of one pool.
#[derive(Clone, Copy, Debug)]
pub struct Stock {
    demand: Demand,
    /// When misplaced carriers may be replaced again.
    replace_at: Option<Instant>,
    replace_again: Backoff,
}

impl Held {
    /// Single and shared ones, in whatever state.
    #[must_use]
    pub fn have(&self) -> [usize; 2] {
        let idle: usize = self.idle.iter().sum();
        [idle + self.busy + self.coming[0], self.shared_in_all + self.coming[1]]
    }

    /// Whether there are so many flows at once that each is a part of something bulky.
    #[must_use]
    pub fn is_crowd(busy: usize) -> bool {
        busy > CROWD
    }
}

impl Stock {
    /// Of a box that has just started.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let replace_again = Backoff::new(REPLACE);
        Self { demand: Demand::new(now), replace_at: None, replace_again }
    }

    /// A flow has begun; `flows` run now, this one included.
    pub fn began(&mut self, now: Instant, flows: usize) {
        self.demand.began(now, flows);
    }

    /// Whether fewer are idle than there should be.
    pub fn is_low(&mut self, now: Instant, idle: usize, busy: usize) -> bool {
        idle < self.demand.idle(now, busy)
    }

    /// How many carriers to dial, single and shared, if `bound` may be had in all.
    pub fn lack(&mut self, now: Instant, held: &Held, bound: usize) -> [usize; 2] {
        let have = held.have();
        let [good, misplaced, _] = held.idle;
        let wanted = self.demand.idle(now, held.busy) + self.replace(now, misplaced);
        let single = wanted
            .saturating_sub(good + misplaced + held.coming[0])
            .min((bound - shared_bound(bound)).saturating_sub(have[0]));
        let shared = self
            .shared_wanted(now, held)
            .saturating_sub(held.shared.len() + held.coming[1])
            .min(shared_bound(bound).saturating_sub(have[1]));
        [single, shared]
    }

    /// How many idle carriers to let go of, by their [`Worth`]: the surplus, misplaced ones for which
    /// there are others, and those of an old session, which serve on until there are.
    pub fn surplus(&mut self, now: Instant, held: &Held, bound: usize) -> [usize; 3] {
        let wanted = self.demand.idle(now, held.busy);
        let [good, misplaced, old] = held.idle;
        let is_full = held.have()[0] + shared_bound(bound) >= bound;
        let room_for_new = if is_full { 1 + wanted / 4 } else { 0 };
        [
            good.saturating_sub(wanted + wanted / 4),
            misplaced.min((good + misplaced).saturating_sub(wanted)),
            if good + misplaced >= wanted { old } else { old.min(room_for_new) },
        ]
    }

    /// How many empty shared carriers to let go of.
    #[must_use]
    pub fn shared_surplus(&self, now: Instant, held: &Held) -> usize {
        held.shared.len().saturating_sub(self.demand.shared(now))
    }

    fn shared_wanted(&self, now: Instant, held: &Held) -> usize {
        let full = !held.shared.is_empty() && held.shared.iter().all(|load| *load >= SHARED_LOAD);
        // One at a time: none is full before the first is there.
        let more = usize::from(full && held.coming[1] == 0);
        self.demand.shared(now).max(held.shared.len() + more)
    }

    /// How many carriers to dial in place of misplaced ones: all, but where that does not help, since
    /// the best way does not take dials, after growing pauses.
    fn replace(&mut self, now: Instant, misplaced: usize) -> usize {
        if misplaced == 0 {
            self.replace_at = None;
            self.replace_again.reset();
            return 0;
        }
        if self.replace_at.is_some_and(|at| now < at) {
            return 0;
        }
        self.replace_at = Some(now + self.replace_again.pause());
        misplaced
    }
}

/// The most of the bounded carriers that are shared ones.
fn shared_bound(bound: usize) -> usize {
    SHARED_MOST.min(bound / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: usize = 256;

    fn stock() -> (Stock, Instant) {
        let now = Instant::now();
        (Stock::new(now), now)
    }

    fn idle(idle: [usize; 3]) -> Held {
        Held { idle, shared: vec![0; 4], shared_in_all: 4, ..Held::default() }
    }

    /// What a box at work wants idle, by asking it.
    fn wanted() -> usize {
        let (mut stock, now) = stock();
        stock.lack(now, &Held::default(), BOUND)[0]
    }

    #[test]
    fn an_empty_pool_is_filled_and_a_full_one_left() {
        let (mut stock, now) = stock();
        assert_eq!(stock.lack(now, &Held::default(), BOUND), [wanted(), 4]);
        let full = idle([wanted(), 0, 0]);
        assert_eq!(stock.lack(now, &full, BOUND), [0, 0]);
        assert_eq!(stock.surplus(now, &full, BOUND), [0, 0, 0]);
        let coming = Held { coming: [wanted(), 4], ..Held::default() };
        assert_eq!(stock.lack(now, &coming, BOUND), [0, 0]);
    }

    #[test]
    fn the_bound_holds_whatever_is_wanted() {
        let (mut stock, now) = stock();
        stock.began(now, 1000);
        for bound in 2..300 {
            let mut held = Held::default();
            for _ in 0..3 {
                let [single, shared] = stock.lack(now, &held, bound);
                held.busy += single;
                held.shared.extend(vec![100; shared]);
                held.shared_in_all += shared;
                let [single, shared] = held.have();
                assert!(single + shared <= bound && shared >= 1, "{single} + {shared} of {bound}");
            }
        }
    }

    #[test]
    fn misplaced_carriers_are_replaced_once_and_then_ever_more_rarely() {
        let (mut stock, mut now) = stock();
        let held = idle([0, wanted(), 0]);
        assert_eq!(stock.lack(now, &held, BOUND)[0], wanted());
        assert_eq!(stock.surplus(now, &held, BOUND), [0, 0, 0]);
        let mut dialled = 0;
        for _ in 0..600 {
            now += Duration::from_secs(1);
            dialled += usize::from(stock.lack(now, &held, BOUND)[0] > 0);
        }
        assert!((5..=12).contains(&dialled), "dialled {dialled} times in ten minutes");
        // With a replacement one goes.
        assert_eq!(stock.surplus(now, &idle([1, wanted(), 0]), BOUND), [0, 1, 0]);
    }

    #[test]
    fn those_of_an_old_session_go_when_there_are_new_ones_or_no_room() {
        let (mut stock, now) = stock();
        let old = idle([0, 0, wanted()]);
        assert_eq!(stock.lack(now, &old, BOUND)[0], wanted());
        assert_eq!(stock.surplus(now, &old, BOUND)[2], 0);
        assert_eq!(stock.surplus(now, &idle([wanted(), 0, 5]), BOUND)[2], 5);
        let tight = wanted() + SHARED_MOST;
        assert_eq!(stock.lack(now, &old, tight)[0], 0);
        assert!(stock.surplus(now, &old, tight)[2] > 0, "there would never be new ones");
    }

    #[test]
    fn another_shared_carrier_comes_when_all_are_full_and_one_at_a_time() {
        let (mut stock, now) = stock();
        let loads = |loads: [usize; 4]| Held {
            shared: loads.to_vec(),
            shared_in_all: 4,
            ..idle([wanted(), 0, 0])
        };
        assert_eq!(stock.lack(now, &loads([SHARED_LOAD; 4]), BOUND)[1], 1);
        assert_eq!(stock.lack(now, &loads([SHARED_LOAD, 0, 0, 0]), BOUND)[1], 0);
        let coming = Held { coming: [0, 1], ..loads([SHARED_LOAD; 4]) };
        assert_eq!(stock.lack(now, &coming, BOUND)[1], 0);
    }

    #[test]
    fn a_box_at_rest_lets_go() {
        let (mut stock, now) = stock();
        let held = idle([wanted(), 0, 0]);
        let later = now + Duration::from_secs(3600);
        assert_eq!(stock.surplus(later, &held, BOUND)[0], wanted() - 2);
        assert_eq!(stock.shared_surplus(later, &held), 3);
        assert!(!stock.is_low(later, 2, 0) && stock.is_low(later, 1, 0));
    }
}
