//! Starting, running and stopping a box.
//!
//! Everything that can be refused is asked before anything is changed (`survey`); whatever was changed
//! is taken back on every way out but SIGKILL, and after that at the next start.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use braid_core::config::{Config, Peer};
use braid_core::key::PublicKey;
use braid_sys::probe;
use braid_sys::rtnl::Rtnl;
use braid_sys::udp::Answering;
use tokio::net::{TcpListener, UnixListener};
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
use crate::status::{self, SocketFile, Sources};
use crate::steering::Steering;
use crate::survey::{self, Survey};
use crate::tasks::Tasks;
use crate::throttle::Throttle;
use crate::tls::Tls;
use crate::upkeep;
use crate::warning::Warning;
use crate::watch::{Ears, View, Wanted, Watching};
use crate::{echo, heartbeats};

/// Runs the box until `stop` is ready.
///
/// # Errors
/// Why it did not start. Once it has started it runs until it is stopped.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), StartError> {
    let began = Instant::now();
    let identity = identity::load(&config.key_file)?;
    survey::peers(&config, &identity.public)?;
    survey::permission()?;
    survey::mptcp()?;
    survey::interception()?;
    let rtnl = Rtnl::connect().map_err(|e| StartError::System("netlink socket", e))?;
    let mut kernel = Kernel::acquire(rtnl.clone()).await?;
    let (socket, status) = SocketFile::bind()?;
    let running = Running { began, tasks: Tasks::default(), directory: Arc::default() };
    let ended = tokio::select! {
        ended = serve(config, identity, (rtnl, status), &mut kernel, &running) => ended,
        () = stop => Ok(()),
    };
    info!("stopping");
    running.directory.say_goodbye().await;
    // With its task every flow ends, by a reset.
    running.tasks.shutdown().await;
    // While the namespace is still locked: the next box's socket has the same place.
    drop(socket);
    kernel.remove().await;
    ended
}

/// What ends with the box.
struct Running {
    began: Instant,
    tasks: Tasks,
    directory: Arc<Directory>,
}

/// Prepares, applies and serves; ends only if something goes wrong.
async fn serve(
    config: Config,
    identity: Identity,
    (rtnl, status): (Rtnl, UnixListener),
    kernel: &mut Kernel,
    running: &Running,
) -> Result<(), StartError> {
    let public_key = identity.public;
    let mut prepared = prepare(&config, &rtnl).await?;
    kernel.apply(&prepared.view.plan).await?;
    // Those bound before have buffers as the sysctls were, and so would all that they accept.
    drop(std::mem::take(&mut prepared.listeners));
    prepared.listeners = listen(&config.listen)?;
    for (socket, listen) in prepared.answering.drain(..) {
        running.tasks.spawn(echo::serve(socket, listen, Arc::clone(&running.directory)));
    }
    let paths = config.paths.clone();
    let report = kernel.report.clone();
    let (mut needed, serving, watching) =
        prepared.start(config, &identity, rtnl, kernel, running).await?;
    let Serving { peerings, gate, ingress } = serving;
    let began = running.began;
    let sources = Sources { public_key, began, paths, peerings, gate, ingress, kernel: report };
    needed.spawn(status::serve(status, sources, running.tasks.clone()));
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

/// Those who are at work.
struct Serving {
    peerings: Vec<Arc<Peering>>,
    gate: Arc<Gate>,
    ingress: Arc<Ingress>,
}

/// All that has to be had before the kernel is changed.
struct Prepared {
    listeners: Vec<TcpListener>,
    answering: Vec<(Answering, SocketAddr)>,
    interceptors: Vec<TcpListener>,
    wanted: Wanted,
    view: View,
    ears: Ears,
}

async fn prepare(config: &Config, rtnl: &Rtnl) -> Result<Prepared, StartError> {
    // Listening comes first: what changes behind it is heard of.
    let ears = Ears::open().map_err(|error| StartError::System("netlink socket", error))?;
    let Survey { paths, peers, absent, .. } = Survey::take(config, rtnl).await.whole()?;
    for name in absent {
        warn!("{}", Warning::NoHosts(name));
    }
    let (listeners, answering) = (listen(&config.listen)?, answering(&config.listen)?);
    let (interceptors, ports) = survey::interceptors(config.intercept.is_some())?;
    let ruleset = survey::ruleset(config, &peers, ports);
    let (configured, sysctls) = (config.paths.clone(), survey::sysctls(config)?);
    let wanted = Wanted { paths: configured, peers, ruleset, sysctls, v6: probe::ipv6() };
    let view = wanted.view(paths);
    wanted.report(&[], &view.paths);
    Ok(Prepared { listeners, answering, interceptors, wanted, view, ears })
}

fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, StartError> {
    addresses.iter().map(|address| survey::listen(*address)).collect()
}

fn answering(addresses: &[SocketAddr]) -> Result<Vec<(Answering, SocketAddr)>, StartError> {
    addresses.iter().map(|address| Ok((survey::answering(*address)?, *address))).collect()
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
    ) -> Result<(JoinSet<()>, Serving, Watching<'a>), StartError> {
        let mut needed = JoinSet::new();
        let keys = config.peers.iter().map(|peer| peer.public_key);
        let tls = Arc::new(Tls::new(&identity.private, keys).map_err(StartError::Tls)?);
        let diallers = self.diallers(&mut needed).await?;
        let common = Common {
            identity: identity.public,
            aes: probe::has_aes(),
            tls,
            directory: Arc::clone(&running.directory),
            memory: survey::memory()?,
            tasks: running.tasks.clone(),
            rtnl: rtnl.clone(),
        };
        let peerings = peerings(config.peers, &diallers, &common, &mut needed);
        let gate = serve_peers(self.listeners, &peerings, &common, &mut needed);
        let ingress = serve_hosts(self.interceptors, &peerings, &common, &mut needed);
        let (wanted, view, ears) = (self.wanted, self.view, self.ears);
        let diallers = diallers.into_values().collect();
        let refusals = Throttle::default();
        let watching = Watching { wanted, view, rtnl, kernel, diallers, ears, refusals };
        Ok((needed, Serving { peerings, gate, ingress }, watching))
    }

    /// Of each peer that is dialled.
    async fn diallers(
        &self,
        needed: &mut JoinSet<()>,
    ) -> Result<BTreeMap<PublicKey, Arc<Dialler>>, StartError> {
        if self.wanted.peers.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (steering, task) = Steering::start().await?;
        needed.spawn(task);
        let diallers = self.wanted.peers.iter().map(|peer| {
            let dialler = Dialler::new(peer.endpoints.clone(), steering.clone());
            dialler.set_paths(&self.view.paths);
            (peer.public_key, Arc::new(dialler))
        });
        Ok(diallers.collect())
    }
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
) -> Arc<Gate> {
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
    gate
}

fn serve_hosts(
    interceptors: Vec<TcpListener>,
    peerings: &[Arc<Peering>],
    common: &Common,
    needed: &mut JoinSet<()>,
) -> Arc<Ingress> {
    let routed = peerings.iter().filter(|peering| peering.is_routed()).cloned();
    let ingress = Arc::new(Ingress::new(routed.collect(), common.tasks.clone()));
    for listener in interceptors {
        needed.spawn(Arc::clone(&ingress).serve(listener));
    }
    ingress
}
