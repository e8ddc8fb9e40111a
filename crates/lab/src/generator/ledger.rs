//! Where the server files what it saw of each flow, for the client's side to take.
//!
//! Client and server are threads of one process, in two namespaces: nothing of the judgement crosses
//! the network that is being judged.

use super::endpoint::Outcome;
use portable_atomic::AtomicU64;
use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Instant,
};

/// The server's account of its flows; clones share it.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Shared>);

#[derive(Default)]
struct Shared {
    entries: Mutex<HashMap<u64, Entry>>,
    changed: Condvar,
}

#[derive(Default)]
struct Entry {
    progress: Arc<AtomicU64>,
    outcome: Option<Outcome>,
}

/// A name for a flow that no other flow of this process has.
pub(super) fn flow_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Ledger {
    /// Opens `flow` and returns its count of bytes arrived; flow 0 is counted but not filed.
    pub(super) fn open(&self, flow: u64) -> Arc<AtomicU64> {
        if flow == 0 {
            return Arc::default();
        }
        let progress = Arc::clone(&self.entries().entry(flow).or_default().progress);
        self.0.changed.notify_all();
        progress
    }

    /// Files how `flow` ended.
    pub(super) fn close(&self, flow: u64, outcome: Outcome) {
        if let Some(entry) = self.entries().get_mut(&flow) {
            entry.outcome = Some(outcome);
        }
        self.0.changed.notify_all();
    }

    /// Waits for the server to have `flow`; its count of bytes arrived, or `None` after `until`.
    pub(super) fn progress(&self, flow: u64, until: Instant) -> Option<Arc<AtomicU64>> {
        self.wait(until, |entries| entries.get(&flow).map(|entry| Arc::clone(&entry.progress)))
    }

    /// Waits for the outcome of `flow` and takes it, or forgets the flow after `until`.
    pub(super) fn take(&self, flow: u64, until: Instant) -> Option<Outcome> {
        let outcome = self.wait(until, |entries| entries.get_mut(&flow)?.outcome.take());
        self.entries().remove(&flow);
        outcome
    }

    fn wait<T>(
        &self,
        until: Instant,
        mut find: impl FnMut(&mut HashMap<u64, Entry>) -> Option<T>,
    ) -> Option<T> {
        let mut entries = self.entries();
        loop {
            if let Some(found) = find(&mut entries) {
                return Some(found);
            }
            let left = until.checked_duration_since(Instant::now())?;
            let waited = self.0.changed.wait_timeout(entries, left);
            entries = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        // Each change is one step, so a panic elsewhere leaves nothing half done.
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
