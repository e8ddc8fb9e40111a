//! rtnetlink (RFC 3549, `linux/rtnetlink.h`): links, addresses and routes as they are, and our
//! rules and routes as we want them.
//!
//! Ours are told by their protocol number alone: what bears it is ours to delete.

use std::collections::BTreeSet;
use std::net::IpAddr;

use braid_core::kernel::numbers::{
    MARK_INTERCEPTED, MARK_MASK, METRIC_LAST, PROTOCOL, TABLE_FIRST_PATH, TABLE_LOCAL,
};
use braid_core::kernel::{Route, RouteKind, Rule, Selector};
use braid_core::path::LinkRoute;
use futures_util::{Stream, TryStreamExt as _};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, route::RouteHeader};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

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

    /// The index of an interface, if there is one of that name.
    ///
    /// # Errors
    /// When the kernel refuses to answer.
    pub async fn link_index(&self, name: &str) -> Result<Option<u32>, RtnlError> {
        const ENODEV: i32 = libc::ENODEV;
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        match found.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -ENODEV => Ok(None),
            Err(source) => Err(RtnlError { action: format!("look up interface {name}"), source }),
        }
    }

    /// The addresses of an interface, link-local ones left out.
    ///
    /// # Errors
    /// When the kernel refuses to answer.
    pub async fn addresses(&self, index: u32) -> Result<Vec<IpNet>, RtnlError> {
        let found = self.handle.address().get().set_link_index_filter(index).execute();
        let messages: Vec<AddressMessage> = collect(found, "list addresses").await?;
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

    /// Unicast routes of the main table that leave by an interface; of those to one destination
    /// the one with the lowest metric.
    ///
    /// # Errors
    /// When the kernel refuses to answer.
    pub async fn link_routes(&self, index: u32) -> Result<Vec<LinkRoute>, RtnlError> {
        let mut routes = self.all_routes().await?;
        routes.sort_by_key(metric_of);
        let mut found: Vec<LinkRoute> = Vec::new();
        for route in routes.iter().filter_map(|route| link_route(route, index)) {
            if found.iter().all(|other| other.destination != route.destination) {
                found.push(route);
            }
        }
        Ok(found)
    }

    /// Makes our policy routing rules the wanted ones.
    ///
    /// # Errors
    /// When the kernel refuses one; those before it stay.
    pub async fn sync_rules(&self, wanted: &BTreeSet<Rule>) -> Result<Changes, RtnlError> {
        let mut changes = Changes::default();
        let mut present = BTreeSet::new();
        for message in self.our_rules().await? {
            match rule_of(&message) {
                Some(rule) if wanted.contains(&rule) && present.insert(rule) => {}
                _ => {
                    let deleted = self.handle.rule().del(message).execute().await;
                    deleted.map_err(|source| error("delete a rule", source))?;
                    changes.removed += 1;
                }
            }
        }
        for rule in wanted.difference(&present) {
            let mut request = self.handle.rule().add();
            *request.message_mut() = rule_message(rule);
            request.execute().await.map_err(|source| error(&format!("add rule {rule}"), source))?;
            changes.added += 1;
        }
        Ok(changes)
    }

    /// Makes the routes in our tables the wanted ones.
    ///
    /// # Errors
    /// When the kernel refuses one; those before it stay.
    pub async fn sync_routes(&self, wanted: &BTreeSet<Route>) -> Result<Changes, RtnlError> {
        let mut changes = Changes::default();
        let mut present = BTreeSet::new();
        for message in self.our_routes().await? {
            match route_of(&message) {
                Some(route) if wanted.contains(&route) && present.insert(route) => {}
                _ => {
                    let deleted = self.handle.route().del(message).execute().await;
                    deleted.map_err(|source| error("delete a route", source))?;
                    changes.removed += 1;
                }
            }
        }
        for route in wanted.difference(&present) {
            let request = self.handle.route().add(route_message(route)).execute().await;
            request.map_err(|source| error(&format!("add route {route}"), source))?;
            changes.added += 1;
        }
        Ok(changes)
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

/// The question "which way to `ip`?": a whole address as destination, and no dump flag.
fn route_lookup(ip: IpAddr) -> RouteMessage {
    let mut lookup = RouteMessage::default();
    let (family, length) = match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    lookup.header.address_family = family;
    lookup.header.destination_prefix_length = length;
    lookup.attributes.push(RouteAttribute::Destination(ip.into()));
    lookup
}

fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let attribute = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    // On a point-to-point link IFA_ADDRESS is the far end's, IFA_LOCAL ours; IPv6 has no other.
    let local = attribute(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    local.or_else(|| {
        attribute(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None })
    })
}

fn address(message: &AddressMessage) -> Option<IpNet> {
    let ip = local_address(message)?;
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    IpNet::new(ip, message.header.prefix_len).ok().filter(|_| !link_local)
}

fn link_route(message: &RouteMessage, index: u32) -> Option<LinkRoute> {
    let leaves = message.attributes.contains(&RouteAttribute::Oif(index));
    let ordinary = message.header.kind == RouteType::Unicast
        && table_of(message) == u32::from(RouteHeader::RT_TABLE_MAIN);
    let destination = destination_of(message)?;
    let link_local = destination.addr().is_ipv6() && link_local_prefix(&destination);
    (leaves && ordinary && !link_local).then(|| LinkRoute { destination, via: gateway_of(message) })
}

fn link_local_prefix(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(v6) if v6.addr().is_unicast_link_local())
}

