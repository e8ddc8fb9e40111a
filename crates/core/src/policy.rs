//! What the egress lets a peer do: which sinks it may reach, from which sources, and whose
//! address the sink sees.
//!
//! An authenticated peer is still not the administrator of the egress box (DESIGN: "What the
//! egress refuses"). Whether a sink is the egress box itself only the kernel knows: the caller
//! says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::addr::{HostAddr, SinkAddr};

/// Whose address the sink sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The host's own.
    Preserve,
    /// The egress box's.
    Masquerade,
}

/// What one peer may do at this egress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPolicy {
    /// Prefixes that the peer's hosts may have.
    pub sources: Vec<IpNet>,
    /// Prefixes of the sinks that it may reach.
    pub destinations: Vec<IpNet>,
    /// Whose address the sink sees, by the sink's prefix; the longest that holds decides.
    pub source: Vec<(IpNet, Source)>,
}

/// Why a flow was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The host is in none of the peer's `sources`.
    #[error("the host is in none of the peer's `sources`")]
    Source,
    /// The sink is in none of the peer's `destinations`.
    #[error("the sink is in none of the peer's `destinations`")]
    Destination,
    /// The sink is private and only a prefix that is not covers it.
    #[error("the sink is private: list its prefix in the peer's `destinations`")]
    Private,
    /// The sink can never be reached through a box.
    #[error("the sink is local to a box, multicast, link-local or a metadata service")]
    Special,
}

impl EgressPolicy {
    /// Whether the flow may be opened, and whose address its sink shall see; `sink_is_own` when
    /// the sink is an address of this box.
    ///
    /// # Errors
    /// With the rule that forbids it.
    pub fn admit(
        &self,
        host: HostAddr,
        sink: SinkAddr,
        sink_is_own: bool,
    ) -> Result<Source, Refusal> {
        let (host, sink) = (host.0.ip().to_canonical(), sink.0.ip().to_canonical());
        if !self.sources.iter().any(|prefix| prefix.contains(&host)) {
            return Err(Refusal::Source);
        }
        if sink_is_own || is_special(sink) {
            return Err(Refusal::Special);
        }
        self.admit_destination(sink)?;
        Ok(self.source_for(sink))
    }

    fn admit_destination(&self, sink: IpAddr) -> Result<(), Refusal> {
        let mut covering = self.destinations.iter().filter(|prefix| prefix.contains(&sink));
        if !is_private(sink) {
            return covering.next().map(|_| ()).ok_or(Refusal::Destination);
        }
        // A private sink needs a prefix that lies in private space itself.
        match (covering.clone().next(), covering.any(|prefix| is_private(prefix.network()))) {
            (None, _) => Err(Refusal::Destination),
            (Some(_), false) => Err(Refusal::Private),
            (Some(_), true) => Ok(()),
        }
    }

    fn source_for(&self, sink: IpAddr) -> Source {
        self.source
            .iter()
            .filter(|(prefix, _)| prefix.contains(&sink))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map_or(Source::Masquerade, |(_, source)| *source)
    }
}

/// Private and shared address space: RFC 1918, RFC 6598, RFC 4193.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || in4(v4, [100, 64, 0, 0], 10),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// Addresses that no flow may reach through an egress (IANA special-purpose registries).
fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => is_special4(v4),
        IpAddr::V6(v6) => is_special6(v6),
    }
}

fn is_special4(ip: Ipv4Addr) -> bool {
    // 169.254.169.254, the metadata address, is link-local; Alibaba's and Oracle's are not.
    ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || in4(ip, [0, 0, 0, 0], 8)
        || in4(ip, [240, 0, 0, 0], 4)
        || ip == Ipv4Addr::new(100, 100, 100, 200)
        || ip == Ipv4Addr::new(192, 0, 0, 192)
}

fn is_special6(ip: Ipv6Addr) -> bool {
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_unicast_link_local()
        || ip == Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254)
        || in6(ip, Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10)
        || embedded4(ip).is_some_and(|v4| is_special4(v4) || is_private(v4.into()))
}

