//! Moves one flow's bytes between a local connection and its seat on a carrier, until both
//! directions have ended or one end resets it.
//!
//! What an ending means is `core::flow`'s. How records get to the carrier and come from it is the
//! seat's: `single` has the carrier to itself, `shared` does not. A direction reads only what it has
//! written on, so a flow holds at most one buffer a direction here.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use braid_core::flow::{Ending, Event, Final, FlowEnd, Local, Reply};
use braid_core::opening::Failure;
use braid_core::record::{HEADER_LEN, MAX_PAYLOAD};
use braid_sys::mptcp::end_on_close;
use braid_sys::tproxy::shut_sending;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tracing::debug;

use crate::buffer::Buffer;
use crate::records::write_all;

/// Payload of a flow's first records, bytes: one segment with all its headers, so that the first
/// byte is not kept back for the last of a long record.
const FIRST_PAYLOAD: usize = 1360;

/// A direction that has rested this long starts with short records again.
const RESTED: Duration = Duration::from_millis(200);

/// How long a reset may wait behind data that is on its way before it overtakes it.
const RESET_GRACE: Duration = Duration::from_secs(1);

/// Where a flow's bytes leave for the other box.
pub(crate) trait Outlet: Send {
    /// How many bytes may be sent now, at most `most`; waits until there is room for one.
    fn room(&mut self, most: usize) -> impl Future<Output = io::Result<usize>> + Send;
    /// Sends `length` bytes that lie in `buffer` behind room for a record's header.
    fn data(
        &mut self,
        buffer: Buffer,
        length: usize,
    ) -> impl Future<Output = io::Result<()>> + Send;
    /// Sends `fin` behind the data.
    fn fin(&mut self) -> impl Future<Output = io::Result<()>> + Send;
    /// Sends `reset` or `failed` if that needs no waiting for a far end that does not read.
    fn reset(&mut self) -> bool;
    /// Whether all that was begun has gone out whole, so that something may follow.
    fn is_whole(&self) -> bool;
}

/// Where a flow's records come from.
pub(crate) trait Inlet: Send {
    /// The next record of the flow; an error when the carrier is lost. Cancelling it loses nothing.
    fn next(&mut self) -> impl Future<Output = io::Result<Item<'_>>> + Send;
    /// So many bytes have been passed on.
    fn passed(&mut self, bytes: usize) -> io::Result<()>;
}

/// What comes for a flow.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// The sink has accepted.
    Opened,
    /// Its next bytes.
    Data(&'a [u8]),
    /// `fin` or `reset`.
    Final(Final),
    /// The sink was not reached.
    Failed(Failure),
}

/// How a flow on a seat has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// For host and sink.
    pub(crate) ending: Option<Ending>,
    /// Whether both boxes are done with it in order: on a single carrier the next may follow.
    pub(crate) clean: bool,
}

/// Carries a flow until it has ended; `heard` is told of `opened` and `failed`.
///
/// `lost` is ready when the carrier has failed, or the other box's reset may stand behind data.
/// `local` is to be one whose close is a reset (`reset_on_close`): so it ends whatever happens to
/// this task or process, until both directions have ended in order.
pub(crate) async fn carry(
    local: TcpStream,
    outlet: &mut impl Outlet,
    inlet: &mut impl Inlet,
    lost: impl Future<Output = ()> + Send,
    heard: &(impl Fn(Result<(), Failure>) + Sync),
) -> Outcome {
    let flow = Flow {
        local,
        end: Mutex::new(FlowEnd::default()),
        fin_sent: Notify::new(),
        refuses: AtomicBool::new(false),
        heard,
    };
    let aborted = tokio::select! {
        outcome = async { tokio::try_join!(flow.up(outlet), flow.down(inlet)) } => outcome.err(),
        abort = flow.fault(fault(&flow.local), Event::LocalReset) => Some(abort),
        abort = flow.fault(lost, Event::Lost) => Some(abort),
    };
    let Flow { local, end, .. } = flow;
    let mut end = end.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(Abort { reply, carrier_lost }) = aborted {
        // The host or sink is told first: it is reset as it is dropped.
        drop(local);
        let clean = !carrier_lost && finish(&mut end, reply, outlet, inlet).await;
        return Outcome { ending: end.ending(), clean };
    }
    let _ = end_on_close(&local);
    Outcome { ending: end.ending(), clean: true }
}

/// Tells the other box of a flow that it could not be opened, and waits until both are done with
/// it; whether they are in order.
pub(crate) async fn refuse(outlet: &mut impl Outlet, inlet: &mut impl Inlet) -> bool {
    let mut end = FlowEnd::default();
    let reply = end.fail();
    finish(&mut end, reply, outlet, inlet).await
}

/// Sends the last word, and skips what still comes until the other box's has come.
async fn finish(
    end: &mut FlowEnd,
    reply: Reply,
    outlet: &mut impl Outlet,
    inlet: &mut impl Inlet,
) -> bool {
    if !outlet.is_whole() || (reply.send.is_some() && !outlet.reset()) {
        return false;
    }
    let skip = async {
        while !end.is_over() {
            let event = match inlet.next().await {
                Ok(Item::Final(last)) => Event::Final(last),
                Ok(Item::Failed(_)) => Event::Final(Final::Failed),
                Ok(_) => continue,
                Err(_) => return false,
            };
            let _ = end.handle(event);
        }
        true
    };
    tokio::time::timeout(RESET_GRACE, skip).await.unwrap_or(false)
}

