//! What the machine has of what a configuration asks for: asked before anything is changed, by `start`,
//! which stops at the first thing that it cannot do without, and by `check`, which names them all.
//! Paths, ways and hosts may come later: they are missing in words only (`warning`).

use std::net::SocketAddr;

use braid_core::config::{Config, Endpoint, PathConfig, Peer};
use braid_core::kernel::{Ruleset, Sysctl, TproxyPorts, Want};
use braid_core::key::PublicKey;
use braid_core::path::{Link, Path, in_order};
use braid_sys::rtnl::{Rtnl, RtnlError};
use braid_sys::udp::Answering;
use braid_sys::{mptcp, probe, resource, sysctl, tproxy};
use ipnet::IpNet;
use tokio::net::TcpListener;

use crate::error::StartError;
use crate::watch::DialledPeer;

/// Whether the process may do what it has to.
pub(crate) fn permission() -> Result<(), StartError> {
    let allowed = probe::may_administer_network();
    let allowed = allowed.map_err(|e| StartError::System("cannot read /proc/self/status", e))?;
    if allowed { Ok(()) } else { Err(StartError::Permission) }
}

/// Whether no peer is this box itself: both ends would seal under the same keys.
pub(crate) fn peers(config: &Config, own: &PublicKey) -> Result<(), StartError> {
    let own = config.peers.iter().find(|peer| peer.public_key == *own);
    own.map_or(Ok(()), |peer| Err(StartError::OwnKey(peer.name.clone())))
}

/// Whether the kernel has MPTCP.
pub(crate) fn mptcp() -> Result<(), StartError> {
    Ok(probe::mptcp()?)
}

/// Whether nft and the kernel can intercept; takes permission.
pub(crate) fn interception() -> Result<(), StartError> {
    probe::tproxy().map_err(StartError::Tproxy)
}

/// What the machine shows of a configuration's paths and peers.
pub(crate) struct Survey {
    /// The paths in the order of the configuration; none where they cannot be read.
    pub(crate) paths: Vec<Path>,
    /// The peers that are dialled, with those of their endpoints that have an address.
    pub(crate) peers: Vec<DialledPeer>,
    /// Interfaces of `[intercept]` that are not there.
    pub(crate) absent: Vec<String>,
    /// What keeps the box from starting.
    pub(crate) problems: Vec<StartError>,
}

impl Survey {
    /// Looks at everything, past what is missing.
    pub(crate) async fn take(config: &Config, rtnl: &Rtnl) -> Self {
        let (peers, absent) = (Vec::new(), Vec::new());
        let mut survey = Self { paths: Vec::new(), peers, absent, problems: Vec::new() };
        let paths = observe(rtnl, &config.paths, &[]).await;
        survey.paths = survey.keep(paths).unwrap_or_default();
        for name in config.intercept.iter().flat_map(|intercept| &intercept.interfaces) {
            let found = rtnl.interface(name).await;
            if let Some(None) = survey.keep(found) {
                survey.absent.push(name.clone());
            }
        }
        for peer in config.dialled() {
            survey.see_peer(peer).await;
        }
        survey
    }

    /// # Errors
    /// The first thing that keeps the box from starting.
    pub(crate) fn whole(mut self) -> Result<Self, StartError> {
        if self.problems.is_empty() { Ok(self) } else { Err(self.problems.swap_remove(0)) }
    }

    async fn see_peer(&mut self, peer: &Peer) {
        let mut endpoints = Vec::new();
        for endpoint in &peer.endpoints {
            endpoints.extend(self.keep(resolve(endpoint).await).into_iter().flatten());
        }
        let (public_key, name) = (peer.public_key, peer.name.clone());
        self.peers.push(DialledPeer { public_key, name, endpoints });
    }

    fn keep<T, E: Into<StartError>>(&mut self, found: Result<T, E>) -> Option<T> {
        found.map_err(|problem| self.problems.push(problem.into())).ok()
    }
}

/// Reads the paths; addresses that were there `before` come first.
pub(crate) async fn observe(
    rtnl: &Rtnl,
    configured: &[PathConfig],
    before: &[Path],
) -> Result<Vec<Path>, RtnlError> {
    let routes = rtnl.main_routes().await?;
    let mut paths = Vec::new();
    for (number, path) in configured.iter().enumerate() {
        let found = rtnl.interface(&path.interface).await?;
        let index = found.map_or(0, |interface| interface.index);
        let link = match found {
            Some(interface) if interface.is_up => Link::Up,
            Some(_) => Link::Down,
            None => Link::Missing,
        };
        let addresses = if found.is_some() { rtnl.addresses(index).await? } else { Vec::new() };
        let known = before.get(number).map_or(&[][..], |before| &before.addresses);
        let of_it = routes.iter().filter(|(interface, _)| *interface == index);
        paths.push(Path {
            interface: path.interface.clone(),
            link,
            index,
            role: path.role,
            addresses: in_order(known, &addresses),
            routes: of_it.map(|(_, route)| *route).collect(),
        });
    }
    Ok(paths)
}

