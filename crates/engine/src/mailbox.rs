//! What has come for a flow on a shared carrier, and what it may still send: the meeting place of the
//! carrier's task and the flow's.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use braid_core::credit::{FIRST_CREDIT, ReceiveCredit, SendCredit};
use braid_core::flow::{Final, Incoming as Order};
use braid_core::record::{MAX_PAYLOAD, RecordType, parse_credit};
use portable_atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Bytes that the windows of a peer's flows may hold beyond what each has at first, in all.
#[derive(Debug)]
pub(crate) struct Budget(AtomicUsize);

/// One flow's mailbox.
#[derive(Debug)]
pub(crate) struct Mail {
    state: Mutex<MailState>,
    arrived: Notify,
    credited: Notify,
    doomed: Notify,
}

#[derive(Debug)]
struct MailState {
    records: VecDeque<(RecordType, Vec<u8>)>,
    order: Order,
    receive: ReceiveCredit,
    send: SendCredit,
    /// A final record has come.
    ended: bool,
    lost: bool,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Mail {
    /// An empty one; `order` says what may come first.
    pub(crate) fn new(order: Order) -> Self {
        let state = MailState {
            records: VecDeque::new(),
            order,
            receive: ReceiveCredit::default(),
            send: SendCredit::default(),
            ended: false,
            lost: false,
        };
        let (arrived, credited, doomed) = (Notify::new(), Notify::new(), Notify::new());
        Self { state: Mutex::new(state), arrived, credited, doomed }
    }

    /// Puts a record in.
    ///
    /// # Errors
    /// When the other box sends what it may not.
    pub(crate) fn deliver(&self, kind: RecordType, payload: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if !state.order.take(kind) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record out of order"));
        }
        if kind == RecordType::Credit {
            let bytes = parse_credit(payload).ok_or(io::ErrorKind::InvalidData)?;
            state.send.add(bytes).map_err(io::Error::other)?;
            drop(state);
            self.credited.notify_one();
            return Ok(());
        }
        if kind == RecordType::Data {
            state.receive.arrived(payload.len()).map_err(io::Error::other)?;
        }
        state.ended |= Final::of(kind).is_some();
        state.put(kind, payload);
        drop(state);
        self.arrived.notify_one();
        if matches!(kind, RecordType::Reset | RecordType::Failed) {
            // It may stand behind data that the local end does not take up.
            self.doomed.notify_one();
        }
        Ok(())
    }

    /// Whether a final record of the other side's has come.
    pub(crate) fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// The carrier has ended.
    pub(crate) fn lose(&self) {
        self.state().lost = true;
        self.arrived.notify_one();
        self.credited.notify_one();
        self.doomed.notify_one();
    }

    /// Ready when the carrier has ended, or the other box has reset the flow.
    pub(crate) async fn doomed(&self) {
        self.doomed.notified().await;
    }

    /// The next record, waiting for it; an error when the carrier has ended. Cancelling it loses
    /// nothing.
    pub(crate) async fn next(&self) -> io::Result<(RecordType, Vec<u8>)> {
        loop {
            {
                let mut state = self.state();
                if let Some(record) = state.records.pop_front() {
                    return Ok(record);
                }
                if state.lost {
                    return Err(lost());
                }
            }
            self.arrived.notified().await;
        }
    }

    /// How many bytes may be sent, `most` at most; waits for credit.
    pub(crate) async fn room(&self, most: usize) -> io::Result<usize> {
        loop {
            {
                let state = self.state();
                if state.lost {
                    return Err(lost());
                }
                let available = state.send.available();
                if available > 0 {
                    return Ok(available.min(most));
                }
            }
            self.credited.notified().await;
        }
    }

    /// So many bytes are sent.
    pub(crate) fn spend(&self, bytes: usize) {
        self.state().send.spend(bytes);
    }

    /// So many bytes have been passed on: what credit to give, if any.
    pub(crate) fn passed(&self, bytes: usize, budget: &Budget) -> Option<u32> {
        let receive = &mut self.state().receive;
        let before = receive.window();
        let may_grow = budget.take(before);
        let credit = receive.consumed(bytes, may_grow);
        if may_grow && receive.window() == before {
            budget.give_back(before);
        }
        credit
    }

    /// Gives back what the window has grown by; the flow is gone.
    pub(crate) fn leave(&self, budget: &Budget) {
        budget.give_back(self.state().receive.window() - FIRST_CREDIT);
    }

    fn state(&self) -> MutexGuard<'_, MailState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MailState {
    /// Small records are put together: what is held costs little more than its bytes.
    fn put(&mut self, kind: RecordType, payload: &[u8]) {
        match self.records.back_mut() {
            Some((RecordType::Data, held))
                if kind == RecordType::Data && held.len() + payload.len() <= MAX_PAYLOAD =>
            {
                held.extend_from_slice(payload);
            }
            _ => self.records.push_back((kind, payload.to_vec())),
        }
    }
}

/// What a flow is told when its carrier has ended.
pub(crate) fn lost() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}
