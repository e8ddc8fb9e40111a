//! A carrier that several flows share: beyond the bound of carriers, and when a burst finds no
//! single carrier idle.
//!
//! One task reads and hands records to the flows' mailboxes, and writes what they send, in turn.
//! Credit keeps a flow whose reader stalls from stopping the others (PROTOCOL.md, "Credit").

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use braid_core::flow::{Final, Incoming as Order};
use braid_core::keys::SessionId;
use braid_core::opening::{Failure, Open};
use braid_core::record::{FlowNumber, RecordType};
use portable_atomic::{AtomicUsize, Ordering};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::debug;

use crate::buffer::Buffer;
use crate::carrier::Carrier;
use crate::flow::{Inlet, Item, Outlet};
use crate::mailbox::{Budget, Mail, lost};
use crate::records::{Incoming, Outgoing};
use crate::single::item;

/// Data records that may wait for the connection: enough to keep it busy, few enough that a small
/// flow's does not wait long.
const WAITING: usize = 4;

/// Other records that may wait for it. A peer that lets more pile up does not read.
const SMALL_WAITING: usize = 16_384;

/// Flows at a time; the other box may open so many, we open a quarter: what is over for the opener may
/// go on for a while at the other side.
const FLOWS: usize = 4096;

/// A shared carrier, for the flows on it.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The session whose secret its keys come from.
    pub(crate) session: SessionId,
    outbox: mpsc::UnboundedSender<Parcel>,
    room: Arc<Semaphore>,
    small_waiting: AtomicUsize,
    overrun: Notify,
    flows: Mutex<Flows>,
    budget: Arc<Budget>,
}

/// What is sent, in this order.
#[derive(Debug)]
enum Parcel {
    Data {
        flow: FlowNumber,
        buffer: Buffer,
        length: usize,
        _room: OwnedSemaphorePermit,
    },
    Small {
        flow: FlowNumber,
        kind: RecordType,
        payload: Vec<u8>,
    },
    /// Nothing more comes: the carrier has retired and its last flow is over.
    Last,
}

#[derive(Debug, Default)]
struct Flows {
    mail: HashMap<FlowNumber, Arc<Mail>>,
    last: u32,
    closed: bool,
    /// It takes no further flow, and ends with the last.
    retiring: bool,
}

/// A flow's place on a shared carrier; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Its number.
    pub(crate) flow: FlowNumber,
    carrier: Arc<Shared>,
    mail: Arc<Mail>,
    /// The last final record that was sent.
    last_word: Mutex<Option<RecordType>>,
}

/// The sending half of a slot.
pub(crate) struct SlotOutlet<'a> {
    slot: &'a Slot,
    failure: Option<Failure>,
}

/// The receiving half of a slot.
pub(crate) struct SlotInlet<'a> {
    slot: &'a Slot,
    current: Vec<u8>,
}

/// Tells the flows of a carrier that it has ended, however its task ends.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut flows = self.0.flows();
        flows.closed = true;
        flows.mail.values().for_each(|mail| mail.lose());
    }
}

impl Shared {
    /// Takes a carrier; also returns the task that works it until it ends. `begin` is given each
    /// flow that the other box opens.
    pub(crate) fn start(
        carrier: Carrier,
        budget: Arc<Budget>,
        begin: impl FnMut(Slot, Open) + Send,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send) {
        let (outbox, parcels) = mpsc::unbounded_channel();
        let shared = Arc::new(Self {
            session: carrier.session,
            outbox,
            room: Arc::new(Semaphore::new(WAITING)),
            small_waiting: AtomicUsize::new(0),
            overrun: Notify::new(),
            flows: Mutex::default(),
            budget,
        });
        let closing = Closing(Arc::clone(&shared));
        let task = async move {
            let ended = closing.0.work(carrier, parcels, begin).await;
            if let Err(error) = ended {
                debug!(%error, "shared carrier ended");
            }
        };
        (shared, task)
    }

