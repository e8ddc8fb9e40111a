//! Many downloads at once, each checked and timed by itself.

use super::client::{FlowTimes, fetch};
use std::{
    io,
    net::SocketAddr,
    sync::Barrier,
    thread::{Builder, ScopedJoinHandle, scope},
    time::Duration,
};

const STACK: usize = 128 << 10;

/// Downloads `size` bytes on each of `count` connections, all begun at once.
///
/// Each may take `limit`. Errors: no thread could be started, or the first of the flows' errors.
pub fn burst(
    addr: SocketAddr,
    size: u64,
    count: usize,
    limit: Duration,
) -> io::Result<Vec<FlowTimes>> {
    // Threads take longer to start than flows.
    let gate = &Barrier::new(count);
    scope(|scope| {
        let flow = |seed: usize| {
            move || {
                gate.wait();
                fetch(addr, size, seed as u64, limit)
            }
        };
        let mut flows: Vec<ScopedJoinHandle<'_, io::Result<FlowTimes>>> = Vec::new();
        for seed in 0..count {
            flows.push(Builder::new().stack_size(STACK).spawn_scoped(scope, flow(seed))?);
        }
        let joined = flows
            .into_iter()
            .map(|flow| flow.join().map_err(|_| io::Error::other("a flow's thread panicked"))?);
        joined.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::Server;

    #[test]
    fn all_flows_are_timed() {
        let server = Server::start(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let flows = burst(server.addrs()[0], 10_000, 200, Duration::from_secs(20)).unwrap();
        assert_eq!((flows.len(), server.stats().accepted), (200, 200));
    }

    #[test]
    fn a_flow_that_fails_is_an_error() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(burst(closed, 1, 3, Duration::from_secs(20)).is_err());
    }
}
