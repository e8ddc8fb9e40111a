//! Target `records`: a direction of a carrier, read by an opener that has the right keys.
//!
//! The bytes are either the input's own, or records that a sealer makes as the input says, some of
//! them changed, lost, repeated or cut short on their way. Whatever comes, a sealed record opens
//! only as the next that was sealed, as it was sealed; and what nobody touched opens.

use std::time::{Duration, Instant};

use braid_core::carrier::{Kind, PREAMBLE_LEN, Preamble};
use braid_core::key::PublicKey;
use braid_core::keys::{CarrierNumber, Direction, SessionId, Suite, TrafficSecret, split_export};
use braid_core::opening::{self, Failure};
use braid_core::record::{
    FlowNumber, HEADER_LEN, MAX_PAYLOAD, MAX_RECORD, OVERHEAD, RecordError, RecordType, TAG_LEN,
};
use braid_core::seal::{Opened, Opener, Sealer};

use super::input::{Input, in_pieces};

/// Bytes of a record in clear before its payload.
const CLEAR_HEADER_LEN: usize = 6;

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = Mode::of(input.u8());
    let lengths = input.array::<2>();
    let way = if mode.made { Way::make(&mode, &mut input) } else { Way::found(input.rest()) };

    let whole = mode.read(&way.bytes, &[]);
    let cut = mode.read(&way.bytes, &lengths);
    assert!(whole == cut, "pieces make no difference");
    if mode.made {
        way.judge(&mode, &whole);
    }
}

/// What the first byte of the input says.
struct Mode {
    suite: Suite,
    clear_allowed: bool,
    expects_start: bool,
    direction: Direction,
    made: bool,
    /// Whether the made records begin with a `start` behind a preamble.
    starts: bool,
    /// Whether the preamble is another on its way.
    other_preamble: bool,
}

impl Mode {
    fn of(byte: u8) -> Self {
        let bit = |bit: u8| byte >> bit & 1 != 0;
        Self {
            suite: if bit(0) { Suite::ChaCha20Poly1305 } else { Suite::Aes128Gcm },
            clear_allowed: bit(1),
            expects_start: bit(2),
            direction: if bit(3) { Direction::FromAcceptor } else { Direction::FromDialler },
            made: bit(4),
            starts: bit(5),
            other_preamble: bit(6),
        }
    }

    /// The secret of the test vectors' carrier.
    fn secret(&self) -> TrafficSecret {
        let (_, secret) = split_export(std::array::from_fn(|at| at as u8));
        let dialler = PublicKey(std::array::from_fn(|at| 0xa0 + at as u8));
        secret.traffic(&dialler, CarrierNumber(1), self.direction)
    }

    fn opener(&self) -> Opener {
        let mut opener = Opener::new(self.suite, self.secret(), self.clear_allowed);
        if self.expects_start {
            let mut expected = preamble();
            expected[PREAMBLE_LEN - 1] ^= u8::from(self.other_preamble);
            opener.expect_start(&expected);
        }
        opener
    }

    /// All that opens, and what does not.
    fn read(&self, bytes: &[u8], lengths: &[u8]) -> (Vec<Found>, Option<RecordError>) {
        let (mut found, mut error, mut opener) = (Vec::new(), None, self.opener());
        in_pieces(bytes, lengths, |buffer| {
            loop {
                match open(&mut opener, buffer) {
                    Ok(Some(record)) => {
                        assert!(self.clear_allowed || !record.is_clear);
                        found.push(record);
                    }
                    Ok(None) => return true,
                    Err(refused) => {
                        error = Some(refused);
                        self.stays_shut(&mut opener);
                        return false;
                    }
                }
            }
        });
        (found, error)
    }

    /// Behind what did not open nothing does.
    fn stays_shut(&self, opener: &mut Opener) {
        let mut clear = [0; HEADER_LEN + 1];
        let range = Sealer::clear(FlowNumber(1), &mut clear, 1);
        assert!(opener.open(&mut clear[range]).is_err());
        let now = Instant::now();
        let mut sealer = Sealer::new(self.suite, self.secret());
        for _ in 0..4 {
            let mut fin = sealer.record(now, RecordType::Fin, FlowNumber(1), &[]);
            assert!(opener.open(&mut fin).is_err());
        }
    }
}