    /// Works the carrier until it ends. All of it is kept to the end: its place in the counts, and
    /// with the steering task.
    async fn work(
        self: &Arc<Self>,
        mut carrier: Carrier,
        parcels: mpsc::UnboundedReceiver<Parcel>,
        begin: impl FnMut(Slot, Open) + Send,
    ) -> io::Result<()> {
        let we_open = carrier.we_open;
        let Carrier { stream, out, incoming, place, .. } = &mut carrier;
        // What several flows send is bulk or will be: all ways are open to it.
        if let Some(place) = place {
            place.crowded();
        }
        tokio::select! {
            ended = self.read(stream, incoming, we_open, begin) => return ended,
            ended = self.write(stream, out, parcels) => ended?,
            () = self.overrun.notified() => {
                return Err(io::Error::other("the other box does not read"));
            }
        }
        self.flows().closed = true;
        carrier.close_in_order().await;
        Ok(())
    }

    /// Opens a flow; `None` when the carrier takes no more.
    pub(crate) fn open(self: &Arc<Self>, open: &Open) -> Option<Slot> {
        let mut flows = self.flows();
        let next = flows.last.checked_add(1);
        let takes_more = !flows.closed && !flows.retiring && flows.mail.len() < FLOWS / 4;
        let (true, Some(next)) = (takes_more, next) else {
            if next.is_none() && !flows.retiring {
                flows.retiring = true;
                self.end_if_empty(&flows);
            }
            return None;
        };
        let flow = FlowNumber(next);
        // Under the lock, so that flows are opened in the order of their numbers.
        let opening = Parcel::Small { flow, kind: RecordType::Open, payload: open.encode() };
        if self.post(opening).is_err() {
            flows.closed = true;
            return None;
        }
        flows.last = next;
        Some(self.slot(&mut flows, flow, Order::from_other()))
    }

    /// How many flows are on it; `None` when it takes no more.
    pub(crate) fn load(&self) -> Option<usize> {
        let flows = self.flows();
        let takes_more = !flows.closed && !flows.retiring && flows.mail.len() < FLOWS / 4;
        takes_more.then(|| flows.mail.len())
    }

    /// How many flows are on it.
    pub(crate) fn flow_count(&self) -> usize {
        self.flows().mail.len()
    }

