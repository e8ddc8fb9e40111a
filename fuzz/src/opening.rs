//! Target `opening`: the bytes as they are, and an `open` that is made from them.

use std::net::{IpAddr, SocketAddr};

use braid_core::addr::{HostAddr, SinkAddr};
use braid_core::opening::{Failure, Open};

use super::input::Input;

/// Bytes of the two payloads that an `open` may have.
const LENGTHS: [usize; 2] = [4 + 2 * 7, 4 + 2 * 19];

/// Runs the target.
pub fn run(data: &[u8]) {
    as_they_are(data);
    made(&mut Input::new(data));
}

fn as_they_are(payload: &[u8]) {
    if let Ok(failure) = Failure::parse(payload) {
        assert_eq!(payload, [failure.code()]);
        assert!((1..=7).contains(&failure.code()));
    }
    let Ok(open) = Open::parse(payload) else { return };
    assert!(LENGTHS.contains(&payload.len()));
    assert_eq!(open.encode(), payload);
    assert!(may_be_said(open.sink.0, open.host.0));
    only_whole(payload);
}

fn made(input: &mut Input<'_>) {
    let families = input.u8();
    let connect = input.u32();
    let sink = input.address(families & 1 != 0);
    let host = input.address(families & 2 != 0);
    let open = Open { connect, sink: SinkAddr(sink), host: HostAddr(host) };
    let payload = open.encode();
    if may_be_said(sink, host) {
        assert_eq!(Open::parse(&payload), Ok(open));
        only_whole(&payload);
    } else {
        assert!(Open::parse(&payload).is_err());
    }
}

/// One family, and one notation for an address.
fn may_be_said(sink: SocketAddr, host: SocketAddr) -> bool {
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.segments()[..6] == [0, 0, 0, 0, 0, 0xffff],
    };
    sink.is_ipv4() == host.is_ipv4() && !mapped(sink) && !mapped(host)
}

fn only_whole(payload: &[u8]) {
    for end in 0..payload.len() {
        assert!(Open::parse(&payload[..end]).is_err());
    }
    assert!(Open::parse(&[payload, &[0]].concat()).is_err());
}
