//! rtnetlink (RFC 3549, `linux/rtnetlink.h`): links, addresses and routes as they are, and our
//! rules and routes as we want them.
//!
//! Ours are told by their protocol number alone: what bears it is ours to delete.

use std::collections::BTreeSet;
use std::net::IpAddr;

use braid_core::kernel::numbers::{PROTOCOL, TABLE_LOCAL};
use braid_core::kernel::{Route, Rule};
use braid_core::path::LinkRoute;
use futures_util::{Stream, TryStreamExt as _};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::rule::RuleMessage;
use rtnetlink::{Handle, IpVersion};

mod message;

use message::{
    address, gateway_of, interface, interface_of, is_deprecated, is_our_rule, link_route,
    metric_of, route_lookup, route_message, route_of, rule_message, rule_of, table_of,
};

/// A netlink request that the kernel refused, and what it was about.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {source}")]
pub struct RtnlError {
    action: String,
    #[source]
    source: rtnetlink::Error,
}

/// A connection to rtnetlink; its answers are read by a task of the runtime it was made in.
#[derive(Clone, Debug)]
pub struct Rtnl {
    handle: Handle,
}

/// A network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index, which another one by the same name does not have.
    pub index: u32,
    /// Whether it is switched on and has a carrier.
    pub is_up: bool,
}

/// What was changed to make the kernel's state the one wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Items that were missing.
    pub added: usize,
    /// Items of ours that are not wanted any more.
    pub removed: usize,
}

impl Rtnl {
    /// Opens a connection in the calling thread's namespace.
    ///
    /// # Errors
    /// From `socket`.
    pub fn connect() -> std::io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// An interface, if there is one of that name.
    ///
    /// # Errors
    /// When the kernel refuses to answer.
    pub async fn interface(&self, name: &str) -> Result<Option<Interface>, RtnlError> {
        const ENODEV: i32 = libc::ENODEV;
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        match found.try_next().await {
            Ok(link) => Ok(link.map(|link| interface(&link))),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -ENODEV => Ok(None),
            Err(source) => Err(RtnlError { action: format!("look up interface {name}"), source }),
        }
    }

    /// The addresses of an interface that can be used, link-local ones left out; those that are no
    /// more to be used for new connections come last.
    ///
    /// # Errors
    /// When the kernel refuses to answer.
    pub async fn addresses(&self, index: u32) -> Result<Vec<IpNet>, RtnlError> {
        let found = self.handle.address().get().set_link_index_filter(index).execute();
        let mut messages: Vec<AddressMessage> = collect(found, "list addresses").await?;
        messages.sort_by_key(is_deprecated);
        Ok(messages.iter().filter_map(address).collect())
    }

    /// Whether the kernel would deliver packets for `ip` to this box itself.
    ///
    /// # Errors
    /// When the kernel refuses to answer, other than by saying that there is no route.
    pub async fn is_own(&self, ip: IpAddr) -> Result<bool, RtnlError> {
        let route = self.look_up(route_lookup(ip)).await?;
        Ok(route.is_some_and(|route| route.header.kind == RouteType::Local))
    }

    /// The way of packets of this box from `from` to `to`, by all rules and tables: the interface's
    /// index and the gateway, if there is one. `None` where there is no way, where `to` is this
    /// box's own, and where an IPv4 `from` is not; of IPv6 the kernel does not ask that.
    ///
    /// # Errors
    /// When the kernel refuses to answer.
    pub async fn route_to(
        &self,
        from: IpAddr,
        to: IpAddr,
    ) -> Result<Option<(u32, Option<IpAddr>)>, RtnlError> {
        let (from, to) = (from.to_canonical(), to.to_canonical());
        let mut lookup = route_lookup(to);
        lookup.header.source_prefix_length = lookup.header.destination_prefix_length;
        lookup.attributes.push(RouteAttribute::Source(from.into()));
        let route = self.look_up(lookup).await?;
        let leaves = route.filter(|route| route.header.kind == RouteType::Unicast);
        Ok(leaves.and_then(|route| Some((interface_of(&route)?, gateway_of(&route)))))
    }

    /// The kernel's answer to one lookup; `None` when it says that there is no route.
    async fn look_up(&self, lookup: RouteMessage) -> Result<Option<RouteMessage>, RtnlError> {
        match self.handle.route().get(lookup).execute().try_next().await {
            Ok(route) => Ok(route),
            Err(rtnetlink::Error::NetlinkError(error)) if NO_ROUTE.contains(&error.raw_code()) => {
                Ok(None)
            }
            Err(source) => Err(error("look up a route", source)),
        }
    }

    /// Unicast routes of the main table, each with the index of the interface that it leaves by; of
    /// those by one interface to one destination the one with the lowest metric.
    ///
    /// # Errors
    /// When the kernel refuses to answer.
    pub async fn main_routes(&self) -> Result<Vec<(u32, LinkRoute)>, RtnlError> {
        let mut routes = self.all_routes().await?;
        routes.sort_by_key(metric_of);
        let mut seen = BTreeSet::new();
        let found = routes.iter().filter_map(link_route);
        Ok(found.filter(|(index, route)| seen.insert((*index, route.destination))).collect())
    }

