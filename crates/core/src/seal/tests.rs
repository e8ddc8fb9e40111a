//! Whole directions through a sealer and an opener: what goes in comes out, what was touched does
//! not, and keys do not outlive their bounds.

use proptest::prelude::*;

use super::*;
use crate::carrier::{Kind, Preamble};
use crate::key::PublicKey;
use crate::keys::{CarrierNumber, Direction, EXPORT_LEN, SessionId, split_export};
use crate::record::MAX_RECORD;

const SUITES: [Suite; 2] = [Suite::Aes128Gcm, Suite::ChaCha20Poly1305];
const FLOW: FlowNumber = FlowNumber(1);
const HOUR: Duration = Duration::from_secs(3600);

fn secret() -> TrafficSecret {
    let (_, secret) = split_export([7; EXPORT_LEN]);
    secret.traffic(&PublicKey([1; 32]), CarrierNumber(1), Direction::FromDialler)
}

fn pair(suite: Suite) -> (Sealer, Opener) {
    (Sealer::new(suite, secret()), Opener::new(suite, secret(), false))
}

/// A pair whose keys may seal only so many records.
fn pair_with_bound(suite: Suite, bound: u32) -> (Sealer, Opener) {
    let keys = || Keys::new(suite, secret(), bound);
    let opener = Opener { keys: keys(), clear_allowed: false, preamble: None, failed: None };
    (Sealer { keys: keys(), first: None }, opener)
}

fn preamble() -> [u8; PREAMBLE_LEN] {
    Preamble { session: SessionId([9; 8]), number: CarrierNumber(1) }.encode()
}

/// Types and payloads of everything in `bytes`, which holds whole records only.
fn open_all(opener: &mut Opener, bytes: &mut [u8]) -> Vec<(RecordType, Vec<u8>)> {
    let (mut at, mut records) = (0, Vec::new());
    while at < bytes.len() {
        let opened = opener.open(&mut bytes[at..]).unwrap().unwrap();
        records.push((opened.kind, bytes[at..][opened.payload].to_vec()));
        at += opened.used;
    }
    records
}

#[test]
fn the_longest_record_fits() {
    for suite in SUITES {
        let (mut sealer, mut opener) = pair(suite);
        let mut buffer = vec![5; MAX_RECORD];
        let data = RecordType::Data;
        let range = sealer.seal(Instant::now(), data, FLOW, &mut buffer, MAX_PAYLOAD);
        assert_eq!(range, 0..MAX_RECORD);
        let opened = opener.open(&mut buffer).unwrap().unwrap();
        assert_eq!((opened.payload.len(), opened.used), (MAX_PAYLOAD, MAX_RECORD));
        assert!(buffer[opened.payload].iter().all(|byte| *byte == 5));
    }
}

#[test]
fn lengths_out_of_bounds_are_refused_at_once() {
    let refused = |length: u16, clear| {
        let mut opener = Opener::new(Suite::Aes128Gcm, secret(), clear);
        opener.open(&mut length.to_be_bytes())
    };
    assert_eq!(refused(20, true), Err(RecordError::Short(20)));
    assert_eq!(refused(21, true), Ok(None));
    assert_eq!(refused(32_533, true), Ok(None));
    assert_eq!(refused(32_534, true), Err(RecordError::Long(32_534)));
    assert_eq!(refused(0x8004, true), Err(RecordError::Short(0x8004)));
    assert_eq!(refused(0x8005, true), Ok(None));
    assert_eq!(refused(0x8000 + 32_516, true), Ok(None));
    assert_eq!(refused(0x8000 + 32_517, true), Err(RecordError::Long(0x8000 + 32_517)));
    assert_eq!(refused(0x8005, false), Err(RecordError::Clear));
}

#[test]
fn a_start_opens_only_behind_its_preamble_and_only_first() {
    let now = Instant::now();
    let kind = Kind { acceptor_opens: true, shared: false }.to_byte();
    for suite in SUITES {
        let bytes = Sealer::new(suite, secret()).start(now, &preamble(), &[kind]);
        assert_eq!(bytes[..PREAMBLE_LEN], preamble());
        let open = |expected: Option<[u8; PREAMBLE_LEN]>| {
            let mut opener = Opener::new(suite, secret(), true);
            if let Some(preamble) = expected {
                opener.expect_start(&preamble);
            }
            opener.open(&mut bytes[PREAMBLE_LEN..].to_vec())
        };
        let opened = open(Some(preamble())).unwrap().unwrap();
        assert_eq!((opened.kind, opened.flow), (RecordType::Start, FlowNumber::NONE));
        assert_eq!(open(None), Err(RecordError::Forged));
        for bit in 0..PREAMBLE_LEN * 8 {
            let mut other = preamble();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(Some(other)), Err(RecordError::Forged));
        }
    }
}

