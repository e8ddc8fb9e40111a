//! Heartbeats: the datagrams by which a box knows that a way to its peer lives, byte by byte
//! (PROTOCOL.md, "Heartbeats").
//!
//! When one is due and what its absence means is `health`'s; sockets are the engine's.

use std::fmt;

use ring::aead::{Aad, LessSafeKey};

use crate::carrier::{NumberWindow, VERSION};
use crate::keys::{CarrierNumber, IV_LEN, SessionId, Suite, TrafficSecret};
use crate::record::TAG_LEN;
use crate::seal::{nonce, sealing_key};

/// The number under which a session has the keys of its heartbeats: no carrier has it.
pub const NUMBER: CarrierNumber = CarrierNumber(0);

/// Bytes of a heartbeat: all have the same length, so that an answer is no longer than its question.
pub const HEARTBEAT_LEN: usize = HEADER_LEN + BODY_LEN + TAG_LEN;

const SESSION_LEN: usize = 8;
const HEADER_LEN: usize = 1 + SESSION_LEN + 4;
const BODY_LEN: usize = 13;

/// What a heartbeat says; its answer says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The way's number at the box that asks.
    pub way: u8,
    /// Counted by that box, for each way.
    pub sequence: u32,
    /// The ways that live for that box, a bit each by their number.
    pub live: u64,
}

/// Seals one direction's heartbeats of a session.
pub struct Sealer {
    session: SessionId,
    key: LessSafeKey,
    iv: [u8; IV_LEN],
    count: u32,
}

/// Opens one direction's heartbeats of a session, each once.
pub struct Opener {
    key: LessSafeKey,
    iv: [u8; IV_LEN],
    seen: NumberWindow,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("session", &self.session).finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener(…)")
    }
}

/// The session that a datagram claims to belong to; `None` when it is no heartbeat.
#[must_use]
pub fn session_of(datagram: &[u8]) -> Option<SessionId> {
    let (&version, rest) = datagram.split_first()?;
    let session = rest.first_chunk()?;
    (version == VERSION && datagram.len() == HEARTBEAT_LEN).then_some(SessionId(*session))
}

impl Sealer {
    /// Of the direction whose secret, by [`NUMBER`], is `secret`.
    #[must_use]
    pub fn new(session: SessionId, suite: Suite, secret: &TrafficSecret) -> Self {
        Self { session, key: sealing_key(suite, secret), iv: secret.iv(), count: 0 }
    }

    /// The datagram; `None` when the session's counts are used up.
    pub fn seal(&mut self, heartbeat: Heartbeat) -> Option<[u8; HEARTBEAT_LEN]> {
        self.count = self.count.checked_add(1)?;
        let mut datagram = [VERSION; HEARTBEAT_LEN];
        datagram[1..1 + SESSION_LEN].copy_from_slice(&self.session.0);
        datagram[1 + SESSION_LEN..HEADER_LEN].copy_from_slice(&self.count.to_be_bytes());
        datagram[HEADER_LEN] = heartbeat.way;
        datagram[HEADER_LEN + 1..][..4].copy_from_slice(&heartbeat.sequence.to_be_bytes());
        datagram[HEADER_LEN + 5..][..8].copy_from_slice(&heartbeat.live.to_be_bytes());
        let (header, rest) = datagram.split_at_mut(HEADER_LEN);
        let (body, tag) = rest.split_at_mut(BODY_LEN);
        let nonce = nonce(self.iv, self.count.into());
        let sealed = self.key.seal_in_place_separate_tag(nonce, Aad::from(&*header), body).ok()?;
        tag.copy_from_slice(sealed.as_ref());
        Some(datagram)
    }
}

impl Opener {
    /// Of the direction whose secret, by [`NUMBER`], is `secret`.
    #[must_use]
    pub fn new(suite: Suite, secret: &TrafficSecret) -> Self {
        Self { key: sealing_key(suite, secret), iv: secret.iv(), seen: NumberWindow::default() }
    }

