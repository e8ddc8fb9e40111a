//! Answers peers' heartbeats: each at once, and only what the keys of a session open.

use std::sync::Arc;
use std::time::Duration;

use braid_core::heartbeat::session_of;
use braid_sys::udp::Answering;
use tracing::{debug, trace};

use crate::directory::Directory;

/// What the kernel may hand over at once, bytes.
const ROOM: usize = 64 * 1024;

/// After an error of the socket, which may last.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers what comes to `socket` until it is dropped.
pub(crate) async fn serve(socket: Answering, directory: Arc<Directory>) {
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
            let session = session_of(datagram).and_then(|id| directory.find(id));
            match session.and_then(|(_, session)| session.answer(datagram)) {
                // One that finds no room is as one that is lost.
                Some(answer) => drop(socket.answer(&came, &answer)),
                None => trace!(from = %came.from, "a datagram that is no heartbeat"),
            }
        }
    }
}
