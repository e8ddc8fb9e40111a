//! What one end of a flow does: its bytes, where it waits, pauses or resets.
//!
//! Derived from the request alike at both ends, so that they agree. `endpoint` plays it.

use super::{
    pattern::Pattern,
    wire::{Ending, Request},
};
use std::time::Duration;

/// Keeps the two directions of a flow apart: a byte looped back must be wrong.
const DOWN: u64 = 0x5bd1_e995_dead_beef;

/// One end's part of a flow.
#[derive(Clone, Debug)]
pub(super) struct Script {
    /// The stream to send.
    pub(super) outgoing: Pattern,
    /// How many bytes of it.
    pub(super) send: u64,
    /// The stream that must arrive.
    pub(super) incoming: Pattern,
    /// How many bytes of it.
    pub(super) receive: u64,
    /// Send this many, then nothing until the other side's end was read.
    pub(super) hold: Option<u64>,
    /// Reset when this many are sent and this many received.
    pub(super) abort: Option<(u64, u64)>,
    /// After this many received, read nothing for that long.
    pub(super) pause: Option<(u64, Duration)>,
    /// The other side resets, so no end of stream is right and none is sent.
    pub(super) awaits_reset: bool,
}

impl Script {
    /// The part of the side that connects.
    pub(super) fn client(request: &Request) -> Self {
        let ending = request.ending;
        Self {
            outgoing: Pattern::new(request.seed),
            send: request.up,
            incoming: Pattern::new(request.seed ^ DOWN),
            receive: request.down,
            hold: (ending == Ending::ServerHalfCloses).then_some(request.up / 2),
            abort: (ending == Ending::ClientResets).then_some((request.cut_up, request.cut_down)),
            pause: (ending == Ending::ClientPauses).then_some((request.cut_down, request.pause)),
            awaits_reset: ending == Ending::ServerResets,
        }
    }

    /// The part of the side that accepts.
    pub(super) fn server(request: &Request) -> Self {
        let ending = request.ending;
        Self {
            outgoing: Pattern::new(request.seed ^ DOWN),
            send: request.down,
            incoming: Pattern::new(request.seed),
            receive: request.up,
            hold: (ending == Ending::ClientHalfCloses).then_some(request.down / 2),
            abort: (ending == Ending::ServerResets).then_some((request.cut_down, request.cut_up)),
            pause: (ending == Ending::ServerPauses).then_some((request.cut_up, request.pause)),
            awaits_reset: ending == Ending::ClientResets,
        }
    }
}
