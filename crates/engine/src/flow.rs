//! Moves one flow's bytes between a local connection and its carrier, until both directions have
//! ended or one end resets it.
//!
//! What an ending means is `core::relay`'s. Back-pressure is the kernel's: a direction reads only
//! what it has written on, so a flow holds at most one buffer a direction.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use braid_core::opening::Failure;
use braid_core::record::{
    self, FlowNumber, HEADER_LEN, MAX_PAYLOAD, MAX_RECORD, Record, RecordError, RecordType,
};
use braid_core::relay::{Action, Ending, Event, Relay};
use braid_sys::mptcp::{end_on_close, reset_on_close};
use braid_sys::tproxy::shut_sending;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tracing::debug;

use crate::buffer::{BUFFER_LEN, Buffer};
use crate::carrier::Carrier;

/// Payload of a flow's first records, bytes: one segment, so that the first byte is not kept back
/// for the last of a long record.
const FIRST_PAYLOAD: usize = 1400;

/// How long a reset may wait behind data that is on its way before it overtakes it.
const RESET_GRACE: Duration = Duration::from_secs(1);

/// How long the far box may take to read the end of a drained flow: its host may read slowly.
const DRAIN_LIMIT: Duration = Duration::from_secs(3600);

const _: () = assert!(BUFFER_LEN > MAX_RECORD);

/// Bytes read from a carrier and not handled yet.
#[derive(Debug, Default)]
pub struct Incoming {
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
}

