//! All carriers between this box and a peer, for who looks at them: idle, busy and shared ones alike.
//!
//! It holds none of them: a carrier lives and closes with those who use it.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use braid_sys::mptcp::{self, SubflowInfo};
use tokio::net::TcpStream;

use crate::carrier::Carrier;

/// The carriers that live.
#[derive(Debug, Default)]
pub(crate) struct Census {
    members: Mutex<Vec<Member>>,
}

#[derive(Debug)]
struct Member {
    stream: Weak<TcpStream>,
    we_open: bool,
    shared: bool,
}

impl Census {
    /// Takes a carrier in, until it is gone.
    pub(crate) fn add(&self, carrier: &Carrier) {
        let stream = std::sync::Arc::downgrade(&carrier.stream);
        let (we_open, shared) = (carrier.we_open, carrier.kind.shared);
        self.members().push(Member { stream, we_open, shared });
    }

    /// The established subflows of each carrier.
    pub(crate) fn subflows(&self) -> Vec<Vec<SubflowInfo>> {
        let members = self.members();
        let streams = members.iter().filter_map(|member| member.stream.upgrade());
        let established = |stream: std::sync::Arc<TcpStream>| {
            let mut subflows = mptcp::subflows(&*stream).ok()?;
            subflows.retain(SubflowInfo::is_established);
            Some(subflows)
        };
        streams.filter_map(established).collect()
    }

    /// How many carriers there are on which the peer opens: single, shared.
    pub(crate) fn opened_by_peer(&self) -> [usize; 2] {
        let members = self.members();
        let count = |shared| {
            members.iter().filter(|member| !member.we_open && member.shared == shared).count()
        };
        [count(false), count(true)]
    }

    /// Those that live.
    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|member| member.stream.strong_count() > 0);
        members
    }
}
