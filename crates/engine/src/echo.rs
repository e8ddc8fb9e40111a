//! Answers peers' heartbeats: each at once, and only what the keys of a session open. Subflows over
//! ways that the peer has given up are ended here, too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use braid_core::addr::canonical;
use braid_core::far_ways::FarWay;
use braid_core::heartbeat::session_of;
use braid_sys::sock_diag;
use braid_sys::udp::{Answering, Came};
use tracing::{debug, trace};

use crate::directory::Directory;

/// What the kernel may hand over at once, bytes.
const ROOM: usize = 64 * 1024;

/// After an error of the socket, which may last.
const PAUSE: Duration = Duration::from_millis(100);

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
    let session = session_of(datagram).and_then(|id| directory.find(id));
    let Some((answer, dead)) = session.and_then(|(_, session)| session.answer(datagram, way))
    else {
        trace!(from = %came.from, "a datagram that is no heartbeat");
        return;
    };
    // One that finds no room is as one that is lost.
    let _ = socket.answer(came, &answer);
    for FarWay { local, remote } in dead {
        let local = SocketAddr::new(local, listen.port());
        // It looks at every socket there is.
        tokio::task::spawn_blocking(move || match sock_diag::end(local, remote) {
            Ok(ended) => debug!(%local, ended, "subflows over a way that the peer has given up"),
            Err(error) => debug!(%error, "cannot end subflows: the kernel's time-out will"),
        });
    }
}
