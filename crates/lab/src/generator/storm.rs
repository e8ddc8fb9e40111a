//! Many flows at once, with every kind of ending, each judged at both ends.
//!
//! What is asked of each flow follows from the plan's seed; the verdicts are `judge`'s.

use super::{
    client,
    endpoint::{End, Outcome},
    judge::{Verdict, judge},
    ledger::{Ledger, flow_number},
    pattern::mix,
    wire::{Ending, Request},
};
use portable_atomic::AtomicU64;
use serde::Serialize;
use std::{
    io,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const STACK: usize = 128 << 10;

/// How many failures a report names.
const NAMED: usize = 20;

/// How much longer than its client a flow's server may take to report.
const GRACE: Duration = Duration::from_secs(2);

/// What a storm consists of.
#[derive(Clone, Debug)]
pub struct StormPlan {
    /// How many flows in all.
    pub flows: u64,
    /// Bytes of each flow, shared out between its two directions.
    pub bytes_each: u64,
    /// How many at once.
    pub concurrency: usize,
    /// Fixes every flow's bytes, directions and ending.
    pub seed: u64,
    /// How long each flow may take, connect included, before it counts as hung.
    pub deadline: Duration,
}

/// What became of a storm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StormReport {
    /// Flows run.
    pub flows: u64,
    /// Bytes that were checked, at both ends.
    pub bytes: u64,
    /// Of these, bytes that were wrong or too many.
    pub wrong: u64,
    /// Flows that did not end in time at one end or the other.
    pub hung: u64,
    /// Resets that the other side saw as an error, after nothing but right bytes.
    pub resets_ok: u64,
    /// Resets that the other side saw as a clean end of stream.
    pub resets_seen_as_eof: u64,
    /// Flows where one side closed early, the other went on, and all of it was right.
    pub half_closes_ok: u64,
    /// Flows that were in any way not as asked.
    pub failed: u64,
    /// The first 20 of these: number, seed, kind and what both ends saw.
    pub failures: Vec<String>,
}

impl StormReport {
    /// Whether every flow was exactly as asked.
    pub fn passed(&self) -> bool {
        self.failed == 0
    }

    fn add(&mut self, request: &Request, ends: &[&Outcome], failure: Option<(&str, String)>) {
        self.flows += 1;
        self.bytes += ends.iter().map(|end| end.received).sum::<u64>();
        self.wrong += ends.iter().map(|end| end.wrong).sum::<u64>();
        if let Some((label, told)) = failure {
            self.failed += 1;
            if self.failures.len() < NAMED {
                self.failures.push(format!("{label}: {told}"));
            }
            return;
        }
        match request.ending {
            Ending::ClientResets | Ending::ServerResets => self.resets_ok += 1,
            Ending::ClientHalfCloses | Ending::ServerHalfCloses => self.half_closes_ok += 1,
            _ => {}
        }
    }
}

/// Runs the plan's flows against a server, each to one of `addrs`, and judges them.
///
/// `ledger` is that server's. Errors: no address, or no thread could be started; whatever goes wrong
/// with a flow is in the report.
pub fn storm(addrs: &[SocketAddr], plan: &StormPlan, ledger: &Ledger) -> io::Result<StormReport> {
    if addrs.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a storm needs an address"));
    }
    let next = AtomicU64::new(0);
    let report = Mutex::new(StormReport::default());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= plan.flows {
                return;
            }
            run_flow(number, addrs, plan, ledger, &report);
        }
    };
    thread::scope(|scope| {
        let workers =
            plan.concurrency.min(usize::try_from(plan.flows).unwrap_or(usize::MAX)).max(1);
        for _ in 0..workers {
            thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work)?;
        }
        io::Result::Ok(())
    })?;
    Ok(report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn run_flow(
    number: u64,
    addrs: &[SocketAddr],
    plan: &StormPlan,
    ledger: &Ledger,
    report: &Mutex<StormReport>,
) {
    let (request, addr) = draw(number, addrs, plan);
    let until = Instant::now() + plan.deadline + GRACE;
    let flow = client::run(addr, &request, &AtomicBool::new(false), &AtomicU64::new(0));
    let label = format!("flow {number} to {addr}, seed {:#x}, {:?}", plan.seed, request.ending);
    let lock = || report.lock().unwrap_or_else(PoisonError::into_inner);
    let client = match flow {
        Ok(flow) => flow.outcome,
        Err(error) => {
            let mut report = lock();
            report.hung += u64::from(error.kind() == io::ErrorKind::TimedOut);
            return report.add(&request, &[], Some((&label, format!("not started: {error}"))));
        }
    };
    let sink = ledger.take(request.flow, until);
    let verdict = judge(&request, &client, sink.as_ref());
    let ends: Vec<_> = [&client].into_iter().chain(&sink).collect();
    let mut report = lock();
    report.hung += u64::from(is_hung(&ends, &verdict));
    report.resets_seen_as_eof += u64::from(matches!(verdict, Verdict::ResetSeenAsEof(_)));
    let failure = match verdict {
        Verdict::Right => None,
        Verdict::Wrong(told) => Some(format!("wrong bytes: {told}")),
        Verdict::Hung(told) => Some(format!("hung: {told}")),
        Verdict::ResetSeenAsEof(told) => Some(format!("reset seen as end of stream: {told}")),
        Verdict::Misended(told) => Some(format!("ended otherwise: {told}")),
    };
    report.add(&request, &ends, failure.map(|told| (label.as_str(), told)));
}

/// A flow may be wrong and hang too: the one does not hide the other.
fn is_hung(ends: &[&Outcome], verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Hung(_)) || ends.iter().any(|outcome| outcome.end == End::Hung)
}

