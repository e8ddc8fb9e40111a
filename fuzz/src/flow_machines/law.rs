//! What a side may send of a flow, as PROTOCOL.md has it ("Flows"), from its words alone.

use braid_core::record::RecordType;

/// Everything that a side has sent of a flow behind its `open`.
#[derive(Clone)]
pub(super) struct Law {
    /// Whether it is the side that opened the flow.
    opener: bool,
    sent: Vec<RecordType>,
}

impl Law {
    pub(super) fn new(opener: bool) -> Self {
        Self { opener, sent: Vec::new() }
    }

    /// Whether it may send this now; it has, if so.
    pub(super) fn allows(&mut self, kind: RecordType) -> bool {
        use RecordType::*;
        let has = |wanted: RecordType| self.sent.contains(&wanted);
        let gone = has(Reset) || has(Failed);
        let allowed = match kind {
            Opened | Failed => !self.opener && !has(Opened) && !gone && !has(Fin),
            Data | Fin => (self.opener || has(Opened)) && !gone && !has(Fin),
            Reset | Credit => !gone,
            Start | Ready | Open | Rekey | Retire => false,
        };
        // As many of these as there may be are one here.
        if allowed && !has(kind) {
            self.sent.push(kind);
        }
        allowed
    }

    /// Whether `data` may still be sent.
    pub(super) fn has_ended(&self) -> bool {
        use RecordType::*;
        self.sent.iter().any(|kind| matches!(kind, Fin | Reset | Failed))
    }
}
