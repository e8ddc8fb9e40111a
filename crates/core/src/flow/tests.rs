//! Two ends that use a carrier for many flows, with records on their way between them: whatever
//! happens in whatever order, both come to the same end, and the carrier is clean again.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::carrier::{Turn, Turns};
use crate::record::FlowNumber;

/// The end that opens, and the one that is asked.
const OPENER: usize = 0;
const OTHER: usize = 1;

/// What can happen at an end.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The opener opens; the other has reached the sink.
    Stand,
    /// The other has not.
    Fail,
    Send,
    LocalEnded,
    LocalReset,
    /// The next record that is on its way to this end comes.
    Deliver,
}

const STEPS: [Step; 6] =
    [Step::Stand, Step::Fail, Step::Send, Step::LocalEnded, Step::LocalReset, Step::Deliver];

/// What one end knows of a flow.
#[derive(Clone, Copy, Debug)]
struct Flow {
    number: FlowNumber,
    end: FlowEnd,
    /// Whether there is a local connection.
    stands: bool,
    sent: u32,
    taken: u32,
    shut: bool,
    resets: u32,
}

#[derive(Clone)]
struct Side {
    turns: Turns,
    flow: Option<Flow>,
    ended: Vec<Flow>,
    /// Records on their way to this side.
    coming: VecDeque<(RecordType, FlowNumber)>,
}

#[derive(Clone)]
struct Pair([Side; 2]);

impl Pair {
    fn new() -> Self {
        let side = |turns| Side { turns, flow: None, ended: Vec::new(), coming: VecDeque::new() };
        Self([side(Turns::opener()), side(Turns::other())])
    }

    fn step(&mut self, at: usize, step: Step) {
        match (step, self.0[at].flow) {
            (Step::Deliver, _) => self.deliver(at),
            (Step::Stand, None) if at == OPENER => self.open(),
            (Step::Stand, Some(flow)) if !flow.stands && flow.end.ending().is_none() => {
                self.flow(at).stands = true;
                self.send(at, RecordType::Opened);
            }
            (Step::Fail, Some(flow)) if !flow.stands => {
                let reply = self.flow(at).end.fail();
                self.act(at, reply);
            }
            (Step::Send, Some(flow)) if flow.stands && flow.end.sent.is_none() => {
                self.flow(at).sent += 1;
                self.send(at, RecordType::Data);
            }
            (Step::LocalEnded, Some(flow)) if flow.stands => self.event(at, Event::LocalEnded),
            (Step::LocalReset, Some(flow)) if flow.stands => self.event(at, Event::LocalReset),
            _ => {}
        }
    }

    fn open(&mut self) {
        let number = self.0[OPENER].turns.open().expect("there is no flow");
        self.0[OPENER].flow = Some(Flow { stands: true, ..Flow::new(number) });
        self.send(OPENER, RecordType::Open);
    }

    fn deliver(&mut self, at: usize) {
        let Some((kind, number)) = self.0[at].coming.pop_front() else { return };
        match self.0[at].turns.take(kind, number).unwrap() {
            Turn::Begin => self.0[at].flow = Some(Flow::new(number)),
            Turn::Skip => assert_eq!(kind, RecordType::Reset),
            Turn::Deliver => {
                assert_eq!(self.flow(at).number, number, "of an old flow to a new one");
                match (kind, Final::of(kind)) {
                    (_, Some(last)) => self.event(at, Event::Final(last)),
                    (RecordType::Data, _) => self.take_data(at),
                    _ => assert_eq!(kind, RecordType::Opened),
                }
            }
        }
    }

    /// That none comes behind a final record is what the turns have judged.
    fn take_data(&mut self, at: usize) {
        let flow = self.flow(at);
        assert_eq!(flow.end.received, None, "data behind a final record");
        if flow.end.ending() != Some(Ending::Reset) {
            flow.taken += 1;
        }
    }

    fn event(&mut self, at: usize, event: Event) {
        let reply = self.flow(at).end.handle(event);
        self.act(at, reply);
    }

