//! Sealing and opening records: one direction of a carrier (PROTOCOL.md, "Records", "Keys").
//!
//! Owns the nonces, when a key has served its time, and what is authenticated. Where the keys come
//! from is `keys`', what a single record may hold `record`'s, and reading and writing the engine's.
//!
//! A record is sealed where it lies: the caller leaves [`HEADER_LEN`] bytes before its payload and
//! [`TAG_LEN`] behind it, and sends the range of its buffer that it is told.

use std::ops::Range;
use std::time::{Duration, Instant};

use ring::aead::{AES_128_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::carrier::PREAMBLE_LEN;
use crate::keys::{IV_LEN, Suite, TrafficSecret, overwrite};
use crate::record::{
    CLEAR_BIT, FlowNumber, HEADER_LEN, LENGTH_LEN, MAX_PAYLOAD, OVERHEAD, RecordError, RecordType,
    TAG_LEN, check,
};

/// Records under one key, its `rekey` included.
const KEY_RECORDS: u32 = 1 << 23;

/// How long after its first record a key may still seal others.
const KEY_AGE: Duration = Duration::from_secs(60 * 60);

/// Bytes of a record in clear before its payload: length (2), flow (4).
const CLEAR_HEADER_LEN: usize = 6;

/// Type and flow: what is sealed with the payload.
const INNER_LEN: usize = HEADER_LEN - LENGTH_LEN;

/// The sending half of a carrier's protection.
pub struct Sealer {
    keys: Keys,
    /// When the key in use sealed its first record.
    first: Option<Instant>,
}

/// The receiving half of a carrier's protection.
pub struct Opener {
    keys: Keys,
    clear_allowed: bool,
    /// The preamble, while the record that authenticates it is still to come.
    preamble: Option<[u8; PREAMBLE_LEN]>,
    /// What did not open, once something has not.
    failed: Option<RecordError>,
}

/// A record as it was found, by its place in the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What it is for.
    pub kind: RecordType,
    /// The flow it belongs to.
    pub flow: FlowNumber,
    /// Where its payload lies.
    pub payload: Range<usize>,
    /// How many bytes the whole record takes.
    pub used: usize,
}

impl Sealer {
    /// A sealer at the beginning of its direction.
    #[must_use]
    pub fn new(suite: Suite, secret: TrafficSecret) -> Self {
        Self { keys: Keys::new(suite, secret, KEY_RECORDS), first: None }
    }

    /// Seals a record whose payload lies at [`HEADER_LEN`] in `buffer`, and says which bytes of
    /// `buffer` to send. Ask [`Self::rekey_if_due`] before: the far end refuses a key that is used
    /// for too long.
    ///
    /// # Panics
    /// When the payload is longer than [`MAX_PAYLOAD`], or the buffer has no room for the tag.
    pub fn seal(
        &mut self,
        now: Instant,
        kind: RecordType,
        flow: FlowNumber,
        buffer: &mut [u8],
        payload_len: usize,
    ) -> Range<usize> {
        self.seal_behind(&[], now, kind, flow, buffer, payload_len)
    }

    /// The `rekey` record that has to go before the next record, if the key has served its time;
    /// what is sealed from now on is under the next key.
    pub fn rekey_if_due(&mut self, now: Instant) -> Option<[u8; OVERHEAD]> {
        let old = self.first.is_some_and(|first| now.saturating_duration_since(first) >= KEY_AGE);
        if !old && !self.keys.is_used_up() {
            return None;
        }
        Some(self.rekey(now))
    }

    /// A sealed record in a buffer of its own, behind the `rekey` that may be due; for small ones.
    ///
    /// # Panics
    /// When the payload is longer than [`MAX_PAYLOAD`].
    #[must_use]
    pub fn record(
        &mut self,
        now: Instant,
        kind: RecordType,
        flow: FlowNumber,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut bytes = self.rekey_if_due(now).map_or_else(Vec::new, |rekey| rekey.to_vec());
        let start = put_unsealed(&mut bytes, payload);
        self.seal(now, kind, flow, &mut bytes[start..], payload.len());
        bytes
    }

    /// The first bytes of a carrier: the preamble, and the `start` record that authenticates it.
    #[must_use]
    pub fn start(
        &mut self,
        now: Instant,
        preamble: &[u8; PREAMBLE_LEN],
        payload: &[u8],
    ) -> Vec<u8> {
        let mut bytes = preamble.to_vec();
        let start = put_unsealed(&mut bytes, payload);
        let (kind, flow) = (RecordType::Start, FlowNumber::NONE);
        self.seal_behind(preamble, now, kind, flow, &mut bytes[start..], payload.len());
        bytes
    }

