//! The request that opens a flow: fixed in size, checked before it is believed.
//!
//! It names the flow, its bytes and how it shall end. What each end does about that is `script`'s.

use super::pattern::mix;
use std::{io, time::Duration};

/// Bytes of a request on the wire.
pub(super) const REQUEST_LEN: usize = 72;

const MAGIC: &[u8; 8] = b"braidgen";
const MAX_BYTES: u64 = 1 << 50;
const MAX_BUDGET: Duration = Duration::from_secs(24 * 3600);

/// How a flow ends, and what is done to it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Each side closes when it has sent its bytes.
    BothClose,
    /// The client closes its half; only then does the server send its second half.
    ClientHalfCloses,
    /// The server closes its half; only then does the client send its second half.
    ServerHalfCloses,
    /// The client resets once it has sent `cut_up` and received `cut_down`.
    ClientResets,
    /// The server resets once it has received `cut_up` and sent `cut_down`.
    ServerResets,
    /// The client reads nothing for `pause` after `cut_down` bytes; both close.
    ClientPauses,
    /// The server reads nothing for `pause` after `cut_up` bytes; both close.
    ServerPauses,
}

impl Ending {
    /// Every ending, in the order of their numbers on the wire.
    pub(super) const ALL: [Self; 7] = [
        Self::BothClose,
        Self::ClientHalfCloses,
        Self::ServerHalfCloses,
        Self::ClientResets,
        Self::ServerResets,
        Self::ClientPauses,
        Self::ServerPauses,
    ];
}

/// What a client asks of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Names the flow in the server's ledger; 0 keeps it out.
    pub(super) flow: u64,
    /// Fixes the bytes of both directions.
    pub(super) seed: u64,
    /// Bytes from client to server, after the request.
    pub(super) up: u64,
    /// Bytes from server to client.
    pub(super) down: u64,
    /// See `Ending`; at most `up`.
    pub(super) cut_up: u64,
    /// See `Ending`; at most `down`.
    pub(super) cut_down: u64,
    /// After this long, in whole milliseconds, the flow counts as hung.
    pub(super) budget: Duration,
    /// See `Ending`; in whole milliseconds.
    pub(super) pause: Duration,
    /// How it shall end.
    pub(super) ending: Ending,
}

impl Request {
    /// A download of `down` bytes that both sides close.
    pub(super) fn download(seed: u64, down: u64, budget: Duration) -> Self {
        Self {
            flow: 0,
            seed,
            up: 0,
            down,
            cut_up: 0,
            cut_down: 0,
            budget,
            pause: Duration::ZERO,
            ending: Ending::BothClose,
        }
    }

    /// The request as it goes on the wire.
    pub(super) fn encode(&self) -> [u8; REQUEST_LEN] {
        let ending = Ending::ALL.iter().position(|known| *known == self.ending).unwrap_or(0);
        let mut words = [0; 8];
        words[0] = u64::from_le_bytes(*MAGIC);
        words[1..7].copy_from_slice(&[
            self.flow,
            self.seed,
            self.up,
            self.down,
            self.cut_up,
            self.cut_down,
        ]);
        let pause = millis(self.pause).min(0xff_ffff);
        words[7] = (millis(self.budget) << 32) | (pause << 8) | ending as u64;
        let mut wire = [0; REQUEST_LEN];
        for (place, word) in wire.chunks_exact_mut(8).zip(words.into_iter().chain([sum(&words)])) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        wire
    }

    /// Reads a request; `InvalidData` for anything that `encode` does not write.
    pub(super) fn decode(wire: &[u8; REQUEST_LEN]) -> io::Result<Self> {
        let mut words = [0; REQUEST_LEN / 8];
        for (word, bytes) in words.iter_mut().zip(wire.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let [magic, flow, seed, up, down, cut_up, cut_down, rest, checksum] = words;
        let head = [magic, flow, seed, up, down, cut_up, cut_down, rest];
        let ending = Ending::ALL.get((rest & 0xff) as usize).copied();
        let budget = Duration::from_millis(rest >> 32);
        let sane = magic == u64::from_le_bytes(*MAGIC)
            && checksum == sum(&head)
            && cut_up <= up
            && cut_down <= down
            && up.max(down) <= MAX_BYTES
            && budget <= MAX_BUDGET;
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a request");
        let ending = ending.filter(|_| sane).ok_or_else(invalid)?;
        let pause = Duration::from_millis((rest >> 8) & 0xff_ffff);
        Ok(Self { flow, seed, up, down, cut_up, cut_down, budget, pause, ending })
    }
}

/// A time in whole milliseconds, at most the longest budget.
fn millis(time: Duration) -> u64 {
    time.min(MAX_BUDGET).as_millis() as u64
}

/// A checksum: a relay that spoils the request must not change what is asked unnoticed.
fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| mix(sum ^ word).wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_request() -> impl Strategy<Value = Request> {
        let bytes = 0..MAX_BYTES;
        (any::<[u64; 2]>(), bytes.clone(), bytes, 0u64..80_000_000, 0u64..60_000, 0usize..7)
            .prop_map(|([flow, seed], up, down, budget, pause, ending)| Request {
                flow,
                seed,
                up,
                down,
                cut_up: up / 2,
                cut_down: down / 3,
                budget: Duration::from_millis(budget),
                pause: Duration::from_millis(pause),
                ending: Ending::ALL[ending],
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(request in any_request()) {
            prop_assert_eq!(Request::decode(&request.encode()).unwrap(), request);
        }

        #[test]
        fn any_flipped_bit_is_refused(
            request in any_request(), place in 0..REQUEST_LEN, bit in 0u8..8
        ) {
            let mut wire = request.encode();
            wire[place] ^= 1 << bit;
            prop_assert!(Request::decode(&wire).is_err());
        }

        #[test]
        fn noise_is_refused(wire in prop::collection::vec(any::<u8>(), REQUEST_LEN)) {
            prop_assert!(Request::decode(&wire.try_into().unwrap()).is_err());
        }
    }
}
