//! The ways to a peer and how long each takes: which is dialled first, which is far, and whether a
//! carrier begins on a good one.
//!
//! Measuring is the engine's.

use std::net::IpAddr;
use std::time::Duration;

use crate::path::Pairing;

/// By how much more than a quarter a round trip may wander and still be about the best, and by how
/// much more than a half it makes a way a far one.
const WANDER: Duration = Duration::from_millis(2);
const FAR: Duration = Duration::from_millis(5);

/// The ways to a peer.
#[derive(Clone, Debug)]
pub struct Ways {
    /// In the order of the configuration, normal ones before backup ones.
    all: Vec<Pairing>,
    round_trips: Vec<Option<Duration>>,
}

impl Ways {
    /// Ways of which no round trip is known.
    #[must_use]
    pub fn new(all: Vec<Pairing>) -> Self {
        let round_trips = vec![None; all.len()];
        Self { all, round_trips }
    }

    /// All of them, in the order of the configuration.
    #[must_use]
    pub fn all(&self) -> &[Pairing] {
        &self.all
    }

    /// Takes note of the least round trips that carriers have seen lately, by the address that they
    /// leave from. One carrier's may be long: it was made while its path was busy.
    pub fn learn(&mut self, seen: impl Iterator<Item = (IpAddr, Duration)>) {
        let mut least: Vec<Option<Duration>> = vec![None; self.all.len()];
        for (local, round_trip) in seen {
            for (way, least) in self.all.iter().zip(&mut least) {
                if way.local == local {
                    *least = Some(least.map_or(round_trip, |least| least.min(round_trip)));
                }
            }
        }
        for (known, least) in self.round_trips.iter_mut().zip(least) {
            *known = least.or(*known);
        }
    }

    /// Takes note of a round trip that a handshake took, if nothing better is known.
    pub fn answered(&mut self, way: usize, round_trip: Duration) {
        self.round_trips[way].get_or_insert(round_trip);
    }

    /// The ways' numbers in the order in which they are dialled: normal before backup, then the
    /// shortest known round trip.
    #[must_use]
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        let round_trip = |way: usize| self.round_trips[way].unwrap_or(Duration::MAX);
        order.sort_by_key(|way| (self.all[*way].backup, round_trip(*way)));
        order
    }

    /// Whether a way is so much further than the best that a flow which is soon over had better
    /// keep off it: what leaves on it arrives when the rest has long been there.
    #[must_use]
    pub fn is_far(&self, way: usize) -> bool {
        match (self.round_trips[way], self.best(|_| true)) {
            (Some(own), Some(best)) => own > best + best / 2 + FAR,
            _ => false,
        }
    }

    /// Whether a first subflow on `way` is about as good as on any of the `joined` ways (a bit each): a
    /// lone record leaves on it.
    #[must_use]
    pub fn is_well_placed(&self, way: usize, joined: u64) -> bool {
        let is_joined = |way: usize| joined & (1 << way) != 0;
        if self.all[way].backup {
            return !(0..self.all.len()).any(|way| is_joined(way) && !self.all[way].backup);
        }
        // Round trips wander by a little.
        match (self.round_trips[way], self.best(is_joined)) {
            (Some(own), Some(best)) => own <= best + best / 4 + WANDER,
            _ => true,
        }
    }

    /// The shortest known round trip of the normal ways that count.
    fn best(&self, counts: impl Fn(usize) -> bool) -> Option<Duration> {
        let normal = (0..self.all.len()).filter(|way| !self.all[*way].backup && counts(*way));
        normal.filter_map(|way| self.round_trips[way]).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(backup: [bool; 3]) -> Ways {
        let way = |path: usize| Pairing {
            path,
            local: format!("10.{path}.0.1").parse().unwrap(),
            remote: "192.0.2.1:4770".parse().unwrap(),
            backup: backup[path],
        };
        Ways::new((0..3).map(way).collect())
    }

    fn learn(ways: &mut Ways, seen: &[(usize, u64)]) {
        let locals: Vec<IpAddr> = ways.all().iter().map(|way| way.local).collect();
        ways.learn(seen.iter().map(|(way, ms)| (locals[*way], Duration::from_millis(*ms))));
    }

    #[test]
    fn the_nearest_way_is_dialled_first_and_backups_last() {
        let mut ways = ways([false, false, true]);
        assert_eq!(ways.order(), [0, 1, 2]);
        learn(&mut ways, &[(0, 80), (1, 30), (2, 5)]);
        assert_eq!(ways.order(), [1, 0, 2]);
        assert!(ways.is_well_placed(1, 0b111) && !ways.is_well_placed(0, 0b111));
        // The near one is gone, and then the far one, too.
        assert!(ways.is_well_placed(0, 0b101) && ways.is_well_placed(2, 0b100));
        assert!(!ways.is_well_placed(2, 0b101));
    }

    #[test]
    fn a_far_way_is_far_of_the_best_normal_one() {
        let mut ways = ways([false, false, false]);
        assert!((0..3).all(|way| !ways.is_far(way) && ways.is_well_placed(way, 0b111)));
        learn(&mut ways, &[(0, 30), (1, 80), (2, 33)]);
        assert_eq!([0, 1, 2].map(|way| ways.is_far(way)), [false, true, false]);
        assert!(ways.is_well_placed(2, 0b111));
    }

    #[test]
    fn the_least_of_several_carriers_counts_and_no_news_changes_nothing() {
        let mut ways = ways([false, false, false]);
        learn(&mut ways, &[(0, 30), (1, 200), (1, 31), (1, 90)]);
        assert!(!ways.is_far(1));
        learn(&mut ways, &[]);
        ways.answered(1, Duration::from_millis(500));
        assert!(!ways.is_far(1));
    }
}
