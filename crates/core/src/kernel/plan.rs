//! The plan: rules, routes, nftables table and sysctls that a box wants.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::nft::Ruleset;
use super::numbers::{
    INITIAL_WINDOW, MARK_INTERCEPTED, MARK_MASK, METRIC_LAST, PRIORITY_FIRST_PATH, PRIORITY_LOCAL,
    TABLE_FIRST_PATH, TABLE_LOCAL,
};
use crate::path::{Pairing, Path};

/// What a policy routing rule selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// Packets with our mark, of one family.
    Intercepted {
        /// IPv6 rather than IPv4.
        v6: bool,
    },
    /// Packets from a path's address to a peer's.
    Way {
        /// The path's address.
        from: IpAddr,
        /// The peer's address.
        to: IpAddr,
    },
}

/// A policy routing rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Its place among all rules.
    pub priority: u32,
    /// What it selects.
    pub selector: Selector,
    /// The table it sends that to.
    pub table: u32,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// Delivers locally.
    Local,
    /// Leaves by an interface, by its gateway if it has one.
    Unicast {
        /// Index of the interface.
        interface: u32,
        /// The gateway.
        via: Option<IpAddr>,
        /// Segments that a new TCP connection may send at once (`initcwnd`); the kernel's number
        /// where there is none.
        initcwnd: Option<u32>,
        /// Segments that it lets the far end send at once (`initrwnd`), likewise.
        initrwnd: Option<u32>,
    },
    /// Answers that there is no way.
    Unreachable,
}

/// A route in one of our tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The table.
    pub table: u32,
    /// Where it leads.
    pub destination: IpNet,
    /// What it does.
    pub kind: RouteKind,
}

/// How a sysctl is to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Exactly so.
    Exactly(String),
    /// The last two of its numbers at least so (`tcp_rmem` and kin: what a socket has at first, and
    /// the most that autotuning may take).
    LastTwoAtLeast(u64, u64),
}

/// A sysctl that must stand in a certain way while braid runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Its name, as `net.ipv4.tcp_rmem`.
    pub name: &'static str,
    /// How it is to stand.
    pub want: Want,
    /// Whether braid cannot work without.
    pub needed: bool,
}

/// All that a box wants in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The nftables table.
    pub ruleset: Ruleset,
    /// Policy routing rules.
    pub rules: BTreeSet<Rule>,
    /// Routes in our tables.
    pub routes: BTreeSet<Route>,
    /// Sysctls.
    pub sysctls: Vec<Sysctl>,
}

impl Plan {
    /// The plan of a box with these paths, each paired with its peers' endpoints; `v6` when its
    /// kernel has IPv6.
    #[must_use]
    pub fn new(
        ruleset: Ruleset,
        paths: &[Path],
        ways: &[Pairing],
        sysctls: Vec<Sysctl>,
        v6: bool,
    ) -> Self {
        let mut rules: BTreeSet<Rule> =
            [false, true].into_iter().filter(|of_v6| v6 || !of_v6).map(intercepted_rule).collect();
        let local = |destination| Route { table: TABLE_LOCAL, destination, kind: RouteKind::Local };
        let mut routes: BTreeSet<Route> = everywhere(v6).map(local).collect();
        for way in ways {
            let (table, priority) = (path_table(way.path), PRIORITY_FIRST_PATH + way.path as u32);
            let selector = Selector::Way { from: way.local, to: way.remote.ip() };
            rules.insert(Rule { priority, selector, table });
            routes.extend(path_routes(&paths[way.path], table, v6));
        }
        Self { ruleset, rules, routes, sysctls }
    }
}

fn path_table(path: usize) -> u32 {
    TABLE_FIRST_PATH + path as u32
}

fn intercepted_rule(v6: bool) -> Rule {
    let selector = Selector::Intercepted { v6 };
    Rule { priority: PRIORITY_LOCAL, selector, table: TABLE_LOCAL }
}

