//! Whether bytes of flows move between this box and a peer: heartbeats are quick while they do.

use portable_atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Beaten by whoever moves bytes, felt by whoever watches the ways.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    moved: AtomicBool,
    first: Notify,
}

impl Pulse {
    /// Bytes move.
    pub(crate) fn beat(&self) {
        // Mostly it is set already, and reading costs least.
        if !self.moved.load(Ordering::Relaxed) && !self.moved.swap(true, Ordering::Relaxed) {
            self.first.notify_one();
        }
    }

    /// Whether any have since this was asked last.
    pub(crate) fn take(&self) -> bool {
        self.moved.swap(false, Ordering::Relaxed)
    }

    /// Ready when some have.
    pub(crate) async fn moved(&self) {
        self.first.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_beat_is_felt_once() {
        let pulse = Pulse::default();
        assert!(!pulse.take());
        pulse.beat();
        pulse.beat();
        pulse.moved().await;
        assert!(pulse.take() && !pulse.take());
    }
}
