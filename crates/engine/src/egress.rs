//! The egress: serves the flows that a peer opens on a carrier, and the connections that it asks
//! for on the control connection.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use braid_core::addr::{HostAddr, SinkAddr};
use braid_core::bounded::Bounded;
use braid_core::control::Message;
use braid_core::keys::SessionId;
use braid_core::opening::{Failure, Open};
use braid_core::policy::Source;
use braid_core::record::{FlowNumber, RecordType};
use braid_sys::mptcp::reset_on_close;
use braid_sys::tproxy;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::AbortHandle;
use tracing::{debug, warn};

use crate::carrier::Carrier;
use crate::flow::{self, Outcome};
use crate::peering::Peering;
use crate::session::Session;
use crate::shared::Slot;

/// Connections asked for and not fetched by a flow, of one peer. One more ends the oldest: that
/// waits for a sink which does not answer, while those that do are answered and fetched at once.
const UNFETCHED: usize = 4096;

/// A connection that stands and is not fetched for this long is closed.
const FETCH_LIMIT: Duration = Duration::from_secs(10);

/// Connections that the peer has asked for and no flow has fetched yet, by the question's number.
#[derive(Debug)]
pub(crate) struct Connects {
    questions: Mutex<Bounded<u32, Question>>,
}

#[derive(Debug)]
struct Question {
    session: Arc<Session>,
    task: AbortHandle,
    sink: SinkAddr,
    host: HostAddr,
    connection: Option<TcpStream>,
}

impl Default for Connects {
    fn default() -> Self {
        Self { questions: Mutex::new(Bounded::new(UNFETCHED)) }
    }
}

impl Connects {
    /// Ends what was asked in a session.
    pub(crate) fn end(&self, session: SessionId) {
        for question in self.questions().take_if(|question| question.session.id == session) {
            question.task.abort();
        }
    }

    /// Takes a question back.
    pub(crate) fn cancel(&self, number: u32, session: SessionId) {
        let mut all = self.questions();
        if all.get(&number).is_some_and(|question| question.session.id == session)
            && let Some(question) = all.remove(&number)
        {
            question.task.abort();
        }
    }

    /// The connection by this number, if it is for what the flow wants.
    fn fetch(&self, open: &Open) -> Option<TcpStream> {
        let mut all = self.questions();
        let question = all.get(&open.connect)?;
        let is_for = (question.sink, question.host) == (open.sink, open.host);
        if !is_for || question.connection.is_none() {
            return None;
        }
        let question = all.remove(&open.connect)?;
        question.task.abort();
        question.connection
    }

    /// Keeps a connection that now stands; false if it is not wanted any more.
    fn keep(&self, number: u32, session: SessionId, connection: TcpStream) -> bool {
        match self.questions().get_mut(&number) {
            Some(question) if question.session.id == session => {
                question.connection = Some(connection);
                true
            }
            _ => false,
        }
    }

