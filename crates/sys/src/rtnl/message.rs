//! Netlink messages and what they stand for: rules and routes of ours to messages and back, and what
//! is read of others'.

use std::net::IpAddr;

use braid_core::kernel::numbers::{
    MARK_INTERCEPTED, MARK_MASK, METRIC_LAST, PROTOCOL, TABLE_FIRST_PATH, TABLE_LOCAL,
};
use braid_core::kernel::{Route, RouteKind, Rule, Selector};
use braid_core::path::LinkRoute;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, route::RouteHeader};
use rtnetlink::RouteMessageBuilder;

use super::Interface;

/// The question "which way to `ip`?": a whole address as destination, and no dump flag.
pub(super) fn route_lookup(ip: IpAddr) -> RouteMessage {
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

/// One that another box has, too, or may turn out to have, cannot be used.
pub(super) fn address(message: &AddressMessage) -> Option<IpNet> {
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    if message.header.flags.intersects(unusable) {
        return None;
    }
    let ip = local_address(message)?;
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    IpNet::new(ip, message.header.prefix_len).ok().filter(|_| !link_local)
}

pub(super) fn is_deprecated(message: &AddressMessage) -> bool {
    message.header.flags.contains(AddressHeaderFlags::Deprecated)
}

/// IFF_RUNNING is the state by RFC 2863, by which a link that has not authenticated yet is not up;
/// IFF_LOWER_UP is the carrier.
pub(super) fn interface(message: &LinkMessage) -> Interface {
    let up = LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp;
    Interface { index: message.header.index, is_up: message.header.flags.contains(up) }
}

pub(super) fn link_route(message: &RouteMessage) -> Option<(u32, LinkRoute)> {
    let ordinary = message.header.kind == RouteType::Unicast
        && table_of(message) == u32::from(RouteHeader::RT_TABLE_MAIN);
    let destination = destination_of(message)?;
    let link_local = destination.addr().is_ipv6() && link_local_prefix(&destination);
    let index = interface_of(message)?;
    let route = LinkRoute { destination, via: gateway_of(message) };
    (ordinary && !link_local).then_some((index, route))
}

fn link_local_prefix(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(v6) if v6.addr().is_unicast_link_local())
}

pub(super) fn table_of(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(u32::from(message.header.table))
}

pub(super) fn metric_of(message: &RouteMessage) -> u32 {
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

pub(super) fn gateway_of(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        _ => None,
    })
}

pub(super) fn interface_of(message: &RouteMessage) -> Option<u32> {
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

pub(super) fn is_our_rule(message: &RuleMessage) -> bool {
    message.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)))
}

pub(super) fn rule_message(rule: &Rule) -> RuleMessage {
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
pub(super) fn rule_of(message: &RuleMessage) -> Option<Rule> {
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

pub(super) fn route_message(route: &Route) -> RouteMessage {
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
pub(super) fn route_of(message: &RouteMessage) -> Option<Route> {
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