    /// Frames a `data` record in clear, whose payload lies at [`HEADER_LEN`] in `buffer` all the
    /// same, and says which bytes of `buffer` to send: its header is one byte shorter.
    ///
    /// # Panics
    /// When the payload is longer than [`MAX_PAYLOAD`] or than the buffer.
    #[must_use]
    pub fn clear(flow: FlowNumber, buffer: &mut [u8], payload_len: usize) -> Range<usize> {
        assert!(payload_len <= MAX_PAYLOAD, "a record's payload is at most {MAX_PAYLOAD} bytes");
        let record = HEADER_LEN - CLEAR_HEADER_LEN..HEADER_LEN + payload_len;
        let length = (CLEAR_HEADER_LEN - LENGTH_LEN + payload_len) as u16 | CLEAR_BIT;
        let (header, _) = buffer[record.clone()].split_at_mut(CLEAR_HEADER_LEN);
        header[..LENGTH_LEN].copy_from_slice(&length.to_be_bytes());
        header[LENGTH_LEN..].copy_from_slice(&flow.0.to_be_bytes());
        record
    }

    /// The last record under the key in use; the next one is under the next.
    pub(crate) fn rekey(&mut self, now: Instant) -> [u8; OVERHEAD] {
        let mut record = [0; OVERHEAD];
        self.seal(now, RecordType::Rekey, FlowNumber::NONE, &mut record, 0);
        self.keys.ratchet();
        self.first = None;
        record
    }

    fn seal_behind(
        &mut self,
        preamble: &[u8],
        now: Instant,
        kind: RecordType,
        flow: FlowNumber,
        buffer: &mut [u8],
        payload_len: usize,
    ) -> Range<usize> {
        assert!(payload_len <= MAX_PAYLOAD, "a record's payload is at most {MAX_PAYLOAD} bytes");
        let length = ((INNER_LEN + payload_len + TAG_LEN) as u16).to_be_bytes();
        let (record, _) = buffer.split_at_mut(OVERHEAD + payload_len);
        record[..LENGTH_LEN].copy_from_slice(&length);
        record[LENGTH_LEN] = kind as u8;
        record[LENGTH_LEN + 1..HEADER_LEN].copy_from_slice(&flow.0.to_be_bytes());
        let (inner, tag) = record[LENGTH_LEN..].split_at_mut(INNER_LEN + payload_len);
        self.keys.seal(preamble, length, inner, tag);
        self.first.get_or_insert(now);
        0..record.len()
    }
}

impl Opener {
    /// An opener at the beginning of its direction. `clear_allowed` where the session does not
    /// seal `data`.
    #[must_use]
    pub fn new(suite: Suite, secret: TrafficSecret, clear_allowed: bool) -> Self {
        Self {
            keys: Keys::new(suite, secret, KEY_RECORDS),
            clear_allowed,
            preamble: None,
            failed: None,
        }
    }

    /// Says that the next record has to be the `start` that authenticates this preamble.
    pub fn expect_start(&mut self, preamble: &[u8; PREAMBLE_LEN]) {
        self.preamble = Some(*preamble);
    }

    /// Opens the first record in `bytes` where it lies; `None` when it is not whole yet.
    ///
    /// # Errors
    /// When it is no record of this place, or none that may be sent. The bytes are then not what
    /// they were, and no further record opens.
    pub fn open(&mut self, bytes: &mut [u8]) -> Result<Option<Opened>, RecordError> {
        match self.failed {
            None => self.open_next(bytes).inspect_err(|error| self.failed = Some(*error)),
            Some(error) => Err(error),
        }
    }

    fn open_next(&mut self, bytes: &mut [u8]) -> Result<Option<Opened>, RecordError> {
        let Some(length) = bytes.first_chunk::<LENGTH_LEN>() else { return Ok(None) };
        let frame = Frame::of(u16::from_be_bytes(*length))?;
        if frame.clear && (!self.clear_allowed || self.preamble.is_some()) {
            return Err(RecordError::Clear);
        }
        let Some(record) = bytes.get_mut(..frame.used) else { return Ok(None) };
        let opened = if frame.clear { opened_clear(record) } else { self.unseal(record)? };
        check(opened.kind, opened.flow, &record[opened.payload.clone()])?;
        if opened.kind == RecordType::Rekey {
            self.keys.ratchet();
        }
        Ok(Some(opened))
    }

    fn unseal(&mut self, record: &mut [u8]) -> Result<Opened, RecordError> {
        let (length, sealed) = record.split_at_mut(LENGTH_LEN);
        let length = [length[0], length[1]];
        let last = self.keys.is_used_up();
        let preamble = self.preamble.as_ref().map_or(&[][..], |preamble| preamble);
        self.keys.open(preamble, length, sealed)?;
        let kind = RecordType::from_byte(sealed[0])?;
        if (kind == RecordType::Start) != self.preamble.take().is_some() {
            return Err(RecordError::Place(kind));
        }
        if last && kind != RecordType::Rekey {
            return Err(RecordError::Overused);
        }
        let payload = HEADER_LEN..record.len() - TAG_LEN;
        Ok(Opened { kind, flow: flow_at(record, LENGTH_LEN + 1), payload, used: record.len() })
    }
}

/// What a record's length says of it.
struct Frame {
    clear: bool,
    used: usize,
}

