//! Keeps a session up with a peer that can be dialled: dials it, renews it in time, and pauses between
//! attempts that fail.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use braid_core::backoff::Backoff;
use braid_core::keys::SessionId;
use tracing::{debug, warn};

use super::Peering;
use crate::dial::{Dialler, random};
use crate::session::{Session, SessionError};
use crate::tls::TlsError;

/// A session is replaced after this long, less a random tenth.
const RENEW: Duration = Duration::from_secs(3600);

/// A session that ends sooner has failed, and the next one waits.
const STEADY: Duration = Duration::from_secs(10);

/// How long the peer may take for the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("no way answers: {0}")]
    Dial(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("another session stands")]
    Duplicate,
}

impl DialError {
    /// The acceptor judges our key after our handshake is done: its refusal comes with `hello`.
    fn not_begun(error: SessionError) -> Self {
        match error {
            SessionError::Io(error) => match TlsError::from(error) {
                TlsError::Io(error) => SessionError::Io(error).into(),
                refused => refused.into(),
            },
            other => other.into(),
        }
    }
}

impl Peering {
    /// Keeps a session up, for as long as the box runs: for a peer that can be dialled.
    pub async fn keep_session(self: Arc<Self>, dialler: Arc<Dialler>) {
        let (mut backoff, mut current) = (Backoff::default(), self.current.subscribe());
        loop {
            let standing = current.borrow_and_update().clone();
            if let Some(session) = standing {
                self.renew_until_it_ends(&session, &dialler).await;
                if self.session().is_some_and(|other| other.id != session.id) {
                    continue;
                }
                if session.began.elapsed() >= STEADY {
                    backoff.reset();
                } else {
                    self.pause(&mut backoff, Some(session.id), &dialler).await;
                    continue;
                }
            }
            match self.dial(&dialler).await {
                Ok(()) => {}
                Err(DialError::Duplicate) => self.pause(&mut backoff, None, &dialler).await,
                Err(error) => {
                    self.report(&error);
                    dialler.use_next_ways();
                    self.pause(&mut backoff, None, &dialler).await;
                }
            }
        }
    }

    /// Ready when the session has ended or been replaced; makes the one that replaces it when it is
    /// time, unless the peer has dialled it.
    async fn renew_until_it_ends(self: &Arc<Self>, session: &Session, dialler: &Dialler) {
        let (mut backoff, mut current) = (Backoff::default(), self.current.subscribe());
        let mut renew = session.began + RENEW - RENEW.mul_f64(random() / 10.0);
        let gone = async {
            let is_other = |now: &Option<Arc<Session>>| {
                now.as_ref().is_none_or(|other| other.id != session.id)
            };
            drop(current.wait_for(is_other).await);
        };
        tokio::pin!(gone);
        loop {
            tokio::select! {
                () = &mut gone => return,
                () = session.ended() => return,
                () = tokio::time::sleep_until(renew.into()), if session.dialler == self.identity => {
                    if let Err(error) = self.dial(dialler).await {
                        self.report(&error);
                    }
                    renew = Instant::now() + backoff.scattered(random());
                }
            }
        }
    }

    /// Waits before the next dial, or until there is another session than the one by this name, or
    /// other ways.
    async fn pause(&self, backoff: &mut Backoff, last: Option<SessionId>, dialler: &Dialler) {
        let mut current = self.current.subscribe();
        let other = async {
            let is_other =
                |now: &Option<Arc<Session>>| now.as_ref().is_some_and(|now| Some(now.id) != last);
            drop(current.wait_for(is_other).await);
        };
        tokio::select! {
            () = other => {}
            () = dialler.ways_change() => backoff.reset(),
            () = tokio::time::sleep(backoff.scattered(random())) => {}
        }
    }

    async fn dial(self: &Arc<Self>, dialler: &Dialler) -> Result<(), DialError> {
        let dialled = dialler.dial().await?;
        let secured = self.tls.dial(dialled.stream, &self.peer.public_key);
        let secured = tokio::time::timeout(HANDSHAKE_LIMIT, secured).await;
        let secured = secured.map_err(|_| SessionError::Silent)??;
        let pulse = Arc::clone(&self.pulse);
        let begun = Session::begin(secured, dialled.place, self.identity, true, self.hello, pulse);
        let (session, wire) = begun.await.map_err(DialError::not_begun)?;
        if self.adopt(session, wire) { Ok(()) } else { Err(DialError::Duplicate) }
    }

    fn report(&self, error: &DialError) {
        let name = &self.peer.name;
        debug!(peer = name, "no session: {error}");
        if let Some(held) = self.trouble.admit(Instant::now()) {
            warn!(peer = name, held, "no session: {error}");
        }
    }
}
