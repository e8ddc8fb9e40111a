//! Questions to a peer: whether it can connect to a sink.
//!
//! The peer's answer is `egress`'s work at the other box.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use braid_core::addr::{HostAddr, SinkAddr};
use braid_core::control::Message;
use braid_core::opening::Failure;
use tokio::sync::oneshot;

use crate::session::Session;

/// Questions that the peer has not answered; none once the session has ended.
#[derive(Debug)]
pub(crate) struct Asks(Mutex<Option<HashMap<u32, Answer>>>);

type Answer = oneshot::Sender<Result<(), Failure>>;

/// Why a question has no good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskError {
    /// The peer could not reach the sink.
    Failed(Failure),
    /// The session ended before the answer.
    Ended,
}

/// A question; taken back when it is dropped before its connection was fetched.
#[derive(Debug)]
pub struct Asked {
    /// The number by which a flow fetches the connection.
    pub number: u32,
    session: Arc<Session>,
    fetched: bool,
}

impl Session {
    /// Asks the peer to connect to a sink.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(
        self: &Arc<Self>,
        number: u32,
        sink: SinkAddr,
        host: HostAddr,
    ) -> Result<Asked, AskError> {
        let (sender, answer) = oneshot::channel();
        self.asks.lock().as_mut().ok_or(AskError::Ended)?.insert(number, sender);
        let asked = Asked { number, session: Arc::clone(self), fetched: false };
        self.post(Message::Connect { number, sink, host });
        match answer.await {
            Ok(Ok(())) => Ok(asked),
            Ok(Err(failure)) => {
                asked.fetched();
                Err(AskError::Failed(failure))
            }
            Err(_) => Err(AskError::Ended),
        }
    }
}

impl Default for Asks {
    fn default() -> Self {
        Self(Mutex::new(Some(HashMap::new())))
    }
}

impl Asks {
    /// The peer has answered.
    pub(crate) fn answered(&self, number: u32, answer: Result<(), Failure>) {
        if let Some(waiting) = self.take(number) {
            let _ = waiting.send(answer);
        }
    }

    /// The session has ended: nothing is answered any more.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    fn take(&self, number: u32) -> Option<Answer> {
        self.lock().as_mut()?.remove(&number)
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashMap<u32, Answer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    /// The connection was fetched, or there is none: nothing is to be taken back.
    pub fn fetched(mut self) {
        self.fetched = true;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.session.asks.take(self.number);
        if !self.fetched {
            self.session.post(Message::Cancel { number: self.number });
        }
    }
}