impl Frame {
    fn of(length: u16) -> Result<Self, RecordError> {
        let clear = length & CLEAR_BIT != 0;
        let body = usize::from(length & !CLEAR_BIT);
        let (least, most) = if clear {
            (CLEAR_HEADER_LEN - LENGTH_LEN + 1, CLEAR_HEADER_LEN - LENGTH_LEN + MAX_PAYLOAD)
        } else {
            (INNER_LEN + TAG_LEN, INNER_LEN + TAG_LEN + MAX_PAYLOAD)
        };
        if body < least {
            return Err(RecordError::Short(length));
        }
        if body > most {
            return Err(RecordError::Long(length));
        }
        Ok(Self { clear, used: LENGTH_LEN + body })
    }
}

/// The key of a direction, and how often it was used.
struct Keys {
    suite: Suite,
    secret: TrafficSecret,
    key: LessSafeKey,
    iv: [u8; IV_LEN],
    /// Records of the direction so far, under whichever key.
    records: u64,
    /// Records under this key so far.
    under_key: u32,
    /// Records under a key, its `rekey` included.
    bound: u32,
}

impl Keys {
    fn new(suite: Suite, secret: TrafficSecret, bound: u32) -> Self {
        let (key, iv) = (sealing_key(suite, &secret), secret.iv());
        Self { suite, secret, key, iv, records: 0, under_key: 0, bound }
    }

    /// Whether the next record under this key has to be its last.
    fn is_used_up(&self) -> bool {
        self.under_key >= self.bound - 1
    }

    fn ratchet(&mut self) {
        self.secret = self.secret.next();
        self.key = sealing_key(self.suite, &self.secret);
        self.iv = self.secret.iv();
        self.under_key = 0;
    }

    fn seal(&mut self, preamble: &[u8], length: [u8; 2], inner: &mut [u8], tag: &mut [u8]) {
        let (aad, aad_len) = additional_data(preamble, length);
        let nonce = self.next_nonce();
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&aad[..aad_len]), inner)
            .expect("a record is far shorter than what the suite can seal");
        tag.copy_from_slice(sealed.as_ref());
    }

    fn open(
        &mut self,
        preamble: &[u8],
        length: [u8; 2],
        sealed: &mut [u8],
    ) -> Result<(), RecordError> {
        let (aad, aad_len) = additional_data(preamble, length);
        let nonce = self.next_nonce();
        self.key
            .open_in_place(nonce, Aad::from(&aad[..aad_len]), sealed)
            .map_err(|_| RecordError::Forged)?;
        Ok(())
    }

    fn next_nonce(&mut self) -> Nonce {
        let nonce = nonce(self.iv, self.records);
        self.records += 1;
        self.under_key = self.under_key.saturating_add(1);
        nonce
    }
}

/// The nonce of what was sealed when `count` others had been, under keys with this `iv`.
pub(crate) fn nonce(iv: [u8; IV_LEN], count: u64) -> Nonce {
    let mut nonce = iv;
    for (byte, count) in nonce[IV_LEN - 8..].iter_mut().zip(count.to_be_bytes()) {
        *byte ^= count;
    }
    Nonce::assume_unique_for_key(nonce)
}

/// The key of a direction, as its suite wants it.
pub(crate) fn sealing_key(suite: Suite, secret: &TrafficSecret) -> LessSafeKey {
    let algorithm = match suite {
        Suite::Aes128Gcm => &AES_128_GCM,
        Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    let mut bytes = [0; 32];
    let key = &mut bytes[..algorithm.key_len()];
    secret.key(key);
    let unbound = UnboundKey::new(algorithm, key).expect("the key has its suite's length");
    overwrite(&mut bytes);
    LessSafeKey::new(unbound)
}

/// The additional data, in the first bytes of what is returned.
fn additional_data(preamble: &[u8], length: [u8; 2]) -> ([u8; PREAMBLE_LEN + LENGTH_LEN], usize) {
    let mut data = [0; PREAMBLE_LEN + LENGTH_LEN];
    let end = preamble.len() + LENGTH_LEN;
    data[..preamble.len()].copy_from_slice(preamble);
    data[preamble.len()..end].copy_from_slice(&length);
    (data, end)
}

/// Appends a payload with room for what sealing adds, and says where the record begins.
fn put_unsealed(bytes: &mut Vec<u8>, payload: &[u8]) -> usize {
    let start = bytes.len();
    bytes.resize(start + HEADER_LEN, 0);
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len() + TAG_LEN, 0);
    start
}

fn opened_clear(record: &[u8]) -> Opened {
    let payload = CLEAR_HEADER_LEN..record.len();
    Opened {
        kind: RecordType::Data,
        flow: flow_at(record, LENGTH_LEN),
        payload,
        used: record.len(),
    }
}

fn flow_at(record: &[u8], at: usize) -> FlowNumber {
    FlowNumber(u32::from_be_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]))
}

#[cfg(test)]
mod tests;