/// The path's own routes, and a last one in each family that keeps its traffic from other paths.
fn path_routes(path: &Path, table: u32, v6: bool) -> Vec<Route> {
    let own = path.routes.iter().map(|route| Route {
        table,
        destination: route.destination,
        kind: RouteKind::Unicast {
            interface: path.index,
            via: route.via,
            initcwnd: Some(INITIAL_WINDOW),
            initrwnd: Some(INITIAL_WINDOW),
        },
    });
    let last = everywhere(v6).map(|destination| Route {
        table,
        destination,
        kind: RouteKind::Unreachable,
    });
    own.chain(last).collect()
}

fn everywhere(v6: bool) -> impl Iterator<Item = IpNet> {
    let of_v6 = v6.then(|| IpNet::V6(ipnet::Ipv6Net::default()));
    [IpNet::V4(ipnet::Ipv4Net::default())].into_iter().chain(of_v6)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.selector {
            Selector::Intercepted { v6 } => write!(
                f,
                "{}: {} from all fwmark {MARK_INTERCEPTED:#x}/{MARK_MASK:#x} lookup {}",
                self.priority,
                if v6 { "inet6" } else { "inet" },
                self.table
            ),
            Selector::Way { from, to } => {
                write!(f, "{}: from {from} to {to} lookup {}", self.priority, self.table)
            }
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Local => write!(f, "local {} dev lo", self.destination)?,
            RouteKind::Unreachable => {
                write!(f, "unreachable {} metric {METRIC_LAST}", self.destination)?;
            }
            RouteKind::Unicast { interface, via, initcwnd, initrwnd } => {
                write!(f, "{}", self.destination)?;
                via.iter().try_for_each(|via| write!(f, " via {via}"))?;
                write!(f, " dev #{interface}")?;
                initcwnd.iter().try_for_each(|window| write!(f, " initcwnd {window}"))?;
                initrwnd.iter().try_for_each(|window| write!(f, " initrwnd {window}"))?;
            }
        }
        write!(f, " table {}", self.table)
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.want {
            Want::Exactly(value) => write!(f, "{} = {value}", self.name),
            Want::LastTwoAtLeast(first, most) => {
                write!(f, "{} = … >= {first} >= {most}", self.name)
            }
        }
    }
}

/// The plan as an engineer reads it: one line a rule, route and sysctl, then the nftables text.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rules.iter().try_for_each(|rule| writeln!(f, "rule   {rule}"))?;
        self.routes.iter().try_for_each(|route| writeln!(f, "route  {route}"))?;
        self.sysctls.iter().try_for_each(|sysctl| writeln!(f, "sysctl {sysctl}"))?;
        f.write_str(&self.ruleset.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::{Link, LinkRoute, Role, pair};

    #[test]
    fn two_paths_to_one_server() {
        let path = |interface: &str, index, address: &str, via: &str| Path {
            interface: interface.into(),
            link: Link::Up,
            index,
            role: Role::Normal,
            addresses: vec![address.parse().unwrap()],
            routes: vec![LinkRoute {
                destination: "0.0.0.0/0".parse().unwrap(),
                via: Some(via.parse().unwrap()),
            }],
        };
        let paths = [
            path("wan1", 3, "192.0.2.7/24", "192.0.2.1"),
            path("wan2", 4, "100.64.3.4/30", "100.64.3.5"),
        ];
        let ways = pair(&paths, &["203.0.113.7:4770".parse().unwrap()]);
        let ruleset = Ruleset { interfaces: vec![], routes: vec![], bypass: vec![], ports: None };
        let sysctls = vec![
            Sysctl {
                name: "net.mptcp.path_manager",
                want: Want::Exactly("userspace".into()),
                needed: true,
            },
            Sysctl {
                name: "net.ipv4.tcp_rmem",
                want: Want::LastTwoAtLeast(1 << 19, 1 << 25),
                needed: false,
            },
        ];
        let text = Plan::new(ruleset, &paths, &ways, sysctls, true).to_string();
        let (plan, _) = text.split_once("add table").unwrap();
        assert_eq!(plan, include_str!("golden/two-paths.txt"));
    }
}
