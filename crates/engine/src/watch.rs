//! Watches the paths and our kernel state while the box runs.
//!
//! Whenever links, addresses, routes or rules change, the paths are read again, the plan is made anew,
//! the kernel is given what differs, and carriers leave and take ways. What others take away of ours
//! is put back. When to look is `core::watch`, what the plan is `core::kernel`, how it is applied
//! `kernel`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use braid_core::config::PathConfig;
use braid_core::kernel::numbers::NFT_TABLE;
use braid_core::kernel::{Plan, Ruleset, Sysctl};
use braid_core::key::PublicKey;
use braid_core::path::{Link, Pairing, Path, Role, pair_by_endpoint};
use braid_core::watch::Watch;
use braid_sys::notices::Notices;
use braid_sys::rtnl::{Rtnl, RtnlError};
use tracing::{debug, info, warn};

use crate::dial::Dialler;
use crate::kernel::{Done, Kernel, Touched};
use crate::survey;
use crate::throttle::Throttle;
use crate::warning::Warning;

/// Between two looks at sysctls and limits, of whose changes nobody tells.
const VALUES: Duration = Duration::from_secs(5);

/// Before a socket that failed is opened anew.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// What the box wants in the kernel, but for what depends on the paths.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) paths: Vec<PathConfig>,
    pub(crate) peers: Vec<DialledPeer>,
    pub(crate) ruleset: Ruleset,
    pub(crate) sysctls: Vec<Sysctl>,
    /// Whether the kernel has IPv6.
    pub(crate) v6: bool,
}

/// A peer that is dialled.
#[derive(Debug)]
pub(crate) struct DialledPeer {
    pub(crate) public_key: PublicKey,
    pub(crate) name: String,
    pub(crate) endpoints: Vec<SocketAddr>,
}

/// The paths as they were read last, and what follows from them.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) paths: Vec<Path>,
    pub(crate) plan: Plan,
}

/// Hears of changes from before the first look on.
pub(crate) struct Ears {
    routing: Notices,
    table: Notices,
}

impl Wanted {
    /// What follows from the paths.
    pub(crate) fn view(&self, paths: Vec<Path>) -> View {
        let ways: Vec<Pairing> = self.peers.iter().flat_map(|peer| peer.ways(&paths)).collect();
        let (ruleset, sysctls) = (self.ruleset.clone(), self.sysctls.clone());
        let plan = Plan::new(ruleset, &paths, &ways, sysctls, self.v6);
        View { paths, plan }
    }

    /// Says what is other than `before`.
    pub(crate) fn report(&self, before: &[Path], now: &[Path]) {
        for (number, path) in now.iter().enumerate() {
            let is_news = before.get(number).map(|before| before.link) != Some(path.link);
            if !is_news || path.role == Role::Off {
                continue;
            }
            match Warning::of_link(path) {
                Some(warning) => warn!(path = path.interface, "{warning}"),
                None => info!(path = path.interface, "path is up"),
            }
        }
        for pair in same_addresses(now) {
            if !same_addresses(before).contains(&pair) {
                warn!("{}", Warning::of_same(pair));
            }
        }
        self.peers.iter().for_each(|peer| peer.report(before, now));
    }
}

/// Paths that are up with an address of another path, behind that one.
pub(crate) fn same_addresses(paths: &[Path]) -> Vec<(&str, &str)> {
    let up = |path: &&Path| path.link == Link::Up && path.role != Role::Off;
    let mut found = Vec::new();
    for (number, second) in paths.iter().enumerate().filter(|(_, path)| up(path)) {
        let shares = |first: &&Path| {
            let own = |address| second.addresses.iter().any(|other| other.addr() == address);
            up(first) && first.addresses.iter().any(|address| own(address.addr()))
        };
        let first = paths[..number].iter().find(shares);
        found.extend(first.map(|first| (first.interface.as_str(), second.interface.as_str())));
    }
    found
}