/// What flow `number` of the plan asks, and where it goes.
fn draw(number: u64, addrs: &[SocketAddr], plan: &StormPlan) -> (Request, SocketAddr) {
    let seed = mix(plan.seed ^ mix(number));
    let mut dice = fastrand::Rng::with_seed(seed);
    let ending = Ending::ALL[dice.usize(..Ending::ALL.len())];
    let (up, down) = share(plan.bytes_each, ending, &mut dice);
    let request = Request {
        flow: flow_number(),
        seed,
        up,
        down,
        cut_up: dice.u64(0..up.max(1)),
        // At least one byte back shows that the sink has begun: a reset before is another case.
        cut_down: dice.u64(0..down.max(1)).max(1).min(down),
        budget: plan.deadline,
        pause: Duration::from_millis(dice.u64(50..500)).min(plan.deadline / 4),
        ending,
    };
    (request, addrs[dice.usize(..addrs.len())])
}

/// Shares `bytes` out between up and down: mostly both, now and then all in one direction.
fn share(bytes: u64, ending: Ending, dice: &mut fastrand::Rng) -> (u64, u64) {
    let bytes = bytes.max(4);
    let up = match (ending, dice.u8(..6)) {
        (Ending::BothClose | Ending::ClientPauses | Ending::ServerPauses, 0) => 0,
        (Ending::BothClose | Ending::ClientPauses | Ending::ServerPauses, 1) => bytes,
        // The others need bytes both ways: to be cut, or to follow a half-close.
        _ => dice.u64(2..=bytes - 2),
    };
    (up, bytes - up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::{
        Server,
        relay::{Fault, Relay},
    };

    fn plan(flows: u64, seed: u64) -> StormPlan {
        let deadline = Duration::from_secs(20);
        StormPlan { flows, bytes_each: 300_000, concurrency: 64, seed, deadline }
    }

    fn server() -> Server {
        let both = ["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
        Server::start(&both).unwrap()
    }

    /// A storm through a relay with `fault`.
    fn through(fault: Fault, flows: u64) -> StormReport {
        let server = server();
        let relay = Relay::start(server.addrs()[0], fault).unwrap();
        let plan = StormPlan { deadline: Duration::from_secs(3), ..plan(flows, 3) };
        storm(&[relay.addr()], &plan, &server.ledger()).unwrap()
    }

    #[test]
    fn every_ending_is_right_on_plain_tcp() {
        let server = server();
        let report = storm(server.addrs(), &plan(300, 1), &server.ledger()).unwrap();
        assert!(report.passed(), "{report:#?}");
        assert_eq!((report.flows, report.wrong, report.hung), (300, 0, 0));
        assert!(report.resets_ok > 50 && report.half_closes_ok > 50, "{report:#?}");
        let stats = server.stats();
        assert_eq!((stats.flows, stats.misended, stats.strays), (300, 0, 0));
    }

    #[test]
    fn three_hundred_flows_are_held_at_once() {
        let server = server();
        let plan = StormPlan { concurrency: 300, bytes_each: 20_000, ..plan(600, 2) };
        let report = storm(server.addrs(), &plan, &server.ledger()).unwrap();
        assert!(report.passed(), "{report:#?}");
    }

    #[test]
    fn the_same_seed_draws_the_same_flows() {
        let (addrs, plan) = (["127.0.0.1:1".parse().unwrap()], plan(0, 9));
        for number in 0..100 {
            let (mut one, other) = (draw(number, &addrs, &plan).0, draw(number, &addrs, &plan).0);
            one.flow = other.flow;
            assert_eq!(one, other);
        }
    }

    #[test]
    fn an_honest_relay_passes() {
        let report = through(Fault::None, 100);
        assert!(report.passed(), "{report:#?}");
    }

    #[test]
    fn a_flipped_byte_is_caught_in_both_directions() {
        let report = through(Fault::Flip(200), 60);
        // Resets may come before that byte; whatever else carries 128 bytes a direction may not pass.
        assert!(report.failed >= 40 && report.wrong >= 60, "{report:#?}");
        assert!(report.failures[0].contains("wrong bytes"), "{report:#?}");
    }

    #[test]
    fn a_doubled_and_a_lost_byte_are_caught() {
        for fault in [Fault::Double(200), Fault::Drop(200)] {
            let report = through(fault, 40);
            assert!(report.failed >= 25 && report.wrong > 1_000_000, "{report:#?}");
        }
    }

    #[test]
    fn a_truncated_stream_is_caught() {
        let report = through(Fault::Truncate(2000), 40);
        assert!(report.failed >= 25, "{report:#?}");
    }

    #[test]
    fn a_reset_made_an_end_of_stream_is_caught_every_time() {
        let report = through(Fault::ResetToFin, 60);
        assert_eq!(report.resets_ok, 0, "{report:#?}");
        assert!(report.resets_seen_as_eof >= 10, "{report:#?}");
        assert_eq!(report.failed, report.resets_seen_as_eof, "{report:#?}");
    }

    #[test]
    fn an_end_of_stream_that_is_kept_back_is_a_hang() {
        let report = through(Fault::KeepFin, 14);
        assert!(report.hung > 0 && report.half_closes_ok == 0, "{report:#?}");
    }

    #[test]
    fn a_refused_flow_is_a_failure() {
        let server = server();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let report = storm(&[closed], &plan(5, 1), &server.ledger()).unwrap();
        assert_eq!((report.failed, report.failures.len()), (5, 5));
    }
}