    fn act(&mut self, at: usize, reply: Reply) {
        if let Some(last) = reply.send {
            self.send(at, last.kind());
        }
        let flow = self.flow(at);
        match reply.local {
            Some(Local::Shut) => {
                assert!(!flow.shut && flow.resets == 0);
                flow.shut = true;
            }
            Some(Local::Reset) => flow.resets += 1,
            None => {}
        }
        let over = flow.end.is_over();
        assert!(flow.resets <= 1);
        if over {
            let side = &mut self.0[at];
            side.turns.over();
            side.ended.extend(side.flow.take());
        }
    }

    fn flow(&mut self, at: usize) -> &mut Flow {
        self.0[at].flow.as_mut().expect("there is a flow")
    }

    fn send(&mut self, at: usize, kind: RecordType) {
        let number = self.flow(at).number;
        self.0[1 - at].coming.push_back((kind, number));
    }

    fn settle(&mut self) {
        while let Some(at) = (0..2).find(|at| !self.0[*at].coming.is_empty()) {
            self.deliver(at);
        }
    }

    /// Lets both local ends close, and everything arrive.
    fn finish(&mut self) {
        self.settle();
        self.step(OTHER, Step::Stand);
        for at in [OPENER, OTHER] {
            self.step(at, Step::LocalEnded);
            self.settle();
        }
    }

    fn check(&self) {
        let [opener, other] = &self.0;
        assert!(opener.turns.is_clean() && other.turns.is_clean());
        assert!(opener.coming.is_empty() && other.coming.is_empty());
        assert_eq!(opener.ended.len(), other.ended.len());
        for (here, there) in opener.ended.iter().zip(&other.ended) {
            assert_eq!(here.number, there.number);
            here.check(there);
            there.check(here);
        }
    }
}

impl Flow {
    fn new(number: FlowNumber) -> Self {
        let end = FlowEnd::default();
        Self { number, end, stands: false, sent: 0, taken: 0, shut: false, resets: 0 }
    }

    fn check(&self, there: &Self) {
        assert!(self.taken <= there.sent, "more was taken than sent");
        if self.end.ending() == Some(Ending::Drained) {
            assert!(self.shut && self.resets == 0);
            assert_eq!(self.taken, there.sent, "a clean end that lacks bytes");
            assert!(there.end.sent.is_some_and(|last| last != Final::Failed));
        }
        if there.end.ending() == Some(Ending::Reset) {
            // What was drained before has heard all that there was, and had said all that it had to.
            let drained_before = self.end.sent == Some(Final::Fin)
                && self.end.received == Some(Final::Fin)
                && self.taken == there.sent;
            assert!(self.end.ending() == Some(Ending::Reset) || drained_before);
        }
    }
}

#[test]
fn half_close_in_either_order_drains() {
    for first in [OPENER, OTHER] {
        let mut pair = Pair::new();
        pair.step(OPENER, Step::Stand);
        pair.settle();
        pair.step(OTHER, Step::Stand);
        pair.step(first, Step::LocalEnded);
        pair.settle();
        assert!(pair.flow(1 - first).shut && !pair.flow(first).end.is_over());
        pair.step(1 - first, Step::Send);
        pair.settle();
        assert_eq!(pair.flow(first).taken, 1);
        pair.step(1 - first, Step::LocalEnded);
        pair.settle();
        pair.check();
        for side in &pair.0 {
            assert_eq!(side.ended[0].end.ending(), Some(Ending::Drained));
        }
    }
}

#[test]
fn a_reset_is_answered_and_what_was_on_its_way_is_skipped() {
    let mut pair = Pair::new();
    pair.step(OPENER, Step::Stand);
    pair.settle();
    pair.step(OTHER, Step::Stand);
    pair.step(OTHER, Step::Send);
    pair.step(OPENER, Step::LocalReset);
    assert_eq!(pair.flow(OPENER).end.ending(), Some(Ending::Reset));
    pair.settle();
    pair.check();
    let [opener, other] = pair.0.map(|side| side.ended[0]);
    assert_eq!((opener.resets, opener.taken), (0, 0));
    assert_eq!((other.resets, other.end.sent), (1, Some(Final::Reset)));
}