/// A record that opened.
#[derive(PartialEq)]
struct Found {
    is_clear: bool,
    kind: RecordType,
    flow: FlowNumber,
    payload: Vec<u8>,
    /// Its bytes as they came.
    bytes: Vec<u8>,
}

/// Opens the first record in the buffer and takes it out.
fn open(opener: &mut Opener, buffer: &mut Vec<u8>) -> Result<Option<Found>, RecordError> {
    let came = buffer.clone();
    let Some(Opened { kind, flow, payload, used }) = opener.open(buffer)? else {
        assert_eq!(*buffer, came, "what is not whole is left alone");
        assert!(buffer.len() < MAX_RECORD, "a buffer for the longest record is enough");
        return Ok(None);
    };
    let is_clear = came[0] & 0x80 != 0;
    let bounds = if is_clear {
        CLEAR_HEADER_LEN..used
    } else {
        assert!(used >= OVERHEAD);
        HEADER_LEN..used - TAG_LEN
    };
    assert_eq!(payload, bounds);
    assert!(used <= came.len() && payload.len() <= MAX_PAYLOAD);
    assert_eq!(buffer[used..], came[used..], "what follows is left alone");
    let found = Found {
        is_clear,
        kind,
        flow,
        payload: buffer[payload].to_vec(),
        bytes: came[..used].to_vec(),
    };
    assert!(may_hold(kind, flow, &found.payload));
    if is_clear {
        assert_eq!((kind, &found.payload[..]), (RecordType::Data, &came[CLEAR_HEADER_LEN..used]));
    }
    buffer.drain(..used);
    Ok(Some(found))
}

/// A direction's bytes, and what is known of them.
#[derive(Default)]
struct Way {
    bytes: Vec<u8>,
    /// What was sealed, in order.
    sealed: Vec<Found>,
    /// How many of these came as they were sealed, with nothing strange between them.
    untouched: usize,
    touched: bool,
    /// Whether bytes were put between the records that may themselves be some, in clear.
    inserted: bool,
}

impl Way {
    fn found(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), ..Self::default() }
    }

    fn make(mode: &Mode, input: &mut Input<'_>) -> Self {
        let (mut way, mut now) = (Self::default(), Instant::now());
        let mut sealer = Sealer::new(mode.suite, mode.secret());
        if mode.starts {
            let payload = [input.u8() % 8];
            let bytes = sealer.start(now, &preamble(), &payload);
            let record = bytes[PREAMBLE_LEN..].to_vec();
            way.add(RecordType::Start, FlowNumber::NONE, payload.to_vec(), record, input);
        }
        while !input.is_empty() && way.bytes.len() < 2 * MAX_RECORD {
            now += Duration::from_secs(60) * u32::from(input.u8() % 64);
            if let Some(rekey) = sealer.rekey_if_due(now) {
                way.add(RecordType::Rekey, FlowNumber::NONE, Vec::new(), rekey.to_vec(), input);
            }
            let choice = input.u8();
            let kind = RecordType::from_byte(choice % 12).unwrap_or(RecordType::Data);
            let flow = FlowNumber(u32::from(input.u8() % 3));
            let payload = payload(kind, choice & 0x40 != 0, input);
            if choice & 0x80 != 0 {
                way.add_clear(mode, flow, &payload);
                continue;
            }
            let record = sealer.record(now, kind, flow, &payload);
            way.add(kind, flow, payload, record, input);
            // The opener goes on to the next key here, and the sealer does not.
            way.touched |= kind == RecordType::Rekey;
        }
        way
    }

    /// A sealed record, and what becomes of it on its way.
    fn add(
        &mut self,
        kind: RecordType,
        flow: FlowNumber,
        payload: Vec<u8>,
        record: Vec<u8>,
        input: &mut Input<'_>,
    ) {
        let mut came = record.clone();
        let mut copies = 1;
        match input.u8() {
            0xf0 => copies = 0,
            0xf1 => copies = 2,
            0xf2 => came.truncate(usize::from(input.u16()) % came.len()),
            0xf3 => {
                came.splice(0..0, input.take(8).iter().copied());
                self.inserted = true;
            }
            0xf4.. => {
                let at = usize::from(input.u16()) % came.len();
                came[at] ^= input.u8();
            }
            _ => {}
        }
        let whole = came == record && copies > 0;
        self.untouched += usize::from(whole && !self.touched);
        self.touched |= !whole || copies > 1;
        (0..copies).for_each(|_| self.bytes.extend_from_slice(&came));
        self.sealed.push(Found { is_clear: false, kind, flow, payload, bytes: record });
    }

    fn add_clear(&mut self, mode: &Mode, flow: FlowNumber, payload: &[u8]) {
        let mut buffer = [&[0; HEADER_LEN], payload].concat();
        let range = Sealer::clear(flow, &mut buffer, payload.len());
        self.bytes.extend_from_slice(&buffer[range]);
        let may = mode.clear_allowed && may_hold(RecordType::Data, flow, payload);
        let first = mode.expects_start && self.sealed.is_empty();
        self.touched |= !may || first;
    }

    /// Whether what opened is what may.
    fn judge(&self, mode: &Mode, (found, error): &(Vec<Found>, Option<RecordError>)) {
        let mut count = 0;
        for record in found.iter().filter(|record| !record.is_clear) {
            assert!(self.sealed.get(count) == Some(record), "what opens was sealed next");
            count += 1;
        }

        let wrong = |(at, record): (usize, &Found)| Some((at, mode.refusal(at, record)?));
        match self.sealed.iter().enumerate().take(self.untouched).find_map(wrong) {
            Some((at, refusal)) => assert_eq!((count, *error), (at, Some(refusal))),
            None => {
                assert!(count >= self.untouched, "what nobody touched opens");
                assert!(self.touched || error.is_none());
            }
        }
        if !(self.inserted && mode.clear_allowed) {
            assert!(count <= self.untouched, "what was touched does not open");
        }
    }
}

