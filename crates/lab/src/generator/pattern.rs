//! The bytes that flows carry: a stream fixed by a seed, made and checked at any offset.
//!
//! Each eight bytes are a hash of the seed and of where they stand, so a byte that is flipped, lost,
//! doubled or out of place differs from what belongs there. Who sends which stream is `script`'s.

/// The step of splitmix64: odd, so that no two words of a stream hash the same input.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A byte stream and a place in it.
#[derive(Clone, Debug)]
pub struct Pattern {
    key: u64,
    offset: u64,
}

/// Where bytes differed from the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Offset in the stream, in bytes, of the first that differed.
    pub first: u64,
    /// How many bytes differed.
    pub wrong: u64,
}

impl Pattern {
    /// The stream of `seed`, at its first byte.
    pub fn new(seed: u64) -> Self {
        Self::at(seed, 0)
    }

    /// The stream of `seed`, at byte `offset`.
    pub fn at(seed: u64, offset: u64) -> Self {
        // Hashed, so that streams of neighbouring seeds are not each other shifted.
        Self { key: mix(seed), offset }
    }

    /// The offset in bytes of the next byte to be made or checked.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes the next `buf.len()` bytes of the stream into `buf`.
    pub fn fill(&mut self, buf: &mut [u8]) {
        let (head, body) = buf.split_at_mut(self.to_word_start(buf.len()));
        self.fill_part(head);
        let mut words = body.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word().to_le_bytes());
            self.offset += 8;
        }
        self.fill_part(words.into_remainder());
    }

    /// Compares `buf` with the next `buf.len()` bytes of the stream, and moves past them.
    pub fn check(&mut self, buf: &[u8]) -> Result<(), Mismatch> {
        let mut tally = Tally::default();
        let (head, body) = buf.split_at(self.to_word_start(buf.len()));
        self.check_part(head, &mut tally);
        let words = body.chunks_exact(8);
        let tail = words.remainder();
        for word in words {
            let difference = self.word() ^ le_word(word);
            if difference != 0 {
                tally.add(self.offset, difference);
            }
            self.offset += 8;
        }
        self.check_part(tail, &mut tally);
        tally.0.map_or(Ok(()), Err)
    }

    /// How many of `len` bytes come before the next word starts.
    fn to_word_start(&self, len: usize) -> usize {
        (self.offset.wrapping_neg() % 8).min(len as u64) as usize
    }

    /// The word that the offset lies in.
    fn word(&self) -> u64 {
        mix(self.key.wrapping_add((self.offset / 8).wrapping_mul(STEP)))
    }

    /// `fill` for bytes of one word.
    fn fill_part(&mut self, part: &mut [u8]) {
        let word = self.word() >> (self.offset % 8 * 8);
        part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
        self.offset += part.len() as u64;
    }

    /// `check` for bytes of one word.
    fn check_part(&mut self, part: &[u8], tally: &mut Tally) {
        let word = self.word() >> (self.offset % 8 * 8);
        let mut right = [0; 8];
        right[..part.len()].copy_from_slice(&word.to_le_bytes()[..part.len()]);
        let difference = le_word(part) ^ u64::from_le_bytes(right);
        if difference != 0 {
            tally.add(self.offset, difference);
        }
        self.offset += part.len() as u64;
    }
}

/// The mismatches of one check, so far.
#[derive(Default)]
struct Tally(Option<Mismatch>);

impl Tally {
    /// Adds the bytes that are set in `difference`, a little-endian word that starts at `offset`.
    #[cold]
    fn add(&mut self, offset: u64, difference: u64) {
        let wrong = difference.to_le_bytes().iter().filter(|byte| **byte != 0).count() as u64;
        let first = offset + u64::from(difference.trailing_zeros() / 8);
        let so_far = self.0.get_or_insert(Mismatch { first, wrong: 0 });
        so_far.wrong += wrong;
    }
}

