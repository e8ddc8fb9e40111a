//! What seals and opens a session's heartbeats, on the box that asks and on the one that answers.

use std::sync::PoisonError;

use braid_core::far_ways::{FarWay, FarWays};
use braid_core::heartbeat::{self, HEARTBEAT_LEN};
use braid_core::keys::Direction;
use portable_atomic::Ordering;

use super::Session;

/// What answers the peer's heartbeats, once there was one.
#[derive(Debug)]
pub(super) struct Answering {
    opener: heartbeat::Opener,
    sealer: heartbeat::Sealer,
    ways: FarWays,
}

impl Session {
    /// What seals our heartbeats, and opens the answers to them; once in a session, since a second
    /// one would seal others with the nonces of the first.
    pub(crate) fn asking(&self) -> Option<(heartbeat::Sealer, heartbeat::Opener)> {
        if self.asked.swap(true, Ordering::Relaxed) {
            return None;
        }
        let secret = |direction| self.traffic(true, heartbeat::NUMBER, direction);
        Some((
            heartbeat::Sealer::new(self.id, self.terms.suite, &secret(Direction::FromDialler)),
            heartbeat::Opener::new(self.terms.suite, &secret(Direction::FromAcceptor)),
        ))
    }

    /// The answer to a heartbeat of the peer's that came over `way`, and the ways that it gives up;
    /// `None` when it is none, or one that came before.
    pub(crate) fn answer(
        &self,
        datagram: &[u8],
        way: FarWay,
    ) -> Option<([u8; HEARTBEAT_LEN], Vec<FarWay>)> {
        let mut answering = self.answering.lock().unwrap_or_else(PoisonError::into_inner);
        let Answering { opener, sealer, ways } = answering.get_or_insert_with(|| {
            let secret = |direction| self.traffic(false, heartbeat::NUMBER, direction);
            let sealer =
                heartbeat::Sealer::new(self.id, self.terms.suite, &secret(Direction::FromAcceptor));
            let opener = heartbeat::Opener::new(self.terms.suite, &secret(Direction::FromDialler));
            Answering { opener, sealer, ways: FarWays::default() }
        });
        let (heartbeat, is_newest) = opener.open(datagram)?;
        let dead = if is_newest { ways.handle(heartbeat, way) } else { Vec::new() };
        Some((sealer.seal(heartbeat)?, dead))
    }
}
