//! The test vectors of `docs/protocol-vectors.toml`: each is made from its parts and read back.

use std::net::SocketAddr;
use std::time::Instant;

use serde::Deserialize;

use crate::addr::{HostAddr, SinkAddr};
use crate::carrier::Preamble;
use crate::control::{Bye, Hello, Message, Protection};
use crate::heartbeat::{self, Heartbeat};
use crate::key::PublicKey;
use crate::keys::{self, CarrierNumber, Direction, SessionId, SessionSecret, Suite, TrafficSecret};
use crate::opening::{Failure, Open};
use crate::record::{FlowNumber, HEADER_LEN, RecordType};
use crate::seal::{Opener, Sealer};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    export: Vec<Export>,
    traffic: Vec<Traffic>,
    open: Vec<OpenVector>,
    carrier: Vec<Carrier>,
    clear: Vec<Clear>,
    message: Vec<MessageVector>,
    skipped: Vec<Skipped>,
    longer: Vec<Longer>,
    heartbeat: Vec<HeartbeatVector>,
}

#[derive(Deserialize)]
struct Export {
    bytes: Hex,
    session_id: Hex,
    secret: Hex,
}

#[derive(Deserialize)]
struct Traffic {
    dialler: Hex,
    number: u32,
    direction: String,
    s0: Hex,
    aes_128_gcm_key: Hex,
    chacha20_poly1305_key: Hex,
    iv: Hex,
    s1: Hex,
}

#[derive(Deserialize)]
struct OpenVector {
    connect: u32,
    sink: SocketAddr,
    host: SocketAddr,
    bytes: Hex,
}

#[derive(Deserialize)]
struct Carrier {
    suite: String,
    dialler: Hex,
    number: u32,
    direction: String,
    preamble: Option<Hex>,
    record: Vec<RecordVector>,
}

#[derive(Deserialize)]
struct HeartbeatVector {
    suite: String,
    direction: String,
    count: u32,
    way: u8,
    sequence: u32,
    live: u64,
    bytes: Hex,
}

#[derive(Deserialize)]
struct RecordVector {
    #[serde(rename = "type")]
    kind: u8,
    flow: u32,
    payload: Hex,
    bytes: Hex,
}

#[derive(Deserialize)]
struct Clear {
    flow: u32,
    payload: Hex,
    bytes: Hex,
}

#[derive(Deserialize)]
struct MessageVector {
    bytes: Hex,
    #[serde(flatten)]
    fields: Fields,
}

#[derive(Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
enum Fields {
    Hello { aes: bool, protection: String, carriers: u16 },
    Ping { choice: Hex },
    Pong { choice: Hex },
    Connect { number: u32, sink: SocketAddr, host: SocketAddr },
    Connected { number: u32 },
    Failed { number: u32, code: u8 },
    Cancel { number: u32 },
    Want { single: u16, shared: u16 },
    Bye { reason: u8 },
}

#[derive(Deserialize)]
struct Skipped {
    bytes: Hex,
}

#[derive(Deserialize)]
struct Longer {
    bytes: Hex,
    same_as: Hex,
}

#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(try_from = "String")]
struct Hex(Vec<u8>);