/// The flow ends here and now.
struct Abort {
    /// What is left to be done.
    reply: Reply,
    carrier_lost: bool,
}

struct Flow<'a, H> {
    local: TcpStream,
    end: Mutex<FlowEnd>,
    fin_sent: Notify,
    /// The local connection takes no more: it was reset, whatever its reading side says.
    refuses: AtomicBool,
    heard: &'a H,
}

impl<H: Fn(Result<(), Failure>) + Sync> Flow<'_, H> {
    /// From the local connection to the carrier.
    async fn up(&self, outlet: &mut impl Outlet) -> Result<(), Abort> {
        let event = self.local_to_carrier(outlet).await;
        if self.handle(event)?.send == Some(Final::Fin) {
            if outlet.fin().await.is_err() {
                self.handle(Event::Lost)?;
            }
            self.fin_sent.notify_one();
        }
        Ok(())
    }

    /// From the carrier to the local connection.
    async fn down(&self, inlet: &mut impl Inlet) -> Result<(), Abort> {
        let event = self.carrier_to_local(inlet).await;
        let reply = self.handle(event)?;
        if reply.local == Some(Local::Shut) && shut_sending(&self.local).is_err() {
            self.handle(Event::LocalReset)?;
        }
        self.watch_until_fin_is_sent(inlet).await
    }

    /// The far end has nothing more to send, but it may still reset the flow, or go.
    async fn watch_until_fin_is_sent(&self, inlet: &mut impl Inlet) -> Result<(), Abort> {
        loop {
            let event = tokio::select! {
                // What comes once `fin` has been sent may be of the next flow.
                biased;
                () = self.fin_sent.notified() => return Ok(()),
                next = inlet.next() => match next {
                    Ok(Item::Final(last)) => Event::Final(last),
                    Ok(Item::Failed(_)) => Event::Final(Final::Failed),
                    Ok(Item::Opened) => continue,
                    Ok(Item::Data(_)) | Err(_) => Event::Lost,
                },
            };
            self.handle(event)?;
        }
    }

    /// What is to be done; an error where that ends the flow.
    fn handle(&self, event: Event) -> Result<Reply, Abort> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = end.handle(event);
        let ends =
            reply.local == Some(Local::Reset) || matches!(event, Event::LocalReset | Event::Lost);
        if ends { Err(Abort { reply, carrier_lost: event == Event::Lost }) } else { Ok(reply) }
    }

    async fn local_to_carrier(&self, outlet: &mut impl Outlet) -> Event {
        let (mut most, mut last) = (FIRST_PAYLOAD, Instant::now());
        loop {
            if self.local.readable().await.is_err() {
                return Event::LocalReset;
            }
            let Ok(room) = outlet.room(most).await else { return Event::Lost };
            // Sockets that are always ready must not keep the thread from all others.
            tokio::task::coop::consume_budget().await;
            let mut buffer = Buffer::take();
            let count = match self.local.try_read(&mut buffer[HEADER_LEN..HEADER_LEN + room]) {
                Ok(0) if self.refuses.load(Ordering::Relaxed) => return Event::LocalReset,
                Ok(0) => return Event::LocalEnded,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return Event::LocalReset,
            };
            if outlet.data(buffer, count).await.is_err() {
                return Event::Lost;
            }
            let now = Instant::now();
            if now.duration_since(last) > RESTED {
                most = FIRST_PAYLOAD;
            } else if count == most {
                most = (2 * most).min(MAX_PAYLOAD);
            }
            last = now;
        }
    }

    async fn carrier_to_local(&self, inlet: &mut impl Inlet) -> Event {
        loop {
            let passed = match inlet.next().await {
                Ok(Item::Data(bytes)) => {
                    if write_all(&self.local, bytes).await.is_err() {
                        // What it sent before may still be read and carried on, for a while.
                        self.refuses.store(true, Ordering::Relaxed);
                        tokio::time::sleep(RESET_GRACE).await;
                        return Event::LocalReset;
                    }
                    bytes.len()
                }
                Ok(Item::Opened) => {
                    (self.heard)(Ok(()));
                    continue;
                }
                Ok(Item::Final(last)) => return Event::Final(last),
                Ok(Item::Failed(failure)) => {
                    (self.heard)(Err(failure));
                    return Event::Final(Final::Failed);
                }
                Err(error) => {
                    debug!(%error, "carrier lost");
                    return Event::Lost;
                }
            };
            if inlet.passed(passed).is_err() {
                return Event::Lost;
            }
        }
    }

    /// A fault that neither direction meets: one has ended, the other is held up. What came before
    /// it may still be read and sent on, for a while.
    async fn fault(&self, fault: impl Future<Output = ()>, event: Event) -> Abort {
        fault.await;
        tokio::time::sleep(RESET_GRACE).await;
        match self.handle(event) {
            Err(abort) => abort,
            Ok(reply) => Abort { reply, carrier_lost: event == Event::Lost },
        }
    }
}

/// Waits for an error on the socket: a reset, or the far end given up.
pub(crate) async fn fault(stream: &TcpStream) {
    while let Ok(ready) = stream.ready(Interest::ERROR).await {
        if ready.is_error() {
            return;
        }
    }
}