async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, StartError> {
    match endpoint {
        Endpoint::Address(address) => Ok(vec![*address]),
        Endpoint::Name(name, port) => {
            let found = tokio::net::lookup_host((name.as_str(), *port)).await;
            Ok(found.map_err(|error| StartError::Resolve(name.clone(), error))?.collect())
        }
    }
}

/// Takes peers' heartbeats.
pub(crate) fn answering(address: SocketAddr) -> Result<Answering, StartError> {
    Answering::bind(address).map_err(|error| StartError::ListenUdp(address, error))
}

/// Listens for peers.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listener = mptcp::listener(address).and_then(TcpListener::from_std);
    listener.map_err(|error| StartError::Listen(address, error))
}

/// Listens for hosts' flows, if `wanted`.
pub(crate) fn interceptors(
    wanted: bool,
) -> Result<(Vec<TcpListener>, Option<TproxyPorts>), StartError> {
    if !wanted {
        return Ok((Vec::new(), None));
    }
    let failed = |error| StartError::System("transparent listener", error);
    let bind = |v6| {
        let listener = tproxy::listener(v6).and_then(TcpListener::from_std)?;
        let port = listener.local_addr()?.port();
        Ok((listener, port))
    };
    let (v4, v4_port) = bind(false).map_err(failed)?;
    let mut listeners = vec![v4];
    let mut ports = TproxyPorts { v4: v4_port, v6: None };
    if probe::ipv6() {
        let (v6, v6_port) = bind(true).map_err(failed)?;
        listeners.push(v6);
        ports.v6 = Some(v6_port);
    }
    Ok((listeners, Some(ports)))
}

/// The peers' own addresses are always left alone: a carrier must not be intercepted.
pub(crate) fn ruleset(
    config: &Config,
    peers: &[DialledPeer],
    ports: Option<TproxyPorts>,
) -> Ruleset {
    let Some(intercept) = &config.intercept else {
        return Ruleset { interfaces: vec![], routes: vec![], bypass: vec![], ports: None };
    };
    let endpoints = peers.iter().flat_map(|peer| &peer.endpoints);
    let peers = endpoints.map(|endpoint| IpNet::from(endpoint.ip()));
    let bypass = intercept.bypass.iter().copied().chain(peers);
    Ruleset {
        interfaces: intercept.interfaces.clone(),
        routes: config.routes(),
        bypass: bypass.collect(),
        ports,
    }
}

/// Most that autotuning may give one socket's buffer, bytes: 150 Mbit/s over 200 ms takes 7.5 MB
/// twice over; a router with 128 MB of memory gets 2 MB.
const BUFFER_BOUNDS: (u64, u64) = (1 << 20, 32 << 20);

/// What a socket's buffer may hold at first, bytes. The kernel's own 16 kB to send, which grow too
/// late, let a warm carrier send no more than 50 kB a subflow at once whatever its congestion
/// window: 100 kB took a round trip more. A router with 128 MB gets 64 kB.
const FIRST_BUFFER_BOUNDS: (u64, u64) = (64 << 10, 512 << 10);

/// How sysctls are to stand.
pub(crate) fn sysctls(config: &Config) -> Result<Vec<Sysctl>, StartError> {
    let memory = memory()?;
    let most = (memory / 64).clamp(BUFFER_BOUNDS.0, BUFFER_BOUNDS.1);
    let first = (memory / 4096).clamp(FIRST_BUFFER_BOUNDS.0, FIRST_BUFFER_BOUNDS.1);
    let at_least = |name| Sysctl { name, want: Want::LastTwoAtLeast(first, most), needed: false };
    let exactly =
        |name, value: &str, needed| Sysctl { name, want: Want::Exactly(value.into()), needed };
    let mut sysctls = vec![at_least("net.ipv4.tcp_rmem"), at_least("net.ipv4.tcp_wmem")];
    // An idle carrier would forget its congestion windows within a second.
    sysctls.push(exactly("net.ipv4.tcp_slow_start_after_idle", "0", false));
    if config.dialled().next().is_some() {
        // A few lost SYNs would turn MPTCP off for an hour, for all of the namespace.
        sysctls.push(exactly("net.mptcp.blackhole_timeout", "0", false));
        sysctls.push(exactly("net.mptcp.syn_retrans_before_tcp_fallback", "128", false));
        sysctls.push(path_manager().map(|(name, value)| exactly(name, value, true))?);
    }
    Ok(sysctls)
}

/// This box's memory, bytes.
pub(crate) fn memory() -> Result<u64, StartError> {
    resource::memory_total().map_err(|error| StartError::System("memory size", error))
}

/// The sysctl that hands subflows to us: by name since Linux 6.15, by number before.
fn path_manager() -> Result<(&'static str, &'static str), StartError> {
    let named = sysctl::read("net.mptcp.path_manager")
        .map_err(|e| StartError::System("cannot read sysctl net.mptcp.path_manager", e))?;
    Ok(match named {
        Some(_) => ("net.mptcp.path_manager", "userspace"),
        None => ("net.mptcp.pm_type", "1"),
    })
}
