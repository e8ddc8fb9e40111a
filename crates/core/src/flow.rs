//! What each ending of a flow means: the state machine of one end of a flow on its carrier
//! (PROTOCOL.md, "Final records").
//!
//! Each box runs one for a flow, between its *local* connection (to the host or to the sink) and
//! the carrier. It owns which direction has ended and what the other side must be told. Moving
//! the bytes, waiting until they are written and closing a carrier hard is the engine's, which
//! flow a record belongs to `carrier`'s.
//!
//! ```text
//!             LocalEnded → send fin            Fin → shut local
//!   both open ──────────────────▶ half-closed ─────────────────▶ over, drained
//!       │ LocalReset → send reset          │
//!       ├──────────────────────────────────┴──▶ reset ── any final ──▶ over, reset
//!       │ Reset, Failed → reset local, answer reset if nothing final was sent
//!       └───────────────────────────────────────────────────────▶ over, reset
//! ```

use crate::record::RecordType;

/// A final record: what a side says last of a flow, but for a `reset` behind a `fin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Final {
    /// The end has closed its direction.
    Fin,
    /// The end was reset.
    Reset,
    /// The end never stood: its sink was not reached.
    Failed,
}

/// What happened at one end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The local connection has sent its last byte (end of file), and all of them are on the carrier.
    LocalEnded,
    /// The local connection was reset, or failed.
    LocalReset,
    /// A final record came, and for a `fin` every byte before it is with the local connection.
    Final(Final),
    /// The carrier ended or failed.
    Lost,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The final record to send.
    pub send: Option<Final>,
    /// What to do with the local connection.
    pub local: Option<Local>,
}

/// What is to be done with the local connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// Close its sending direction.
    Shut,
    /// Reset it.
    Reset,
}

/// How a flow has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both directions ended, and all their bytes went before.
    Drained,
    /// One end was reset, or the carrier was lost.
    Reset,
}

/// One end of a flow on a carrier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEnd {
    /// The last final record that this side has sent.
    sent: Option<Final>,
    /// The first that the other has.
    received: Option<Final>,
    reset: bool,
    lost: bool,
}

impl FlowEnd {
    /// Takes what happened and says what is to be done; nothing once the flow is over.
    pub fn handle(&mut self, event: Event) -> Reply {
        if self.is_over() {
            return Reply::default();
        }
        match event {
            Event::LocalEnded if self.sent.is_none() => self.send(Final::Fin),
            Event::LocalReset if !self.reset => {
                self.reset = true;
                self.send(Final::Reset)
            }
            Event::LocalEnded | Event::LocalReset => Reply::default(),
            Event::Final(Final::Fin) if self.received.is_none() => {
                self.received = Some(Final::Fin);
                Reply { send: None, local: (!self.reset).then_some(Local::Shut) }
            }
            Event::Final(last) => self.take_reset(last),
            Event::Lost => {
                self.lost = true;
                Reply { send: None, local: self.reset_local() }
            }
        }
    }

    /// The sink was not reached: there is no local connection, and the opener is to hear of it.
    pub fn fail(&mut self) -> Reply {
        if self.is_over() || self.sent.is_some() {
            return Reply::default();
        }
        self.reset = true;
        self.send(Final::Failed)
    }

    /// Whether nothing of the flow is to be sent or waited for any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.lost || (self.sent.is_some() && self.received.is_some())
    }

    /// How the flow has ended for the local connection, once it has.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        match (self.reset, self.is_over()) {
            (true, _) => Some(Ending::Reset),
            (false, true) => Some(Ending::Drained),
            (false, false) => None,
        }
    }

    fn take_reset(&mut self, last: Final) -> Reply {
        self.received = Some(last);
        let local = self.reset_local();
        let send = if self.sent.is_none() { self.send(Final::Reset).send } else { None };
        Reply { send, local }
    }

    fn reset_local(&mut self) -> Option<Local> {
        let stood = !self.reset;
        self.reset = true;
        stood.then_some(Local::Reset)
    }

    fn send(&mut self, last: Final) -> Reply {
        self.sent = Some(last);
        Reply { send: Some(last), local: None }
    }
}

impl Final {
    /// The type of its record.
    #[must_use]
    pub fn kind(self) -> RecordType {
        match self {
            Self::Fin => RecordType::Fin,
            Self::Reset => RecordType::Reset,
            Self::Failed => RecordType::Failed,
        }
    }

    /// The final record of a type, where it is one.
    #[must_use]
    pub fn of(kind: RecordType) -> Option<Self> {
        match kind {
            RecordType::Fin => Some(Self::Fin),
            RecordType::Reset => Some(Self::Reset),
            RecordType::Failed => Some(Self::Failed),
            _ => None,
        }
    }
}

/// The order in which the other side may send a flow's records.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    /// Whether the side that was asked has said that its end stands.
    answered: bool,
    last: Option<Final>,
}

impl Incoming {
    /// What comes from the side that opened the flow, behind its `open`.
    #[must_use]
    pub fn from_opener() -> Self {
        Self { answered: true, last: None }
    }

    /// What comes from the side that was asked.
    #[must_use]
    pub fn from_other() -> Self {
        Self { answered: false, last: None }
    }

    /// Takes the type of a record that came, and says whether it may come now.
    #[must_use]
    pub fn take(&mut self, kind: RecordType) -> bool {
        let may = match (kind, self.last) {
            (RecordType::Reset | RecordType::Credit, None | Some(Final::Fin)) => true,
            (RecordType::Opened | RecordType::Failed, None) => !self.answered,
            (RecordType::Data | RecordType::Fin, None) => self.answered,
            _ => false,
        };
        if may {
            // Credit says nothing of the sink.
            self.answered |= kind != RecordType::Credit;
            self.last = Final::of(kind).or(self.last);
        }
        may
    }
}

#[cfg(test)]
mod tests;
