//! Compares what both ends of a flow saw with what was asked.
//!
//! Counting the verdicts is `storm`'s and, for the server's own view, `server`'s.

use super::{
    endpoint::{End, Outcome},
    wire::{Ending, Request},
};

/// What became of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Exactly what was asked.
    Right,
    /// Bytes that differ, or too many.
    Wrong(String),
    /// An end did not come to its end in time.
    Hung(String),
    /// One side reset, and the other saw a clean end.
    ResetSeenAsEof(String),
    /// It ended otherwise than asked.
    Misended(String),
}

/// The verdict on a flow from the outcomes at both ends; `None` where the sink never reported.
pub(super) fn judge(request: &Request, client: &Outcome, sink: Option<&Outcome>) -> Verdict {
    let Some(sink) = sink else {
        return Verdict::Hung(format!("client {}; sink never reported", tell(client)));
    };
    let told = format!("client {}; sink {}", tell(client), tell(sink));
    let (client_due, sink_due) = due(request.ending);
    if client.wrong + sink.wrong > 0 {
        Verdict::Wrong(told)
    } else if meets(client, client_due) && meets(sink, sink_due) {
        Verdict::Right
    } else if client.end == End::Hung || sink.end == End::Hung {
        Verdict::Hung(told)
    } else if is_false_end(client, client_due) || is_false_end(sink, sink_due) {
        Verdict::ResetSeenAsEof(told)
    } else {
        Verdict::Misended(told)
    }
}

/// Whether the sink's end of a flow is what was asked.
pub(super) fn is_due_at_sink(request: &Request, sink: &Outcome) -> bool {
    meets(sink, due(request.ending).1)
}

/// How an end of a flow should come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Complete,
    Aborted,
    Broken,
}

/// What is due at the client and at the sink.
fn due(ending: Ending) -> (Due, Due) {
    match ending {
        Ending::ClientResets => (Due::Aborted, Due::Broken),
        Ending::ServerResets => (Due::Broken, Due::Aborted),
        _ => (Due::Complete, Due::Complete),
    }
}

fn meets(outcome: &Outcome, due: Due) -> bool {
    match due {
        Due::Complete => outcome.end == End::Complete,
        Due::Aborted => outcome.end == End::Aborted,
        Due::Broken => matches!(outcome.end, End::Broken(_)),
    }
}

fn is_false_end(outcome: &Outcome, due: Due) -> bool {
    due == Due::Broken && outcome.end == End::EarlyEof
}

fn tell(outcome: &Outcome) -> String {
    let Outcome { sent, received, wrong, first_wrong, end, .. } = outcome;
    let wrong = match first_wrong {
        Some(first) => format!(", {wrong} wrong from {first}"),
        None => String::new(),
    };
    format!("{end:?} (sent {sent}, received {received}{wrong})")
}
