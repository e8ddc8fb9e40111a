//! Tests of the parsers on made and random bytes, and of real captures on loopback.

use super::*;
use packet::{Seen, look};
use proptest::prelude::*;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::Write,
    net::{Shutdown, SocketAddr},
};

const HERE: Spawn<'static> = &|mut command| command.spawn();

/// A TCP segment with these options, which must be padded.
fn segment(flags: u8, options: &[u8]) -> Vec<u8> {
    let mut tcp = vec![0; 20];
    tcp[12] = ((20 + options.len()) * 4) as u8;
    tcp[13] = flags;
    [tcp.as_slice(), options, b"data"].concat()
}

fn frame_v4(tcp: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 34];
    frame[12] = 8;
    (frame[14], frame[23]) = (0x45, 6);
    [frame.as_slice(), tcp].concat()
}

/// With these extension headers, each of which starts with its own number here.
fn frame_v6(extensions: &[&[u8]], tcp: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 54];
    (frame[12], frame[13], frame[14]) = (0x86, 0xdd, 0x60);
    let mut next_at = 20;
    for extension in extensions {
        frame[next_at] = extension[0];
        next_at = frame.len();
        frame.extend_from_slice(extension);
    }
    frame[next_at] = 6;
    [frame.as_slice(), tcp].concat()
}

fn pcap(big_endian: bool, magic: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut file: Vec<u8> = [magic, 0x0004_0002, 0, 0, 128, 1].into_iter().flat_map(word).collect();
    for packet in packets {
        let len = packet.len() as u32;
        file.extend([0, 0, len, len].into_iter().flat_map(word));
        file.extend_from_slice(packet);
    }
    file
}

const PLAIN: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 1, 0];
const MULTI: &[u8] = &[2, 4, 5, 0xb4, 1, 3, 3, 7, 30, 4, 1, 1];

