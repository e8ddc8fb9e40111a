//! Records: what a carrier carries, and what each type may hold (PROTOCOL.md, "Records").
//!
//! Types, lengths and the rules that can be judged from one record alone. Sealing and opening are
//! `seal`'s, what a record means for its carrier is `carrier`'s, and for its flow `flow`'s.

use crate::carrier::Kind;
use crate::opening::{Failure, Open};

/// Bytes before a record's payload: length (2), type (1), flow (4).
pub const HEADER_LEN: usize = 7;

/// Bytes behind a sealed record's payload.
pub const TAG_LEN: usize = 16;

/// What sealing adds to a payload.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

/// The longest payload: one record and its overhead fit into a buffer of 32 KiB.
pub const MAX_PAYLOAD: usize = 32_512;

/// The longest record, with all that sealing adds.
pub const MAX_RECORD: usize = OVERHEAD + MAX_PAYLOAD;

/// Bytes of the length that begins every record.
pub(crate) const LENGTH_LEN: usize = 2;

/// The bit of a length that says: a `data` record in clear.
pub(crate) const CLEAR_BIT: u16 = 0x8000;

/// A flow's number on its carrier; 0 is no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowNumber(pub u32);

impl FlowNumber {
    /// The number in records that belong to no flow.
    pub const NONE: Self = Self(0);
}

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordType {
    /// The dialler's first record: which kind of carrier this is.
    Start = 1,
    /// The acceptor's first record: it may be used.
    Ready = 2,
    /// The opener asks for a flow to the sink named in the payload.
    Open = 3,
    /// The other side has reached the sink.
    Opened = 4,
    /// The other side has not; the payload is a failure code. Final.
    Failed = 5,
    /// Bytes of the flow.
    Data = 6,
    /// The sender's end has closed its direction; no data follows. Final.
    Fin = 7,
    /// The flow was reset at the sender's end. Final.
    Reset = 8,
    /// So many more bytes may be on their way; on shared carriers only.
    Credit = 9,
    /// The last record under a key.
    Rekey = 10,
    /// The opener is to open no further flow.
    Retire = 11,
}

/// Bytes that are no record, or one that nobody may send: the carrier cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The length is below what the shortest record takes.
    #[error("record of length {0}, shorter than any")]
    Short(u16),
    /// The length is above what the longest payload takes.
    #[error("record of length {0}, longer than any")]
    Long(u16),
    /// A `data` record in clear, where the session seals or before the carrier has started.
    #[error("record in clear where all have to be sealed")]
    Clear,
    /// It was not sealed with this key, in this place, or was changed since.
    #[error("record does not open")]
    Forged,
    /// A type that this version does not know.
    #[error("record of unknown type {0}")]
    UnknownType(u8),
    /// A flow's number where there is none, or none where there is one.
    #[error("{0:?} record with a flow number that it cannot have")]
    Flow(RecordType),
    /// A payload that is not as its type asks for.
    #[error("{0:?} record with a malformed payload")]
    Payload(RecordType),
    /// A `start` that is not first, or another one that is.
    #[error("{0:?} record at the wrong place")]
    Place(RecordType),
    /// More records under one key than there may be.
    #[error("a key was used for too many records")]
    Overused,
}

impl RecordType {
    /// The type that a byte on the wire stands for.
    ///
    /// # Errors
    /// When this version knows none.
    pub fn from_byte(byte: u8) -> Result<Self, RecordError> {
        Ok(match byte {
            1 => Self::Start,
            2 => Self::Ready,
            3 => Self::Open,
            4 => Self::Opened,
            5 => Self::Failed,
            6 => Self::Data,
            7 => Self::Fin,
            8 => Self::Reset,
            9 => Self::Credit,
            10 => Self::Rekey,
            11 => Self::Retire,
            other => return Err(RecordError::UnknownType(other)),
        })
    }

    /// Whether records of this type belong to a flow.
    #[must_use]
    pub fn is_of_flow(self) -> bool {
        !matches!(self, Self::Start | Self::Ready | Self::Rekey | Self::Retire)
    }
}

/// The bytes a `credit` payload adds; `None` when it is not such a payload.
#[must_use]
pub fn parse_credit(payload: &[u8]) -> Option<u32> {
    let bytes = u32::from_be_bytes(payload.try_into().ok()?);
    (bytes != 0).then_some(bytes)
}

/// Judges a record by what it says alone.
pub(crate) fn check(kind: RecordType, flow: FlowNumber, payload: &[u8]) -> Result<(), RecordError> {
    if kind.is_of_flow() == (flow == FlowNumber::NONE) {
        return Err(RecordError::Flow(kind));
    }
    let well_formed = match kind {
        RecordType::Start => matches!(payload, [kind] if Kind::from_byte(*kind).is_some()),
        RecordType::Open => Open::parse(payload).is_ok(),
        RecordType::Failed => Failure::parse(payload).is_ok(),
        RecordType::Data => !payload.is_empty(),
        RecordType::Credit => parse_credit(payload).is_some(),
        RecordType::Ready
        | RecordType::Opened
        | RecordType::Fin
        | RecordType::Reset
        | RecordType::Rekey
        | RecordType::Retire => payload.is_empty(),
    };
    if well_formed { Ok(()) } else { Err(RecordError::Payload(kind)) }
}
