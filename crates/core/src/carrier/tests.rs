//! Preambles and numbers, and what the turns of a single carrier allow.
//!
//! Two ends that use a carrier again and again are in `flow`'s tests.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::RecordType::*;
use super::*;

#[test]
fn a_preamble_of_another_version_or_without_number_is_refused() {
    let preamble = Preamble { session: SessionId([3; 8]), number: CarrierNumber(0x0102_0304) };
    let bytes = [1, 3, 3, 3, 3, 3, 3, 3, 3, 1, 2, 3, 4];
    assert_eq!(preamble.encode(), bytes);
    assert_eq!(Preamble::parse(&bytes), Ok(preamble));
    let mut other = bytes;
    other[0] = 0x16;
    assert_eq!(Preamble::parse(&other), Err(PreambleError::Version(0x16)));
    other = bytes;
    other[9..].fill(0);
    assert_eq!(Preamble::parse(&other), Err(PreambleError::Number));
}

#[test]
fn every_kind_has_a_byte() {
    let kinds: BTreeSet<_> =
        (0..=u8::MAX).filter(|byte| Kind::from_byte(*byte).is_some()).collect();
    assert_eq!(kinds, BTreeSet::from([0, 1, 2, 3]));
    assert!(kinds.iter().all(|byte| Kind::from_byte(*byte).unwrap().to_byte() == *byte));
    assert_eq!(Kind { acceptor_opens: true, shared: false }.to_byte(), 1);
}

#[test]
fn the_ends_of_the_number_window() {
    let mut window = NumberWindow::default();
    assert!(!window.is_fresh(CarrierNumber(0)));
    window.mark(CarrierNumber(5000));
    assert!(window.is_fresh(CarrierNumber(5000 - WINDOW)));
    assert!(!window.is_fresh(CarrierNumber(5000 - WINDOW - 1)));
    assert!(!window.is_fresh(CarrierNumber(5000)) && window.is_fresh(CarrierNumber(5001)));
    window.mark(CarrierNumber(u32::MAX));
    assert!(!window.is_fresh(CarrierNumber(u32::MAX)));
    assert!(window.is_fresh(CarrierNumber(u32::MAX - 1)));
    assert!(!window.is_fresh(CarrierNumber(0)));
}

#[test]
fn a_carrier_is_used_for_one_flow_after_the_other() {
    let mut turns = Turns::opener();
    assert_eq!(turns.open(), Some(FlowNumber(1)));
    assert_eq!(turns.open(), None);
    turns.over();
    assert!(turns.is_clean());
    assert_eq!(turns.open(), Some(FlowNumber(2)));
    assert_eq!(turns.take(Reset, FlowNumber(1)), Ok(Turn::Skip));
    assert_eq!(turns.take(Opened, FlowNumber(2)), Ok(Turn::Deliver));
    assert_eq!(Turns::other().open(), None);
}

#[test]
fn a_carrier_without_numbers_or_retired_opens_nothing() {
    let mut turns = Turns { last: u32::MAX - 1, ..Turns::opener() };
    assert_eq!(turns.open(), Some(FlowNumber(u32::MAX)));
    turns.over();
    assert_eq!(turns.open(), None);
    let mut turns = Turns::opener();
    turns.open();
    assert_eq!(turns.take(Retire, FlowNumber::NONE), Ok(Turn::Skip));
    turns.over();
    assert!(turns.is_retired() && turns.is_clean());
    assert_eq!(turns.open(), None);
}

#[test]
fn records_of_the_wrong_side_or_carrier_are_refused() {
    let flow = FlowNumber(1);
    for kind in [Start, Ready, Open, Credit] {
        let mut turns = Turns::opener();
        turns.open();
        assert_eq!(turns.take(kind, flow), Err(TurnError::Type(kind)));
    }
    for kind in [Start, Ready, Opened, Failed, Credit, Retire] {
        let mut turns = Turns::other();
        turns.take(Open, flow).unwrap();
        assert_eq!(turns.take(kind, flow), Err(TurnError::Type(kind)));
    }
}

