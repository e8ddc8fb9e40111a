//! `braid check`: all that is wrong with a configuration and the machine that it is for, at once, and
//! without changing anything.
//!
//! What stops a start is `survey`'s, in the same words as `start` says it; what only makes braid work
//! worse is found here, and in `warning`'s words.

use std::net::{IpAddr, Ipv4Addr};

use braid_core::config::Config;
use braid_core::path::{Link, LinkRoute, Path, Role};
use braid_core::policy::Source;
use braid_sys::mptcp_pm::PathManager;
use braid_sys::rtnl::{Interface, Rtnl};
use braid_sys::{nft, resource, sysctl};
use ipnet::{IpNet, Ipv4Net};

use crate::error::StartError;
use crate::identity;
use crate::kernel::change_of;
use crate::state_file::DIRECTORY;
use crate::status;
use crate::survey::{self, Survey};
use crate::warning::Warning;
use crate::watch::{DialledPeer, same_addresses};

/// One thing that was found; its text names the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Finding {
    /// braid will not start.
    #[error("error: {0}")]
    Error(#[from] StartError),
    /// braid will start, and work worse.
    #[error("warning: {0}")]
    Warning(#[from] Warning),
    /// What the check has left out.
    #[error("note: {0}")]
    Note(String),
}

/// Looks at the machine, and at what `config` asks of it where there is one.
pub async fn check(config: Option<&Config>) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(errors([survey::permission()]));
    let allowed = found.is_empty();
    found.extend(errors([survey::mptcp(), state_directory()]));
    if allowed {
        let manager = PathManager::connect().map(drop).map_err(StartError::from);
        found.extend(errors([survey::interception(), manager]));
    } else {
        let left_out = "nftables, sysctls, listeners: only who has CAP_NET_ADMIN can try them";
        found.push(Finding::Note(left_out.to_owned()));
    }
    if let Some(config) = config {
        found.extend(keys(config));
        match Rtnl::connect() {
            Ok(rtnl) => found.extend(network(config, &rtnl, allowed).await),
            Err(error) => found.push(StartError::System("netlink socket", error).into()),
        }
        found.extend(marked_sources(config).into_iter().map(Finding::from));
    }
    found
}

fn errors<T>(tried: impl IntoIterator<Item = Result<T, StartError>>) -> Vec<Finding> {
    tried.into_iter().filter_map(Result::err).map(Finding::from).collect()
}

/// Whether the state directory can be written, or made where it is not there.
fn state_directory() -> Result<(), StartError> {
    let mut places = std::path::Path::new(DIRECTORY).ancestors();
    let place = places.find(|place| place.exists()).unwrap_or(std::path::Path::new("/"));
    resource::may_write(place).map_err(|error| StartError::StateDirectory(place.to_owned(), error))
}

fn keys(config: &Config) -> Vec<Finding> {
    let file = &config.key_file;
    let identity = match identity::load(file) {
        Ok(identity) => identity,
        Err(error) => return vec![StartError::from(error).into()],
    };
    let own = errors([survey::peers(config, &identity.public)]);
    let exposed = identity::others_may_read(file).then(|| Warning::KeyExposed(file.clone()));
    exposed.into_iter().map(Finding::from).chain(own).collect()
}

async fn network(config: &Config, rtnl: &Rtnl, allowed: bool) -> Vec<Finding> {
    let mut survey = Survey::take(config, rtnl).await;
    let mut found: Vec<Finding> = survey.problems.drain(..).map(Finding::from).collect();
    let absent = survey.absent.drain(..).map(Warning::NoHosts);
    found.extend(absent.map(Finding::from));
    found.extend(paths(&survey).into_iter().map(Finding::from));
    found.extend(survey.peers.iter().flat_map(|peer| ways(&survey, peer)).map(Finding::from));
    if !config.listen.is_empty() {
        found.extend(strict_sources(rtnl).await.into_iter().map(Finding::from));
    }
    if !allowed {
        return found;
    }
    if let Some(process) = running() {
        let left_out = "the addresses that it listens on were not tried";
        found.push(Finding::Note(format!("braid runs here (process {process}): {left_out}")));
    } else {
        found.extend(errors(config.listen.iter().map(|address| survey::listen(*address))));
        found.extend(errors(config.listen.iter().map(|address| survey::answering(*address))));
    }
    found.extend(errors([ruleset(config, &survey)]));
    found.extend(sysctls(config));
    found
}

/// What is wrong with the paths by themselves.
fn paths(survey: &Survey) -> Vec<Warning> {
    let used = survey.paths.iter().filter(|path| path.role != Role::Off);
    let same = same_addresses(&survey.paths).into_iter().map(Warning::of_same);
    used.filter_map(Warning::of_link).chain(same).collect()
}

