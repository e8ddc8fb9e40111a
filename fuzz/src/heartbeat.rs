//! Target `heartbeat`: datagrams as the network may bring them, those of a peer among them, altered,
//! out of order and again; then the machine that judges ways, with answers that come when they like.

use std::time::{Duration, Instant};

use braid_core::health::{Action, Health};
use braid_core::heartbeat::{HEARTBEAT_LEN, Heartbeat, NUMBER, Opener, Sealer, session_of};
use braid_core::key::PublicKey;
use braid_core::keys::{Direction, Suite, split_export};

use super::input::Input;

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    datagrams(&mut input);
    ways(&mut input);
}

fn datagrams(input: &mut Input<'_>) {
    let (id, secret) = split_export([9; 40]);
    let secret = secret.traffic(&PublicKey([1; 32]), NUMBER, Direction::FromDialler);
    let suite = if input.u8() & 1 == 0 { Suite::Aes128Gcm } else { Suite::ChaCha20Poly1305 };
    let (mut sealer, mut opener) = (Sealer::new(id, suite, &secret), Opener::new(suite, &secret));
    for _ in 0..input.u8() % 16 {
        let (way, sequence, live) = (input.u8(), input.u32(), 1 << (input.u8() % 64));
        let said = Heartbeat { way, sequence, live };
        let Some(sealed) = sealer.seal(said) else { return };
        let mut altered = sealed.to_vec();
        let (at, bits) = (usize::from(input.u8()) % altered.len(), input.u8());
        altered[at] ^= bits;
        altered.truncate(if input.u8() & 1 == 0 { altered.len() } else { at });
        assert!(session_of(&altered).is_none() || altered.len() == HEARTBEAT_LEN);
        let is_whole = altered[..] == sealed;
        assert_eq!(opener.open(&altered), is_whole.then_some((said, true)));
        // Whatever came before, the real one counts once.
        assert_eq!(opener.open(&sealed), (!is_whole).then_some((said, true)));
        assert_eq!(opener.open(&sealed), None);
    }
    let mut random = [0; HEARTBEAT_LEN];
    random.iter_mut().for_each(|byte| *byte = input.u8());
    // The keys are always the same here, so that a fuzzer may learn a real one; it counts once.
    opener.open(&random);
    assert_eq!(opener.open(&random), None);
}

fn ways(input: &mut Input<'_>) {
    let mut now = Instant::now();
    let mut health = Health::new(now);
    health.set_ways(0..usize::from(input.u8() % 4), now);
    let mut sent = Vec::new();
    while !input.is_empty() {
        match input.u8() % 5 {
            0 => health.handle_traffic(now),
            1 => {
                let way = input.u8() % 5;
                health.handle_answer(Heartbeat { way, sequence: input.u32(), live: 0 }, now);
            }
            2 => {
                let place = usize::from(input.u8());
                if let Some(heartbeat) = sent.get(sent.len().saturating_sub(1 + place)) {
                    health.handle_answer(*heartbeat, now);
                }
            }
            3 => health.handle_connected(usize::from(input.u8() % 5), now),
            _ => now += Duration::from_millis(u64::from(input.u8())),
        }
        for action in health.poll(now, |_| None) {
            if let Action::Send(heartbeat) = action {
                sent.push(heartbeat);
            }
        }
        assert!(health.wake() > now, "it would spin");
    }
}
