//! A session: the control connection to a peer, the messages on it, and what its secret gives.
//!
//! Which session is used when there are several is `peering`'s; what a peer asks for is done by
//! the one that runs the session.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use braid_core::addr::{HostAddr, SinkAddr};
use braid_core::carrier::NumberWindow;
use braid_core::control::{self, Bye, Hello, MAX_MESSAGE, Message, Protection, Terms, agree};
use braid_core::key::PublicKey;
use braid_core::keys::{
    CarrierNumber, Direction, SessionId, SessionSecret, TrafficSecret, split_export,
};
use portable_atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio_rustls::TlsStream;

use crate::ask::Asks;
use crate::pulse::Pulse;
use crate::steering::Registration;
use crate::tls::Secured;

mod beats;

use beats::Answering;

/// How long the peer may take to say `hello`.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// A side that has heard nothing for this long pings; after three times that it gives up.
const QUIET: Duration = Duration::from_secs(20);

/// How long a peer may take to answer when its session is in doubt.
const PROOF_LIMIT: Duration = Duration::from_secs(6);

/// How long a session is worked after `bye`.
const BYE_LIMIT: Duration = Duration::from_secs(1);

/// Messages that may wait for the connection. A peer that lets more pile up does not read.
const OUTBOX: usize = 16_384;

/// An authenticated association with a peer.
#[derive(Debug)]
pub struct Session {
    /// Its name on carriers' preambles.
    pub id: SessionId,
    /// What the two `hello`s have agreed.
    pub terms: Terms,
    /// Which box dialled it.
    pub dialler: PublicKey,
    /// Since when it is up.
    pub began: Instant,
    secret: SessionSecret,
    us: PublicKey,
    them: PublicKey,
    last_number: AtomicU32,
    used: Mutex<NumberWindow>,
    /// Somebody has what seals our heartbeats.
    asked: AtomicBool,
    answering: Mutex<Option<Answering>>,
    outbox: mpsc::Sender<Message>,
    /// Beaten by its carriers.
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) asks: Asks,
    /// Messages that have come.
    heard: AtomicUsize,
    /// `bye` was said.
    leaving: Notify,
    ended: watch::Sender<bool>,
}

/// The control connection, to be given to [`Session::run`].
#[derive(Debug)]
pub struct Wire {
    read: ReadHalf<TlsStream<TcpStream>>,
    write: WriteHalf<TlsStream<TcpStream>>,
    received: Vec<u8>,
    outbox: mpsc::Receiver<Message>,
    _place: Option<Registration>,
}

/// What a peer asks for.
#[derive(Clone, Copy, Debug)]
pub enum Request {
    /// Connect to this sink for this host.
    Connect {
        /// The question's number.
        number: u32,
        /// Where to.
        sink: SinkAddr,
        /// For whom.
        host: HostAddr,
    },
    /// It does not want the answer any more.
    Cancel(u32),
    /// Keep so many carriers on which it opens.
    Want {
        /// Single ones.
        single: u16,
        /// Shared ones.
        shared: u16,
    },
}

