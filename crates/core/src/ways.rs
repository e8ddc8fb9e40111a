//! The ways to a peer, how long each takes and whether it lives: which is dialled first, which is
//! far, and whether a carrier begins on a good one.
//!
//! Measuring is the engine's, and so is finding out what is dead.

use std::net::IpAddr;
use std::time::Duration;

use crate::health::State;
use crate::path::Pairing;

/// By how much more than a quarter a round trip may wander and still be about the best, and by how
/// much more than a half it makes a way a far one.
const WANDER: Duration = Duration::from_millis(2);
const FAR: Duration = Duration::from_millis(5);

/// What a way is worth to a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// It is as good as the best, or not known to be worse.
    Near,
    /// It is so much further than the best that a flow which is soon over had better keep off it: what
    /// leaves on it arrives when the rest has long been there.
    Far,
    /// It gets through so badly that it is of use only where there is no other.
    Poor,
    /// Nothing arrives on it.
    Dead,
}

#[derive(Clone, Copy, Debug)]
struct Way {
    pairing: Pairing,
    round_trip: Option<Duration>,
    state: State,
}

/// The ways to a peer, each known by its path's number.
#[derive(Clone, Debug, Default)]
pub struct Ways {
    /// In the order of the configuration, normal ones before backup ones.
    all: Vec<Way>,
}

impl Ways {
    /// Ways of which no round trip is known.
    #[must_use]
    pub fn new(all: &[Pairing]) -> Self {
        let mut ways = Self::default();
        ways.set(all);
        ways
    }

    /// These are the ways from now on; whether they are others than before. What is known of those
    /// that stay is kept.
    pub fn set(&mut self, all: &[Pairing]) -> bool {
        let unchanged = self.all.iter().map(|way| way.pairing).eq(all.iter().copied());
        let way = |pairing: &Pairing| {
            let known = self.all.iter().find(|way| way.pairing == *pairing).copied();
            known.unwrap_or(Way { pairing: *pairing, round_trip: None, state: State::Up })
        };
        self.all = all.iter().map(way).collect();
        !unchanged
    }

    /// All of them, in the order of the configuration.
    #[must_use]
    pub fn all(&self) -> Vec<Pairing> {
        self.all.iter().map(|way| way.pairing).collect()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The way is so; whether that is news. One over other addresses is up until another thing is said
    /// of it.
    pub fn set_state(&mut self, pairing: &Pairing, state: State) -> bool {
        let way = self.all.iter_mut().find(|way| way.pairing == *pairing);
        way.is_some_and(|way| std::mem::replace(&mut way.state, state) != state)
    }

    /// Takes note of the least round trips that carriers have seen lately, by the address that they
    /// leave from. One carrier's may be long: it was made while its path was busy.
    pub fn learn(&mut self, seen: impl Iterator<Item = (IpAddr, Duration)>) {
        let mut least: Vec<Option<Duration>> = vec![None; self.all.len()];
        for (local, round_trip) in seen {
            for (way, least) in self.all.iter().zip(&mut least) {
                if way.pairing.local == local {
                    *least = Some(least.map_or(round_trip, |least| least.min(round_trip)));
                }
            }
        }
        for (way, least) in self.all.iter_mut().zip(least) {
            way.round_trip = least.or(way.round_trip);
        }
    }

    /// Takes note of a round trip that a handshake took, if nothing better is known.
    pub fn answered(&mut self, path: usize, round_trip: Duration) {
        let way = self.all.iter_mut().find(|way| way.pairing.path == path);
        way.into_iter().for_each(|way| _ = way.round_trip.get_or_insert(round_trip));
    }

    /// The ways in the order in which they are dialled: dead ones last and poor ones before them,
    /// normal before backup, then the shortest known round trip.
    #[must_use]
    pub fn order(&self) -> Vec<Pairing> {
        let mut order = self.all.clone();
        let round_trip = |way: &Way| way.round_trip.unwrap_or(Duration::MAX);
        order.sort_by_key(|way| (way.rank(), way.pairing.backup, round_trip(way)));
        order.iter().map(|way| way.pairing).collect()
    }

    /// What the way of this path is worth; dead if there is none.
    #[must_use]
    pub fn worth(&self, path: usize) -> Worth {
        let Some(way) = self.live(path) else { return Worth::Dead };
        if way.state != State::Up {
            return Worth::Poor;
        }
        match (way.round_trip, self.best(|_| true)) {
            (Some(own), Some(best)) if own > best + best / 2 + FAR => Worth::Far,
            _ => Worth::Near,
        }
    }

    /// Whether a first subflow on the way of this path is about as good as on any of the `joined` ways
    /// (a bit each): a lone record leaves on it.
    #[must_use]
    pub fn is_well_placed(&self, path: usize, joined: u64) -> bool {
        let is_joined = |way: &Way| joined & (1 << way.pairing.path) != 0;
        let Some(way) = self.live(path) else { return false };
        if !way.is_normal() {
            return !self.all.iter().any(|other| is_joined(other) && other.is_normal());
        }
        // Round trips wander by a little.
        match (way.round_trip, self.best(is_joined)) {
            (Some(own), Some(best)) => own <= best + best / 4 + WANDER,
            _ => true,
        }
    }

    fn live(&self, path: usize) -> Option<&Way> {
        self.all.iter().find(|way| way.pairing.path == path && way.state != State::Down)
    }

    /// The shortest known round trip of the live normal ways that count.
    fn best(&self, counts: impl Fn(&Way) -> bool) -> Option<Duration> {
        let normal = self.all.iter().filter(|way| way.is_normal() && counts(way));
        normal.filter_map(|way| way.round_trip).min()
    }
}

impl Way {
    /// Whether it carries whenever there is something to carry.
    fn is_normal(&self) -> bool {
        !self.pairing.backup && self.state == State::Up
    }

