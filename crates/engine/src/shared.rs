//! A carrier that several flows share: beyond the bound of carriers, and when a burst finds no
//! single carrier idle.
//!
//! One task reads and hands records to the flows, and writes what they send, in turn. Credit keeps
//! a flow whose reader stalls from stopping the others (PROTOCOL.md, "Credit").

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use braid_core::credit::{FIRST_CREDIT, ReceiveCredit, SendCredit};
use braid_core::flow::Incoming as Order;
use braid_core::keys::SessionId;
use braid_core::opening::{Failure, Open};
use braid_core::record::{FlowNumber, MAX_PAYLOAD, RecordType, parse_credit};
use portable_atomic::{AtomicUsize, Ordering};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::debug;

use crate::buffer::Buffer;
use crate::carrier::{Carrier, Incoming, Outgoing};
use crate::flow::{Inlet, Item, Outlet};
use crate::single::item;

/// Data records that may wait for the connection: enough to keep it busy, few enough that a small
/// flow's does not wait long.
const WAITING: usize = 4;

/// A shared carrier, for the flows on it.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The session whose secret its keys come from.
    pub(crate) session: SessionId,
    outbox: mpsc::UnboundedSender<Parcel>,
    room: Arc<Semaphore>,
    flows: Mutex<Flows>,
    emptied: Notify,
    budget: Arc<Budget>,
}

/// Bytes that the windows of a peer's flows may hold beyond what each has at first, in all.
#[derive(Debug)]
pub(crate) struct Budget(AtomicUsize);

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a flow sends. Only data is held back by the connection; the rest is small, and bounded by
/// the number of flows.
#[derive(Debug)]
enum Parcel {
    Data { flow: FlowNumber, buffer: Buffer, length: usize, _room: OwnedSemaphorePermit },
    Small { flow: FlowNumber, kind: RecordType, payload: Vec<u8> },
}

#[derive(Debug, Default)]
struct Flows {
    mail: HashMap<FlowNumber, Arc<Mail>>,
    last: u32,
    closed: bool,
    /// It takes no further flow, and ends with the last.
    retiring: bool,
}

/// What has come for a flow, and what it may send.
#[derive(Debug)]
struct Mail {
    state: Mutex<MailState>,
    arrived: Notify,
    credited: Notify,
    lost: Notify,
}

#[derive(Debug)]
struct MailState {
    records: VecDeque<(RecordType, Vec<u8>)>,
    order: Order,
    receive: ReceiveCredit,
    send: SendCredit,
    lost: bool,
}

/// A flow's place on a shared carrier; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Its number.
    pub(crate) flow: FlowNumber,
    carrier: Arc<Shared>,
    mail: Arc<Mail>,
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

impl Shared {
    /// Takes a carrier; also returns the task that works it until it ends. `begin` is given each
    /// flow that the other box opens.
    pub(crate) fn start(
        carrier: Carrier,
        budget: Arc<Budget>,
        begin: impl FnMut(Slot, Open) + Send,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send) {
        let (outbox, parcels) = mpsc::unbounded_channel();
        let (room, flows) = (Arc::new(Semaphore::new(WAITING)), Mutex::default());
        let shared = Arc::new(Self {
            session: carrier.session,
            outbox,
            room,
            flows,
            emptied: Notify::new(),
            budget,
        });
        let worked = Arc::clone(&shared);
        let task = async move {
            // All of it is kept to the end: its place in the counts, and with the steering task.
            let mut carrier = carrier;
            let we_open = carrier.we_open;
            let Carrier { stream, out, incoming, place, .. } = &mut carrier;
            // What several flows send is bulk or will be: all ways are open to it.
            if let Some(place) = place {
                place.moved(usize::MAX / 2);
            }
            let ended = tokio::select! {
                ended = worked.read(stream, incoming, we_open, begin) => ended,
                ended = write(stream, out, parcels) => ended,
                () = worked.emptied.notified() => Ok(()),
            };
            worked.close();
            if let Err(error) = ended {
                debug!(%error, "shared carrier ended");
            }
        };
        (shared, task)
    }