    /// What the datagram says, and whether none that was sealed later has come before it; `None` for
    /// one that is not of this direction and session, or came before.
    pub fn open(&mut self, datagram: &[u8]) -> Option<(Heartbeat, bool)> {
        let mut datagram: [u8; HEARTBEAT_LEN] = datagram.try_into().ok()?;
        let (header, sealed) = datagram.split_at_mut(HEADER_LEN);
        let count = u32::from_be_bytes(*header.last_chunk()?);
        if !self.seen.is_fresh(CarrierNumber(count)) {
            return None;
        }
        let nonce = nonce(self.iv, count.into());
        let body = self.key.open_in_place(nonce, Aad::from(&*header), sealed).ok()?;
        // Only now, so that nobody without the keys can use a count up.
        self.seen.mark(CarrierNumber(count));
        let (&way, rest) = body.split_first()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let sequence = u32::from_be_bytes(*sequence);
        let heartbeat = Heartbeat { way, sequence, live: u64::from_be_bytes(*rest.first_chunk()?) };
        Some((heartbeat, self.seen.is_highest(CarrierNumber(count))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PublicKey;
    use crate::keys::{Direction, split_export};

    const SUITES: [Suite; 2] = [Suite::Aes128Gcm, Suite::ChaCha20Poly1305];

    fn pair(suite: Suite, from: Direction, to: Direction) -> (Sealer, Opener) {
        let (id, secret) = split_export([5; 40]);
        let traffic = |direction| secret.traffic(&PublicKey([1; 32]), NUMBER, direction);
        (Sealer::new(id, suite, &traffic(from)), Opener::new(suite, &traffic(to)))
    }

    #[test]
    fn a_heartbeat_is_read_once() {
        for suite in SUITES {
            let (mut sealer, mut opener) =
                pair(suite, Direction::FromDialler, Direction::FromDialler);
            let said = Heartbeat { way: 3, sequence: 77, live: 0x8000_0000_0000_0009 };
            let datagram = sealer.seal(said).unwrap();
            assert_eq!(session_of(&datagram), Some(SessionId([5; 8])));
            assert_eq!(opener.open(&datagram), Some((said, true)));
            assert_eq!(opener.open(&datagram), None);
            // Out of order is no harm.
            let [second, third] = [78, 79]
                .map(|sequence| sealer.seal(Heartbeat { way: 3, sequence, live: 8 }).unwrap());
            assert!(opener.open(&third).is_some_and(|(_, newest)| newest));
            assert!(opener.open(&second).is_some_and(|(_, newest)| !newest));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_refused() {
        for suite in SUITES {
            let (mut sealer, mut opener) =
                pair(suite, Direction::FromDialler, Direction::FromDialler);
            let datagram = sealer.seal(Heartbeat { way: 1, sequence: 1, live: 2 }).unwrap();
            for bit in 0..HEARTBEAT_LEN * 8 {
                let mut other = datagram;
                other[bit / 8] ^= 1 << (bit % 8);
                // Version and session are what a receiver finds the keys by; they are sealed, too.
                assert_eq!(opener.open(&other), None, "bit {bit}");
            }
            for length in (0..HEARTBEAT_LEN).chain([HEARTBEAT_LEN + 1]) {
                let mut other = datagram.to_vec();
                other.resize(length, 0);
                assert!(opener.open(&other).is_none() && session_of(&other).is_none());
            }
            assert!(opener.open(&datagram).is_some());
        }
    }

    #[test]
    fn an_answer_is_no_question() {
        let (mut sealer, mut opener) =
            pair(Suite::Aes128Gcm, Direction::FromDialler, Direction::FromAcceptor);
        assert_eq!(
            opener.open(&sealer.seal(Heartbeat { way: 1, sequence: 1, live: 2 }).unwrap()),
            None
        );
    }
}