/// Why no record came from a carrier.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// The carrier ended or failed.
    #[error("the carrier ended: {0}")]
    Lost(#[from] io::Error),
    /// What came is no record.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Incoming {
    /// The next record, waiting for it if need be.
    ///
    /// # Errors
    /// When the carrier ends first, or sends what is no record.
    pub async fn next(&mut self, stream: &TcpStream) -> Result<Record<'_>, IncomingError> {
        let used = loop {
            if let Some((_, used)) = record::parse(self.bytes())? {
                break used;
            }
            self.fill(stream).await?;
        };
        let start = self.start;
        self.start += used;
        let bytes = self.buffer.as_deref().unwrap_or_default();
        match record::parse(&bytes[start..start + used])? {
            Some((record, _)) => Ok(record),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.as_deref().map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    async fn fill(&mut self, stream: &TcpStream) -> io::Result<()> {
        if self.start == self.end {
            // Nothing is kept for a flow that rests.
            self.buffer = None;
        }
        loop {
            stream.readable().await?;
            let buffer = self.buffer.get_or_insert_with(|| {
                (self.start, self.end) = (0, 0);
                Buffer::take()
            });
            if self.start > 0 {
                buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            match stream.try_read(&mut buffer[self.end..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Carries a flow whose opening is done until it has ended.
///
/// `local` is to be one whose close is a reset (`reset_on_close`): so it ends whatever happens to
/// this task or process, until both directions have ended in order.
pub async fn carry(
    local: TcpStream,
    carrier: Carrier,
    number: FlowNumber,
    incoming: Incoming,
) -> Ending {
    let flow = Flow {
        local,
        carrier,
        number,
        relay: Mutex::new(Relay::default()),
        between_records: AtomicBool::new(true),
        fin_sent: Notify::new(),
    };
    let outcome = tokio::select! {
        outcome = async { tokio::try_join!(flow.up(), flow.down(incoming)) } => outcome.err(),
        Abort(action) = flow.local_fault() => Some(Abort(action)),
        Abort(action) = flow.carrier_fault() => Some(Abort(action)),
    };
    match outcome {
        None => {
            flow.close_in_order().await;
            return Ending::Drained;
        }
        // The local connection is reset as it is dropped.
        Some(Abort(Action::ResetLocal)) => {}
        Some(Abort(_)) => flow.reset_carrier().await,
    }
    Ending::Reset
}

/// The flow ends here and now; what is left to be done.
struct Abort(Action);

struct Flow {
    local: TcpStream,
    carrier: Carrier,
    number: FlowNumber,
    relay: Mutex<Relay>,
    /// Whether the last record sent is whole, so that another may follow it.
    between_records: AtomicBool,
    fin_sent: Notify,
}

impl Flow {
    /// From the local connection to the carrier.
    async fn up(&self) -> Result<(), Abort> {
        let event = self.local_to_carrier().await;
        if self.handle(event)? == Some(Action::SendFin) {
            let fin = record::header(RecordType::Fin, self.number, 0);
            if self.send(&fin).await.is_err() {
                self.handle(Event::CarrierLost)?;
            }
            self.fin_sent.notify_one();
        }
        Ok(())
    }

    /// From the carrier to the local connection.
    async fn down(&self, mut incoming: Incoming) -> Result<(), Abort> {
        let event = self.carrier_to_local(&mut incoming).await;
        if self.handle(event)? == Some(Action::ShutLocal) && shut_sending(&self.local).is_err() {
            self.handle(Event::LocalReset)?;
        }
        self.watch_until_fin_is_sent(&mut incoming).await
    }

    /// The far end has nothing more to send, but it may still reset the flow, or go.
    async fn watch_until_fin_is_sent(&self, incoming: &mut Incoming) -> Result<(), Abort> {
        let event = tokio::select! {
            () = self.fin_sent.notified() => return Ok(()),
            next = incoming.next(&self.carrier.stream) => match next {
                Ok(record) if record.kind == RecordType::Reset => Event::CarrierReset,
                _ => Event::CarrierLost,
            },
        };
        self.handle(event).map(|_| ())
    }

    fn handle(&self, event: Event) -> Result<Option<Action>, Abort> {
        let action = self.relay.lock().unwrap_or_else(PoisonError::into_inner).handle(event);
        match action {
            Some(action @ (Action::SendReset | Action::ResetLocal)) => Err(Abort(action)),
            other => Ok(other),
        }
    }

    async fn local_to_carrier(&self) -> Event {
        let mut most = FIRST_PAYLOAD;
        loop {
            if self.local.readable().await.is_err() {
                return Event::LocalReset;
            }
            let mut buffer = Buffer::take();
            let count = match self.local.try_read(&mut buffer[HEADER_LEN..HEADER_LEN + most]) {
                Ok(0) => return Event::LocalEnded,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return Event::LocalReset,
            };
            let header = record::header(RecordType::Data, self.number, count);
            buffer[..HEADER_LEN].copy_from_slice(&header);
            if self.send(&buffer[..HEADER_LEN + count]).await.is_err() {
                return Event::CarrierLost;
            }
            if count == most {
                most = (2 * most).min(MAX_PAYLOAD);
            }
        }
    }

    async fn carrier_to_local(&self, incoming: &mut Incoming) -> Event {
        loop {
            let record = match incoming.next(&self.carrier.stream).await {
                Ok(record) => record,
                Err(IncomingError::Lost(_)) => return Event::CarrierLost,
                Err(error @ IncomingError::Record(_)) => {
                    debug!(%error, "carrier dropped");
                    return Event::CarrierLost;
                }
            };
            if record.flow != self.number {
                debug!(flow = record.flow.0, "record of a flow that is not on this carrier");
                return Event::CarrierLost;
            }
            match record.kind {
                RecordType::Data => {
                    if write_all(&self.local, record.payload).await.is_err() {
                        return Event::LocalReset;
                    }
                }
                RecordType::Opened => {}
                RecordType::Fin => return Event::CarrierFin,
                RecordType::Reset => return Event::CarrierReset,
                RecordType::Failed => {
                    let reason = Failure::parse(record.payload);
                    debug!(reason = ?reason, "sink not reached");
                    return Event::CarrierReset;
                }
                RecordType::Open => return Event::CarrierLost,
            }
        }
    }

    async fn send(&self, record: &[u8]) -> io::Result<()> {
        self.between_records.store(false, Ordering::Relaxed);
        write_all(&self.carrier.stream, record).await?;
        self.between_records.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A reset of the local connection that neither direction meets: one has ended, the other is
    /// held up. What came before it may still be read and sent on, for a while.
    async fn local_fault(&self) -> Abort {
        fault(&self.local).await;
        tokio::time::sleep(RESET_GRACE).await;
        Abort(Action::SendReset)
    }

    async fn carrier_fault(&self) -> Abort {
        fault(&self.carrier.stream).await;
        tokio::time::sleep(RESET_GRACE).await;
        Abort(Action::ResetLocal)
    }

    /// Closes both connections of a drained flow. The carrier is closed only when the far box has
    /// read all of it: the kernel resets one that was closed with bytes unread after
    /// `net.mptcp.close_timeout` (60 s).
    async fn close_in_order(self) {
        let Self { local, carrier, .. } = self;
        let _ = end_on_close(&local);
        drop(local);
        if shut_sending(&carrier.stream).is_ok() {
            let _ = tokio::time::timeout(DRAIN_LIMIT, until_end(&carrier.stream)).await;
        }
    }

    /// Tells the far box of a reset: by a record behind the data that is on its way, and by
    /// closing the carrier hard once the far box has seen it or the time for that is over.
    async fn reset_carrier(&self) {
        let stream = &self.carrier.stream;
        let reset = record::header(RecordType::Reset, self.number, 0);
        let sent = self.between_records.load(Ordering::Relaxed)
            && stream.try_write(&reset).is_ok_and(|count| count == reset.len());
        if sent {
            linger(stream).await;
        } else {
            let _ = reset_on_close(stream);
        }
    }
}

/// Gives the far box a moment to read the last record and to close, then closes hard: an orderly
/// close with bytes unread would be a reset anyway, and overtake that record.
pub(crate) async fn linger(stream: &TcpStream) {
    let _ = tokio::time::timeout(RESET_GRACE, until_end(stream)).await;
    let _ = reset_on_close(stream);
}

/// Waits for an error on the socket: a reset, or the far end given up.
pub(crate) async fn fault(stream: &TcpStream) {
    while let Ok(ready) = stream.ready(Interest::ERROR).await {
        if ready.is_error() {
            return;
        }
    }
}

/// Reads and throws away until the far end closes.
async fn until_end(stream: &TcpStream) {
    while stream.readable().await.is_ok() {
        let mut buffer = Buffer::take();
        match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

pub(crate) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
