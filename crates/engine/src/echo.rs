//! Answers peers' heartbeats: each at once, and only what the keys of a session open. Subflows over
//! ways that the peer has given up are ended here, too.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use braid_core::addr::canonical;
use braid_core::far_ways::{FarWay, left};
use braid_core::heartbeat::session_of;
use braid_sys::mptcp::SubflowInfo;
use braid_sys::sock_diag;
use braid_sys::udp::{Answering, Came};
use tracing::{debug, trace};

use crate::directory::Directory;
use crate::peering::Peering;

/// What the kernel may hand over at once, bytes.
const ROOM: usize = 64 * 1024;

/// After an error of the socket, which may last.
const PAUSE: Duration = Duration::from_millis(100);

/// How long after its notice the peer's withdrawal of the address (RM_ADDR) may come, by which the
/// kernel ends the subflows itself.
const WITHDRAWN: Duration = Duration::from_millis(100);

/// Answers what comes to `socket`, which is bound to `listen`, until it is dropped.
pub(crate) async fn serve(socket: Answering, listen: SocketAddr, directory: Arc<Directory>) {
    let mut room = vec![0; ROOM];
    loop {
        let came = match socket.receive(&mut room).await {
            Ok(came) => came,
            Err(error) => {
                debug!(%error, "cannot receive heartbeats");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        for datagram in room[..came.length].chunks(came.each) {
            answer(&socket, &came, datagram, listen, &directory);
        }
    }
}

fn answer(
    socket: &Answering,
    came: &Came,
    datagram: &[u8],
    listen: SocketAddr,
    directory: &Directory,
) {
    let local = came.to.unwrap_or(listen.ip()).to_canonical();
    let way = FarWay { local, remote: canonical(came.from).ip() };
    let found = session_of(datagram).and_then(|id| directory.find(id));
    let answered = found.and_then(|(peering, session)| {
        session.answer(datagram, way).map(|(answer, dead)| (peering, answer, dead))
    });
    let Some((peering, answer, dead)) = answered else {
        trace!(from = %came.from, "a datagram that is no heartbeat");
        return;
    };
    // One that finds no room is as one that is lost.
    let _ = socket.answer(came, &answer);
    // One at a time: a peer that changes its mind all the time does not keep this box busy.
    if !dead.is_empty()
        && let Ok(turn) = Arc::clone(&peering.leaving).try_acquire_owned()
    {
        peering.tasks.clone().spawn(async move {
            leave(&peering, &dead).await;
            drop(turn);
        });
    }
}

/// Ends what is left of the subflows over ways that the peer has given up, of its own carriers alone.
async fn leave(peering: &Peering, dead: &[FarWay]) {
    // Not those that the peer makes when the way is back.
    let there = left(dead, &subflows(peering));
    tokio::time::sleep(WITHDRAWN).await;
    let mut still = left(dead, &subflows(peering));
    still.retain(|ends| there.contains(ends));
    if still.is_empty() {
        return;
    }
    // It looks at every socket there is, in a thread that may.
    let ended = tokio::task::spawn_blocking(move || sock_diag::end(&still)).await;
    match ended.map_err(io::Error::other).flatten() {
        Ok(ended) => debug!(ended, "ended subflows over ways that the peer has given up"),
        Err(error) => debug!(%error, "cannot end subflows: the kernel's time-out will"),
    }
}

/// The subflows of each of the peer's carriers, by our end and the far one.
fn subflows(peering: &Peering) -> Vec<Vec<(SocketAddr, SocketAddr)>> {
    let ends = |subflow: &SubflowInfo| (subflow.local, subflow.remote);
    let carriers = peering.census.subflows();
    carriers.iter().map(|subflows| subflows.iter().map(ends).collect()).collect()
}
