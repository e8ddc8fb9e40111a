//! What the machine has of what a configuration asks for: asked before anything is changed, by `start`,
//! which stops at the first thing that is missing, and by `check`, which names them all.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use braid_core::config::{Config, Endpoint, Peer};
use braid_core::kernel::{Plan, Ruleset, Sysctl, TproxyPorts, Want};
use braid_core::key::PublicKey;
use braid_core::path::{Pairing, Path, pair_by_endpoint};
use braid_sys::rtnl::Rtnl;
use braid_sys::{mptcp, probe, resource, sysctl, tproxy};
use ipnet::IpNet;
use tokio::net::TcpListener;
use tracing::info;

use crate::error::StartError;

/// Whether the process may do what it has to.
pub(crate) fn permission() -> Result<(), StartError> {
    let allowed = probe::may_administer_network();
    let allowed = allowed.map_err(|e| StartError::System("cannot read /proc/self/status", e))?;
    if allowed { Ok(()) } else { Err(StartError::Permission) }
}

/// Whether the kernel has MPTCP.
pub(crate) fn mptcp() -> Result<(), StartError> {
    Ok(probe::mptcp()?)
}

/// Whether nft and the kernel can intercept; takes permission.
pub(crate) fn interception() -> Result<(), StartError> {
    probe::tproxy().map_err(StartError::Tproxy)
}

/// What the kernel shows of a configuration's paths and peers.
pub(crate) struct Survey {
    /// The paths in the order of the configuration.
    pub(crate) paths: Vec<Path>,
    /// The endpoints of each peer that is dialled.
    pub(crate) endpoints: BTreeMap<PublicKey, Vec<SocketAddr>>,
    /// The ways to it, whichever of its endpoints is tried first; none where no path leads there.
    pub(crate) ways: BTreeMap<PublicKey, Vec<Pairing>>,
    /// What is missing, in the order of the configuration.
    pub(crate) problems: Vec<StartError>,
}

impl Survey {
    /// Looks at everything, past what is missing.
    pub(crate) async fn take(config: &Config, rtnl: &Rtnl) -> Self {
        let (endpoints, ways) = (BTreeMap::new(), BTreeMap::new());
        let mut survey = Self { paths: Vec::new(), endpoints, ways, problems: Vec::new() };
        survey.see_paths(config, rtnl).await;
        for name in config.intercept.iter().flat_map(|intercept| &intercept.interfaces) {
            let found = interface(rtnl, "intercept.interfaces", name).await;
            survey.keep(found);
        }
        for peer in config.dialled() {
            survey.see_peer(peer).await;
        }
        survey
    }

    /// # Errors
    /// The first thing that is missing.
    pub(crate) fn whole(mut self) -> Result<Self, StartError> {
        if self.problems.is_empty() { Ok(self) } else { Err(self.problems.swap_remove(0)) }
    }

    /// All that the box wants in the kernel.
    pub(crate) fn plan(
        &self,
        config: &Config,
        ports: Option<TproxyPorts>,
    ) -> Result<Plan, StartError> {
        let all: Vec<Pairing> = self.ways.values().flatten().copied().collect();
        let ruleset = ruleset(config, self.endpoints.values().flatten(), ports);
        Ok(Plan::new(ruleset, &self.paths, &all, sysctls(config)?, probe::ipv6()))
    }

    /// Says which ways there are.
    pub(crate) fn log_ways(&self, config: &Config) {
        for peer in config.dialled() {
            for way in self.ways.get(&peer.public_key).into_iter().flatten() {
                info!(
                    peer = peer.name,
                    path = self.paths[way.path].interface,
                    local = %way.local,
                    remote = %way.remote,
                    "way"
                );
            }
        }
    }

    async fn see_paths(&mut self, config: &Config, rtnl: &Rtnl) {
        for path in &config.paths {
            // A path that is not there keeps its place: the others go by theirs.
            let (interface_name, role) = (path.interface.clone(), path.role);
            let (addresses, routes) = (Vec::new(), Vec::new());
            let mut seen = Path { interface: interface_name, index: 0, role, addresses, routes };
            let found = interface(rtnl, "path.interface", &path.interface).await;
            if let Some(index) = self.keep(found) {
                seen.index = index;
                let addresses = rtnl.addresses(index).await.map_err(StartError::from);
                seen.addresses = self.keep(addresses).unwrap_or_default();
                let routes = rtnl.link_routes(index).await.map_err(StartError::from);
                seen.routes = self.keep(routes).unwrap_or_default();
            }
            self.paths.push(seen);
        }
    }

    async fn see_peer(&mut self, peer: &Peer) {
        let mut addresses = Vec::new();
        for endpoint in &peer.endpoints {
            addresses.extend(self.keep(resolve(endpoint).await).into_iter().flatten());
        }
        let found = pair_by_endpoint(&self.paths, &addresses).concat();
        if found.is_empty() && !addresses.is_empty() {
            self.problems.push(StartError::NoWay(peer.name.clone()));
        }
        self.ways.insert(peer.public_key, found);
        self.endpoints.insert(peer.public_key, addresses);
    }

    fn keep<T>(&mut self, found: Result<T, StartError>) -> Option<T> {
        found.map_err(|problem| self.problems.push(problem)).ok()
    }
}

async fn interface(rtnl: &Rtnl, key: &'static str, name: &str) -> Result<u32, StartError> {
    let index = rtnl.link_index(name).await?;
    index.ok_or_else(|| StartError::NoInterface { key, name: name.to_owned() })
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
fn ruleset<'a>(
    config: &Config,
    endpoints: impl Iterator<Item = &'a SocketAddr>,
    ports: Option<TproxyPorts>,
) -> Ruleset {
    let Some(intercept) = &config.intercept else {
        return Ruleset { interfaces: vec![], routes: vec![], bypass: vec![], ports: None };
    };
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