impl TryFrom<String> for Hex {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Hex {
    fn array<const N: usize>(&self) -> [u8; N] {
        self.0[..].try_into().unwrap()
    }
}

fn vectors() -> Vectors {
    toml::from_str(include_str!("../../../docs/protocol-vectors.toml")).unwrap()
}

fn secret() -> SessionSecret {
    keys::split_export(vectors().export[0].bytes.array()).1
}

fn traffic(dialler: &Hex, number: u32, direction: &str) -> TrafficSecret {
    let direction = match direction {
        "from-dialler" => Direction::FromDialler,
        "from-acceptor" => Direction::FromAcceptor,
        other => panic!("{other} is no direction"),
    };
    secret().traffic(&PublicKey(dialler.array()), CarrierNumber(number), direction)
}

#[test]
fn exports_are_split() {
    for vector in vectors().export {
        let (id, secret) = keys::split_export(vector.bytes.array());
        assert_eq!((id.0, secret.bytes()), (vector.session_id.array(), &vector.secret.array()));
    }
}

#[test]
fn keys_follow_the_schedule() {
    for vector in vectors().traffic {
        let s0 = traffic(&vector.dialler, vector.number, &vector.direction);
        assert_eq!(s0.bytes(), &vector.s0.array());
        let (mut aes, mut chacha) = ([0; 16], [0; 32]);
        s0.key(&mut aes);
        s0.key(&mut chacha);
        assert_eq!(aes, vector.aes_128_gcm_key.array());
        assert_eq!(chacha, vector.chacha20_poly1305_key.array());
        assert_eq!(s0.iv(), vector.iv.array());
        assert_eq!(s0.next().bytes(), &vector.s1.array());
    }
}

#[test]
fn payloads_of_open() {
    for vector in vectors().open {
        let (sink, host) = (SinkAddr(vector.sink), HostAddr(vector.host));
        let open = Open { connect: vector.connect, sink, host };
        assert_eq!(open.encode(), vector.bytes.0);
        assert_eq!(Open::parse(&vector.bytes.0), Ok(open));
    }
}

#[test]
fn carriers_are_sealed() {
    let now = Instant::now();
    for vector in vectors().carrier {
        let mut sealer = Sealer::new(vector.suite(), vector.secret());
        for record in &vector.record {
            let (kind, flow) = (record.kind(), FlowNumber(record.flow));
            let sealed = match (kind, &vector.preamble) {
                (RecordType::Rekey, _) => sealer.rekey(now).to_vec(),
                (RecordType::Start, Some(preamble)) => {
                    sealer.start(now, &preamble.array(), &record.payload.0)[preamble.0.len()..]
                        .to_vec()
                }
                _ => sealer.record(now, kind, flow, &record.payload.0),
            };
            assert_eq!(sealed, record.bytes.0, "{kind:?}");
        }
    }
}

#[test]
fn carriers_are_opened() {
    for vector in vectors().carrier {
        let mut opener = Opener::new(vector.suite(), vector.secret(), false);
        if let Some(preamble) = &vector.preamble {
            let parsed = Preamble::parse(&preamble.array()).unwrap();
            assert_eq!(parsed.session.0, vectors().export[0].session_id.array());
            assert_eq!(parsed.number.0, vector.number);
            assert_eq!(parsed.encode()[..], preamble.0);
            opener.expect_start(&preamble.array());
        }
        for record in &vector.record {
            let mut bytes = record.bytes.0.clone();
            let opened = opener.open(&mut bytes).unwrap().unwrap();
            assert_eq!((opened.kind, opened.flow.0), (record.kind(), record.flow));
            assert_eq!(bytes[opened.payload], record.payload.0);
            assert_eq!(opened.used, bytes.len());
        }
    }
}

#[test]
fn data_in_clear() {
    let (dialler, suite) = (Hex(vec![0; 32]), Suite::Aes128Gcm);
    for vector in vectors().clear {
        let mut buffer = vec![0; HEADER_LEN];
        buffer.extend(&vector.payload.0);
        let range = Sealer::clear(FlowNumber(vector.flow), &mut buffer, vector.payload.0.len());
        let bytes = &mut buffer[range];
        assert_eq!(bytes, vector.bytes.0);
        let mut opener = Opener::new(suite, traffic(&dialler, 1, "from-dialler"), true);
        let opened = opener.open(bytes).unwrap().unwrap();
        assert_eq!((opened.kind, opened.flow.0), (RecordType::Data, vector.flow));
        assert_eq!(bytes[opened.payload], vector.payload.0);
    }
}

#[test]
fn control_messages() {
    for vector in vectors().message {
        let message = vector.fields.message();
        assert_eq!(message.encode(), vector.bytes.0, "{message:?}");
        let used = vector.bytes.0.len();
        assert_eq!(Message::parse(&vector.bytes.0), Ok(Some((Some(message), used))));
    }
}

#[test]
fn control_messages_of_later_versions() {
    for vector in vectors().skipped {
        let used = vector.bytes.0.len();
        assert_eq!(Message::parse(&vector.bytes.0), Ok(Some((None, used))));
    }
    for vector in vectors().longer {
        let (longer, _) = Message::parse(&vector.bytes.0).unwrap().unwrap();
        let (plain, _) = Message::parse(&vector.same_as.0).unwrap().unwrap();
        assert_eq!(longer, plain);
    }
}

#[test]
fn heartbeats() {
    let session = SessionId(vectors().export[0].session_id.array());
    let dialler = &vectors().traffic[0].dialler;
    for vector in vectors().heartbeat {
        let secret = traffic(dialler, heartbeat::NUMBER.0, &vector.direction);
        let mut sealer = heartbeat::Sealer::new(session, suite(&vector.suite), &secret);
        let HeartbeatVector { way, sequence, live, .. } = vector;
        let said = Heartbeat { way, sequence, live };
        for _ in 1..vector.count {
            sealer.seal(said).unwrap();
        }
        assert_eq!(sealer.seal(said).unwrap()[..], vector.bytes.0);
        let mut opener = heartbeat::Opener::new(suite(&vector.suite), &secret);
        assert_eq!(opener.open(&vector.bytes.0), Some((said, true)));
    }
}

fn suite(name: &str) -> Suite {
    match name {
        "aes-128-gcm" => Suite::Aes128Gcm,
        "chacha20-poly1305" => Suite::ChaCha20Poly1305,
        other => panic!("{other} is no suite"),
    }
}

impl Carrier {
    fn suite(&self) -> Suite {
        suite(&self.suite)
    }

    fn secret(&self) -> TrafficSecret {
        traffic(&self.dialler, self.number, &self.direction)
    }
}

impl RecordVector {
    fn kind(&self) -> RecordType {
        RecordType::from_byte(self.kind).unwrap()
    }
}

impl Fields {
    fn message(&self) -> Message {
        match self {
            Self::Hello { aes, protection, carriers } => {
                let protection = match protection.as_str() {
                    "seal" => Protection::Seal,
                    _ => Protection::None,
                };
                Message::Hello(Hello { aes: *aes, protection, carriers: *carriers })
            }
            Self::Ping { choice } => Message::Ping(choice.array()),
            Self::Pong { choice } => Message::Pong(choice.array()),
            Self::Connect { number, sink, host } => {
                Message::Connect { number: *number, sink: SinkAddr(*sink), host: HostAddr(*host) }
            }
            Self::Connected { number } => Message::Connected { number: *number },
            Self::Failed { number, code } => {
                Message::Failed { number: *number, failure: Failure::parse(&[*code]).unwrap() }
            }
            Self::Cancel { number } => Message::Cancel { number: *number },
            Self::Want { single, shared } => Message::Want { single: *single, shared: *shared },
            Self::Bye { reason } => Message::Bye(
                [Bye::Stopping, Bye::Replaced, Bye::Duplicate, Bye::Protocol, Bye::Limit]
                    [usize::from(*reason) - 1],
            ),
        }
    }
}