impl DialledPeer {
    /// All ways to it, whichever of its endpoints is the first choice.
    pub(crate) fn ways(&self, paths: &[Path]) -> Vec<Pairing> {
        let mut ways = Vec::new();
        for way in pair_by_endpoint(paths, &self.endpoints).concat() {
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        ways
    }

    fn report(&self, before: &[Path], now: &[Path]) {
        let (old, new, peer) = (self.ways(before), self.ways(now), &self.name);
        for way in old.iter().filter(|way| !new.contains(way)) {
            let path = &before[way.path].interface;
            info!(peer, path, local = %way.local, remote = %way.remote, "way is gone");
        }
        for way in new.iter().filter(|way| !old.contains(way)) {
            let path = &now[way.path].interface;
            info!(peer, path, local = %way.local, remote = %way.remote, "way");
        }
        if new.is_empty() && (before.is_empty() || !old.is_empty()) {
            warn!("{}", Warning::Unreached(peer.clone()));
        }
    }
}

impl Ears {
    /// Begins to listen.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { routing: Notices::of_routing()?, table: Notices::of_table(NFT_TABLE)? })
    }

    /// What has changed, or may have.
    async fn hear(&mut self) -> Touched {
        let (heard, touched) = tokio::select! {
            heard = self.routing.changed() => (heard, Touched { routing: true, ..Touched::default() }),
            heard = self.table.changed() => (heard, Touched { table: true, ..Touched::default() }),
        };
        let Err(error) = heard else { return touched };
        warn!("the kernel's notices of changes have ended: {error}; listening again");
        loop {
            tokio::time::sleep(OPEN_AGAIN).await;
            if let Ok(ears) = Self::open() {
                *self = ears;
                return Touched::ALL;
            }
        }
    }
}

/// What the box watches while it runs.
pub(crate) struct Watching<'a> {
    pub(crate) wanted: Wanted,
    pub(crate) view: View,
    pub(crate) rtnl: Rtnl,
    pub(crate) kernel: &'a mut Kernel,
    pub(crate) diallers: Vec<Arc<Dialler>>,
    pub(crate) ears: Ears,
    pub(crate) refusals: Throttle,
}

impl Watching<'_> {
    /// Watches for as long as the box runs.
    pub(crate) async fn run(mut self) {
        let (mut watch, mut touched) = (Watch::default(), Touched::default());
        let mut values = tokio::time::interval(VALUES);
        loop {
            let wake = watch.wake().map(tokio::time::Instant::from_std);
            let due = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.look(&mut watch, &mut touched).await,
                heard = self.ears.hear() => {
                    touched = touched.and(heard);
                    watch.handle_change(Instant::now());
                }
                _ = values.tick() => {
                    touched.values = true;
                    watch.handle_change(Instant::now());
                }
            }
        }
    }

    async fn look(&mut self, watch: &mut Watch, touched: &mut Touched) {
        let now = Instant::now();
        let may_restore = watch.look(now);
        let is_new = match self.look_at_paths(*touched).await {
            Ok(is_new) => is_new,
            Err(error) => {
                warn!("cannot read the paths: {error}");
                return watch.handle_failed(now);
            }
        };
        if is_new || may_restore {
            self.apply(watch, touched, is_new).await;
        }
        // Behind the rules and routes, which new subflows need.
        for dialler in &self.diallers {
            dialler.set_paths(&self.view.paths);
        }
    }

    /// Whether the plan is another one now.
    async fn look_at_paths(&mut self, touched: Touched) -> Result<bool, RtnlError> {
        if !touched.routing {
            return Ok(false);
        }
        let paths = survey::observe(&self.rtnl, &self.wanted.paths, &self.view.paths).await?;
        let view = self.wanted.view(paths);
        self.wanted.report(&self.view.paths, &view.paths);
        let is_new = view.plan != self.view.plan;
        self.view = view;
        if is_new {
            debug!("plan is now:\n{}", self.view.plan);
        }
        Ok(is_new)
    }

    /// Gives the kernel what it lacks of the plan; unless that `is_new`, others have taken it away.
    async fn apply(&mut self, watch: &mut Watch, touched: &mut Touched, is_new: bool) {
        let (now, looked_at) = (Instant::now(), std::mem::take(touched));
        let mended = self.kernel.mend(&self.view.plan, looked_at).await;
        if !mended.done.is_empty() {
            let what: Vec<_> = mended.done.iter().map(Done::to_string).collect();
            let what = what.join(", ");
            if is_new {
                info!("kernel state follows the paths: {what}");
            } else {
                let times = watch.handle_restored(now);
                mended.done.iter().for_each(|done| self.kernel.report.restored(&done.what));
                warn!(times, "restored what something else had changed: {what}");
            }
        }
        if let Some(error) = mended.refused {
            if let Some(held) = self.refusals.admit(now) {
                warn!(held, "kernel state is not as it should be: {error}; trying again");
            }
            *touched = looked_at;
            watch.handle_failed(now);
        } else {
            watch.handle_done();
        }
    }
}