    fn rank(&self) -> usize {
        match self.state {
            State::Up => 0,
            State::Degraded(_) => 1,
            State::Down => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Trouble;

    fn ways(backup: [bool; 3]) -> Ways {
        let way = |path: usize| Pairing {
            path,
            local: format!("10.{path}.0.1").parse().unwrap(),
            remote: "192.0.2.1:4770".parse().unwrap(),
            backup: backup[path],
        };
        Ways::new(&[0, 1, 2].map(way))
    }

    fn learn(ways: &mut Ways, seen: &[(usize, u64)]) {
        let locals: Vec<IpAddr> = ways.all().iter().map(|way| way.local).collect();
        ways.learn(seen.iter().map(|(way, ms)| (locals[*way], Duration::from_millis(*ms))));
    }

    fn set_state(ways: &mut Ways, path: usize, state: State) -> bool {
        let way = ways.all().get(path).copied();
        way.is_some_and(|way| ways.set_state(&way, state))
    }

    fn order(ways: &Ways) -> Vec<usize> {
        ways.order().iter().map(|way| way.path).collect()
    }

    #[test]
    fn the_nearest_way_is_dialled_first_and_backups_last() {
        let mut ways = ways([false, false, true]);
        assert_eq!(order(&ways), [0, 1, 2]);
        learn(&mut ways, &[(0, 80), (1, 30), (2, 5)]);
        assert_eq!(order(&ways), [1, 0, 2]);
        assert!(ways.is_well_placed(1, 0b111) && !ways.is_well_placed(0, 0b111));
        // The near one is gone, and then the far one, too.
        assert!(ways.is_well_placed(0, 0b101) && ways.is_well_placed(2, 0b100));
        assert!(!ways.is_well_placed(2, 0b101));
    }

    #[test]
    fn a_far_way_is_far_of_the_best_normal_one() {
        let mut ways = ways([false, false, false]);
        let near = |ways: &Ways, way| ways.worth(way) == Worth::Near;
        assert!((0..3).all(|way| near(&ways, way) && ways.is_well_placed(way, 0b111)));
        learn(&mut ways, &[(0, 30), (1, 80), (2, 33)]);
        assert_eq!([0, 1, 2].map(|way| ways.worth(way)), [Worth::Near, Worth::Far, Worth::Near]);
        assert!(ways.is_well_placed(2, 0b111));
    }

    #[test]
    fn the_least_of_several_carriers_counts_and_no_news_changes_nothing() {
        let mut ways = ways([false, false, false]);
        learn(&mut ways, &[(0, 30), (1, 200), (1, 31), (1, 90)]);
        assert_eq!(ways.worth(1), Worth::Near);
        learn(&mut ways, &[]);
        ways.answered(1, Duration::from_millis(500));
        assert_eq!(ways.worth(1), Worth::Near);
    }

    #[test]
    fn what_is_known_stays_with_the_ways_that_stay() {
        let mut ways = ways([false, false, false]);
        learn(&mut ways, &[(0, 30), (1, 80), (2, 100)]);
        let mut all = ways.all();
        assert!(!ways.set(&all));
        all[1].local = "10.9.0.1".parse().unwrap();
        all.remove(0);
        assert!(ways.set(&all));
        assert_eq!([0, 1, 2].map(|way| ways.worth(way)), [Worth::Dead, Worth::Near, Worth::Near]);
        assert_eq!(order(&ways), [2, 1]);
        ways.answered(1, Duration::from_millis(20));
        assert_eq!(ways.worth(2), Worth::Far);
    }

    #[test]
    fn a_dead_way_is_dialled_last_and_nothing_is_measured_by_it() {
        let mut ways = ways([false, false, true]);
        learn(&mut ways, &[(0, 10), (1, 80), (2, 5)]);
        assert!(set_state(&mut ways, 0, State::Down) && !set_state(&mut ways, 0, State::Down));
        let mut elsewhere = ways.all()[1];
        elsewhere.remote.set_port(1);
        assert!(!ways.set_state(&elsewhere, State::Down));
        assert_eq!(order(&ways), [1, 2, 0]);
        assert_eq!([0, 1].map(|way| ways.worth(way)), [Worth::Dead, Worth::Near]);
        assert!(!ways.is_well_placed(0, 0b111) && ways.is_well_placed(1, 0b111));
        assert!(set_state(&mut ways, 1, State::Down) && ways.is_well_placed(2, 0b111));
        assert!(set_state(&mut ways, 0, State::Up));
        assert_eq!(order(&ways), [0, 2, 1]);
    }

    #[test]
    fn a_poor_way_is_of_use_only_where_there_is_no_other() {
        let mut ways = ways([false, false, false]);
        learn(&mut ways, &[(0, 10), (1, 30), (2, 35)]);
        set_state(&mut ways, 0, State::Degraded(Trouble::Loss));
        assert_eq!([0, 1, 2].map(|way| ways.worth(way)), [Worth::Poor, Worth::Near, Worth::Near]);
        assert_eq!(order(&ways), [1, 2, 0]);
        assert!(!ways.is_well_placed(0, 0b111) && ways.is_well_placed(0, 0b001));
    }
}
