//! A single carrier: one flow after the other.

use braid_core::carrier::{Turn, Turns};
use braid_core::record::{FlowNumber, RecordType};

use super::law::Law;
use super::seat::Seat;
use super::{Came, Input};

/// One end of it.
struct End {
    opens: bool,
    turns: Turns,
    last: u32,
    retired: bool,
    flow: Option<(Seat, Law)>,
}

pub(super) fn run(opens: bool, input: &mut Input<'_>) {
    let turns = if opens { Turns::opener() } else { Turns::other() };
    let mut end = End { opens, turns, last: 0, retired: false, flow: None };
    while !input.is_empty() {
        let goes_on = match (input.u8(), &mut end.flow) {
            (0..=0x5f, Some((seat, _))) => {
                let choice = input.u8();
                seat.step(choice, input);
                true
            }
            (0..=0x5f, None) => {
                end.open();
                true
            }
            (0xff, _) => false,
            // What has to wait for the sink is not read.
            (_, Some((seat, _))) if !seat.reads() => true,
            _ => end.take(input),
        };
        if !goes_on || !end.settle() {
            break;
        }
    }
    if let Some((seat, _)) = end.flow {
        seat.lose();
    }
}

impl End {
    fn open(&mut self) {
        let number = self.turns.open();
        if !self.opens || self.retired {
            assert_eq!(number, None);
            return;
        }
        self.last += 1;
        assert_eq!(number, Some(FlowNumber(self.last)));
        self.flow = Some((Seat::new(true), Law::new(false)));
    }

    /// Takes a record; whether the carrier can still be used.
    fn take(&mut self, input: &mut Input<'_>) -> bool {
        let Came { kind, flow, .. } = Came::next(self.last, input);
        let lawful = self.lawful(kind, flow);
        let turn = self.turns.take(kind, flow).ok();
        assert_eq!(turn, lawful, "{kind:?} of {flow:?}, and {} is the last", self.last);
        match turn {
            Some(Turn::Begin) => {
                self.last = flow.0;
                self.flow = Some((Seat::new(false), Law::new(true)));
            }
            Some(Turn::Deliver) => {
                let (seat, _) = self.flow.as_mut().expect("it belongs to the current flow");
                seat.take(kind, input);
            }
            Some(Turn::Skip) => self.retired |= kind == RecordType::Retire,
            None => return false,
        }
        assert_eq!(self.turns.is_retired(), self.retired);
        true
    }

    /// What a record is to be taken for.
    fn lawful(&mut self, kind: RecordType, flow: FlowNumber) -> Option<Turn> {
        use RecordType::*;
        match (kind, &mut self.flow) {
            (Rekey, _) => Some(Turn::Skip),
            (Retire, _) => self.opens.then_some(Turn::Skip),
            (Open, None) if !self.opens && flow.0 > self.last => Some(Turn::Begin),
            (Start | Ready | Open | Credit, _) => None,
            (_, Some((_, law))) if flow.0 == self.last => law.allows(kind).then_some(Turn::Deliver),
            (Reset, _) => (flow.0 <= self.last).then_some(Turn::Skip),
            _ => None,
        }
    }

    /// Does what follows from a flow's end; whether the carrier can still be used.
    fn settle(&mut self) -> bool {
        if self.flow.as_ref().is_some_and(|(seat, _)| seat.is_broken()) {
            return false;
        }
        if self.flow.take_if(|(seat, _)| seat.is_over()).is_some() {
            self.turns.over();
        }
        assert_eq!(self.turns.is_clean(), self.flow.is_none());
        true
    }
}
