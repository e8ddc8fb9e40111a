//! The text of our nftables table.
//!
//! It marks packets of flows that we intercept, and those that return to a source we preserve,
//! so that policy routing delivers them to us. Everything else passes through untouched.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::numbers::{MARK_INTERCEPTED, MARK_MASK, NFT_TABLE};

/// Ports of the two listeners that intercepted flows are handed to, on 127.0.0.1 and ::1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TproxyPorts {
    /// On 127.0.0.1.
    pub v4: u16,
    /// On ::1; none where the kernel has no IPv6.
    pub v6: Option<u16>,
}

/// What the table intercepts; nothing for a pure egress, which needs only the return rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Interfaces whose hosts are served.
    pub interfaces: Vec<String>,
    /// Destinations that some peer leads to.
    pub routes: Vec<IpNet>,
    /// Destinations left alone, the peers' own addresses among them.
    pub bypass: Vec<IpNet>,
    /// Where intercepted flows go.
    pub ports: Option<TproxyPorts>,
}

impl Ruleset {
    /// Text for `nft -f`: replaces our table as one transaction.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "add table inet {NFT_TABLE}\ndelete table inet {NFT_TABLE}\ntable inet {NFT_TABLE} {{\n"
        );
        for (name, list) in [("routes", &self.routes), ("bypass", &self.bypass)] {
            set(&mut text, &format!("{name}4"), "ipv4_addr", list.iter().filter(|p| is_v4(p)));
            set(&mut text, &format!("{name}6"), "ipv6_addr", list.iter().filter(|p| !is_v4(p)));
        }
        self.chain(&mut text);
        text.push_str("}\n");
        text
    }

    fn chain(&self, text: &mut String) {
        let mark =
            format!("meta mark set meta mark & {:#010x} | {MARK_INTERCEPTED:#010x}", !MARK_MASK);
        text.push_str("\tchain prerouting {\n");
        let mut line = |rule: &str| {
            text.push_str("\t\t");
            text.push_str(rule);
            text.push('\n');
        };
        line("type filter hook prerouting priority mangle + 1; policy accept;");
        line("meta l4proto != tcp accept");
        // Established connections of ours; `wildcard 0` leaves other programs' listeners alone.
        line(&format!("socket transparent 1 socket wildcard 0 {mark} accept"));
        let Some(ports) = self.ports else {
            text.push_str("\t}\n");
            return;
        };
        line(&format!("iifname != {{ {} }} accept", quoted(&self.interfaces)));
        // Not `!= unicast`: without a route an IPv6 destination is `unreachable`, and still ours.
        line("fib daddr type { local, broadcast, anycast, multicast } accept");
        line("ip daddr @bypass4 accept");
        line("ip6 daddr @bypass6 accept");
        line("ip daddr != @routes4 accept");
        line("ip6 daddr != @routes6 accept");
        // A handshake's last ACK meets a request socket, which `socket wildcard` cannot judge.
        line(&format!("tcp flags & (syn | ack) != syn socket transparent 1 {mark} accept"));
        let syn = "tcp flags & (fin | syn | rst | ack) == syn";
        line(&format!("{syn} tproxy ip to 127.0.0.1:{} {mark} accept", ports.v4));
        if let Some(v6) = ports.v6 {
            line(&format!("{syn} tproxy ip6 to [::1]:{v6} {mark} accept"));
        }
        text.push_str("\t}\n");
    }
}

fn set<'a>(text: &mut String, name: &str, kind: &str, prefixes: impl Iterator<Item = &'a IpNet>) {
    let prefixes: Vec<String> = prefixes.map(element).collect();
    let _ = writeln!(text, "\tset {name} {{\n\t\ttype {kind}\n\t\tflags interval\n\t\tauto-merge");
    if !prefixes.is_empty() {
        let _ = writeln!(text, "\t\telements = {{ {} }}", prefixes.join(", "));
    }
    text.push_str("\t}\n");
}

/// A set's element; nft takes no zero-length prefix in a set, so everything is a range.
fn element(prefix: &IpNet) -> String {
    if prefix.prefix_len() > 0 {
        return prefix.to_string();
    }
    format!("{}-{}", prefix.network(), prefix.broadcast())
}

fn is_v4(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V4(_))
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_an_ingress_box() {
        let ruleset = Ruleset {
            interfaces: vec!["br-lan".into(), "guest".into()],
            routes: vec!["0.0.0.0/0".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            bypass: vec!["192.168.0.0/16".parse().unwrap()],
            ports: Some(TproxyPorts { v4: 4001, v6: Some(4002) }),
        };
        assert_eq!(ruleset.text(), include_str!("golden/ingress.nft"));
    }

    #[test]
    fn the_table_of_an_egress_box() {
        let none = Ruleset { interfaces: vec![], routes: vec![], bypass: vec![], ports: None };
        assert_eq!(none.text(), include_str!("golden/egress.nft"));
    }
}