#[test]
fn nothing_but_a_start_begins_a_carrier_and_nothing_else_holds_one() {
    let now = Instant::now();
    let (mut sealer, mut opener) = pair(Suite::Aes128Gcm);
    let mut start = sealer.record(now, RecordType::Start, FlowNumber::NONE, &[0]);
    assert_eq!(opener.open(&mut start), Err(RecordError::Place(RecordType::Start)));

    let (mut sealer, _) = pair(Suite::Aes128Gcm);
    let mut opener = Opener::new(Suite::Aes128Gcm, secret(), true);
    opener.expect_start(&preamble());
    let mut clear = [0; HEADER_LEN + 1];
    let range = Sealer::clear(FLOW, &mut clear, 1);
    assert_eq!(opener.open(&mut clear[range]), Err(RecordError::Clear));
    let mut opener = Opener::new(Suite::Aes128Gcm, secret(), true);
    opener.expect_start(&preamble());
    let mut ready = vec![0; OVERHEAD];
    let (kind, flow) = (RecordType::Ready, FlowNumber::NONE);
    sealer.seal_behind(&preamble(), now, kind, flow, &mut ready, 0);
    assert_eq!(opener.open(&mut ready), Err(RecordError::Place(RecordType::Ready)));
}

#[test]
fn clear_data_stands_between_sealed_records() {
    let now = Instant::now();
    let mut sealer = Sealer::new(Suite::Aes128Gcm, secret());
    let mut opener = Opener::new(Suite::Aes128Gcm, secret(), true);
    let mut bytes = sealer.record(now, RecordType::Opened, FLOW, &[]);
    let mut buffer = *b"-------in clear";
    let range = Sealer::clear(FLOW, &mut buffer, 8);
    bytes.extend_from_slice(&buffer[range]);
    bytes.extend(sealer.record(now, RecordType::Fin, FLOW, &[]));
    let kinds = open_all(&mut opener, &mut bytes);
    let expected =
        [(RecordType::Opened, ""), (RecordType::Data, "in clear"), (RecordType::Fin, "")];
    assert_eq!(kinds, expected.map(|(kind, payload)| (kind, payload.as_bytes().to_vec())));
}

#[test]
fn what_a_single_record_may_not_hold_is_refused() {
    use RecordType::*;
    let open = [0, 0, 0, 0, 4, 192, 0, 2, 1, 0, 80, 4, 10, 0, 0, 2, 4, 1];
    let wrong: [(RecordType, u32, &[u8]); 21] = [
        (Ready, 1, &[]),
        (Rekey, 1, &[]),
        (Retire, 1, &[]),
        (Data, 0, b"x"),
        (Open, 0, &open),
        (Credit, 0, &[0, 0, 0, 1]),
        (Ready, 0, &[0]),
        (Open, 1, &open[1..]),
        (Opened, 1, &[0]),
        (Failed, 1, &[]),
        (Failed, 1, &[0]),
        (Failed, 1, &[8]),
        (Failed, 1, &[1, 1]),
        (Data, 1, &[]),
        (Fin, 1, &[0]),
        (Reset, 1, &[0]),
        (Credit, 1, &[0, 0, 0, 0]),
        (Credit, 1, &[0, 0, 1]),
        (Credit, 1, &[0, 0, 0, 0, 1]),
        (Rekey, 0, &[0]),
        (Retire, 0, &[0]),
    ];
    for (number, (kind, flow, payload)) in wrong.into_iter().enumerate() {
        let (mut sealer, mut opener) = pair(Suite::Aes128Gcm);
        let mut bytes = sealer.record(Instant::now(), kind, FlowNumber(flow), payload);
        let error = if number < 6 { RecordError::Flow(kind) } else { RecordError::Payload(kind) };
        assert_eq!(opener.open(&mut bytes), Err(error));
    }
    for kind in [4, 0x80, 0xff] {
        assert_eq!(check(Start, FlowNumber::NONE, &[kind]), Err(RecordError::Payload(Start)));
    }
}

