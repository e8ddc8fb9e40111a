//! Target `flow_machines`: one end of a carrier, single or shared, driven as the engine drives it,
//! with a far end that sends whatever records it likes, and a local end that does what it likes.
//!
//! What comes is held against the protocol's rules, and so is what this end sends.

mod law;
mod seat;
mod shared;
mod single;

use braid_core::record::{FlowNumber, RecordType};

use super::input::Input;

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.u8();
    let opens = mode & 1 != 0;
    if mode & 2 != 0 {
        shared::run(opens, &mut input);
    } else {
        single::run(opens, &mut input);
    }
}

/// A record that came: one whose type, flow and payload belong together, as opening sees to.
struct Came {
    kind: RecordType,
    flow: FlowNumber,
    /// Bytes of `data`, or those that a `credit` adds; else 0.
    amount: u32,
}

impl Came {
    /// Of a flow near the last one.
    fn next(last: u32, input: &mut Input<'_>) -> Self {
        let kind = RecordType::from_byte(1 + input.u8() % 11).expect("there are 11 types");
        let flow = match input.u8() {
            _ if !kind.is_of_flow() => 0,
            back @ 0..=0x7f => last
                .wrapping_add(u32::from(kind == RecordType::Open))
                .wrapping_sub(u32::from(back) / 32),
            ahead @ 0x80..=0xef => last.wrapping_add(u32::from(ahead) / 64 - 1),
            _ => input.u32(),
        };
        let amount = match kind {
            RecordType::Data => 1 + u32::from(input.u16()) % 32_512,
            RecordType::Credit => match input.u8() {
                0 => input.u32(),
                more => u32::from(more) << 12,
            }
            .max(1),
            _ => 0,
        };
        let flow = if kind.is_of_flow() { flow.max(1) } else { flow };
        Self { kind, flow: FlowNumber(flow), amount }
    }
}