#[test]
fn records_of_no_flow_or_of_another_are_refused() {
    let mut turns = Turns::other();
    for kind in [Data, Fin, Reset] {
        let flow = FlowNumber(1);
        assert_eq!(turns.take(kind, flow), Err(TurnError::Flow(kind, flow)));
    }
    assert_eq!(turns.take(Open, FlowNumber(3)), Ok(Turn::Begin));
    let next = FlowNumber(4);
    assert_eq!(turns.take(Open, next), Err(TurnError::Flow(Open, next)));
    assert_eq!(turns.take(Data, next), Err(TurnError::Flow(Data, next)));
    let before = FlowNumber(2);
    assert_eq!(turns.take(Data, before), Err(TurnError::Flow(Data, before)));
    turns.over();
    let same = FlowNumber(3);
    for kind in [Open, Data, Fin] {
        assert_eq!(turns.take(kind, same), Err(TurnError::Flow(kind, same)));
    }
    assert_eq!(turns.take(Open, next), Ok(Turn::Begin));
}

#[test]
fn records_of_a_flow_keep_their_order() {
    let flow = FlowNumber(1);
    let opener = |kinds: &[RecordType]| {
        let mut turns = Turns::opener();
        turns.open();
        kinds.iter().map(|kind| turns.take(*kind, flow)).last().unwrap()
    };
    for allowed in [&[Opened, Data, Fin, Reset][..], &[Failed], &[Reset], &[Opened, Reset]] {
        assert_eq!(opener(allowed), Ok(Turn::Deliver), "{allowed:?}");
    }
    for refused in [
        &[Data][..],
        &[Fin],
        &[Opened, Opened],
        &[Opened, Failed],
        &[Opened, Fin, Data],
        &[Opened, Fin, Fin],
        &[Failed, Reset],
        &[Failed, Opened],
        &[Reset, Opened],
        &[Reset, Reset],
        &[Reset, Data],
    ] {
        let kind = *refused.last().unwrap();
        assert_eq!(opener(refused), Err(TurnError::Order(kind)), "{refused:?}");
    }
}

proptest! {
    #[test]
    fn a_number_is_used_once(numbers in proptest::collection::vec(near(), 0..400)) {
        let (mut window, mut used) = (NumberWindow::default(), BTreeSet::new());
        for number in numbers {
            let highest = used.last().copied().unwrap_or(0);
            let fresh = number != 0 && number.saturating_add(WINDOW) >= highest && !used.contains(&number);
            prop_assert_eq!(window.is_fresh(CarrierNumber(number)), fresh, "{} of {}", number, highest);
            if fresh {
                window.mark(CarrierNumber(number));
                used.insert(number);
            }
        }
    }

    #[test]
    fn any_records_are_taken_or_refused(
        opens in any::<bool>(),
        records in proptest::collection::vec((1_u8..12, 0_u32..4, any::<bool>()), 0..60),
    ) {
        let mut turns = if opens { Turns::opener() } else { Turns::other() };
        for (kind, flow, local) in records {
            let clean = turns.is_clean();
            match turns.take(RecordType::from_byte(kind).unwrap(), FlowNumber(flow)) {
                Ok(Turn::Begin) => prop_assert!(clean && !opens && !turns.is_clean()),
                Ok(Turn::Deliver) => prop_assert!(!clean),
                Ok(Turn::Skip) | Err(_) => prop_assert_eq!(clean, turns.is_clean()),
            }
            match (local, turns.is_clean()) {
                (true, true) => prop_assert!(turns.open().is_none() || opens),
                (true, false) => turns.over(),
                (false, _) => {}
            }
        }
    }
}

/// Numbers that are often close together, and sometimes far apart.
fn near() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..3000, 1_000_000_u32..1_003_000, 1_001_000_u32..1_001_100]
}