#[test]
fn behind_what_is_refused_nothing_opens() {
    let now = Instant::now();
    let clear = || {
        let mut buffer = [0; HEADER_LEN + 1];
        let range = Sealer::clear(FLOW, &mut buffer, 1);
        buffer[range].to_vec()
    };
    let (mut sealer, mut opener) = pair(Suite::Aes128Gcm);
    assert_eq!(opener.open(&mut clear()), Err(RecordError::Clear));
    let mut first = sealer.record(now, RecordType::Data, FLOW, b"1");
    assert_eq!(opener.open(&mut first), Err(RecordError::Clear));

    let mut sealer = Sealer::new(Suite::Aes128Gcm, secret());
    let mut opener = Opener::new(Suite::Aes128Gcm, secret(), true);
    let mut malformed = sealer.record(now, RecordType::Fin, FLOW, b"1");
    let refused = Err(RecordError::Payload(RecordType::Fin));
    assert_eq!(opener.open(&mut malformed), refused);
    assert_eq!(opener.open(&mut sealer.record(now, RecordType::Fin, FLOW, &[])), refused);
    assert_eq!(opener.open(&mut clear()), refused);
}

#[test]
fn unknown_types_are_refused() {
    for kind in [0, 12, 0xff] {
        let (mut sealer, mut opener) = pair(Suite::Aes128Gcm);
        let mut record = [0, 21, kind, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let (inner, tag) = record[2..].split_at_mut(INNER_LEN);
        sealer.keys.seal(&[], [0, 21], inner, tag);
        assert_eq!(opener.open(&mut record), Err(RecordError::UnknownType(kind)));
    }
}

#[test]
fn records_neither_repeat_nor_change_places_nor_turn_round() {
    let now = Instant::now();
    let (mut sealer, mut opener) = pair(Suite::Aes128Gcm);
    let first = sealer.record(now, RecordType::Data, FLOW, b"1");
    let mut second = sealer.record(now, RecordType::Data, FLOW, b"2");
    opener.open(&mut first.clone()).unwrap().unwrap();
    assert_eq!(opener.open(&mut first.clone()), Err(RecordError::Forged));
    let (_, mut opener) = pair(Suite::Aes128Gcm);
    assert_eq!(opener.open(&mut second), Err(RecordError::Forged));
    let (_, session) = split_export([7; EXPORT_LEN]);
    let back = session.traffic(&PublicKey([1; 32]), CarrierNumber(1), Direction::FromAcceptor);
    let mut opener = Opener::new(Suite::Aes128Gcm, back, false);
    assert_eq!(opener.open(&mut first.clone()), Err(RecordError::Forged));
}

#[test]
fn a_key_is_changed_before_its_last_record() {
    let now = Instant::now();
    for suite in SUITES {
        let (mut sealer, mut opener) = pair_with_bound(suite, 4);
        let mut kinds = Vec::new();
        for _ in 0..7 {
            let mut bytes = sealer.record(now, RecordType::Data, FLOW, b"x");
            kinds.extend(open_all(&mut opener, &mut bytes).into_iter().map(|(kind, _)| kind));
        }
        let (data, rekey) = (RecordType::Data, RecordType::Rekey);
        assert_eq!(kinds, [data, data, data, rekey, data, data, data, rekey, data]);
    }
}

#[test]
fn a_key_that_is_used_for_too_many_records_is_refused() {
    let now = Instant::now();
    let (mut sealer, mut opener) = pair_with_bound(Suite::Aes128Gcm, 4);
    let mut seal = || {
        let mut bytes = [0; OVERHEAD + 1];
        sealer.seal(now, RecordType::Data, FLOW, &mut bytes, 1);
        bytes
    };
    for _ in 0..3 {
        opener.open(&mut seal()).unwrap().unwrap();
    }
    assert_eq!(opener.open(&mut seal()), Err(RecordError::Overused));
}

#[test]
fn eight_million_records_and_a_rekey_where_it_is_due() {
    let now = Instant::now();
    let (mut sealer, mut opener) = pair(Suite::Aes128Gcm);
    let mut rekeys = Vec::new();
    for count in 1..=(1_u32 << 23) + 3 {
        if let Some(mut rekey) = sealer.rekey_if_due(now) {
            assert_eq!(opener.open(&mut rekey).unwrap().unwrap().kind, RecordType::Rekey);
            rekeys.push(count);
        }
        let mut record = [0x55; OVERHEAD + 1];
        sealer.seal(now, RecordType::Data, FLOW, &mut record, 1);
        let opened = opener.open(&mut record).unwrap().unwrap();
        assert_eq!(record[opened.payload], [0x55]);
    }
    assert_eq!(rekeys, [1 << 23]);
    assert_eq!((sealer.keys.records, opener.keys.records), ((1 << 23) + 4, (1 << 23) + 4));
}

#[test]
fn a_key_is_changed_an_hour_after_its_first_record() {
    let began = Instant::now();
    let (mut sealer, mut opener) = pair(Suite::ChaCha20Poly1305);
    assert_eq!(sealer.rekey_if_due(began + 5 * HOUR), None, "no key ages before it is used");
    let mut kinds_at = |at| {
        let mut bytes = sealer.record(at, RecordType::Data, FLOW, b"x");
        open_all(&mut opener, &mut bytes).len()
    };
    let first = began + 5 * HOUR;
    assert_eq!(kinds_at(first), 1);
    assert_eq!(kinds_at(first + HOUR - Duration::from_nanos(1)), 1);
    assert_eq!(kinds_at(first + HOUR), 2);
    assert_eq!(kinds_at(first + HOUR + HOUR / 2), 1);
    assert_eq!(kinds_at(first + 2 * HOUR), 2);
    assert_eq!(kinds_at(first + 48 * HOUR), 2);
    assert_eq!(kinds_at(first + 48 * HOUR), 1);
}

fn any_suite() -> impl Strategy<Value = Suite> {
    (0..2_usize).prop_map(|index| SUITES[index])
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_waited_for(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        short in any::<bool>(),
        clear in any::<bool>(),
        start in any::<bool>(),
    ) {
        if short && bytes.len() > 1 {
            bytes[0] &= 0x80;
            bytes[1] &= 0x3f;
        }
        let mut opener = Opener::new(Suite::Aes128Gcm, secret(), clear);
        if start {
            opener.expect_start(&preamble());
        }
        if let Ok(Some(opened)) = opener.open(&mut bytes) {
            prop_assert!(clear && !start && bytes[0] & 0x80 != 0);
            prop_assert!(opened.used <= bytes.len() && opened.payload.end <= opened.used);
        }
    }

    #[test]
    fn every_bit_counts(
        suite in any_suite(),
        payload in proptest::collection::vec(any::<u8>(), 1..80),
    ) {
        let now = Instant::now();
        let sealed = Sealer::new(suite, secret()).record(now, RecordType::Data, FLOW, &payload);
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // A longer record is not to be waited for.
            bytes.resize(MAX_RECORD, 0);
            let (_, mut opener) = pair(suite);
            prop_assert!(opener.open(&mut bytes).is_err(), "bit {}", bit);
        }
    }

    /// Records of all lengths, keys that change between them, in pieces as they may come.
    #[test]
    fn round_trip_from_any_split(
        suite in any_suite(),
        bound in 2_u32..6,
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..12),
        pieces in proptest::collection::vec(1_usize..200, 1..20),
    ) {
        let now = Instant::now();
        let (mut sealer, mut opener) = pair_with_bound(suite, bound);
        let wire: Vec<u8> = payloads
            .iter()
            .flat_map(|payload| sealer.record(now, RecordType::Data, FLOW, payload))
            .collect();
        let (mut held, mut found, mut from) = (Vec::new(), Vec::new(), 0);
        for piece in pieces.iter().cycle() {
            let to = wire.len().min(from + piece);
            held.extend_from_slice(&wire[from..to]);
            while let Some(opened) = opener.open(&mut held).unwrap() {
                if opened.kind == RecordType::Data {
                    found.push(held[opened.payload].to_vec());
                }
                held.drain(..opened.used);
            }
            from = to;
            if from == wire.len() {
                break;
            }
        }
        prop_assert!(held.is_empty());
        prop_assert_eq!(found, payloads);
    }
}