impl Mode {
    /// Why a record is refused that came as it was sealed, if it is.
    fn refusal(&self, at: usize, record: &Found) -> Option<RecordError> {
        let Found { kind, flow, payload, .. } = record;
        let other_preamble = self.expects_start && self.other_preamble;
        let refusal = if at == 0 && (self.starts != self.expects_start || other_preamble) {
            RecordError::Forged
        } else if (at > 0 || !self.starts) && *kind == RecordType::Start {
            RecordError::Place(*kind)
        } else if kind.is_of_flow() == (*flow == FlowNumber::NONE) {
            RecordError::Flow(*kind)
        } else if !may_hold(*kind, *flow, payload) {
            RecordError::Payload(*kind)
        } else {
            return None;
        };
        Some(refusal)
    }
}

/// A payload, mostly one that its type may have.
fn payload(kind: RecordType, any: bool, input: &mut Input<'_>) -> Vec<u8> {
    use RecordType::*;
    match kind {
        Start | Failed if !any => vec![input.u8() % 8],
        Open if !any => {
            let mut open = vec![0; 4];
            open.extend([4, 192, 0, 2, input.u8(), 0, 80, 4, 10, 0, 0, 2, 4, 1]);
            open
        }
        Credit if !any => u32::from(input.u8()).to_be_bytes().to_vec(),
        Ready | Opened | Fin | Reset | Rekey | Retire if !any => Vec::new(),
        _ => match input.u8() {
            u8::MAX => vec![input.u8(); usize::from(input.u16()) % (MAX_PAYLOAD + 1)],
            length => input.take(usize::from(length)).to_vec(),
        },
    }
}

/// What a record of a type may hold, as the protocol's table has it.
fn may_hold(kind: RecordType, flow: FlowNumber, payload: &[u8]) -> bool {
    use RecordType::*;
    let of_flow = !matches!(kind, Start | Ready | Rekey | Retire);
    let well_formed = match kind {
        Start => payload.len() == 1 && Kind::from_byte(payload[0]).is_some(),
        Open => opening::Open::parse(payload).is_ok(),
        Failed => Failure::parse(payload).is_ok(),
        Data => !payload.is_empty(),
        Credit => payload.len() == 4 && payload != [0; 4],
        Ready | Opened | Fin | Reset | Rekey | Retire => payload.is_empty(),
    };
    of_flow == (flow != FlowNumber::NONE) && well_formed
}

fn preamble() -> [u8; PREAMBLE_LEN] {
    let session = SessionId(std::array::from_fn(|at| at as u8));
    Preamble { session, number: CarrierNumber(1) }.encode()
}
