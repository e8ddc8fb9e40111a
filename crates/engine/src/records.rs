//! Reading and writing sealed records on a connection.
//!
//! Keys and nonces are `core::seal`'s; which record may come when is the seat's.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use braid_core::record::{FlowNumber, MAX_RECORD, RecordError, RecordType};
use braid_core::seal::{Opener, Sealer};
use tokio::net::TcpStream;

use crate::buffer::{BUFFER_LEN, Buffer};
use crate::pulse::Pulse;

const _: () = assert!(BUFFER_LEN > MAX_RECORD);

/// Seals what is sent, and knows whether the last record went out whole.
pub struct Outgoing {
    pub(crate) sealer: Sealer,
    pulse: Arc<Pulse>,
    clear: bool,
    whole: bool,
}

/// Bytes read from a carrier and not handled yet, and the key to them.
pub struct Incoming {
    pub(crate) opener: Opener,
    pulse: Arc<Pulse>,
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
}

/// A record that came; its payload is read by [`Incoming::bytes`] until the next one is asked for.
#[derive(Clone, Debug)]
pub struct Came {
    /// What it is for.
    pub kind: RecordType,
    /// The flow it belongs to.
    pub flow: FlowNumber,
    payload: Range<usize>,
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

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("whole", &self.whole).finish_non_exhaustive()
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("held", &(self.end - self.start)).finish_non_exhaustive()
    }
}

impl Outgoing {
    /// What is sealed by `sealer`, `data` in `clear` or not, and felt on `pulse`.
    pub(crate) fn new(sealer: Sealer, clear: bool, pulse: Arc<Pulse>) -> Self {
        Self { sealer, pulse, clear, whole: true }
    }

    /// Whether the last record went out whole.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// Sends a record whose payload of `length` bytes lies in `buffer` behind room for its header.
    ///
    /// # Errors
    /// From the connection.
    pub async fn send_data(
        &mut self,
        stream: &TcpStream,
        flow: FlowNumber,
        buffer: &mut [u8],
        length: usize,
    ) -> io::Result<()> {
        let now = Instant::now();
        self.pulse.beat();
        self.whole = false;
        if let Some(rekey) = self.sealer.rekey_if_due(now) {
            write_all(stream, &rekey).await?;
        }
        let record = if self.clear {
            Sealer::clear(flow, buffer, length)
        } else {
            self.sealer.seal(now, RecordType::Data, flow, buffer, length)
        };
        write_all(stream, &buffer[record]).await?;
        self.whole = true;
        Ok(())
    }

    /// Sends a small record.
    ///
    /// # Errors
    /// From the connection.
    pub async fn send(
        &mut self,
        stream: &TcpStream,
        kind: RecordType,
        flow: FlowNumber,
        payload: &[u8],
    ) -> io::Result<()> {
        self.whole = false;
        write_all(stream, &self.sealer.record(Instant::now(), kind, flow, payload)).await?;
        self.whole = true;
        Ok(())
    }

    /// Sends a small record if the last one went out whole and there is room for this one; else
    /// the carrier can only be closed hard.
    pub fn try_send(
        &mut self,
        stream: &TcpStream,
        kind: RecordType,
        flow: FlowNumber,
        payload: &[u8],
    ) -> bool {
        if !self.whole {
            return false;
        }
        let record = self.sealer.record(Instant::now(), kind, flow, payload);
        self.whole = stream.try_write(&record).is_ok_and(|count| count == record.len());
        self.whole
    }
}

impl Incoming {
    /// What `opener` opens; felt on `pulse`.
    pub(crate) fn new(opener: Opener, pulse: Arc<Pulse>) -> Self {
        Self { opener, pulse, buffer: None, start: 0, end: 0 }
    }

    /// The next record, waiting for it if need be. Cancelling it loses nothing.
    ///
    /// # Errors
    /// When the carrier ends first, or sends what is no record.
    pub async fn next(&mut self, stream: &TcpStream) -> Result<Came, IncomingError> {
        // Records that are always there must not keep the thread from all others.
        tokio::task::coop::consume_budget().await;
        loop {
            if let Some(came) = self.take()? {
                return Ok(came);
            }
            if self.start == self.end {
                // Nothing is kept while a carrier rests.
                self.buffer = None;
            }
            stream.readable().await?;
            tokio::task::coop::consume_budget().await;
            self.fill(stream)?;
        }
    }

    /// The next record that is there already.
    ///
    /// # Errors
    /// As [`Incoming::next`].
    pub fn try_next(&mut self, stream: &TcpStream) -> Result<Option<Came>, IncomingError> {
        if let Some(came) = self.take()? {
            return Ok(Some(came));
        }
        self.fill(stream)?;
        let came = self.take()?;
        if came.is_none() && self.start == self.end {
            self.buffer = None;
        }
        Ok(came)
    }

    /// The payload of the record that came last.
    #[must_use]
    pub fn bytes(&self, came: &Came) -> &[u8] {
        self.buffer.as_deref().and_then(|all| all.get(came.payload.clone())).unwrap_or_default()
    }

    /// The next record in the buffer; `rekey` is seen to here.
    fn take(&mut self) -> Result<Option<Came>, RecordError> {
        let Some(buffer) = &mut self.buffer else { return Ok(None) };
        while let Some(opened) = self.opener.open(&mut buffer[self.start..self.end])? {
            let payload = self.start + opened.payload.start..self.start + opened.payload.end;
            self.start += opened.used;
            if opened.kind == RecordType::Data {
                self.pulse.beat();
            }
            if opened.kind != RecordType::Rekey {
                return Ok(Some(Came { kind: opened.kind, flow: opened.flow, payload }));
            }
        }
        Ok(None)
    }

    fn fill(&mut self, stream: &TcpStream) -> io::Result<()> {
        let fresh = self.buffer.is_none();
        let buffer = self.buffer.get_or_insert_with(Buffer::take);
        if fresh {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match stream.try_read(&mut buffer[self.end..]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.end += count;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Writes all of `bytes`.
///
/// # Errors
/// From the connection.
pub(crate) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        tokio::task::coop::consume_budget().await;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
