//! One flow at this end: what the engine's `carry`, `refuse` and `finish` do with what comes.

use braid_core::flow::{Ending, Event, Final, FlowEnd, Local, Reply};
use braid_core::record::RecordType;

use super::Input;
use super::law::Law;

/// A flow at this end.
pub(super) struct Seat {
    end: FlowEnd,
    phase: Phase,
    /// What this end has sent.
    said: Law,
    shut: bool,
}

/// What the engine is doing with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The sink is not reached yet; nothing is read.
    Connecting,
    /// Bytes go both ways until the far end's final record.
    Carrying,
    /// The far end has sent `fin`, this one not yet.
    Watching,
    /// This end is reset: what still comes is skipped.
    Finishing,
    Over,
    /// What cannot be brought to an end in order takes the carrier with it, if it is a single one.
    Broken,
}

impl Seat {
    /// At the side that opened the flow, or at the other.
    pub(super) fn new(opener: bool) -> Self {
        let phase = if opener { Phase::Carrying } else { Phase::Connecting };
        Self { end: FlowEnd::default(), phase, said: Law::new(opener), shut: false }
    }

    /// Whether records are read now.
    pub(super) fn reads(&self) -> bool {
        matches!(self.phase, Phase::Carrying | Phase::Watching | Phase::Finishing)
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    pub(super) fn is_broken(&self) -> bool {
        self.phase == Phase::Broken
    }

    /// Whether the local end's bytes are still read and sent.
    pub(super) fn sends(&self) -> bool {
        matches!(self.phase, Phase::Carrying | Phase::Watching) && !self.said.has_ended()
    }

    /// Something happens at this end.
    pub(super) fn step(&mut self, choice: u8, input: &mut Input<'_>) {
        match (self.phase, choice % 4) {
            (Phase::Connecting, 0) => {
                let reply = self.end.fail();
                assert_eq!(reply.send, Some(Final::Failed));
                self.finish(reply, input);
            }
            (Phase::Connecting, _) => {
                self.say(RecordType::Opened);
                self.phase = Phase::Carrying;
            }
            (Phase::Carrying | Phase::Watching, 0) => self.local_reset(input),
            (_, 1) if self.sends() => self.say(RecordType::Data),
            (_, 2) if self.sends() => {
                let reply = self.end.handle(Event::LocalEnded);
                assert_eq!(reply, Reply { send: Some(Final::Fin), local: None });
                self.say(RecordType::Fin);
                if self.phase == Phase::Watching {
                    self.drained();
                }
            }
            // The far end takes too long.
            (Phase::Finishing, 3) => self.phase = Phase::Broken,
            _ => {}
        }
    }

    /// A record that may come. Whether it was `data`, and the local end got it.
    pub(super) fn take(&mut self, kind: RecordType, input: &mut Input<'_>) -> bool {
        assert!(self.reads());
        if kind == RecordType::Data {
            return self.take_data(input);
        }
        let Some(last) = Final::of(kind) else {
            assert_eq!(kind, RecordType::Opened);
            return false;
        };
        let reply = self.end.handle(Event::Final(last));
        if self.phase == Phase::Finishing {
            assert_eq!(reply, Reply::default(), "it has sent its last word, and is reset");
            self.over_if_it_is();
        } else if reply.local == Some(Local::Reset) {
            assert_ne!(last, Final::Fin);
            self.finish(reply, input);
        } else {
            assert_eq!((last, reply.send), (Final::Fin, None));
            assert_eq!(reply.local, Some(Local::Shut));
            assert!(!std::mem::replace(&mut self.shut, true));
            self.phase = Phase::Watching;
            if input.u8() == u8::MAX {
                self.local_reset(input);
            } else if self.said.has_ended() {
                self.drained();
            }
        }
        false
    }

    /// The carrier is lost.
    pub(super) fn lose(mut self) {
        let before = self.end.ending();
        let reply = self.end.handle(Event::Lost);
        assert_eq!(reply.send, None);
        assert!(self.end.is_over());
        assert!(self.end.ending() == before || self.end.ending() == Some(Ending::Reset));
        assert_eq!(self.end.handle(Event::LocalReset), Reply::default());
    }

    /// A small record of this end's.
    pub(super) fn say(&mut self, kind: RecordType) {
        assert!(self.said.allows(kind), "{kind:?} is not to be sent now");
    }

    fn take_data(&mut self, input: &mut Input<'_>) -> bool {
        match self.phase {
            Phase::Finishing => {
                assert_eq!(self.end.ending(), Some(Ending::Reset));
                false
            }
            phase => {
                assert_eq!(phase, Phase::Carrying, "data behind the end");
                assert_eq!(self.end.ending(), None);
                // The local end cannot be written to any more.
                if input.u8() == u8::MAX {
                    self.local_reset(input);
                    return false;
                }
                true
            }
        }
    }

    fn local_reset(&mut self, input: &mut Input<'_>) {
        let was_over = self.end.is_over();
        let reply = self.end.handle(Event::LocalReset);
        if was_over {
            // The far end has nothing more to hear.
            assert_eq!(reply, Reply::default());
            self.phase = Phase::Over;
            return;
        }
        assert_eq!(reply.local, None);
        assert_eq!(self.end.ending(), Some(Ending::Reset));
        self.finish(reply, input);
    }

    fn finish(&mut self, reply: Reply, input: &mut Input<'_>) {
        self.phase = Phase::Finishing;
        if let Some(last) = reply.send {
            // There is no room for it.
            if input.u8() == u8::MAX {
                self.phase = Phase::Broken;
                return;
            }
            self.say(last.kind());
        }
        self.over_if_it_is();
    }

    fn over_if_it_is(&mut self) {
        if self.end.is_over() {
            assert_eq!(self.end.ending(), Some(Ending::Reset));
            self.phase = Phase::Over;
        }
    }

    fn drained(&mut self) {
        assert!(self.end.is_over() && self.shut);
        assert_eq!(self.end.ending(), Some(Ending::Drained));
        self.phase = Phase::Over;
    }
}