/// Why a session has ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection failed or was closed.
    #[error("the control connection ended: {0}")]
    Io(#[from] io::Error),
    /// Nothing came for too long.
    #[error("the peer is silent")]
    Silent,
    /// What came is no message.
    #[error(transparent)]
    Control(#[from] control::ControlError),
    /// The first message is another.
    #[error("the peer did not say `hello` first, or said it twice")]
    Hello,
    /// The peer has ended it.
    #[error("the peer has ended it: {0:?}")]
    Bye(Bye),
    /// We have ended it.
    #[error("ended here")]
    Ended,
}

impl Session {
    /// Exchanges `hello` on a connection whose ends have proved who they are.
    ///
    /// # Errors
    /// When the peer is late or says something else.
    pub(crate) async fn begin(
        secured: Secured,
        place: Option<Registration>,
        us: PublicKey,
        we_dialled: bool,
        hello: Hello,
        pulse: Arc<Pulse>,
    ) -> Result<(Arc<Self>, Wire), SessionError> {
        let (mut read, mut write) = tokio::io::split(secured.stream);
        let mut received = Vec::new();
        let exchange = async {
            write.write_all(&Message::Hello(hello).encode()).await?;
            write.flush().await?;
            next(&mut read, &mut received).await
        };
        let first = tokio::time::timeout(HELLO_LIMIT, exchange).await;
        let Message::Hello(theirs) = first.map_err(|_| SessionError::Silent)?? else {
            return Err(SessionError::Hello);
        };
        let (id, secret) = split_export(secured.export);
        let (sender, outbox) = mpsc::channel(OUTBOX);
        let session = Self {
            id,
            terms: agree(&hello, &theirs),
            dialler: if we_dialled { us } else { secured.peer },
            began: Instant::now(),
            secret,
            us,
            them: secured.peer,
            last_number: AtomicU32::new(0),
            used: Mutex::default(),
            asked: AtomicBool::new(false),
            answering: Mutex::default(),
            outbox: sender,
            pulse,
            asks: Asks::default(),
            heard: AtomicUsize::new(0),
            leaving: Notify::new(),
            ended: watch::Sender::new(false),
        };
        Ok((Arc::new(session), Wire { read, write, received, outbox, _place: place }))
    }

    /// Works the control connection until it ends; `on` is given what the peer asks for.
    pub async fn run(&self, wire: Wire, on: impl FnMut(Request) + Send) -> SessionError {
        let Wire { read, write, received, outbox, _place } = wire;
        let why = tokio::select! {
            why = self.read(read, received, on) => why,
            why = send(write, outbox) => why,
            () = self.ended() => SessionError::Ended,
            () = self.left() => SessionError::Ended,
        };
        self.end();
        self.asks.close();
        why
    }

    async fn read(
        &self,
        mut read: ReadHalf<TlsStream<TcpStream>>,
        mut received: Vec<u8>,
        mut on: impl FnMut(Request),
    ) -> SessionError {
        let mut quiet = 0;
        loop {
            let message = match tokio::time::timeout(QUIET, next(&mut read, &mut received)).await {
                Ok(Ok(message)) => message,
                Ok(Err(why)) => return why,
                Err(_) if quiet == 2 => return SessionError::Silent,
                Err(_) => {
                    quiet += 1;
                    self.post(Message::Ping([0; 8]));
                    continue;
                }
            };
            quiet = 0;
            self.heard.fetch_add(1, Ordering::Relaxed);
            match message {
                Message::Hello(_) => return SessionError::Hello,
                Message::Ping(bytes) => self.post(Message::Pong(bytes)),
                Message::Pong(_) => {}
                Message::Connect { number, sink, host } => {
                    on(Request::Connect { number, sink, host });
                }
                Message::Cancel { number } => on(Request::Cancel(number)),
                Message::Want { single, shared } => on(Request::Want { single, shared }),
                Message::Connected { number } => self.asks.answered(number, Ok(())),
                Message::Failed { number, failure } => self.asks.answered(number, Err(failure)),
                Message::Bye(reason) => return SessionError::Bye(reason),
            }
        }
    }

    /// Sends a message to the peer. A peer that reads nothing loses the session.
    pub fn post(&self, message: Message) {
        if self.outbox.try_send(message).is_err() {
            self.end();
        }
    }

    /// Tells the peer that the session is over, and why.
    pub fn bye(&self, reason: Bye) {
        self.post(Message::Bye(reason));
        self.leaving.notify_one();
    }

    /// Ready when `bye` was said a while ago: a peer that does not read must not keep a session.
    async fn left(&self) {
        self.leaving.notified().await;
        tokio::time::sleep(BYE_LIMIT).await;
    }

    /// Ends the session if the peer does not answer now.
    pub async fn prove_alive(&self) {
        let heard = self.heard.load(Ordering::Relaxed);
        self.post(Message::Ping([0; 8]));
        tokio::time::sleep(PROOF_LIMIT).await;
        if self.heard.load(Ordering::Relaxed) == heard {
            self.end();
        }
    }

    fn end(&self) {
        self.ended.send_replace(true);
    }

    /// Ready when the session has ended.
    pub async fn ended(&self) {
        // The sender is in `self`: it cannot be gone.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// The number of the next carrier that we dial.
    ///
    /// # Errors
    /// When all have been used.
    pub fn next_number(&self) -> io::Result<CarrierNumber> {
        let next = self.last_number.fetch_add(1, Ordering::Relaxed).checked_add(1);
        next.map(CarrierNumber).ok_or_else(|| {
            self.end();
            io::Error::other("carrier numbers are used up")
        })
    }

    /// Whether the peer has not used this number yet.
    #[must_use]
    pub fn is_fresh(&self, number: CarrierNumber) -> bool {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).is_fresh(number)
    }

    /// Uses a number of the peer's up; false when it is used already.
    #[must_use]
    pub fn use_number(&self, number: CarrierNumber) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = used.is_fresh(number);
        used.mark(number);
        fresh
    }

    /// Whether payloads go in clear.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.terms.protection == Protection::None
    }

    /// The secret of one direction of a carrier.
    #[must_use]
    pub fn traffic(
        &self,
        we_dial: bool,
        number: CarrierNumber,
        direction: Direction,
    ) -> TrafficSecret {
        let dialler = if we_dial { &self.us } else { &self.them };
        self.secret.traffic(dialler, number, direction)
    }
}

/// The next message; unknown ones that may be skipped are. Cancelling it loses nothing.
async fn next(
    read: &mut (impl AsyncRead + Unpin),
    received: &mut Vec<u8>,
) -> Result<Message, SessionError> {
    loop {
        while let Some((message, used)) = Message::parse(received)? {
            received.drain(..used);
            if let Some(message) = message {
                return Ok(message);
            }
        }
        received.reserve(MAX_MESSAGE);
        if read.read_buf(received).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

async fn send(
    mut write: WriteHalf<TlsStream<TcpStream>>,
    mut outbox: mpsc::Receiver<Message>,
) -> SessionError {
    while let Some(message) = outbox.recv().await {
        let mut bytes = message.encode();
        let mut last = matches!(message, Message::Bye(_));
        // What waits goes out as one TLS record.
        while let Ok(message) = outbox.try_recv() {
            bytes.extend_from_slice(&message.encode());
            last |= matches!(message, Message::Bye(_));
            if bytes.len() > MAX_MESSAGE {
                break;
            }
        }
        let written = async {
            write.write_all(&bytes).await?;
            write.flush().await?;
            if last { write.shutdown().await } else { Ok(()) }
        };
        if let Err(error) = written.await {
            return error.into();
        }
        if last {
            // Until the peer has read it, or for a while: closing with bytes unread is a reset.
            return std::future::pending().await;
        }
    }
    SessionError::Ended
}