    /// Makes our policy routing rules the wanted ones.
    ///
    /// # Errors
    /// When the kernel refuses one; the others are as wanted.
    pub async fn sync_rules(&self, wanted: &BTreeSet<Rule>) -> Result<Changes, RtnlError> {
        let (mut changes, mut refused) = (Changes::default(), Ok(()));
        let mut present = BTreeSet::new();
        for message in self.our_rules().await? {
            match rule_of(&message) {
                Some(rule) if wanted.contains(&rule) && present.insert(rule) => {}
                _ => {
                    let deleted = self.handle.rule().del(message).execute().await;
                    changes.removed += 1;
                    note(&mut refused, unless_gone(deleted), || "delete a rule".into());
                }
            }
        }
        for rule in wanted.difference(&present) {
            let mut request = self.handle.rule().add();
            *request.message_mut() = rule_message(rule);
            note(&mut refused, request.execute().await, || format!("add rule {rule}"));
            changes.added += 1;
        }
        refused.map(|()| changes)
    }

    /// Makes the routes in our tables the wanted ones.
    ///
    /// # Errors
    /// When the kernel refuses one; the others are as wanted.
    pub async fn sync_routes(&self, wanted: &BTreeSet<Route>) -> Result<Changes, RtnlError> {
        let (mut changes, mut refused) = (Changes::default(), Ok(()));
        let mut present = BTreeSet::new();
        for message in self.our_routes().await? {
            match route_of(&message) {
                Some(route) if wanted.contains(&route) && present.insert(route) => {}
                _ => {
                    let deleted = self.handle.route().del(message).execute().await;
                    changes.removed += 1;
                    note(&mut refused, unless_gone(deleted), || "delete a route".into());
                }
            }
        }
        for route in wanted.difference(&present) {
            let added = self.handle.route().add(route_message(route)).execute().await;
            note(&mut refused, added, || format!("add route {route}"));
            changes.added += 1;
        }
        refused.map(|()| changes)
    }

    async fn our_rules(&self) -> Result<Vec<RuleMessage>, RtnlError> {
        let mut ours = Vec::new();
        for family in [IpVersion::V4, IpVersion::V6] {
            let rules = collect(self.handle.rule().get(family).execute(), "list rules").await?;
            ours.extend(rules.into_iter().filter(is_our_rule));
        }
        Ok(ours)
    }

    async fn our_routes(&self) -> Result<Vec<RouteMessage>, RtnlError> {
        let ours = RouteProtocol::Other(PROTOCOL);
        let mut routes = self.all_routes().await?;
        routes.retain(|route| route.header.protocol == ours && table_of(route) >= TABLE_LOCAL);
        Ok(routes)
    }

    async fn all_routes(&self) -> Result<Vec<RouteMessage>, RtnlError> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            all.extend(collect(self.handle.route().get(filter).execute(), "list routes").await?);
        }
        Ok(all)
    }
}

/// What the kernel answers where it has no route: none at all, an `unreachable` or a `prohibit` one,
/// or none from an address that is not the box's (EINVAL).
const NO_ROUTE: [i32; 4] = [-libc::ENETUNREACH, -libc::EHOSTUNREACH, -libc::EACCES, -libc::EINVAL];

/// Keeps the first refusal.
fn note(
    refused: &mut Result<(), RtnlError>,
    outcome: Result<(), rtnetlink::Error>,
    action: impl FnOnce() -> String,
) {
    if let (Ok(()), Err(source)) = (&refused, outcome) {
        *refused = Err(RtnlError { action: action(), source });
    }
}

/// What was to be deleted may have gone by itself meanwhile, with its interface or address.
fn unless_gone(outcome: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    const GONE: [i32; 3] = [-libc::ESRCH, -libc::ENOENT, -libc::ENODEV];
    match outcome {
        Err(rtnetlink::Error::NetlinkError(error)) if GONE.contains(&error.raw_code()) => Ok(()),
        other => other,
    }
}

fn error(action: &str, source: rtnetlink::Error) -> RtnlError {
    RtnlError { action: action.to_owned(), source }
}

/// A dump's messages; a family that this kernel does not have is an empty one.
async fn collect<T>(
    found: impl Stream<Item = Result<T, rtnetlink::Error>>,
    action: &str,
) -> Result<Vec<T>, RtnlError> {
    match found.try_collect().await {
        Ok(messages) => Ok(messages),
        Err(rtnetlink::Error::NetlinkError(error))
            if [-libc::EOPNOTSUPP, -libc::EAFNOSUPPORT].contains(&error.raw_code()) =>
        {
            Ok(Vec::new())
        }
        Err(source) => Err(error(action, source)),
    }
}

#[cfg(test)]
mod tests;
