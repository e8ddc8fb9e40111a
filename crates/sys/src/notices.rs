//! Notices by netlink multicast that state of the kernel has changed: of links, addresses, routes and
//! rules (`linux/rtnetlink.h`), and of one nftables table (`linux/netfilter/nf_tables.h`).
//!
//! They say that there is something to look at, not what.

use std::io;

use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};

/// A socket that hears of changes in the namespace that it was opened in.
pub struct Notices {
    socket: TokioSocket,
    /// The nftables table that counts; all that is heard where there is none.
    table: Option<&'static str>,
    buffer: Vec<u8>,
}

/// More than the kernel puts into one notice (`NLMSG_GOODSIZE`, a page).
const LONGEST: usize = 32 << 10;

impl Notices {
    /// Of links, addresses, routes and rules.
    ///
    /// # Errors
    /// From `socket` and `setsockopt`.
    pub fn of_routing() -> io::Result<Self> {
        let groups = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
        ];
        Self::open(NETLINK_ROUTE, &groups, None)
    }

    /// Of an nftables table by this name, whatever its family.
    ///
    /// # Errors
    /// From `socket` and `setsockopt`.
    pub fn of_table(name: &'static str) -> io::Result<Self> {
        const NFNLGRP_NFTABLES: u32 = 7;
        Self::open(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES], Some(name))
    }

    fn open(protocol: isize, groups: &[u32], table: Option<&'static str>) -> io::Result<Self> {
        let mut socket = TokioSocket::new(protocol)?;
        socket.socket_mut().bind_auto()?;
        groups.iter().try_for_each(|group| socket.socket_ref().add_membership(*group))?;
        Ok(Self { socket, table, buffer: Vec::with_capacity(LONGEST) })
    }

    /// Ready when something has changed, or may have: notices may be lost.
    ///
    /// # Errors
    /// From `recv`.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer).await {
                Ok(()) if self.table.is_none_or(|name| is_of_table(&self.buffer, name)) => {
                    return Ok(());
                }
                Ok(()) => {}
                // There were more than the socket holds.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a notice is of a table by this name or of something in it: all those messages have the
/// table's name as attribute 1 (`NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and so on).
fn is_of_table(mut messages: &[u8], name: &str) -> bool {
    /// `struct nlmsghdr` and `struct nfgenmsg`.
    const HEADERS: usize = 16 + 4;
    const NAME: u16 = 1;
    let is_it = |body: &[u8]| {
        NlasIterator::new(body).flatten().any(|nla| {
            nla.kind() == NAME && nla.value().strip_suffix(&[0]) == Some(name.as_bytes())
        })
    };
    while let Some(length) = messages.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) {
        let length = (length as usize).clamp(HEADERS, messages.len().max(HEADERS));
        if messages.get(HEADERS..length).is_some_and(is_it) {
            return true;
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::netns::Netns;

    /// What a shell line does in a namespace of its own is heard, or it is not.
    fn heard(open: fn() -> io::Result<Notices>, before: &str, line: &str) -> bool {
        let namespace = Netns::new("notices").unwrap();
        let (before, line) = (before.to_owned(), line.to_owned());
        let here = move || {
            let shell = |line: &str| Command::new("sh").args(["-ec", line]).status().unwrap();
            assert!(shell(&before).success());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let mut notices = open().unwrap();
                assert!(shell(&line).success(), "{line}");
                // The kernel has told before the program has ended.
                let heard = tokio::time::timeout(Duration::ZERO, notices.changed()).await;
                heard.is_ok_and(|heard| heard.is_ok())
            })
        };
        namespace.run(here).unwrap()
    }

    #[test]
    fn links_addresses_routes_and_rules_are_heard_of() {
        let before = "ip link add d0 type veth peer name e0; ip link set d0 up; ip link set e0 up";
        for line in [
            "ip link add d1 type veth peer name e1",
            "ip link set d0 down",
            "ip address add 10.0.0.1/32 dev d0",
            "ip route add 10.1.0.0/24 dev d0",
            "ip rule add from 10.9.9.9 lookup 99",
            "ip -6 rule add from fd00::9 lookup 99",
        ] {
            assert!(heard(Notices::of_routing, before, line), "{line}");
        }
        assert!(!heard(Notices::of_routing, before, "true"));
    }

    #[test]
    fn what_befalls_the_table_is_heard_of_and_nothing_else() {
        let before = "nft add table inet t; nft add chain inet t c; nft add rule inet t c accept; \
                      nft add table inet u; nft add chain inet u c";
        let open = || Notices::of_table("t");
        for line in [
            "nft flush ruleset",
            "nft delete table inet t",
            "nft flush chain inet t c",
            "nft add rule inet t c drop",
            "nft 'add set inet t s { type ipv4_addr; }'",
        ] {
            assert!(heard(open, before, line), "{line}");
        }
        for line in
            ["nft add rule inet u c drop", "nft delete table inet u", "nft add table inet tt"]
        {
            assert!(!heard(open, before, line), "{line}");
        }
    }

    #[test]
    fn a_flood_is_a_change_too() {
        let flood = "ip link add d1 type veth peer name e1; for n in $(seq 8); do \
                     seq 0 255 | sed \"s/.*/route add 10.$n.&.0\\/24 dev d0/\" | ip -batch -; done";
        assert!(heard(
            Notices::of_routing,
            "ip link add d0 type veth peer name e0; ip link set d0 up; ip link set e0 up",
            flood
        ));
    }

    #[test]
    fn rubbish_is_of_no_table() {
        for length in [0u32, 1, 19, 20, 24, 4000, u32::MAX] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend([0xff; 40]);
            assert!(!is_of_table(&bytes, "t"));
            assert!(!is_of_table(&bytes[..4], "t"));
        }
    }
}
