//! The sessions of a box by their names: a carrier's preamble names its session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use braid_core::control::Bye;
use braid_core::keys::SessionId;

use crate::peering::Peering;
use crate::session::Session;

/// How long a box that stops waits until its peers are told.
const GOODBYE: Duration = Duration::from_millis(200);

/// The sessions of a box by their names: carriers name theirs.
#[derive(Debug, Default)]
pub struct Directory {
    sessions: Mutex<Sessions>,
}

type Sessions = HashMap<SessionId, (Arc<Peering>, Arc<Session>)>;

impl Directory {
    /// The session of this name, and whose it is.
    #[must_use]
    pub fn find(&self, id: SessionId) -> Option<(Arc<Peering>, Arc<Session>)> {
        self.sessions().get(&id).cloned()
    }

    /// Tells every peer that this box stops, and gives that a moment to leave.
    pub async fn say_goodbye(&self) {
        let sessions: Vec<_> = self.sessions().values().map(|(_, s)| Arc::clone(s)).collect();
        for session in &sessions {
            session.bye(Bye::Stopping);
        }
        let ended = futures_util::future::join_all(sessions.iter().map(|s| s.ended()));
        let _ = tokio::time::timeout(GOODBYE, ended).await;
    }

    /// Makes a session known; of a peer that makes too many the oldest ends.
    pub(crate) fn add(&self, peering: &Arc<Peering>, session: &Arc<Session>) {
        let mut sessions = self.sessions();
        // One may be in use and one being replaced: a peer that makes more loses the oldest.
        let of_peer = sessions.values().filter(|(of, _)| Arc::ptr_eq(of, peering));
        let mut of_peer: Vec<_> = of_peer.map(|(_, session)| Arc::clone(session)).collect();
        of_peer.sort_by_key(|session| session.began);
        for old in of_peer.iter().rev().skip(1) {
            old.bye(Bye::Limit);
        }
        sessions.insert(session.id, (Arc::clone(peering), Arc::clone(session)));
    }

    /// Forgets a session that has ended.
    pub(crate) fn remove(&self, id: SessionId) {
        self.sessions().remove(&id);
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
