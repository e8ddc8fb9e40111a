//! Target `preamble`: a preamble, then a sequence of numbers that carriers come with.

use std::collections::BTreeSet;

use braid_core::carrier::{Kind, NumberWindow, PREAMBLE_LEN, Preamble, PreambleError, VERSION};
use braid_core::keys::CarrierNumber;

use super::input::Input;

/// How many numbers below the highest may still come.
const WINDOW: u32 = 1024;

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    preamble(&input.array());
    kind(input.u8());
    numbers(&mut input);
}

fn preamble(bytes: &[u8; PREAMBLE_LEN]) {
    match Preamble::parse(bytes) {
        Ok(preamble) => {
            assert_eq!(preamble.encode(), *bytes);
            assert_ne!(preamble.number, CarrierNumber(0));
        }
        Err(PreambleError::Version(version)) => {
            assert_eq!(version, bytes[0]);
            assert_ne!(version, VERSION);
        }
        Err(PreambleError::Number) => assert_eq!(bytes[9..], [0; 4]),
    }
}

fn kind(byte: u8) {
    match Kind::from_byte(byte) {
        Some(kind) => assert_eq!(kind.to_byte(), byte),
        None => assert!(byte & !0b11 != 0),
    }
}

/// What a window has to know, kept without a bound.
#[derive(Default)]
struct Model {
    highest: u32,
    used: BTreeSet<u32>,
}

impl Model {
    fn is_fresh(&self, number: u32) -> bool {
        let not_too_low = u64::from(number) + u64::from(WINDOW) >= u64::from(self.highest);
        number != 0 && not_too_low && !self.used.contains(&number)
    }
}

fn numbers(input: &mut Input<'_>) {
    let (mut window, mut model) = (NumberWindow::default(), Model::default());
    while !input.is_empty() {
        let number = next(input, model.highest);
        let fresh = window.is_fresh(CarrierNumber(number));
        assert_eq!(fresh, model.is_fresh(number), "{number} below {}", model.highest);
        // One that is shown without the keys, and so not used up.
        if input.u8() & 1 == 0 {
            continue;
        }
        window.mark(CarrierNumber(number));
        assert!(!window.is_fresh(CarrierNumber(number)), "{number} is accepted twice");
        if fresh {
            assert!(model.used.insert(number));
            model.highest = model.highest.max(number);
        }
    }
    for number in model.highest.saturating_sub(WINDOW + 2)..=model.highest {
        assert_eq!(window.is_fresh(CarrierNumber(number)), model.is_fresh(number));
    }
}

/// Any number, or one near the highest, or one near where the window ends.
fn next(input: &mut Input<'_>, highest: u32) -> u32 {
    match input.u8() % 4 {
        0 => input.u32(),
        1 => highest.wrapping_add(u32::from(input.u8())),
        2 => highest.wrapping_sub(u32::from(input.u8())),
        _ => highest.wrapping_sub(WINDOW + 128).wrapping_add(u32::from(input.u8())),
    }
}