fn table_of(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(u32::from(message.header.table))
}

fn metric_of(message: &RouteMessage) -> u32 {
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    metric.unwrap_or(0)
}

fn destination_of(message: &RouteMessage) -> Option<IpNet> {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip_of(address),
        _ => None,
    });
    let length = message.header.destination_prefix_length;
    IpNet::new(address.unwrap_or(unspecified), length).ok()
}

fn gateway_of(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        _ => None,
    })
}

fn interface_of(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn metrics_of(message: &RouteMessage) -> impl Iterator<Item = &RouteMetric> {
    message.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.as_slice(),
        _ => &[],
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

fn is_our_rule(message: &RuleMessage) -> bool {
    message.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)))
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    match rule.selector {
        Selector::Intercepted { v6 } => {
            message.header.family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
            message.attributes.push(RuleAttribute::FwMark(MARK_INTERCEPTED));
            message.attributes.push(RuleAttribute::FwMask(MARK_MASK));
        }
        Selector::Way { from, to } => {
            let v6 = from.is_ipv6();
            message.header.family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
            message.header.src_len = if v6 { 128 } else { 32 };
            message.header.dst_len = message.header.src_len;
            message.attributes.push(RuleAttribute::Source(from));
            message.attributes.push(RuleAttribute::Destination(to));
        }
    }
    message
}

/// The rule that a message of ours stands for; `None` for one that this version never makes.
fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let (mut priority, mut table, mut mark, mut from, mut to) = (None, None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = Some(*value),
            RuleAttribute::Table(value) => table = Some(*value),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::Source(value) => from = Some(*value),
            RuleAttribute::Destination(value) => to = Some(*value),
            _ => {}
        }
    }
    let selector = match (mark, from, to) {
        (Some(MARK_INTERCEPTED), None, None) => {
            Selector::Intercepted { v6: message.header.family == AddressFamily::Inet6 }
        }
        (None, Some(from), Some(to)) => Selector::Way { from, to },
        _ => return None,
    };
    Some(Rule { priority: priority?, selector, table: table? })
}

fn route_message(route: &Route) -> RouteMessage {
    let mut builder = match route.destination {
        IpNet::V4(v4) => {
            let builder = RouteMessageBuilder::<std::net::Ipv4Addr>::new();
            builder.destination_prefix(v4.network(), v4.prefix_len()).build()
        }
        IpNet::V6(v6) => {
            let builder = RouteMessageBuilder::<std::net::Ipv6Addr>::new();
            builder.destination_prefix(v6.network(), v6.prefix_len()).build()
        }
    };
    builder.header.table = RouteHeader::RT_TABLE_UNSPEC;
    builder.header.protocol = RouteProtocol::Other(PROTOCOL);
    builder.attributes.push(RouteAttribute::Table(route.table));
    match route.kind {
        RouteKind::Local => {
            builder.header.kind = RouteType::Local;
            builder.header.scope = RouteScope::Host;
            builder.attributes.push(RouteAttribute::Oif(LOOPBACK_INDEX));
        }
        RouteKind::Unreachable => {
            builder.header.kind = RouteType::Unreachable;
            builder.attributes.push(RouteAttribute::Priority(METRIC_LAST));
        }
        RouteKind::Unicast { interface, via, initcwnd, initrwnd } => {
            builder.attributes.push(RouteAttribute::Oif(interface));
            let metrics: Vec<RouteMetric> =
                [initcwnd.map(RouteMetric::InitCwnd), initrwnd.map(RouteMetric::InitRwnd)]
                    .into_iter()
                    .flatten()
                    .collect();
            if !metrics.is_empty() {
                builder.attributes.push(RouteAttribute::Metrics(metrics));
            }
            let on_link_v4 = via.is_none() && route.destination.addr().is_ipv4();
            if on_link_v4 {
                builder.header.scope = RouteScope::Link;
            }
            if let Some(via) = via {
                // It is one in the main table already, on the link or declared to be.
                builder.header.flags |= RouteFlags::Onlink;
                builder.attributes.push(RouteAttribute::Gateway(via.into()));
            }
        }
    }
    builder
}

/// `lo` has index 1 in every network namespace (`net/core/dev.c`, LOOPBACK_IFINDEX).
const LOOPBACK_INDEX: u32 = 1;

/// The route that a message of ours stands for; `None` for one that this version never makes.
fn route_of(message: &RouteMessage) -> Option<Route> {
    let interface = interface_of(message);
    let metric = |wanted: fn(&RouteMetric) -> Option<u32>| metrics_of(message).find_map(wanted);
    let kind = match message.header.kind {
        RouteType::Local => RouteKind::Local,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Unicast => RouteKind::Unicast {
            interface: interface?,
            via: gateway_of(message),
            initcwnd: metric(|m| if let RouteMetric::InitCwnd(n) = m { Some(*n) } else { None }),
            initrwnd: metric(|m| if let RouteMetric::InitRwnd(n) = m { Some(*n) } else { None }),
        },
        _ => return None,
    };
    let (table, destination) = (table_of(message), destination_of(message)?);
    let known = table == TABLE_LOCAL || table >= TABLE_FIRST_PATH;
    known.then_some(Route { table, destination, kind })
}

#[cfg(test)]
mod tests;