/// Up to eight bytes as a little-endian word.
fn le_word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// The finaliser of splitmix64.
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(seed: u64, offset: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        Pattern::at(seed, offset).fill(&mut buf);
        buf
    }

    proptest! {
        #[test]
        fn any_cut_of_a_stream_is_the_same_stream(
            seed: u64, start in 0u64..100, cuts in prop::collection::vec(0usize..40, 1..20)
        ) {
            let whole = stream(seed, start, cuts.iter().sum());
            let (mut pieces, mut made, mut checked) =
                (Vec::new(), Pattern::at(seed, start), Pattern::at(seed, start));
            for cut in cuts {
                let mut piece = vec![0; cut];
                made.fill(&mut piece);
                prop_assert_eq!(checked.check(&piece), Ok(()));
                pieces.extend(piece);
            }
            prop_assert_eq!(made.offset(), start + whole.len() as u64);
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn a_flipped_bit_is_found_where_it_is(
            seed: u64, start in 0u64..50, len in 1usize..300, place: prop::sample::Index, bit in 0u8..8
        ) {
            let mut bytes = stream(seed, start, len);
            let place = place.index(len);
            bytes[place] ^= 1 << bit;
            let first = start + place as u64;
            prop_assert_eq!(
                Pattern::at(seed, start).check(&bytes), Err(Mismatch { first, wrong: 1 })
            );
        }

        #[test]
        fn two_swapped_bytes_are_found(
            seed: u64, len in 2usize..300, one: prop::sample::Index, other: prop::sample::Index
        ) {
            let mut bytes = stream(seed, 0, len);
            let (one, other) = (one.index(len), other.index(len));
            prop_assume!(bytes[one] != bytes[other]);
            bytes.swap(one, other);
            let first = one.min(other) as u64;
            prop_assert_eq!(Pattern::new(seed).check(&bytes), Err(Mismatch { first, wrong: 2 }));
        }

        #[test]
        fn a_shift_makes_nearly_every_byte_wrong(
            seed: u64, shift in 1u64..5000, len in 256usize..2000
        ) {
            let bytes = stream(seed, shift, len);
            let wrong = Pattern::new(seed).check(&bytes).unwrap_err().wrong;
            prop_assert!(wrong > len as u64 * 9 / 10);
        }

        #[test]
        fn a_lost_or_doubled_byte_spoils_what_follows(
            seed: u64, place in 0usize..200, doubled: bool
        ) {
            let mut bytes = stream(seed, 0, 600);
            if doubled { bytes.insert(place, bytes[place]); } else { bytes.remove(place); }
            let found = Pattern::new(seed).check(&bytes).unwrap_err();
            prop_assert!(found.first >= place as u64 && found.wrong > 300);
        }

        #[test]
        fn another_seed_is_another_stream(seed: u64, other: u64) {
            prop_assume!(seed != other);
            let wrong = Pattern::new(seed).check(&stream(other, 0, 1000)).unwrap_err().wrong;
            prop_assert!(wrong > 900);
        }
    }

    /// A figure to look at, in release: `cargo nextest run --release --run-ignored only pattern`.
    #[test]
    #[ignore = "a measurement"]
    fn speed() {
        let mut buf = vec![0; 64 << 10];
        let rounds = 32_768;
        let began = std::time::Instant::now();
        let mut pattern = Pattern::new(1);
        (0..rounds).for_each(|_| pattern.fill(std::hint::black_box(&mut buf)));
        let filled = began.elapsed();
        let mut pattern = Pattern::new(1);
        Pattern::new(1).fill(&mut buf);
        let began = std::time::Instant::now();
        for _ in 0..rounds {
            pattern.offset = 0;
            pattern.check(std::hint::black_box(&buf)).unwrap();
        }
        let rate = |time: std::time::Duration| 2.147 / time.as_secs_f64();
        println!("fill {:.1} GB/s, check {:.1} GB/s", rate(filled), rate(began.elapsed()));
    }
}
