//! Starting, running and stopping a box.
//!
//! Everything that can be refused is asked before anything is changed; whatever was changed is
//! taken back on every way out but SIGKILL, and after that at the next start.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use braid_core::config::{Config, Endpoint, Peer};
use braid_core::kernel::{Ruleset, Sysctl, TproxyPorts, Want};
use braid_core::key::PublicKey;
use braid_sys::rtnl::Rtnl;
use braid_sys::udp::Answering;
use braid_sys::{mptcp, probe, resource, sysctl, tproxy};
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::dial::Dialler;
use crate::directory::Directory;
use crate::error::StartError;
use crate::gate::{Gate, Unproved};
use crate::identity::{self, Identity};
use crate::ingress::{Ingress, Trouble};
use crate::kernel::Kernel;
use crate::peering::{Common, Peering};
use crate::steering::Steering;
use crate::tasks::Tasks;
use crate::throttle::Throttle;
use crate::tls::Tls;
use crate::upkeep;
use crate::watch::{Dialled, Ears, View, Wanted, Watching};
use crate::{echo, heartbeats};

/// Runs the box until `stop` is ready.
///
/// # Errors
/// Why it did not start. Once it has started it runs until it is stopped.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), StartError> {
    let identity = identity::load(&config.key_file)?;
    check_machine()?;
    let rtnl = Rtnl::connect().map_err(|e| StartError::System("netlink socket", e))?;
    let mut kernel = Kernel::acquire(rtnl.clone()).await?;
    let running = Running::default();
    let ended = tokio::select! {
        ended = serve(config, identity, rtnl, &mut kernel, &running) => ended,
        () = stop => Ok(()),
    };
    info!("stopping");
    running.directory.say_goodbye().await;
    // With its task every flow ends, by a reset.
    running.tasks.shutdown().await;
    kernel.remove().await;
    ended
}

/// What ends with the box.
#[derive(Default)]
struct Running {
    tasks: Tasks,
    directory: Arc<Directory>,
}

/// Prepares, applies and serves; ends only if something goes wrong.
async fn serve(
    config: Config,
    identity: Identity,
    rtnl: Rtnl,
    kernel: &mut Kernel,
    running: &Running,
) -> Result<(), StartError> {
    let public_key = identity.public;
    let mut prepared = prepare(&config, &rtnl).await?;
    kernel.apply(&prepared.view.plan).await?;
    // Those bound before have buffers as the sysctls were, and so would all that they accept.
    drop(std::mem::take(&mut prepared.listeners));
    prepared.listeners = listen(&config.listen)?;
    for (socket, listen) in answering(&config.listen)? {
        running.tasks.spawn(echo::serve(socket, listen, Arc::clone(&running.directory)));
    }
    let (mut needed, watching) = prepared.start(config, &identity, rtnl, kernel, running).await?;
    info!(%public_key, "running");
    let ended = tokio::select! {
        ended = needed.join_next() => ended,
        () = watching.run() => None,
    };
    let why = match ended {
        Some(Err(error)) => error.to_string(),
        _ => "it has nothing more to do".to_owned(),
    };
    Err(StartError::System("a task has ended", std::io::Error::other(why)))
}

fn check_machine() -> Result<(), StartError> {
    let allowed = probe::may_administer_network();
    if !allowed.map_err(|e| StartError::System("cannot read /proc/self/status", e))? {
        return Err(StartError::Permission);
    }
    probe::mptcp()?;
    probe::tproxy().map_err(StartError::Tproxy)
}

/// All that has to be had before the kernel is changed.
struct Prepared {
    listeners: Vec<TcpListener>,
    interceptors: Vec<TcpListener>,
    /// Of each peer that is dialled.
    endpoints: BTreeMap<PublicKey, Vec<SocketAddr>>,
    wanted: Wanted,
    view: View,
    ears: Ears,
}

async fn prepare(config: &Config, rtnl: &Rtnl) -> Result<Prepared, StartError> {
    let (mut endpoints, mut peers) = (BTreeMap::new(), Vec::new());
    for peer in config.dialled() {
        let addresses = resolve(&peer.endpoints).await?;
        endpoints.insert(peer.public_key, addresses.clone());
        peers.push(Dialled { name: peer.name.clone(), endpoints: addresses });
    }
    let listeners = listen(&config.listen)?;
    let (interceptors, ports) = interceptors(config.intercept.is_some())?;
    look_for_interceptors(config, rtnl).await?;
    let wanted = Wanted {
        paths: config.paths.clone(),
        peers,
        ruleset: ruleset(config, endpoints.values().flatten(), ports),
        sysctls: sysctls(config)?,
        v6: probe::ipv6(),
    };
    // Listening comes first: what changes behind it is heard of.
    let ears = Ears::open().map_err(|error| StartError::System("netlink socket", error))?;
    let view = wanted.look(rtnl, &[]).await?;
    wanted.report(&[], &view.paths);
    Ok(Prepared { listeners, interceptors, endpoints, wanted, view, ears })
}

/// One that is not there yet is served when it comes: the kernel goes by its name.
async fn look_for_interceptors(config: &Config, rtnl: &Rtnl) -> Result<(), StartError> {
    for name in config.intercept.iter().flat_map(|intercept| &intercept.interfaces) {
        if rtnl.interface(name).await?.is_none() {
            warn!("intercept.interfaces: there is no interface \"{name}\" here (see `ip link`)");
        }
    }
    Ok(())
}

