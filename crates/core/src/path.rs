//! Paths as the kernel shows them, and which of a peer's endpoints each path leads to.
//!
//! Watching the kernel is the engine's; here is only the choice.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What a path is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Carries whenever it is up.
    Normal,
    /// Carries only when no normal path does.
    Backup,
    /// Carries nothing.
    Off,
}

/// What the kernel shows of a path's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It is there, switched on and has a carrier.
    Up,
    /// It is there, but nothing can leave by it.
    Down,
    /// There is none of the name.
    Missing,
}

/// A route of the main table that leaves by a path's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkRoute {
    /// Where it leads.
    pub destination: IpNet,
    /// The gateway; none where the destination is on the link itself.
    pub via: Option<IpAddr>,
}

/// A path with what the kernel shows of its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The interface's name.
    pub interface: String,
    /// Whether it can be used.
    pub link: Link,
    /// The interface's index in the kernel; 0 if there is none.
    pub index: u32,
    /// What it is used for.
    pub role: Role,
    /// Its addresses with their prefixes, link-local ones left out.
    pub addresses: Vec<IpNet>,
    /// Routes of the main table that leave by it.
    pub routes: Vec<LinkRoute>,
}

/// One way to a peer: a path, the address to leave from and the address to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairing {
    /// The path's number: its position in the configuration, by which the way is known, too.
    pub path: usize,
    /// The path's own address.
    pub local: IpAddr,
    /// The peer's endpoint.
    pub remote: SocketAddr,
    /// Whether subflows over it are for backup only.
    pub backup: bool,
}

/// The two ends of a subflow, as this box sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// This box's.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

impl Pairing {
    /// Whether a subflow between these ends is over this way.
    #[must_use]
    pub fn joins(&self, ends: &Ends) -> bool {
        self.local == ends.local.ip() && self.remote == ends.remote
    }
}

/// Pairs each path that is in use with one endpoint of a peer: one on the path's own link if
/// there is one, else the first that its routes reach and that is on no other path's link.
///
/// Paths come back in the order given, normal ones before backup ones. Of two with the same address
/// the second is left out: the kernel tells ways by their addresses.
#[must_use]
pub fn pair(paths: &[Path], endpoints: &[SocketAddr]) -> Vec<Pairing> {
    let mut pairings: Vec<Pairing> = paths
        .iter()
        .enumerate()
        .filter(|(_, path)| path.role != Role::Off && path.link == Link::Up)
        .filter_map(|(number, path)| {
            let on_link = endpoints.iter().find(|endpoint| path.is_on_link(endpoint.ip()));
            let routed = || endpoints.iter().find(|endpoint| reaches(paths, path, endpoint.ip()));
            let remote = *on_link.or_else(routed)?;
            let local = path.source_for(remote.ip())?;
            let backup = path.role == Role::Backup;
            Some(Pairing { path: number, local, remote, backup })
        })
        .collect();
    pairings.sort_by_key(|pairing| pairing.backup);
    let mut locals = Vec::new();
    pairings.retain(|pairing| {
        let first = !locals.contains(&pairing.local);
        locals.push(pairing.local);
        first
    });
    pairings
}

/// `now` with the addresses in it that were there `before` in front, in their order: an address that
/// comes is no reason to leave the one in use.
#[must_use]
pub fn in_order(before: &[IpNet], now: &[IpNet]) -> Vec<IpNet> {
    let stay = before.iter().filter(|address| now.contains(address));
    stay.chain(now.iter().filter(|address| !before.contains(address))).copied().collect()
}

/// The pairings of [`pair`], once for each endpoint as the first choice.
#[must_use]
pub fn pair_by_endpoint(paths: &[Path], endpoints: &[SocketAddr]) -> Vec<Vec<Pairing>> {
    let first = |first| {
        let mut rotated = endpoints.to_vec();
        rotated.rotate_left(first);
        pair(paths, &rotated)
    };
    (0..endpoints.len()).map(first).collect()
}

fn reaches(paths: &[Path], path: &Path, endpoint: IpAddr) -> bool {
    path.source_for(endpoint).is_some()
        && path.routes.iter().any(|route| route.destination.contains(&endpoint))
        && !paths.iter().any(|other| other.is_on_link(endpoint))
}

impl Path {
    fn is_on_link(&self, endpoint: IpAddr) -> bool {
        self.role != Role::Off
            && self.addresses.iter().any(|own| own.contains(&endpoint) && own.addr() != endpoint)
    }