    fn questions(&self) -> MutexGuard<'_, Bounded<u32, Question>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers a `connect` of the peer, in a task of its own.
pub(crate) fn asked(
    peering: &Arc<Peering>,
    session: &Arc<Session>,
    number: u32,
    sink: SinkAddr,
    host: HostAddr,
) {
    // Locked until it is in, so that the answer finds it.
    let mut all = peering.connects.questions();
    let (of, within) = (Arc::clone(peering), Arc::clone(session));
    let task = peering.tasks.spawn(async move { answer(&of, &within, number, sink, host).await });
    let session = Arc::clone(session);
    let gone = all.insert(number, Question { session, task, sink, host, connection: None });
    drop(all);
    if let Some((oldest, question)) = gone {
        question.task.abort();
        if oldest != number {
            peering.bounds.connects.met();
            let failure = Failure::Resources;
            question.session.post(Message::Failed { number: oldest, failure });
        }
    }
}

async fn answer(peering: &Peering, session: &Session, number: u32, sink: SinkAddr, host: HostAddr) {
    match connect(peering, sink, host).await {
        Ok(connection) => {
            if peering.connects.keep(number, session.id, connection) {
                session.post(Message::Connected { number });
                tokio::time::sleep(FETCH_LIMIT).await;
            }
        }
        Err(failure) => {
            // Before the peer hears of it, and may use the number again.
            peering.connects.cancel(number, session.id);
            return session.post(Message::Failed { number, failure });
        }
    }
    peering.connects.cancel(number, session.id);
}

/// Serves the flows of a single carrier on which the peer opens, one after the other.
pub(crate) async fn serve(peering: Arc<Peering>, mut carrier: Carrier) {
    let mut retiring = false;
    loop {
        let (number, open) = match carrier.next_flow().await {
            Ok(begun) => begun,
            Err(error) => {
                debug!(peer = peering.peer.name, "carrier ended: {error}");
                return;
            }
        };
        let _busy = peering.serving.add();
        let connected = tokio::select! {
            connected = fetch_or_connect(&peering, &open) => connected,
            () = flow::fault(&carrier.stream) => return,
        };
        let clean = match connected {
            Ok((sink, _permit)) => {
                let Carrier { out, stream, .. } = &mut carrier;
                if out.send(stream, RecordType::Opened, number, &[]).await.is_err() {
                    return;
                }
                let (mut outlet, mut inlet, stream) = carrier.seat(number, None);
                let lost = flow::fault(stream);
                let outcome = flow::carry(sink, &mut outlet, &mut inlet, lost, &|_| {}).await;
                debug!(peer = peering.peer.name, ?outcome, "flow ended");
                outcome.clean
            }
            Err(failure) => {
                let (mut outlet, mut inlet, _) = carrier.seat(number, Some(failure));
                flow::refuse(&mut outlet, &mut inlet).await
            }
        };
        if !clean {
            return carrier.close_hard();
        }
        carrier.over();
        if !retiring && !carrier.is_sound() {
            retiring = true;
            let Carrier { out, stream, .. } = &mut carrier;
            if out.send(stream, RecordType::Retire, FlowNumber::NONE, &[]).await.is_err() {
                return;
            }
        }
    }
}

/// Serves one flow on a shared carrier.
pub(crate) async fn serve_slot(peering: Arc<Peering>, slot: Slot, open: Open) {
    let connected = tokio::select! {
        connected = fetch_or_connect(&peering, &open) => connected,
        () = slot.doomed() => return,
    };
    match connected {
        Ok((sink, _permit)) => {
            if slot.tell(RecordType::Opened, &[]).is_err() {
                return;
            }
            let (mut outlet, mut inlet) = slot.seat(None);
            let Outcome { ending, .. } =
                flow::carry(sink, &mut outlet, &mut inlet, slot.doomed(), &|_| {}).await;
            debug!(peer = peering.peer.name, ?ending, "flow ended");
        }
        Err(failure) => {
            let (mut outlet, mut inlet) = slot.seat(Some(failure));
            flow::refuse(&mut outlet, &mut inlet).await;
        }
    }
}

type Connected = (TcpStream, tokio::sync::OwnedSemaphorePermit);

async fn fetch_or_connect(peering: &Peering, open: &Open) -> Result<Connected, Failure> {
    let permit = Arc::clone(&peering.flows_in).try_acquire_owned().map_err(|_| {
        peering.bounds.flows.met();
        Failure::Resources
    })?;
    if open.connect != 0
        && let Some(connection) = peering.connects.fetch(open)
    {
        return Ok((connection, permit));
    }
    Ok((connect(peering, open.sink, open.host).await?, permit))
}

/// Connects to a sink, if the peer may reach it for this host. The connection is one whose close is
/// a reset.
async fn connect(peering: &Peering, sink: SinkAddr, host: HostAddr) -> Result<TcpStream, Failure> {
    let own = peering.rtnl.is_own(sink.0.ip()).await.map_err(|error| {
        warn!(%error, "cannot tell whether a sink is this box itself");
        Failure::Resources
    })?;
    let admitted = peering.peer.egress.admit(host, sink, own).map_err(|refusal| {
        debug!(peer = peering.peer.name, %sink, "refused: {refusal}");
        Failure::NotAllowed
    })?;
    let connected = match admitted {
        Source::Masquerade => connect_from(None, sink.0).await,
        Source::Preserve => match connect_from(Some(host.0), sink.0).await {
            // The same ports to the same sink are still in use by an older flow.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                let any_port = SocketAddr::new(host.0.ip(), 0);
                connect_from(Some(any_port), sink.0).await
            }
            other => other,
        },
    };
    connected.map_err(|error| {
        let failure = failure_of(&error);
        debug!(peer = peering.peer.name, %sink, %failure, "sink not reached");
        failure
    })
}

async fn connect_from(source: Option<SocketAddr>, sink: SocketAddr) -> io::Result<TcpStream> {
    let socket = match source {
        Some(source) => tproxy::dialling_from(source)?,
        None => tproxy::dialling(sink.is_ipv6())?,
    };
    let connected = TcpSocket::from_std_stream(socket).connect(sink).await?;
    reset_on_close(&connected)?;
    Ok(connected)
}

fn failure_of(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Failure::Refused,
        io::ErrorKind::HostUnreachable => Failure::HostUnreachable,
        io::ErrorKind::NetworkUnreachable => Failure::NetUnreachable,
        io::ErrorKind::PermissionDenied => Failure::Prohibited,
        io::ErrorKind::TimedOut => Failure::TimedOut,
        _ => Failure::Resources,
    }
}
