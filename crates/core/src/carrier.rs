//! A carrier: how it begins, which numbers were used, and whose turn it is on a single one
//! (PROTOCOL.md, "Preamble", "Flows").
//!
//! What the records of a flow mean for the flow is `flow`'s; dialling, keeping and closing carriers
//! is the engine's.

use crate::flow::Incoming;
use crate::keys::{CarrierNumber, SessionId};
use crate::record::{FlowNumber, RecordType};

/// The first byte of a carrier: the protocol's version.
pub const VERSION: u8 = 1;

/// Bytes of a preamble: version (1), session id (8), number (4).
pub const PREAMBLE_LEN: usize = 13;

/// What the dialler sends before any record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The session whose secret the carrier's keys come from.
    pub session: SessionId,
    /// The carrier's number, not 0.
    pub number: CarrierNumber,
}

/// Bytes that do not begin a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// Another program, or another version.
    #[error("the first byte, {0}, is not this version's")]
    Version(u8),
    /// The number 0.
    #[error("a carrier without a number")]
    Number,
}

/// What a carrier is for: the payload of its `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Whether the acceptor opens flows on it; else the dialler does.
    pub acceptor_opens: bool,
    /// Whether it carries many flows at a time; else one after the other.
    pub shared: bool,
}

/// Which carrier numbers of a dialler were used in a session.
#[derive(Clone, Debug, Default)]
pub struct NumberWindow {
    highest: u32,
    /// Whether a number below `highest` was used, by its remainder.
    used: [u64; WINDOW as usize / 64],
}

/// Numbers below the highest that may still come.
const WINDOW: u32 = 1024;

/// One end of a single carrier, as it is used for one flow after the other.
#[derive(Clone, Debug)]
pub struct Turns {
    opens: bool,
    /// The highest flow number so far.
    last: u32,
    /// What may still come of the flow by that number, until it is over here.
    current: Option<Incoming>,
    retired: bool,
}

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It opens a flow.
    Begin,
    /// It is the current flow's.
    Deliver,
    /// There is nothing to do, or no more.
    Skip,
}

/// A record that the other side may not send: the carrier cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    /// Of a type that has no place here: sent by the wrong side, or on the wrong kind of carrier.
    #[error("{0:?} record, which has no place here")]
    Type(RecordType),
    /// Of a flow that is not the current one, or an `open` while there is one.
    #[error("{0:?} record of flow {n}, which it is not the turn of", n = .1.0)]
    Flow(RecordType, FlowNumber),
    /// Of the current flow, but before its `opened`, behind its end, or once too often.
    #[error("{0:?} record out of order")]
    Order(RecordType),
}

impl Preamble {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; PREAMBLE_LEN] {
        let mut bytes = [VERSION; PREAMBLE_LEN];
        bytes[1..9].copy_from_slice(&self.session.0);
        bytes[9..].copy_from_slice(&self.number.0.to_be_bytes());
        bytes
    }

    /// Reads a preamble.
    ///
    /// # Errors
    /// When it is of another version, or has no number.
    pub fn parse(bytes: &[u8; PREAMBLE_LEN]) -> Result<Self, PreambleError> {
        let [version, s0, s1, s2, s3, s4, s5, s6, s7, number @ ..] = *bytes;
        if version != VERSION {
            return Err(PreambleError::Version(version));
        }
        let number = u32::from_be_bytes(number);
        if number == 0 {
            return Err(PreambleError::Number);
        }
        let session = SessionId([s0, s1, s2, s3, s4, s5, s6, s7]);
        Ok(Self { session, number: CarrierNumber(number) })
    }
}

impl Kind {
    /// The payload of `start`.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        u8::from(self.acceptor_opens) | u8::from(self.shared) << 1
    }

    /// Reads the payload of `start`; `None` when it has bits that this version does not know.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        (byte < 4).then_some(Self { acceptor_opens: byte & 1 != 0, shared: byte & 2 != 0 })
    }
}

