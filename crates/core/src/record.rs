//! Records: how a flow's bytes and events are framed on a carrier (PROTOCOL.md, "Records").
//!
//! Encoding and parsing only. What the records mean for a flow is `relay`'s, what an `open`
//! holds is `opening`'s.

/// Bytes before a record's payload: length (2), type (1), flow (4).
pub const HEADER_LEN: usize = 7;

/// The longest payload, bytes: 13 ms at 20 Mbit/s, and what one buffer holds.
pub const MAX_PAYLOAD: usize = 32 * 1024;

/// The longest record with its header, bytes.
pub const MAX_RECORD: usize = HEADER_LEN + MAX_PAYLOAD;

/// A flow's number on its carrier; 0 is no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowNumber(pub u32);

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordType {
    /// Ingress to egress: connect to the sink named in the payload.
    Open = 1,
    /// Egress to ingress: the sink has accepted.
    Opened = 2,
    /// Egress to ingress: the sink was not reached; the payload is a failure code.
    Failed = 3,
    /// Bytes of the flow.
    Data = 4,
    /// The sender's end has closed its direction; no data follows.
    Fin = 5,
    /// The flow was reset at the sender's end.
    Reset = 6,
}

/// One record, its payload borrowed from the buffer it was read into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is for.
    pub kind: RecordType,
    /// The flow it belongs to.
    pub flow: FlowNumber,
    /// Its payload, at most [`MAX_PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

/// Bytes that are no record: the carrier cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The length field is below what type and flow take.
    #[error("record of length {0}, shorter than its own header")]
    Short(u16),
    /// The length field is above what the longest payload takes.
    #[error("record of length {0}, longer than any")]
    Long(u16),
    /// A type that this version does not know.
    #[error("record of unknown type {0}")]
    UnknownType(u8),
}

/// The first record in `bytes` and how many bytes it takes, or `None` when it is not whole yet.
///
/// # Errors
/// When the bytes cannot begin a record.
pub fn parse(bytes: &[u8]) -> Result<Option<(Record<'_>, usize)>, RecordError> {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
    let length = u16::from_be_bytes(*length);
    if usize::from(length) < HEADER_LEN - 2 {
        return Err(RecordError::Short(length));
    }
    if usize::from(length) > MAX_RECORD - 2 {
        return Err(RecordError::Long(length));
    }
    let Some((&kind, _)) = rest.split_first() else { return Ok(None) };
    let kind = RecordType::from_byte(kind)?;
    let Some(body) = rest.get(..usize::from(length)) else { return Ok(None) };
    let flow = FlowNumber(u32::from_be_bytes([body[1], body[2], body[3], body[4]]));
    let record = Record { kind, flow, payload: &body[HEADER_LEN - 2..] };
    Ok(Some((record, 2 + usize::from(length))))
}

/// The header of a record whose payload of `payload_len` bytes follows it.
///
/// # Panics
/// When `payload_len` is above [`MAX_PAYLOAD`].
#[must_use]
pub fn header(kind: RecordType, flow: FlowNumber, payload_len: usize) -> [u8; HEADER_LEN] {
    assert!(payload_len <= MAX_PAYLOAD, "a record's payload is at most {MAX_PAYLOAD} bytes");
    let [l0, l1] = ((payload_len + HEADER_LEN - 2) as u16).to_be_bytes();
    let [f0, f1, f2, f3] = flow.0.to_be_bytes();
    [l0, l1, kind as u8, f0, f1, f2, f3]
}

/// A whole record in a buffer of its own; for the small ones.
#[must_use]
pub fn encode(kind: RecordType, flow: FlowNumber, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend_from_slice(&header(kind, flow, payload.len()));
    bytes.extend_from_slice(payload);
    bytes
}

impl RecordType {
    fn from_byte(byte: u8) -> Result<Self, RecordError> {
        Ok(match byte {
            1 => Self::Open,
            2 => Self::Opened,
            3 => Self::Failed,
            4 => Self::Data,
            5 => Self::Fin,
            6 => Self::Reset,
            other => return Err(RecordError::UnknownType(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [RecordType; 6] = [
        RecordType::Open,
        RecordType::Opened,
        RecordType::Failed,
        RecordType::Data,
        RecordType::Fin,
        RecordType::Reset,
    ];

    #[test]
    fn bytes_of_a_record() {
        let bytes = encode(RecordType::Data, FlowNumber(0x0102_0304), b"hi");
        assert_eq!(bytes, [0, 7, 4, 1, 2, 3, 4, b'h', b'i']);
    }

    #[test]
    fn what_cannot_be_a_record_is_refused_before_it_is_whole() {
        assert_eq!(parse(&[0, 4, 4]), Err(RecordError::Short(4)));
        assert_eq!(parse(&[0xff, 0xff]), Err(RecordError::Long(0xffff)));
        assert_eq!(parse(&[0x7f, 0xff, 99]), Err(RecordError::UnknownType(99)));
    }

    #[test]
    fn the_longest_record_fits() {
        let payload = vec![5; MAX_PAYLOAD];
        let bytes = encode(RecordType::Data, FlowNumber(1), &payload);
        let (record, used) = parse(&bytes).unwrap().unwrap();
        assert_eq!((record.payload.len(), used), (MAX_PAYLOAD, bytes.len()));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((record, used))) = parse(&bytes) {
                prop_assert!(used <= bytes.len());
                prop_assert_eq!(used, HEADER_LEN + record.payload.len());
            }
        }

        #[test]
        fn round_trip_from_any_split(
            kind in 0usize..6,
            flow in any::<u32>(),
            payload in proptest::collection::vec(any::<u8>(), 0..2000),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = encode(KINDS[kind], FlowNumber(flow), &payload);
            prop_assert_eq!(parse(&bytes[..cut.index(bytes.len())]), Ok(None));
            let (record, used) = parse(&bytes).unwrap().unwrap();
            prop_assert_eq!(used, bytes.len());
            prop_assert_eq!(record, Record {
                kind: KINDS[kind], flow: FlowNumber(flow), payload: &payload,
            });
        }
    }
}
