//! Small downloads started at a steady pace, whatever becomes of those before, each checked.

use super::client::{FlowTimes, fetch};
use std::{
    io,
    net::SocketAddr,
    thread::{self, Builder},
    time::{Duration, Instant},
};

const STACK: usize = 128 << 10;

/// Starts a download of `size` bytes each `every` for `time`, and returns what became of each, in
/// their order; it waits for the last.
///
/// Each may take `limit`. Errors: no thread could be started.
pub fn steady(
    addr: SocketAddr,
    size: u64,
    every: Duration,
    time: Duration,
    limit: Duration,
) -> io::Result<Vec<io::Result<FlowTimes>>> {
    let began = Instant::now();
    thread::scope(|scope| {
        let mut flows = Vec::new();
        let mut next = Duration::ZERO;
        while next < time {
            thread::sleep(next.saturating_sub(began.elapsed()));
            let seed = flows.len() as u64;
            let flow = move || fetch(addr, size, seed, limit);
            flows.push(Builder::new().stack_size(STACK).spawn_scoped(scope, flow)?);
            next += every;
        }
        let panicked = || io::Error::other("a flow's thread panicked");
        Ok(flows.into_iter().map(|flow| flow.join().map_err(|_| panicked())?).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::{
        Server,
        relay::{Fault, Relay},
    };

    const LIMIT: Duration = Duration::from_secs(10);
    const EVERY: Duration = Duration::from_millis(5);

    #[test]
    fn flows_start_in_their_turn_and_each_tells_how_it_went() {
        let server = Server::start(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let addr = server.addrs()[0];
        let flows = steady(addr, 1000, EVERY, EVERY * 4, LIMIT).unwrap();
        assert_eq!((flows.len(), flows.iter().filter(|flow| flow.is_ok()).count()), (4, 4));
        let relay = Relay::start(addr, Fault::Flip(500)).unwrap();
        let flows = steady(relay.addr(), 1000, EVERY, EVERY, LIMIT).unwrap();
        assert_eq!(flows[0].as_ref().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