/// Paths that are up and do not lead to a peer, and whether any does.
fn ways(survey: &Survey, peer: &DialledPeer) -> Vec<Warning> {
    // What cannot be read or resolved has been named.
    if survey.paths.is_empty() || peer.endpoints.is_empty() {
        return Vec::new();
    }
    let (ways, same) = (peer.ways(&survey.paths), same_addresses(&survey.paths));
    let leads = |number: usize, path: &Path| {
        ways.iter().any(|way| way.path == number)
            || same.iter().any(|(_, second)| *second == path.interface)
    };
    let up = |path: &Path| path.link == Link::Up && path.role != Role::Off;
    let useless = survey.paths.iter().enumerate();
    let useless = useless.filter(|(number, path)| up(path) && !leads(*number, path));
    let unreached = ways.is_empty().then(|| Warning::Unreached(peer.name.clone()));
    useless.map(|(_, path)| no_way(path, peer)).chain(unreached).collect()
}

fn no_way(path: &Path, peer: &DialledPeer) -> Warning {
    Warning::NoWay {
        path: path.interface.clone(),
        peer: peer.name.clone(),
        reason: if path.addresses.is_empty() {
            "it has no address: is its DHCP done? (`ip address`)"
        } else {
            "none of the peer's endpoints is on its link or behind a gateway of it: give it a route, \
             a default route with a metric of its own will do (Debian: `ip route add default via \
             GATEWAY dev INTERFACE metric 200`; OpenWrt: `option metric` of its interface)"
        },
    }
}

/// The process of the braid that runs in this namespace.
fn running() -> Option<u32> {
    let status = status::parse(&status::read().ok()?);
    status.ok().map(|status| status.process)
}

/// Whether the kernel takes the ruleset as it will be.
fn ruleset(config: &Config, survey: &Survey) -> Result<(), StartError> {
    let (_listeners, ports) = survey::interceptors(config.intercept.is_some())?;
    Ok(nft::check(&survey::ruleset(config, &survey.peers, ports).text())?)
}

/// The sysctls that would be set and cannot be.
fn sysctls(config: &Config) -> Vec<Finding> {
    let wanted = match survey::sysctls(config) {
        Ok(wanted) => wanted,
        Err(error) => return vec![error.into()],
    };
    let judge = |wanted: &braid_core::kernel::Sysctl| -> Option<Finding> {
        let changed = match change_of(wanted) {
            Ok(changed) => changed?,
            Err(error) => return Some(error.into()),
        };
        let source = sysctl::may_write(wanted.name).err()?;
        let refused = StartError::Sysctl { name: wanted.name, wanted: changed.ours, source };
        Some(if wanted.needed { refused.into() } else { Warning::Sysctl(refused).into() })
    };
    wanted.iter().filter_map(judge).collect()
}

/// With `src_valid_mark` the kernel looks up where a packet's source would be reached with the packet's
/// own mark (`__fib_validate_source`). Ours leads to the local table, and a local source is dropped,
/// whatever rp_filter says. It is about interfaces that packets with our mark come in on: the hosts',
/// and for `preserve` the sinks', of which none is named.
fn marked_sources(config: &Config) -> Vec<Warning> {
    let mut sources = config.peers.iter().flat_map(|peer| &peer.egress.source);
    let preserves = sources.any(|(_, source)| *source == Source::Preserve);
    let hosts = config.intercept.iter().flat_map(|intercept| intercept.interfaces.clone());
    let everywhere = (preserves || config.intercept.is_some()).then(|| "all".to_owned());
    let names = everywhere.into_iter().chain(hosts).map(|of| setting(&of, "src_valid_mark"));
    names.filter(|name| number(name) == Some(1)).map(Warning::MarkedSources).collect()
}

/// Uplinks whose strict rp_filter keeps peers out: the default route that answers take is another
/// uplink's. Towards peers that we dial, our own rules lead back.
async fn strict_sources(rtnl: &Rtnl) -> Vec<Warning> {
    let mut found = Vec::new();
    for interface in sysctl::below("net.ipv4.conf").unwrap_or_default() {
        let name = setting(&interface, "rp_filter");
        let strictest = number(&setting("all", "rp_filter")).max(number(&name));
        if strictest == Some(1) && answers_elsewhere(rtnl, &interface).await {
            found.push(Warning::StrictSources(name));
        }
    }
    found
}

/// Whether an interface has a default route, and packets from its address leave by another.
async fn answers_elsewhere(rtnl: &Rtnl, interface: &str) -> bool {
    // One of the Internet's; nothing is sent there (RFC 5737).
    const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let Ok(Some(Interface { index, .. })) = rtnl.interface(interface).await else { return false };
    let is_default = |(leaves_by, route): &(u32, LinkRoute)| {
        *leaves_by == index && route.destination == IpNet::V4(Ipv4Net::default())
    };
    if !rtnl.main_routes().await.unwrap_or_default().iter().any(is_default) {
        return false;
    }
    for address in rtnl.addresses(index).await.unwrap_or_default() {
        if address.addr().is_ipv4()
            && let Ok(Some((leaves_by, _))) = rtnl.route_to(address.addr(), ANYWHERE).await
            && leaves_by != index
        {
            return true;
        }
    }
    false
}

/// The name of an interface's IPv4 setting; `all` is one, too.
fn setting(interface: &str, setting: &str) -> String {
    format!("net.ipv4.conf.{}.{setting}", interface.replace('.', "/"))
}

fn number(name: &str) -> Option<u8> {
    sysctl::read(name).ok().flatten()?.parse().ok()
}