/// The IPv4 address that an IPv6 one stands for: compatible (RFC 4291), 6to4 (RFC 3056), NAT64
/// (RFC 6052, RFC 8215). A sink may not be reached by another notation of a refused address.
fn embedded4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = ip.octets();
    let at = |from: usize| {
        Ipv4Addr::new(octets[from], octets[from + 1], octets[from + 2], octets[from + 3])
    };
    let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
    let local_nat64 = Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0);
    let six_to_four = Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0);
    if in6(ip, Ipv6Addr::UNSPECIFIED, 96) || in6(ip, nat64, 96) || in6(ip, local_nat64, 48) {
        Some(at(12))
    } else if in6(ip, six_to_four, 16) {
        Some(at(2))
    } else {
        None
    }
}

fn in6(ip: Ipv6Addr, prefix: Ipv6Addr, length: u8) -> bool {
    Ipv6Net::new(prefix, length).is_ok_and(|prefix| prefix.contains(&ip))
}

fn in4(ip: Ipv4Addr, prefix: [u8; 4], length: u8) -> bool {
    Ipv4Net::new(prefix.into(), length).is_ok_and(|prefix| prefix.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(destinations: &[&str]) -> EgressPolicy {
        EgressPolicy {
            sources: vec!["192.168.10.0/24".parse().unwrap(), "fd00:10::/64".parse().unwrap()],
            destinations: destinations.iter().map(|text| text.parse().unwrap()).collect(),
            source: vec![
                ("0.0.0.0/0".parse().unwrap(), Source::Masquerade),
                ("192.168.20.0/24".parse().unwrap(), Source::Preserve),
            ],
        }
    }

    fn admit(policy: &EgressPolicy, sink: &str) -> Result<Source, Refusal> {
        let host = if sink.starts_with('[') { "[fd00:10::5]:1" } else { "192.168.10.5:1" };
        let own = sink.starts_with("198.51.100.1:");
        policy.admit(HostAddr(host.parse().unwrap()), SinkAddr(sink.parse().unwrap()), own)
    }

    #[test]
    fn the_internet_is_reached_and_private_space_only_when_listed() {
        let internet = policy(&["0.0.0.0/0", "::/0"]);
        assert_eq!(admit(&internet, "203.0.113.9:80"), Ok(Source::Masquerade));
        for private in ["10.0.0.1:80", "192.168.20.9:80", "100.64.0.1:80", "[fd00::1]:80"] {
            assert_eq!(admit(&internet, private), Err(Refusal::Private), "{private}");
        }
        let site = policy(&["0.0.0.0/0", "192.168.20.0/24"]);
        assert_eq!(admit(&site, "192.168.20.9:80"), Ok(Source::Preserve));
        assert_eq!(admit(&site, "192.168.21.9:80"), Err(Refusal::Private));
        assert_eq!(admit(&policy(&[]), "203.0.113.9:80"), Err(Refusal::Destination));
    }

    #[test]
    fn special_sinks_are_refused_in_every_notation() {
        let all = policy(&["0.0.0.0/0", "::/0", "10.0.0.0/8", "fd00::/8", "127.0.0.0/8"]);
        for sink in [
            "127.0.0.1:80",
            "169.254.169.254:80",
            "100.100.100.200:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "0.0.0.0:80",
            "198.51.100.1:80",
            "[::1]:80",
            "[::]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
            "[fd00:ec2::254]:80",
            "[::127.0.0.1]:80",
            "[64:ff9b::7f00:1]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[64:ff9b:1::7f00:1]:80",
            "[fec0::1]:80",
            "[2002:7f00:1::]:80",
        ] {
            assert_eq!(admit(&all, sink), Err(Refusal::Special), "{sink}");
        }
    }

    #[test]
    fn a_mapped_sink_is_judged_as_ipv4() {
        let all = policy(&["0.0.0.0/0", "::/0"]);
        let host = HostAddr("192.168.10.5:1".parse().unwrap());
        let sink = SinkAddr("[::ffff:127.0.0.1]:80".parse().unwrap());
        assert_eq!(all.admit(host, sink, false), Err(Refusal::Special));
    }

    #[test]
    fn a_foreign_source_is_refused() {
        let host = HostAddr("192.168.11.5:1".parse().unwrap());
        let sink = SinkAddr("203.0.113.9:80".parse().unwrap());
        assert_eq!(policy(&["0.0.0.0/0"]).admit(host, sink, false), Err(Refusal::Source));
    }
}