impl Prepared {
    /// Starts the box. The tasks in the set returned run for as long as the box does, and so is it to
    /// be watched.
    async fn start<'a>(
        self,
        config: Config,
        identity: &Identity,
        rtnl: Rtnl,
        kernel: &'a mut Kernel,
        running: &Running,
    ) -> Result<(JoinSet<()>, Watching<'a>), StartError> {
        let mut needed = JoinSet::new();
        let keys = config.peers.iter().map(|peer| peer.public_key);
        let tls = Arc::new(Tls::new(&identity.private, keys).map_err(StartError::Tls)?);
        let steering = if self.endpoints.is_empty() {
            None
        } else {
            let (steering, task) = Steering::start().await?;
            needed.spawn(task);
            Some(steering)
        };
        let common = Common {
            identity: identity.public,
            aes: probe::has_aes(),
            tls,
            directory: Arc::clone(&running.directory),
            memory: memory()?,
            tasks: running.tasks.clone(),
            rtnl: rtnl.clone(),
        };
        let diallers = diallers(self.endpoints, steering.as_ref(), &self.view);
        let peerings = peerings(config.peers, &diallers, &common, &mut needed);
        serve_peers(self.listeners, &peerings, &common, &mut needed);
        serve_hosts(self.interceptors, &peerings, &common, &mut needed);
        let (wanted, view, ears) = (self.wanted, self.view, self.ears);
        let diallers = diallers.into_values().collect();
        let refusals = Throttle::default();
        Ok((needed, Watching { wanted, view, rtnl, kernel, diallers, ears, refusals }))
    }
}

fn diallers(
    endpoints: BTreeMap<PublicKey, Vec<SocketAddr>>,
    steering: Option<&Steering>,
    view: &View,
) -> BTreeMap<PublicKey, Arc<Dialler>> {
    let dialler = |(peer, endpoints)| {
        let dialler = Dialler::new(endpoints, steering?.clone());
        dialler.set_paths(&view.paths);
        Some((peer, Arc::new(dialler)))
    };
    endpoints.into_iter().filter_map(dialler).collect()
}

fn peerings(
    peers: Vec<Peer>,
    diallers: &BTreeMap<PublicKey, Arc<Dialler>>,
    common: &Common,
    needed: &mut JoinSet<()>,
) -> Vec<Arc<Peering>> {
    let start = |peer: Peer| {
        let dialler = diallers.get(&peer.public_key).cloned();
        let peering = Peering::new(peer, dialler.clone(), common);
        if let Some(dialler) = dialler {
            needed.spawn(heartbeats::keep(Arc::clone(&peering), Arc::clone(&dialler)));
            needed.spawn(Arc::clone(&peering).keep_session(dialler));
        }
        needed.spawn(upkeep::keep(Arc::clone(&peering)));
        peering
    };
    peers.into_iter().map(start).collect()
}

fn serve_peers(
    listeners: Vec<TcpListener>,
    peerings: &[Arc<Peering>],
    common: &Common,
    needed: &mut JoinSet<()>,
) {
    let by_key = peerings.iter().map(|peering| (peering.peer.public_key, Arc::clone(peering)));
    let gate = Arc::new(Gate {
        tls: Arc::clone(&common.tls),
        peerings: by_key.collect(),
        directory: Arc::clone(&common.directory),
        tasks: common.tasks.clone(),
        trouble: Trouble::default(),
        rejections: Throttle::default(),
        unproved: Unproved::default(),
    });
    for listener in listeners {
        needed.spawn(Arc::clone(&gate).serve(listener));
    }
}

fn serve_hosts(
    interceptors: Vec<TcpListener>,
    peerings: &[Arc<Peering>],
    common: &Common,
    needed: &mut JoinSet<()>,
) {
    let routed = peerings.iter().filter(|peering| peering.is_routed()).cloned();
    let ingress = Arc::new(Ingress::new(routed.collect(), common.tasks.clone()));
    for listener in interceptors {
        needed.spawn(Arc::clone(&ingress).serve(listener));
    }
}

async fn resolve(endpoints: &[Endpoint]) -> Result<Vec<SocketAddr>, StartError> {
    let mut addresses = Vec::new();
    for endpoint in endpoints {
        match endpoint {
            Endpoint::Address(address) => addresses.push(*address),
            Endpoint::Name(name, port) => {
                let found = tokio::net::lookup_host((name.as_str(), *port)).await;
                let found = found.map_err(|e| StartError::Resolve(name.clone(), e))?;
                addresses.extend(found);
            }
        }
    }
    Ok(addresses)
}

fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, StartError> {
    let bound = addresses.iter().map(|address| {
        let listener = mptcp::listener(*address).and_then(TcpListener::from_std);
        listener.map_err(|error| StartError::Listen(*address, error))
    });
    bound.collect()
}

fn answering(addresses: &[SocketAddr]) -> Result<Vec<(Answering, SocketAddr)>, StartError> {
    let bound = addresses.iter().map(|address| {
        let bound = Answering::bind(*address);
        bound.map(|it| (it, *address)).map_err(|error| StartError::Listen(*address, error))
    });
    bound.collect()
}

fn interceptors(wanted: bool) -> Result<(Vec<TcpListener>, Option<TproxyPorts>), StartError> {
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

fn sysctls(config: &Config) -> Result<Vec<Sysctl>, StartError> {
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

fn memory() -> Result<u64, StartError> {
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