impl NumberWindow {
    /// Whether a carrier by this number may begin.
    #[must_use]
    pub fn is_fresh(&self, number: CarrierNumber) -> bool {
        let number = number.0;
        match self.highest.checked_sub(number) {
            None => true,
            Some(below) => (1..=WINDOW).contains(&below) && number != 0 && !self.is_used(number),
        }
    }

    /// Whether none above it was used.
    #[must_use]
    pub fn is_highest(&self, number: CarrierNumber) -> bool {
        number.0 >= self.highest
    }

    /// Takes a number as used.
    pub fn mark(&mut self, number: CarrierNumber) {
        let number = number.0;
        if number > self.highest {
            for below in self.highest.max(number.saturating_sub(WINDOW))..number {
                self.set(below, below == self.highest);
            }
            self.highest = number;
        } else if (1..=WINDOW).contains(&(self.highest - number)) {
            self.set(number, true);
        }
    }

    fn is_used(&self, number: u32) -> bool {
        let slot = number % WINDOW;
        self.used[slot as usize / 64] >> (slot % 64) & 1 != 0
    }

    fn set(&mut self, number: u32, used: bool) {
        let slot = number % WINDOW;
        let word = &mut self.used[slot as usize / 64];
        *word = *word & !(1 << (slot % 64)) | u64::from(used) << (slot % 64);
    }
}

impl Turns {
    /// The end that opens flows.
    #[must_use]
    pub fn opener() -> Self {
        Self { opens: true, last: 0, current: None, retired: false }
    }

    /// The end that is asked to.
    #[must_use]
    pub fn other() -> Self {
        Self { opens: false, ..Self::opener() }
    }

    /// Begins a flow at the opener: its number. `None` when one is not over, the other side has
    /// retired the carrier, or there are no more numbers.
    pub fn open(&mut self) -> Option<FlowNumber> {
        if !self.opens || self.retired || !self.is_clean() {
            return None;
        }
        self.last = self.last.checked_add(1)?;
        self.current = Some(Incoming::from_other());
        Some(FlowNumber(self.last))
    }

    /// Takes a record that came, in the order of coming. A `rekey` need not be shown.
    ///
    /// # Errors
    /// When the other side may not send it now.
    pub fn take(&mut self, kind: RecordType, flow: FlowNumber) -> Result<Turn, TurnError> {
        match kind {
            RecordType::Rekey => Ok(Turn::Skip),
            RecordType::Retire if self.opens => {
                self.retired = true;
                Ok(Turn::Skip)
            }
            RecordType::Open if !self.opens => self.begin(flow),
            RecordType::Opened | RecordType::Failed if self.opens => self.deliver(kind, flow),
            RecordType::Data | RecordType::Fin | RecordType::Reset => self.deliver(kind, flow),
            _ => Err(TurnError::Type(kind)),
        }
    }

    /// The current flow is over here: it has sent a final record and received one.
    pub fn over(&mut self) {
        self.current = None;
    }

    /// Whether every flow is over here.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.current.is_none()
    }

    /// Whether the other side has asked, by `retire`, that no further flow be opened.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired
    }

    fn begin(&mut self, flow: FlowNumber) -> Result<Turn, TurnError> {
        if !self.is_clean() || flow.0 <= self.last {
            return Err(TurnError::Flow(RecordType::Open, flow));
        }
        self.last = flow.0;
        self.current = Some(Incoming::from_opener());
        Ok(Turn::Begin)
    }

    fn deliver(&mut self, kind: RecordType, flow: FlowNumber) -> Result<Turn, TurnError> {
        match &mut self.current {
            Some(incoming) if flow.0 == self.last => {
                if incoming.take(kind) {
                    Ok(Turn::Deliver)
                } else {
                    Err(TurnError::Order(kind))
                }
            }
            // The other side's end was reset after its `fin`, which is all that this one waited for.
            _ if kind == RecordType::Reset && flow.0 <= self.last => Ok(Turn::Skip),
            _ => Err(TurnError::Flow(kind, flow)),
        }
    }
}

#[cfg(test)]
mod tests;
