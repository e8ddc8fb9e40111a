//! Messages there and back, what ends a session, and what two boxes agree on.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

fn message() -> impl Strategy<Value = Message> {
    let number = 1..=u32::MAX;
    prop_oneof![
        (any::<bool>(), any::<bool>(), MIN_CARRIERS..=u16::MAX).prop_map(
            |(aes, clear, carriers)| {
                let protection = if clear { Protection::None } else { Protection::Seal };
                Message::Hello(Hello { aes, protection, carriers })
            }
        ),
        any::<[u8; 8]>().prop_map(Message::Ping),
        any::<[u8; 8]>().prop_map(Message::Pong),
        (number.clone(), any::<bool>(), any::<[u32; 2]>(), any::<[u16; 2]>()).prop_map(
            |(number, v6, [sink, host], [to, from])| {
                let address = |ip: u32, port| match v6 {
                    true => SocketAddr::new(Ipv6Addr::from(u128::from(ip) << 96).into(), port),
                    false => SocketAddr::new(Ipv4Addr::from(ip).into(), port),
                };
                let (sink, host) = (SinkAddr(address(sink, to)), HostAddr(address(host, from)));
                Message::Connect { number, sink, host }
            }
        ),
        number.clone().prop_map(|number| Message::Connected { number }),
        (number.clone(), 1_u8..8).prop_map(|(number, code)| {
            Message::Failed { number, failure: Failure::parse(&[code]).unwrap() }
        }),
        number.prop_map(|number| Message::Cancel { number }),
        any::<[u16; 2]>().prop_map(|[single, shared]| Message::Want { single, shared }),
        (1_u8..6).prop_map(|reason| Message::Bye(Bye::parse([reason]))),
    ]
}

#[test]
fn lengths_and_types_are_refused_before_the_body_is_there() {
    assert_eq!(Message::parse(&[0, 0]), Err(ControlError::Length(0)));
    assert_eq!(Message::parse(&[4, 1]), Err(ControlError::Length(1025)));
    assert_eq!(Message::parse(&[4, 0]), Ok(None));
    for kind in [0, 10, 0x7f] {
        assert_eq!(Message::parse(&[4, 0, kind]), Err(ControlError::UnknownType(kind)));
    }
    assert_eq!(Message::parse(&[4, 0, 0x80]), Ok(None));
}

#[test]
fn the_longest_message_is_skipped_whole() {
    let mut bytes = vec![0; MAX_MESSAGE];
    bytes[..3].copy_from_slice(&[4, 0, 0xff]);
    assert_eq!(Message::parse(&bytes), Ok(Some((None, MAX_MESSAGE))));
}

#[test]
fn values_that_cannot_be_end_the_session() {
    let refused: [(u8, &[u8]); 10] = [
        (1, &[0, 2, 1, 0]),
        (1, &[0, 0, 0, 1]),
        (4, &[0, 0, 0, 0, 4, 192, 0, 2, 1, 0, 80, 4, 10, 0, 0, 2, 4, 1]),
        (4, &[0, 0, 0, 1, 4, 192, 0, 2, 1, 0, 80, 6, 10, 0, 0, 2, 4, 1]),
        (5, &[0, 0, 0, 0]),
        (6, &[0, 0, 0, 0, 1]),
        (6, &[0, 0, 0, 1, 0]),
        (6, &[0, 0, 0, 1, 8]),
        (7, &[0, 0, 0, 0]),
        (9, &[]),
    ];
    for (kind, body) in refused {
        let mut bytes = vec![0, body.len() as u8 + 1, kind];
        bytes.extend(body);
        assert_eq!(Message::parse(&bytes), Err(ControlError::Malformed(kind)), "{bytes:?}");
    }
}

#[test]
fn what_is_to_be_ignored_is() {
    let hello = Message::parse(&[0, 5, 1, 0xfe, 0, 1, 0]).unwrap().unwrap().0;
    let expected = Hello { aes: false, protection: Protection::Seal, carriers: 256 };
    assert_eq!(hello, Some(Message::Hello(expected)));
    for reason in [0, 6, 0xff] {
        let bye = Message::parse(&[0, 2, 9, reason]).unwrap().unwrap().0;
        assert_eq!(bye, Some(Message::Bye(Bye::Stopping)));
    }
}

#[test]
fn both_have_to_have_aes_and_both_to_forgo_protection() {
    let hello = |aes, clear, carriers| {
        let protection = if clear { Protection::None } else { Protection::Seal };
        Hello { aes, protection, carriers }
    };
    for (one, two) in [(false, false), (false, true), (true, false), (true, true)] {
        let (ours, theirs) = (hello(one, two, 256), hello(two, one, 64));
        let terms = agree(&ours, &theirs);
        assert_eq!(terms, agree(&theirs, &ours));
        assert_eq!(terms.suite == Suite::Aes128Gcm, one && two);
        assert_eq!(terms.protection == Protection::None, one && two);
        assert_eq!(terms.carriers, 64);
    }
}

proptest! {
    #[test]
    fn round_trip_from_any_split(message in message(), cut in any::<prop::sample::Index>()) {
        let bytes = message.encode();
        prop_assert!(bytes.len() <= MAX_MESSAGE);
        prop_assert_eq!(Message::parse(&bytes[..cut.index(bytes.len())]), Ok(None));
        prop_assert_eq!(Message::parse(&bytes), Ok(Some((Some(message), bytes.len()))));
    }

    #[test]
    fn a_longer_body_is_read_and_a_shorter_one_refused(message in message(), more in 1_usize..100) {
        let mut bytes = message.encode();
        let (kind, whole) = (bytes[2], bytes.len());
        let length = |of: usize| ((of - LENGTH_LEN) as u16).to_be_bytes();
        bytes.resize(whole + more, 0xaa);
        bytes[..LENGTH_LEN].copy_from_slice(&length(whole + more));
        prop_assert_eq!(Message::parse(&bytes), Ok(Some((Some(message), bytes.len()))));
        bytes.truncate(whole - 1);
        bytes[..LENGTH_LEN].copy_from_slice(&length(whole - 1));
        prop_assert_eq!(Message::parse(&bytes), Err(ControlError::Malformed(kind)));
    }

    #[test]
    fn any_bytes_parse_without_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
        likely in proptest::option::of((0_u8..64, 0_u8..12)),
    ) {
        if let (Some((length, kind)), [first, second, third, ..]) = (likely, &mut bytes[..]) {
            (*first, *second, *third) = (0, length, kind);
        }
        if let Ok(Some((message, used))) = Message::parse(&bytes) {
            prop_assert!(used <= bytes.len());
            if let Some(message) = message {
                let again = message.encode();
                prop_assert_eq!(Message::parse(&again), Ok(Some((Some(message), again.len()))));
            }
        }
    }
}