    /// Opens a flow; `None` when the carrier has ended.
    pub(crate) fn open(self: &Arc<Self>, open: &Open) -> Option<Slot> {
        let mut flows = self.flows();
        if flows.closed || flows.retiring {
            return None;
        }
        let Some(next) = flows.last.checked_add(1) else {
            flows.retiring = true;
            return None;
        };
        flows.last = next;
        let flow = FlowNumber(next);
        let slot = self.slot(&mut flows, flow, Order::from_other());
        // Under the lock, so that flows are opened in the order of their numbers.
        self.post(Parcel::Small { flow, kind: RecordType::Open, payload: open.encode() }).ok()?;
        Some(slot)
    }

    /// How many flows are on it; `None` when it takes no more.
    pub(crate) fn load(&self) -> Option<usize> {
        let flows = self.flows();
        (!flows.closed && !flows.retiring).then(|| flows.mail.len())
    }

    /// Takes no further flow, and ends when the last is over.
    pub(crate) fn retire(&self) {
        let mut flows = self.flows();
        flows.retiring = true;
        if flows.mail.is_empty() {
            self.emptied.notify_one();
        }
    }

    fn slot(self: &Arc<Self>, flows: &mut Flows, flow: FlowNumber, order: Order) -> Slot {
        let mail = Arc::new(Mail::new(order));
        flows.mail.insert(flow, Arc::clone(&mail));
        Slot { flow, carrier: Arc::clone(self), mail }
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
            if came.kind == RecordType::Open {
                if we_open {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let open = Open::parse(incoming.bytes(&came)).map_err(io::Error::other)?;
                begin(self.begun(came.flow)?, open);
                continue;
            }
            if came.kind == RecordType::Retire {
                self.retire();
                continue;
            }
            let mail = {
                let flows = self.flows();
                // Of a flow that is over here: it crossed our last word.
                if came.flow.0 > flows.last {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                flows.mail.get(&came.flow).cloned()
            };
            if let Some(mail) = mail {
                mail.deliver(came.kind, incoming.bytes(&came))?;
            }
        }
    }

    fn begun(self: &Arc<Self>, flow: FlowNumber) -> io::Result<Slot> {
        let mut flows = self.flows();
        if flow.0 <= flows.last {
            return Err(io::ErrorKind::InvalidData.into());
        }
        flows.last = flow.0;
        Ok(self.slot(&mut flows, flow, Order::from_opener()))
    }

    fn close(&self) {
        let mut flows = self.flows();
        flows.closed = true;
        for mail in flows.mail.values() {
            mail.lose();
        }
    }

    fn post(&self, parcel: Parcel) -> io::Result<()> {
        self.outbox.send(parcel).map_err(|_| io::ErrorKind::ConnectionAborted.into())
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn write(
    stream: &TcpStream,
    out: &mut Outgoing,
    mut parcels: mpsc::UnboundedReceiver<Parcel>,
) -> io::Result<()> {
    while let Some(parcel) = parcels.recv().await {
        match parcel {
            Parcel::Data { flow, mut buffer, length, _room } => {
                out.send_data(stream, flow, &mut buffer, length).await?;
            }
            Parcel::Small { flow, kind, payload } => out.send(stream, kind, flow, &payload).await?,
        }
    }
    Ok(())
}

impl Mail {
    fn new(order: Order) -> Self {
        let state = MailState {
            records: VecDeque::new(),
            order,
            receive: ReceiveCredit::default(),
            send: SendCredit::default(),
            lost: false,
        };
        let (arrived, credited, lost) = (Notify::new(), Notify::new(), Notify::new());
        Self { state: Mutex::new(state), arrived, credited, lost }
    }

    /// # Errors
    /// When the other box sends what it may not.
    fn deliver(&self, kind: RecordType, payload: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if !state.order.take(kind) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record out of order"));
        }
        match kind {
            RecordType::Credit => {
                let bytes = parse_credit(payload).ok_or(io::ErrorKind::InvalidData)?;
                state.send.add(bytes).map_err(io::Error::other)?;
                drop(state);
                self.credited.notify_one();
                return Ok(());
            }
            RecordType::Data => state.receive.arrived(payload.len()).map_err(io::Error::other)?,
            _ => {}
        }
        // Small records are put together: what is held costs little more than its bytes.
        match state.records.back_mut() {
            Some((RecordType::Data, held))
                if kind == RecordType::Data && held.len() + payload.len() <= MAX_PAYLOAD =>
            {
                held.extend_from_slice(payload);
            }
            _ => state.records.push_back((kind, payload.to_vec())),
        }
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    fn lose(&self) {
        self.state().lost = true;
        self.arrived.notify_one();
        self.credited.notify_one();
        self.lost.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, MailState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The two halves of the seat.
    pub(crate) fn seat(&self, failure: Option<Failure>) -> (SlotOutlet<'_>, SlotInlet<'_>) {
        (SlotOutlet { slot: self, failure }, SlotInlet { slot: self, current: Vec::new() })
    }

    /// Ready when the carrier has ended.
    pub(crate) async fn lost(&self) {
        self.mail.lost.notified().await;
    }

    /// Tells the other box something small.
    pub(crate) fn tell(&self, kind: RecordType, payload: &[u8]) -> io::Result<()> {
        let payload = payload.to_vec();
        self.carrier.post(Parcel::Small { flow: self.flow, kind, payload })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let window = self.mail.state().receive.window();
        self.carrier.budget.give_back(window - FIRST_CREDIT);
        let mut flows = self.carrier.flows();
        flows.mail.remove(&self.flow);
        if flows.retiring && flows.mail.is_empty() {
            self.carrier.emptied.notify_one();
        }
    }
}

fn lost() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

impl Outlet for SlotOutlet<'_> {
    async fn room(&mut self, most: usize) -> io::Result<usize> {
        loop {
            {
                let state = self.slot.mail.state();
                if state.lost {
                    return Err(lost());
                }
                let available = state.send.available();
                if available > 0 {
                    return Ok(available.min(most));
                }
            }
            self.slot.mail.credited.notified().await;
        }
    }

    async fn data(&mut self, buffer: Buffer, length: usize) -> io::Result<()> {
        let room = Arc::clone(&self.slot.carrier.room).acquire_owned().await;
        let room = room.map_err(|_| lost())?;
        self.slot.mail.state().send.spend(length);
        let flow = self.slot.flow;
        self.slot.carrier.post(Parcel::Data { flow, buffer, length, _room: room })
    }

    async fn fin(&mut self) -> io::Result<()> {
        self.slot.tell(RecordType::Fin, &[])
    }

    fn reset(&mut self) -> bool {
        match self.failure {
            Some(failure) => self.slot.tell(RecordType::Failed, &[failure as u8]),
            None => self.slot.tell(RecordType::Reset, &[]),
        }
        .is_ok()
    }
}

impl Inlet for SlotInlet<'_> {
    async fn next(&mut self) -> io::Result<Item<'_>> {
        loop {
            {
                let mut state = self.slot.mail.state();
                if let Some((kind, payload)) = state.records.pop_front() {
                    self.current = payload;
                    drop(state);
                    return item(kind, &self.current);
                }
                if state.lost {
                    return Err(lost());
                }
            }
            self.slot.mail.arrived.notified().await;
        }
    }

    fn passed(&mut self, bytes: usize) -> io::Result<()> {
        let budget = &self.slot.carrier.budget;
        let credit = {
            let receive = &mut self.slot.mail.state().receive;
            let before = receive.window();
            let may_grow = budget.take(before);
            let credit = receive.consumed(bytes, may_grow);
            if may_grow && receive.window() == before {
                budget.give_back(before);
            }
            credit
        };
        match credit {
            Some(credit) => self.slot.tell(RecordType::Credit, &credit.to_be_bytes()),
            None => Ok(()),
        }
    }
}
