//! The ways of a box that asks, as the box that answers sees them: which addresses its heartbeats
//! come from and to, and which it has given up.
//!
//! The box that asks withdraws a dead way's address from each carrier (RM_ADDR), once and without an
//! acknowledgement. Where that is lost, data would wait on the dead subflow for the kernel's time-out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::heartbeat::Heartbeat;
use crate::kernel::numbers::MAX_PATHS;

/// Between which addresses a way leads, from the answering box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarWay {
    /// Our own.
    pub local: IpAddr,
    /// The far box's, or that of a NAT before it.
    pub remote: IpAddr,
}

/// The ways of one session's asking box.
#[derive(Clone, Debug, Default)]
pub struct FarWays {
    seen: BTreeMap<u8, FarWay>,
    /// Those that lived when last heard of, a bit each.
    live: u64,
}

impl FarWays {
    /// Takes a heartbeat that came over `way`, the newest one so far; the ways that are dead since the
    /// one before. Such as lead between the same addresses as a live one are left out: their subflows
    /// cannot be told from its.
    pub fn handle(&mut self, heartbeat: Heartbeat, way: FarWay) -> Vec<FarWay> {
        if usize::from(heartbeat.way) >= MAX_PATHS {
            return Vec::new();
        }
        self.seen.insert(heartbeat.way, way);
        let is_live = |number: u8| heartbeat.live >> number & 1 != 0;
        // Who finds no way alive, not even this one, has given nothing up: there is no better one.
        if !is_live(heartbeat.way) {
            return Vec::new();
        }
        let gone = self.live & !heartbeat.live;
        self.live = heartbeat.live;
        let live: Vec<FarWay> =
            self.seen.iter().filter(|(number, _)| is_live(**number)).map(|(_, way)| *way).collect();
        let died = self.seen.iter().filter(|(number, _)| gone >> **number & 1 != 0);
        died.map(|(_, way)| *way).filter(|way| !live.contains(way)).collect()
    }
}

/// Which subflows, by our end and the far one, of a peer's connections are to be ended, since they are
/// over ways that it has given up: of each connection that has another one, which is over none of them.
#[must_use]
pub fn left(
    dead: &[FarWay],
    connections: &[Vec<(SocketAddr, SocketAddr)>],
) -> Vec<(SocketAddr, SocketAddr)> {
    let is_dead = |(local, remote): &(SocketAddr, SocketAddr)| {
        dead.contains(&FarWay { local: local.ip(), remote: remote.ip() })
    };
    let lives = |subflows: &&Vec<_>| subflows.iter().any(|ends| !is_dead(ends));
    connections.iter().filter(lives).flatten().filter(|ends| is_dead(ends)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_keeps_its_last_subflow() {
        let ends = |far: &str| ("10.0.0.1:4770".parse().unwrap(), far.parse().unwrap());
        let (over2, over3) = (ends("10.0.0.2:1000"), ends("10.0.0.3:1001"));
        let connections = [vec![over2, over3], vec![over3], vec![over2], vec![]];
        assert_eq!(left(&[way(3)], &connections), [over3]);
        assert_eq!(left(&[way(2), way(3)], &connections), []);
        assert_eq!(left(&[way(4)], &connections), []);
    }

    fn way(last: u8) -> FarWay {
        FarWay { local: [10, 0, 0, 1].into(), remote: [10, 0, 0, last].into() }
    }

    fn beat(way: u8, live: u64) -> Heartbeat {
        Heartbeat { way, sequence: 1, live }
    }

    #[test]
    fn a_way_is_given_up_once_and_again_after_its_return() {
        let mut ways = FarWays::default();
        assert_eq!(ways.handle(beat(0, 0b11), way(2)), []);
        assert_eq!(ways.handle(beat(1, 0b11), way(3)), []);
        assert_eq!(ways.handle(beat(0, 0b01), way(2)), [way(3)]);
        assert_eq!(ways.handle(beat(0, 0b01), way(2)), []);
        // It asks over the dead one, too.
        assert_eq!(ways.handle(beat(1, 0b01), way(3)), []);
        assert_eq!(ways.handle(beat(1, 0b11), way(3)), []);
        assert_eq!(ways.handle(beat(1, 0b10), way(3)), [way(2)]);
    }

    #[test]
    fn when_all_are_dead_none_is_given_up() {
        let mut ways = FarWays::default();
        ways.handle(beat(0, 0b11), way(2));
        ways.handle(beat(1, 0b11), way(3));
        assert_eq!(ways.handle(beat(0, 0), way(2)), []);
        assert_eq!(ways.handle(beat(1, 0b10), way(3)), [way(2)]);
    }

    #[test]
    fn behind_one_address_no_way_is_told_from_another() {
        let mut ways = FarWays::default();
        ways.handle(beat(0, 0b11), way(9));
        ways.handle(beat(1, 0b11), way(9));
        assert_eq!(ways.handle(beat(0, 0b01), way(9)), []);
        assert_eq!(ways.handle(beat(200, u64::MAX), way(5)), []);
    }
}
