//! A flow's seat on a single carrier: it has the carrier to itself, back-pressure is the kernel's.

use std::io;

use braid_core::carrier::{Turn, Turns};
use braid_core::flow::Final;
use braid_core::opening::{Failure, Open};
use braid_core::record::{FlowNumber, RecordType};
use braid_sys::mptcp::reset_on_close;
use tokio::net::TcpStream;
use tracing::debug;

use crate::buffer::Buffer;
use crate::carrier::Carrier;
use crate::flow::{Inlet, Item, Outlet};
use crate::records::{Came, Incoming, Outgoing};
use crate::steering::Registration;

/// The sending half of a seat.
pub(crate) struct SingleOutlet<'a> {
    stream: &'a TcpStream,
    out: &'a mut Outgoing,
    place: Option<&'a Registration>,
    flow: FlowNumber,
    /// Sent in place of `reset` when the sink was not reached.
    failure: Option<Failure>,
}

/// The receiving half of a seat.
pub(crate) struct SingleInlet<'a> {
    stream: &'a TcpStream,
    place: Option<&'a Registration>,
    incoming: &'a mut Incoming,
    turns: &'a mut Turns,
}

impl Carrier {
    /// Opens the next flow; the carrier's two halves as its seat.
    ///
    /// # Errors
    /// When the carrier is lost, or its numbers are used up.
    pub(crate) async fn open(&mut self, open: &Open) -> io::Result<FlowNumber> {
        let number = self.turns.open().ok_or_else(|| io::Error::other("not clean"))?;
        self.out.send(&self.stream, RecordType::Open, number, &open.encode()).await?;
        Ok(number)
    }

    /// The two halves of the seat of the flow that has begun, and the connection, to be watched.
    /// `failure` is what the other box is told if the flow cannot be opened.
    pub(crate) fn seat(
        &mut self,
        flow: FlowNumber,
        failure: Option<Failure>,
    ) -> (SingleOutlet<'_>, SingleInlet<'_>, &TcpStream) {
        let Self { stream, out, incoming, turns, place, .. } = self;
        let (stream, place): (&TcpStream, _) = (stream, place.as_ref());
        let outlet = SingleOutlet { stream, out, place, flow, failure };
        (outlet, SingleInlet { stream, place, incoming, turns }, stream)
    }

    /// The flow is over in order: the next may begin.
    pub(crate) fn over(&mut self) {
        self.turns.over();
        if let Some(place) = &self.place {
            place.rests();
        }
    }

    /// Waits for the next flow on a carrier on which the other box opens.
    ///
    /// # Errors
    /// When the carrier ends, or what comes is against the rules.
    pub(crate) async fn next_flow(&mut self) -> io::Result<(FlowNumber, Open)> {
        loop {
            let came = self.incoming.next(&self.stream).await.map_err(io::Error::other)?;
            if let Some(begun) = begins(&mut self.turns, &self.incoming, &came)? {
                return Ok(begun);
            }
        }
    }

    /// Whether a carrier that carries nothing can be used: it has not ended, and the other box
    /// does not want to be rid of it.
    pub(crate) fn is_usable(&mut self) -> bool {
        loop {
            match self.incoming.try_next(&self.stream) {
                Ok(None) => return self.turns.is_clean() && !self.turns.is_retired(),
                Ok(Some(came)) => match begins(&mut self.turns, &self.incoming, &came) {
                    Ok(None) => {}
                    _ => return false,
                },
                Err(_) => return false,
            }
        }
    }

    /// Closes it so that the other box sees at once what became of it.
    pub(crate) fn close_hard(self) {
        let _ = reset_on_close(&self.stream);
    }
}

/// What a record means on a carrier that carries nothing; `None` for one to be skipped.
fn begins(
    turns: &mut Turns,
    incoming: &Incoming,
    came: &Came,
) -> io::Result<Option<(FlowNumber, Open)>> {
    match turns.take(came.kind, came.flow).map_err(io::Error::other)? {
        Turn::Begin => {
            let open = Open::parse(incoming.bytes(came)).map_err(io::Error::other)?;
            Ok(Some((came.flow, open)))
        }
        Turn::Skip => Ok(None),
        Turn::Deliver => Err(io::Error::other("a record of no flow")),
    }
}

impl Outlet for SingleOutlet<'_> {
    async fn room(&mut self, most: usize) -> io::Result<usize> {
        Ok(most)
    }

    async fn data(&mut self, mut buffer: Buffer, length: usize) -> io::Result<()> {
        if let Some(place) = self.place {
            place.moved(length);
        }
        self.out.send_data(self.stream, self.flow, &mut buffer, length).await
    }

    async fn fin(&mut self) -> io::Result<()> {
        self.out.send(self.stream, RecordType::Fin, self.flow, &[]).await
    }

    fn reset(&mut self) -> bool {
        match self.failure {
            Some(failure) => {
                self.out.try_send(self.stream, RecordType::Failed, self.flow, &[failure as u8])
            }
            None => self.out.try_send(self.stream, RecordType::Reset, self.flow, &[]),
        }
    }

    fn is_whole(&self) -> bool {
        self.out.is_whole()
    }
}

impl Inlet for SingleInlet<'_> {
    async fn next(&mut self) -> io::Result<Item<'_>> {
        let came = loop {
            let came = self.incoming.next(self.stream).await.map_err(io::Error::other)?;
            match self.turns.take(came.kind, came.flow).map_err(io::Error::other)? {
                Turn::Deliver => break came,
                Turn::Skip => {}
                Turn::Begin => return Err(io::Error::other("a flow before the last was over")),
            }
        };
        item(came.kind, self.incoming.bytes(&came))
    }

    fn passed(&mut self, bytes: usize) -> io::Result<()> {
        if let Some(place) = self.place {
            place.moved(bytes);
        }
        Ok(())
    }
}

/// A record as the flow takes it.
pub(crate) fn item(kind: RecordType, payload: &[u8]) -> io::Result<Item<'_>> {
    Ok(match kind {
        RecordType::Data => Item::Data(payload),
        RecordType::Opened => Item::Opened,
        RecordType::Fin => Item::Final(Final::Fin),
        RecordType::Reset => Item::Final(Final::Reset),
        RecordType::Failed => Item::Failed(Failure::parse(payload).map_err(io::Error::other)?),
        other => {
            debug!(kind = ?other, "a record that no flow takes");
            return Err(io::ErrorKind::InvalidData.into());
        }
    })
}
