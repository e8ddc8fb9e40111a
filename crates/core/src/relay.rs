//! What each ending of a flow means: the state machine of one end of a flow on its carrier.
//!
//! Each box runs one for a flow, between its *local* connection (to the host or to the sink) and
//! the carrier. It owns which direction has ended and what the other side must be told. Moving
//! the bytes, and waiting until they are written, is the engine's.
//!
//! ```text
//!            LocalEnded → SendFin            CarrierFin → ShutLocal
//!   both open ─────────────▶ half-closed ─────────────▶ Finished(Drained)
//!       │ LocalReset → SendReset                │
//!       │ CarrierReset, CarrierLost → ResetLocal│
//!       └──────────────▶ Finished(Reset) ◀──────┘
//! ```

/// What happened at one end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The local connection has sent its last byte (end of file), and all of them are on the carrier.
    LocalEnded,
    /// The local connection was reset, or failed.
    LocalReset,
    /// A `fin` record came, and every byte before it is with the local connection.
    CarrierFin,
    /// A `reset` record came.
    CarrierReset,
    /// The carrier ended or failed; without a `fin` that is a reset.
    CarrierLost,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a `fin` record.
    SendFin,
    /// Tell the far box of the reset, by record or by closing the carrier hard.
    SendReset,
    /// Close the sending direction of the local connection.
    ShutLocal,
    /// Reset the local connection.
    ResetLocal,
}

/// How a flow has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both directions ended and were told to both ends: nothing of it is left on the carrier.
    Drained,
    /// One end reset it.
    Reset,
}

/// One end of a flow on a carrier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relay {
    local_ended: bool,
    carrier_ended: bool,
    reset: bool,
}

impl Relay {
    /// Takes what happened and says what is to be done; nothing once the flow has ended.
    pub fn handle(&mut self, event: Event) -> Option<Action> {
        if self.ending().is_some() {
            return None;
        }
        match event {
            Event::LocalEnded if self.local_ended => None,
            Event::LocalEnded => {
                self.local_ended = true;
                Some(Action::SendFin)
            }
            Event::CarrierFin if self.carrier_ended => self.abort(Action::ResetLocal),
            Event::CarrierFin => {
                self.carrier_ended = true;
                Some(Action::ShutLocal)
            }
            Event::LocalReset => self.abort(Action::SendReset),
            Event::CarrierReset | Event::CarrierLost => self.abort(Action::ResetLocal),
        }
    }

    /// How the flow has ended, once it has.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        match (self.reset, self.local_ended && self.carrier_ended) {
            (true, _) => Some(Ending::Reset),
            (false, true) => Some(Ending::Drained),
            (false, false) => None,
        }
    }

    fn abort(&mut self, action: Action) -> Option<Action> {
        self.reset = true;
        Some(action)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// Two ends with a carrier between them, on which messages take their time.
    #[derive(Default)]
    struct Pair {
        ends: [Relay; 2],
        carrier: [VecDeque<Event>; 2],
        local_shut: [bool; 2],
        local_reset: [bool; 2],
    }

    impl Pair {
        fn local(&mut self, end: usize, event: Event) {
            let action = self.ends[end].handle(event);
            self.act(end, action);
        }

        fn deliver(&mut self, end: usize) {
            if let Some(event) = self.carrier[end].pop_front() {
                let action = self.ends[end].handle(event);
                self.act(end, action);
            }
        }

        fn act(&mut self, end: usize, action: Option<Action>) {
            match action {
                Some(Action::SendFin) => self.carrier[1 - end].push_back(Event::CarrierFin),
                Some(Action::SendReset) => self.carrier[1 - end].push_back(Event::CarrierReset),
                Some(Action::ShutLocal) => self.local_shut[end] = true,
                Some(Action::ResetLocal) => self.local_reset[end] = true,
                None => {}
            }
        }
    }

    #[test]
    fn half_close_in_either_order_drains() {
        for first in 0..2 {
            let mut pair = Pair::default();
            pair.local(first, Event::LocalEnded);
            pair.deliver(1 - first);
            assert_eq!(pair.ends[first].ending(), None);
            assert!(pair.local_shut[1 - first]);
            pair.local(1 - first, Event::LocalEnded);
            pair.deliver(first);
            assert!(pair.ends.iter().all(|end| end.ending() == Some(Ending::Drained)));
        }
    }

    #[test]
    fn a_carrier_that_ends_without_fin_is_a_reset() {
        let mut relay = Relay::default();
        relay.handle(Event::LocalEnded);
        assert_eq!(relay.handle(Event::CarrierLost), Some(Action::ResetLocal));
        assert_eq!(relay.ending(), Some(Ending::Reset));
    }

    proptest! {
        /// Whatever happens in whatever order: an end that is told nothing more has ended, a
        /// reset on one side is never a clean ending on the other unless that was drained before.
        #[test]
        fn both_ends_agree(steps in proptest::collection::vec((0usize..2, 0usize..3), 0..40)) {
            let mut pair = Pair::default();
            for (end, step) in steps {
                match step {
                    0 => pair.local(end, Event::LocalEnded),
                    1 => pair.local(end, Event::LocalReset),
                    _ => pair.deliver(end),
                }
            }
            for _ in 0..4 {
                pair.deliver(0);
                pair.deliver(1);
            }
            for end in 0..2 {
                let (here, there) = (pair.ends[end].ending(), pair.ends[1 - end].ending());
                if here == Some(Ending::Reset) {
                    prop_assert!(there.is_some());
                }
                if pair.local_reset[end] {
                    prop_assert_eq!(here, Some(Ending::Reset));
                }
                if here == Some(Ending::Drained) && there == Some(Ending::Drained) {
                    prop_assert!(pair.local_shut == [true, true]);
                }
            }
        }
    }
}