    /// Whether it has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.flows().closed
    }

    /// Takes no further flow, and ends when the last is over.
    pub(crate) fn retire(&self) {
        let mut flows = self.flows();
        if !flows.retiring {
            flows.retiring = true;
            self.end_if_empty(&flows);
        }
    }

    /// Behind all that its flows have sent.
    fn end_if_empty(&self, flows: &Flows) {
        if flows.retiring && flows.mail.is_empty() {
            let _ = self.outbox.send(Parcel::Last);
        }
    }

    fn slot(self: &Arc<Self>, flows: &mut Flows, flow: FlowNumber, order: Order) -> Slot {
        let mail = Arc::new(Mail::new(order));
        flows.mail.insert(flow, Arc::clone(&mail));
        Slot { flow, carrier: Arc::clone(self), mail, last_word: Mutex::new(None) }
    }

    async fn read(
        self: &Arc<Self>,
        stream: &TcpStream,
        incoming: &mut Incoming,
        we_open: bool,
        mut begin: impl FnMut(Slot, Open),
    ) -> io::Result<()> {
        loop {
            let came = incoming.next(stream).await.map_err(io::Error::other)?;
            match came.kind {
                RecordType::Open if !we_open => {
                    let open = Open::parse(incoming.bytes(&came)).map_err(io::Error::other)?;
                    begin(self.begun(came.flow)?, open);
                }
                RecordType::Retire if we_open => self.retire(),
                kind if kind.is_of_flow() && kind != RecordType::Open => {
                    if let Some(mail) = self.mail_of(came.flow)? {
                        mail.deliver(kind, incoming.bytes(&came))?;
                    }
                }
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "out of place")),
            }
        }
    }

    /// A flow's mailbox; none for one that is over here: the record has crossed our last word.
    fn mail_of(&self, flow: FlowNumber) -> io::Result<Option<Arc<Mail>>> {
        let flows = self.flows();
        if flow.0 > flows.last {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no such flow"));
        }
        Ok(flows.mail.get(&flow).cloned())
    }

    fn begun(self: &Arc<Self>, flow: FlowNumber) -> io::Result<Slot> {
        let mut flows = self.flows();
        if flow.0 <= flows.last || flows.mail.len() >= FLOWS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a flow too many"));
        }
        flows.last = flow.0;
        Ok(self.slot(&mut flows, flow, Order::from_opener()))
    }

    /// Hands something to the task that writes.
    fn post(&self, parcel: Parcel) -> io::Result<()> {
        if matches!(parcel, Parcel::Small { .. })
            && self.small_waiting.fetch_add(1, Ordering::Relaxed) >= SMALL_WAITING
        {
            self.overrun.notify_one();
            return Err(lost());
        }
        self.outbox.send(parcel).map_err(|_| lost())
    }

    async fn write(
        &self,
        stream: &TcpStream,
        out: &mut Outgoing,
        mut parcels: mpsc::UnboundedReceiver<Parcel>,
    ) -> io::Result<()> {
        while let Some(parcel) = parcels.recv().await {
            match parcel {
                Parcel::Data { flow, mut buffer, length, _room } => {
                    out.send_data(stream, flow, &mut buffer, length).await?;
                }
                Parcel::Small { flow, kind, payload } => {
                    self.small_waiting.fetch_sub(1, Ordering::Relaxed);
                    out.send(stream, kind, flow, &payload).await?;
                }
                Parcel::Last => break,
            }
        }
        Ok(())
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The two halves of the seat.
    pub(crate) fn seat(&self, failure: Option<Failure>) -> (SlotOutlet<'_>, SlotInlet<'_>) {
        (SlotOutlet { slot: self, failure }, SlotInlet { slot: self, current: Vec::new() })
    }

    /// Ready when the carrier has ended, or the other box has reset the flow.
    pub(crate) async fn doomed(&self) {
        self.mail.doomed().await;
    }

    /// Tells the other box something small.
    pub(crate) fn tell(&self, kind: RecordType, payload: &[u8]) -> io::Result<()> {
        if Final::of(kind).is_some() {
            *self.last_word() = Some(kind);
        }
        let payload = payload.to_vec();
        self.carrier.post(Parcel::Small { flow: self.flow, kind, payload })
    }

    fn last_word(&self) -> MutexGuard<'_, Option<RecordType>> {
        self.last_word.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let last_word = *self.last_word();
        let over = last_word.is_some() && self.mail.has_ended();
        if !over && matches!(last_word, None | Some(RecordType::Fin)) {
            let _ = self.tell(RecordType::Reset, &[]);
        }
        self.mail.leave(&self.carrier.budget);
        let mut flows = self.carrier.flows();
        flows.mail.remove(&self.flow);
        self.carrier.end_if_empty(&flows);
    }
}

impl Outlet for SlotOutlet<'_> {
    async fn room(&mut self, most: usize) -> io::Result<usize> {
        self.slot.mail.room(most).await
    }

    async fn data(&mut self, buffer: Buffer, length: usize) -> io::Result<()> {
        let room = Arc::clone(&self.slot.carrier.room).acquire_owned().await;
        let room = room.map_err(|_| lost())?;
        self.slot.mail.spend(length);
        let flow = self.slot.flow;
        self.slot.carrier.post(Parcel::Data { flow, buffer, length, _room: room })
    }

    async fn fin(&mut self) -> io::Result<()> {
        self.slot.tell(RecordType::Fin, &[])
    }

    fn reset(&mut self) -> bool {
        match self.failure {
            Some(failure) => self.slot.tell(RecordType::Failed, &[failure.code()]),
            None => self.slot.tell(RecordType::Reset, &[]),
        }
        .is_ok()
    }

    fn is_whole(&self) -> bool {
        true
    }
}

impl Inlet for SlotInlet<'_> {
    async fn next(&mut self) -> io::Result<Item<'_>> {
        let (kind, payload) = self.slot.mail.next().await?;
        self.current = payload;
        item(kind, &self.current)
    }

    fn passed(&mut self, bytes: usize) -> io::Result<()> {
        match self.slot.mail.passed(bytes, &self.slot.carrier.budget) {
            Some(credit) => self.slot.tell(RecordType::Credit, &credit.to_be_bytes()),
            None => Ok(()),
        }
    }
}