    /// The address to use towards `endpoint`: in its prefix if there is one, else the first of
    /// its family.
    fn source_for(&self, endpoint: IpAddr) -> Option<IpAddr> {
        let mut family =
            self.addresses.iter().filter(|own| own.addr().is_ipv4() == endpoint.is_ipv4());
        family
            .clone()
            .find(|own| own.contains(&endpoint))
            .or_else(|| family.next())
            .map(IpNet::addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(interface: &str, addresses: &[&str], gateway: Option<&str>) -> Path {
        let default: IpNet = "0.0.0.0/0".parse().unwrap();
        Path {
            interface: interface.into(),
            link: Link::Up,
            index: 1,
            role: Role::Normal,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            routes: gateway
                .map(|via| LinkRoute { destination: default, via: Some(via.parse().unwrap()) })
                .into_iter()
                .collect(),
        }
    }

    fn ways(paths: &[Path], endpoints: &[&str]) -> Vec<String> {
        let endpoints: Vec<_> = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        pair(paths, &endpoints)
            .iter()
            .map(|way| format!("{} {} > {}", paths[way.path].interface, way.local, way.remote))
            .collect()
    }

    #[test]
    fn a_mesh_pairs_by_link() {
        let paths = [path("w1", &["10.1.0.1/24"], None), path("w2", &["10.2.0.1/24"], None)];
        assert_eq!(
            ways(&paths, &["10.1.0.2:4770", "10.2.0.2:4770"]),
            ["w1 10.1.0.1 > 10.1.0.2:4770", "w2 10.2.0.1 > 10.2.0.2:4770"]
        );
    }

    #[test]
    fn one_server_is_reached_by_every_path_with_a_gateway() {
        let paths = [
            path("dsl", &["192.0.2.7/24"], Some("192.0.2.1")),
            path("lte", &["100.64.3.4/30"], Some("100.64.3.5")),
            path("lan", &["192.168.1.1/24"], None),
        ];
        assert_eq!(
            ways(&paths, &["203.0.113.7:4770"]),
            ["dsl 192.0.2.7 > 203.0.113.7:4770", "lte 100.64.3.4 > 203.0.113.7:4770"]
        );
    }

    #[test]
    fn each_endpoint_of_a_server_has_its_turn_and_those_of_a_mesh_have_one_together() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let routed = [path("dsl", &["192.0.2.7/24"], Some("192.0.2.1"))];
        let server: Vec<SocketAddr> = parse(&["203.0.113.7:4770", "203.0.113.8:4770"]);
        let firsts: Vec<_> =
            pair_by_endpoint(&routed, &server).iter().map(|ways| ways[0].remote).collect();
        assert_eq!(firsts, server);
        let mesh = [path("w1", &["10.1.0.1/24"], None), path("w2", &["10.2.0.1/24"], None)];
        let peer: Vec<SocketAddr> = parse(&["10.1.0.2:4770", "10.2.0.2:4770"]);
        assert_eq!(pair_by_endpoint(&mesh, &peer), [pair(&mesh, &peer), pair(&mesh, &peer)]);
        assert!(pair_by_endpoint(&mesh, &server).concat().is_empty());
    }

    #[test]
    fn families_follow_the_addresses() {
        let paths = [path("w1", &["10.1.0.1/24", "fd01::1/64"], None)];
        assert_eq!(ways(&paths, &["[fd01::2]:4770"]), ["w1 fd01::1 > [fd01::2]:4770"]);
        assert!(ways(&paths, &["[2001:db8::2]:4770"]).is_empty());
    }

    #[test]
    fn a_path_that_is_off_is_left_out_and_backup_comes_last() {
        let mut paths = [
            path("w1", &["10.1.0.1/24"], None),
            path("w2", &["10.2.0.1/24"], None),
            path("w3", &["10.3.0.1/24"], None),
        ];
        paths[0].role = Role::Backup;
        paths[1].role = Role::Off;
        let found = ways(&paths, &["10.1.0.2:1", "10.2.0.2:1", "10.3.0.2:1"]);
        assert_eq!(found, ["w3 10.3.0.1 > 10.3.0.2:1", "w1 10.1.0.1 > 10.1.0.2:1"]);
    }
    #[test]
    fn a_path_without_a_carrier_has_no_way_and_the_others_keep_theirs() {
        let mut paths =
            [path("w1", &["10.1.0.1/24"], None), path("w2", &["10.2.0.1/24"], Some("10.2.0.254"))];
        let endpoints = ["10.1.0.2:1", "203.0.113.7:1"];
        let both = ways(&paths, &endpoints);
        paths[0].link = Link::Down;
        assert_eq!(ways(&paths, &endpoints), both[1..]);
    }

    #[test]
    fn two_modems_with_one_address_are_one_way_and_then_the_other() {
        let modem = |name| path(name, &["192.168.8.100/24"], Some("192.168.8.1"));
        let mut paths = [modem("lte1"), modem("lte2")];
        let endpoints = ["203.0.113.7:4770"];
        assert_eq!(ways(&paths, &endpoints), ["lte1 192.168.8.100 > 203.0.113.7:4770"]);
        paths[0].link = Link::Down;
        assert_eq!(ways(&paths, &endpoints), ["lte2 192.168.8.100 > 203.0.113.7:4770"]);
    }

    #[test]
    fn two_paths_in_one_subnet_and_many_addresses() {
        let mut paths = [
            path("w1", &["10.1.0.2/24"], Some("10.1.0.1")),
            path("w2", &["10.1.0.3/24"], Some("10.1.0.1")),
        ];
        paths[1]
            .addresses
            .extend((4..24).map(|n| format!("10.1.0.{n}/24").parse::<IpNet>().unwrap()));
        assert_eq!(
            ways(&paths, &["203.0.113.7:1"]),
            ["w1 10.1.0.2 > 203.0.113.7:1", "w2 10.1.0.3 > 203.0.113.7:1"]
        );
    }

    #[test]
    fn a_link_without_a_gateway_leads_where_its_routes_do() {
        let mut tunnel = path("tun0", &["10.8.0.2/32"], None);
        let destination = "203.0.113.0/24".parse().unwrap();
        tunnel.routes.push(LinkRoute { destination, via: None });
        assert_eq!(ways(&[tunnel], &["203.0.113.7:1"]), ["tun0 10.8.0.2 > 203.0.113.7:1"]);
    }

    #[test]
    fn the_address_in_use_stays_in_front() {
        let nets = |texts: &[&str]| -> Vec<IpNet> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let (a, b, c) = ("10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24");
        assert_eq!(in_order(&nets(&[b]), &nets(&[a, b])), nets(&[b, a]));
        assert_eq!(in_order(&nets(&[c, b, a]), &nets(&[a, b])), nets(&[b, a]));
    }
}
