//! A shared carrier: many flows at a time, held back by credit.

use std::collections::{BTreeMap, VecDeque};

use braid_core::credit::{ReceiveCredit, SendCredit};
use braid_core::flow::Incoming;
use braid_core::record::{MAX_PAYLOAD, RecordType};

use super::law::Law;
use super::seat::Seat;
use super::{Came, Input};

/// What a flow may have on its way in a direction at its beginning.
const FIRST_CREDIT: usize = 65_536;

/// What it may ever have.
const MAX_CREDIT: usize = 4_194_304;

/// One end of it.
struct End {
    opens: bool,
    last: u32,
    flows: BTreeMap<u32, Flow>,
}

struct Flow {
    seat: Seat,
    order: Incoming,
    receive: ReceiveCredit,
    send: SendCredit,
    /// What has come and has not been taken up: types, and lengths of `data`.
    records: VecDeque<(RecordType, usize)>,
    /// What the far end may send, by what it has sent.
    law: Law,
    /// What the far end may send, by what it was given.
    given: usize,
    /// What this end may send.
    left: usize,
}

pub(super) fn run(opens: bool, input: &mut Input<'_>) {
    let mut end = End { opens, last: 0, flows: BTreeMap::new() };
    while !input.is_empty() {
        let goes_on = match input.u8() {
            0..=0x0f if opens => {
                end.begin(end.last + 1);
                true
            }
            choice @ 0..=0x7f => {
                let back = u32::from(input.u8() % 4);
                match end.flows.get_mut(&end.last.wrapping_sub(back)) {
                    Some(flow) if choice >= 0x70 => flow.keep_up(input),
                    Some(flow) => flow.step(input),
                    None => {}
                }
                true
            }
            0xff => false,
            _ => end.take(input),
        };
        if !goes_on {
            break;
        }
        // The carrier stays when a flow on it could not be brought to an end in order.
        end.flows.retain(|_, flow| !flow.seat.is_over() && !flow.seat.is_broken());
    }
    end.flows.into_values().for_each(|flow| flow.seat.lose());
}

impl End {
    fn begin(&mut self, number: u32) {
        self.last = number;
        let order = if self.opens { Incoming::from_other() } else { Incoming::from_opener() };
        let flow = Flow {
            seat: Seat::new(self.opens),
            order,
            receive: ReceiveCredit::default(),
            send: SendCredit::default(),
            records: VecDeque::new(),
            law: Law::new(!self.opens),
            given: FIRST_CREDIT,
            left: FIRST_CREDIT,
        };
        assert_eq!(flow.send.available(), FIRST_CREDIT);
        self.flows.insert(number, flow);
    }

    /// Takes a record; whether the carrier can still be used.
    fn take(&mut self, input: &mut Input<'_>) -> bool {
        let came = Came::next(self.last, input);
        match came.kind {
            RecordType::Open => {
                let may = !self.opens && came.flow.0 > self.last;
                if may {
                    self.begin(came.flow.0);
                }
                may
            }
            RecordType::Start | RecordType::Ready => false,
            RecordType::Rekey => true,
            RecordType::Retire => self.opens,
            _ if came.flow.0 > self.last => false,
            kind => {
                self.flows.get_mut(&came.flow.0).is_none_or(|flow| flow.arrive(kind, came.amount))
            }
        }
    }
}

impl Flow {
    /// A record comes; whether it may.
    fn arrive(&mut self, kind: RecordType, amount: u32) -> bool {
        let may = self.order.take(kind);
        assert_eq!(may, self.law.allows(kind), "{kind:?} now");
        if !may {
            return false;
        }
        match kind {
            RecordType::Credit => return self.credited(amount),
            RecordType::Data => {
                let length = amount as usize;
                let fits = length <= self.given;
                assert_eq!(self.receive.arrived(length).is_ok(), fits);
                if !fits {
                    return false;
                }
                self.given -= length;
            }
            _ => {}
        }
        match self.records.back_mut() {
            // Small ones are put together.
            Some((RecordType::Data, held))
                if kind == RecordType::Data && *held + amount as usize <= MAX_PAYLOAD =>
            {
                *held += amount as usize;
            }
            _ => self.records.push_back((kind, amount as usize)),
        }
        true
    }

    fn credited(&mut self, bytes: u32) -> bool {
        let sum = self.left as u64 + u64::from(bytes);
        let fits = sum <= MAX_CREDIT as u64;
        assert_eq!(self.send.add(bytes).is_ok(), fits);
        if fits {
            self.left = sum as usize;
        }
        assert_eq!(self.send.available(), self.left);
        fits
    }

    /// Something happens at this end.
    fn step(&mut self, input: &mut Input<'_>) {
        let choice = input.u8();
        if choice & 0x80 == 0 {
            if choice & 0x40 != 0 && self.seat.sends() {
                self.spend(usize::from(input.u16()));
            } else {
                self.seat.step(choice, input);
            }
            return;
        }
        for _ in 0..=choice & 0x0f {
            self.take_next(choice & 0x20 == 0, input);
        }
    }

    /// The far end sends what it may, as often as it may, and the local end takes it at once.
    fn keep_up(&mut self, input: &mut Input<'_>) {
        let choice = input.u8();
        for _ in 0..choice & 0x7f {
            let most = self.given.min(MAX_PAYLOAD) as u32;
            if most == 0 || !self.records.is_empty() || !self.may_come(RecordType::Data) {
                return;
            }
            assert!(self.arrive(RecordType::Data, most));
            self.take_next(choice & 0x80 == 0, input);
        }
    }

    fn may_come(&self, kind: RecordType) -> bool {
        self.law.clone().allows(kind)
    }

    fn take_next(&mut self, may_grow: bool, input: &mut Input<'_>) {
        if !self.seat.reads() {
            return;
        }
        let Some((kind, length)) = self.records.pop_front() else { return };
        if self.seat.take(kind, input) {
            self.taken_up(length, may_grow);
        }
    }

    fn spend(&mut self, most: usize) {
        let bytes = most.min(self.send.available());
        if bytes > 0 {
            self.send.spend(bytes);
            self.seat.say(RecordType::Data);
        }
        self.left -= bytes;
        assert_eq!(self.send.available(), self.left);
    }

    /// The local end has taken bytes; the far end may be given more.
    fn taken_up(&mut self, bytes: usize, may_grow: bool) {
        let window = self.receive.window();
        if let Some(credit) = self.receive.consumed(bytes, may_grow) {
            assert_ne!(credit, 0);
            self.seat.say(RecordType::Credit);
            self.given += credit as usize;
        }
        let grown = self.receive.window();
        assert!(grown == window || (may_grow && grown == 2 * window));
        assert!(self.given <= grown && grown <= MAX_CREDIT, "more than may be on its way");
    }
}