#[test]
fn a_sink_that_is_not_reached_resets_the_opener() {
    for ended in [false, true] {
        let mut pair = Pair::new();
        pair.step(OPENER, Step::Stand);
        pair.step(OPENER, Step::Send);
        if ended {
            pair.step(OPENER, Step::LocalEnded);
        }
        pair.settle();
        pair.step(OTHER, Step::Fail);
        pair.settle();
        pair.check();
        let [opener, other] = pair.0.map(|side| side.ended[0]);
        assert_eq!((opener.end.received, opener.resets), (Some(Final::Failed), 1));
        assert_eq!((other.end.sent, other.resets), (Some(Final::Failed), 0));
        let answer = if ended { Final::Fin } else { Final::Reset };
        assert_eq!(opener.end.sent, Some(answer));
    }
}

#[test]
fn a_carrier_that_ends_resets_what_is_not_over() {
    let mut end = FlowEnd::default();
    end.handle(Event::LocalEnded);
    let reset = Reply { send: None, local: Some(Local::Reset) };
    assert_eq!(end.handle(Event::Lost), reset);
    assert!(end.is_over() && end.ending() == Some(Ending::Reset));
    assert_eq!(end.handle(Event::Lost), Reply::default());

    let mut end = FlowEnd::default();
    end.handle(Event::LocalReset);
    assert_eq!(end.handle(Event::Lost), Reply::default());

    let mut end = FlowEnd::default();
    end.handle(Event::LocalEnded);
    end.handle(Event::Final(Final::Fin));
    assert_eq!(end.handle(Event::Lost), Reply::default());
    assert_eq!(end.ending(), Some(Ending::Drained));
}

#[test]
fn a_second_fin_is_a_reset() {
    let mut end = FlowEnd::default();
    assert_eq!(end.handle(Event::Final(Final::Fin)).local, Some(Local::Shut));
    let mut order = Incoming::from_opener();
    assert!(order.take(RecordType::Fin) && !order.take(RecordType::Data));
    let reply = end.handle(Event::Final(Final::Fin));
    assert_eq!(reply, Reply { send: Some(Final::Reset), local: Some(Local::Reset) });
}

#[test]
fn credit_is_no_answer() {
    let mut order = Incoming::from_other();
    assert!(order.take(RecordType::Credit));
    assert!(!order.take(RecordType::Data) && !order.take(RecordType::Fin));
    assert!(order.take(RecordType::Opened) && order.take(RecordType::Data));
}

/// Every order of up to five things that can happen once a flow is open, to the end.
#[test]
fn every_order_of_few_steps() {
    fn go(pair: &Pair, depth: u32) {
        let mut end = pair.clone();
        end.finish();
        end.check();
        if depth == 0 {
            return;
        }
        for at in [OPENER, OTHER] {
            for step in STEPS {
                let mut next = pair.clone();
                next.step(at, step);
                go(&next, depth - 1);
            }
        }
    }
    let mut pair = Pair::new();
    pair.step(OPENER, Step::Stand);
    go(&pair, 2);
    pair.settle();
    pair.step(OTHER, Step::Stand);
    go(&pair, 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_ends_agree_over_many_flows(
        steps in proptest::collection::vec((0_usize..2, 0_usize..24), 0..300),
    ) {
        let mut pair = Pair::new();
        for (at, step) in steps {
            // Records come more often than anything else happens, and failures and resets least.
            let step = match step {
                0 => Step::Fail,
                1 => Step::LocalReset,
                2..=4 => Step::LocalEnded,
                5..=8 => Step::Stand,
                9..=12 => Step::Send,
                _ => Step::Deliver,
            };
            pair.step(at, step);
        }
        pair.finish();
        pair.check();
        pair.step(OPENER, Step::Stand);
        pair.finish();
        pair.check();
        prop_assert_eq!(pair.0[OPENER].ended.last().unwrap().end.ending(), Some(Ending::Drained));
    }
}