#[test]
fn options_are_found_behind_every_header() {
    let plain = Seen::Tcp { syn: true, mptcp: false };
    let multi = Seen::Tcp { syn: false, mptcp: true };
    assert_eq!(look(&frame_v4(&segment(2, PLAIN))), plain);
    assert_eq!(look(&frame_v4(&segment(16, MULTI))), multi);
    assert_eq!(look(&frame_v6(&[], &segment(2, PLAIN))), plain);
    let mut hop_by_hop = [0; 16];
    hop_by_hop[1] = 1;
    let first_fragment = [44, 0, 0, 1, 0, 0, 0, 0];
    let authentication = [51, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let extensions: [&[u8]; 3] = [&hop_by_hop, &first_fragment, &authentication];
    assert_eq!(look(&frame_v6(&extensions, &segment(16, MULTI))), multi);
    let mut tagged = frame_v4(&segment(16, MULTI));
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(look(&tagged), multi);
}

#[test]
fn what_cannot_be_seen_is_not_called_plain() {
    let whole = frame_v4(&segment(2, MULTI));
    for len in 0..whole.len() - 4 {
        assert_eq!(look(&whole[..len]), Seen::Truncated, "{len}");
    }
    let mut fragment = whole.clone();
    fragment[21] = 9;
    assert_eq!(look(&fragment), Seen::Fragment);
    assert_eq!(look(&frame_v6(&[&[44, 0, 0, 8, 0, 0, 0, 0]], b"")), Seen::Fragment);
    for bad in [[30, 0, 0, 0], [2, 1, 0, 0], [1, 1, 1, 30], [8, 5, 0, 0]] {
        assert_eq!(look(&frame_v4(&segment(2, &bad))), Seen::Malformed, "{bad:?}");
    }
    let mut short = whole;
    short[46] = 0x40;
    assert_eq!(look(&short), Seen::Malformed);
}

#[test]
fn files_of_every_form_are_counted() {
    let mut arp = vec![0; 42];
    (arp[12], arp[13]) = (8, 6);
    let packets = [frame_v4(&segment(2, PLAIN)), frame_v6(&[], &segment(16, MULTI)), arp];
    for big_endian in [false, true] {
        for magic in [0xa1b2_c3d4, 0xa1b2_3c4d] {
            let counts = count(pcap(big_endian, magic, &packets).as_slice()).unwrap();
            let right = Counts { packets: 3, tcp: 2, syns: 1, mptcp: 1, ..Counts::default() };
            assert_eq!(counts, right);
        }
    }
    assert!(count(pcap(false, 0x0a0d_0d0a, &packets).as_slice()).is_err());
}

#[test]
fn a_cut_file_is_counted_up_to_the_cut_and_said_to_be_cut() {
    let packets = [frame_v4(&segment(2, PLAIN)), frame_v4(&segment(16, PLAIN))];
    let whole = pcap(false, 0xa1b2_c3d4, &packets);
    let first = 24 + 16 + packets[0].len();
    for len in 0..=whole.len() {
        let counts = count(&whole[..len]);
        assert_eq!(counts.is_err(), len < 24);
        if let Ok(counts) = counts {
            assert_eq!(counts.tcp, u64::from(len >= first) + u64::from(len == whole.len()));
            assert_eq!(counts.incomplete, ![24, first, whole.len()].contains(&len), "{len}");
        }
    }
}

#[test]
fn only_a_capture_that_saw_everything_shows_plain_tcp() {
    let plain = Counts { packets: 9, tcp: 9, syns: 2, ..Counts::default() };
    assert!(plain.is_plain_tcp());
    for doubtful in [
        Counts { tcp: 0, ..plain },
        Counts { mptcp: 1, ..plain },
        Counts { truncated: 1, ..plain },
        Counts { malformed: 1, ..plain },
        Counts { fragments: 1, ..plain },
        Counts { missed: 1, ..plain },
        Counts { incomplete: true, ..plain },
    ] {
        assert!(!doubtful.is_plain_tcp(), "{doubtful:?}");
    }
}

#[test]
fn what_tcpdump_missed_is_read_from_its_last_words() {
    let said = |words: &str| dropped(words.lines().map(str::to_owned));
    let words = "7 packets captured\n10 packets received by filter\n2 packets dropped by kernel";
    assert_eq!(said(words), Some(2));
    assert_eq!(said("1 packet received by filter\n1 packet dropped by kernel"), Some(1));
    assert_eq!(said("7 packets captured"), None);
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        look(&noise);
        let mut frame = frame_v4(&noise);
        frame[14] = 0x4f;
        look(&frame);
        look(&frame_v6(&[&[0, 0, 0, 0, 0, 0, 0, 0]], &noise));
        let mut file = pcap(true, 0xa1b2_c3d4, &[]);
        file.extend(&noise);
        prop_assert!(count(file.as_slice()).is_ok());
    }

    #[test]
    fn no_spoiled_file_makes_it_panic(
        place in 0usize..180, byte: u8, cut in 0usize..200
    ) {
        let packets = [frame_v4(&segment(2, MULTI)), frame_v6(&[], &segment(16, PLAIN))];
        let mut file = pcap(false, 0xa1b2_c3d4, &packets);
        let place = place.min(file.len() - 1);
        file[place] = byte;
        file.truncate(cut);
        let _ = count(file.as_slice());
    }
}

/// Sends a little each way over loopback with `protocol`, while capturing.
fn captured(protocol: Protocol, host: &str) -> Counts {
    let host: SocketAddr = host.parse().unwrap();
    let make = || Socket::new(Domain::for_address(host), Type::STREAM, Some(protocol)).unwrap();
    let listener = make();
    listener.bind(&host.into()).unwrap();
    listener.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let port = addr.as_socket().unwrap().port();
    let capture = Capture::start("lo", &format!("tcp port {port}"), HERE).unwrap();
    let mut client = make();
    client.connect(&addr).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"ask").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut asked = Vec::new();
    server.read_to_end(&mut asked).unwrap();
    server.write_all(b"answer").unwrap();
    drop(server);
    client.read_to_end(&mut asked).unwrap();
    assert_eq!(asked, b"askanswer");
    capture.stop().unwrap()
}

#[test]
fn mptcp_on_the_wire_is_seen_and_plain_tcp_is_plain() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let multi = captured(Protocol::MPTCP, host);
        assert!(multi.mptcp > 2 && multi.syns >= 2 && !multi.is_plain_tcp(), "{multi:?}");
        let plain = captured(Protocol::TCP, host);
        assert!(plain.is_plain_tcp() && plain.tcp > 4 && plain.syns == 2, "{plain:?}");
    }
}

#[test]
fn what_tcpdump_says_instead_of_beginning_is_the_error() {
    let error = Capture::start("nosuch0", "", HERE).err().unwrap();
    assert!(error.to_string().contains("nosuch0"), "{error:#}");
    let error = Capture::start("lo", "no such filter", HERE).err().unwrap();
    assert!(error.to_string().contains("syntax error"), "{error:#}");
}
