//! Routes in a namespace of their own: what is written is read back, and lookups are the kernel's.

use std::process::Command;

use braid_core::kernel::RouteKind;
use braid_core::kernel::numbers::TABLE_FIRST_PATH;

use super::*;
use crate::netns::Netns;

/// A namespace with a router behind either of two interfaces; the second has rules and a table.
const TWO_LINKS: &str = "
    set -e
    for n in 1 2; do
        ip link add a$n type veth peer name b$n
        echo 0 >/proc/sys/net/ipv6/conf/a$n/accept_dad
        ip address add 10.0.$n.2/24 dev a$n
        ip link set a$n up; ip link set b$n up
    done
    ip address add 2001:db8:1::2/64 dev a1 nodad
    ip route add default via 10.0.1.1
    ip route add 2001:db8:9::/48 via 2001:db8:1::1
    ip route add default via 10.0.2.1 table 77
    ip rule add from 10.0.2.2 to 192.0.2.0/24 table 77
    ip route add unreachable 198.51.100.0/24";

fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce(Rtnl) -> F + Send + 'static) {
    let namespace = Netns::new("rtnl").unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", TWO_LINKS]);
    assert!(namespace.spawn(command).unwrap().wait().unwrap().success());
    let here = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test(Rtnl::connect().unwrap()).await });
    };
    namespace.run(here).unwrap();
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_lookup_goes_by_rules_and_tables() {
    in_namespace(|rtnl| async move {
        let first = rtnl.interface("a1").await.unwrap().unwrap().index;
        let second = rtnl.interface("a2").await.unwrap().unwrap().index;
        let way = async |from, to| rtnl.route_to(ip(from), ip(to)).await.unwrap();
        assert_eq!(way("10.0.1.2", "192.0.2.9").await, Some((first, Some(ip("10.0.1.1")))));
        assert_eq!(way("10.0.2.2", "192.0.2.9").await, Some((second, Some(ip("10.0.2.1")))));
        assert_eq!(way("10.0.2.2", "203.0.113.1").await, Some((first, Some(ip("10.0.1.1")))));
        assert_eq!(way("10.0.1.2", "10.0.2.9").await, Some((second, None)));
        assert_eq!(way("::ffff:10.0.1.2", "::ffff:10.0.2.9").await, Some((second, None)));
        let gateway = Some(ip("2001:db8:1::1"));
        assert_eq!(way("2001:db8:1::2", "2001:db8:9::1").await, Some((first, gateway)));
        for (from, to) in [
            ("10.0.1.2", "10.0.2.2"),
            ("10.0.1.2", "198.51.100.7"),
            ("10.0.7.7", "192.0.2.9"),
            ("2001:db8:1::2", "2001:db8:8::1"),
        ] {
            assert_eq!(way(from, to).await, None, "from {from} to {to}");
        }
    });
}

#[test]
fn initial_windows_are_written_and_compared() {
    in_namespace(|rtnl| async move {
        let interface = rtnl.interface("a1").await.unwrap().unwrap().index;
        let route = |destination: &str, via, window| Route {
            table: TABLE_FIRST_PATH,
            destination: destination.parse().unwrap(),
            kind: RouteKind::Unicast { interface, via, initcwnd: window, initrwnd: window },
        };
        let wanted = |window| {
            BTreeSet::from([
                route("0.0.0.0/0", Some(ip("10.0.1.1")), window),
                route("10.0.1.0/24", None, window),
                route("::/0", Some(ip("2001:db8:1::1")), window),
            ])
        };
        let sync = async |window| rtnl.sync_routes(&wanted(window)).await.unwrap();
        let unchanged = Changes::default();
        assert_eq!(sync(None).await, Changes { added: 3, removed: 0 });
        assert_eq!(sync(None).await, unchanged);
        assert_eq!(sync(Some(32)).await, Changes { added: 3, removed: 3 });
        assert_eq!(sync(Some(32)).await, unchanged);
        assert_eq!(sync(Some(40)).await, Changes { added: 3, removed: 3 });
        let removed = rtnl.sync_routes(&BTreeSet::new()).await.unwrap();
        assert_eq!(removed, Changes { added: 0, removed: 3 });
    });
}

#[test]
fn interfaces_addresses_and_routes_are_read() {
    in_namespace(|rtnl| async move {
        let shell = |line: &str| {
            assert!(Command::new("sh").args(["-ec", line]).status().unwrap().success(), "{line}");
        };
        assert_eq!(rtnl.interface("a7").await.unwrap(), None);
        let interface = rtnl.interface("a1").await.unwrap().unwrap();
        assert!(interface.is_up);
        shell("ip link set b1 down");
        assert!(!rtnl.interface("a1").await.unwrap().unwrap().is_up, "no carrier");
        shell("ip link set b1 up; ip -6 address change 2001:db8:1::2/64 dev a1 preferred_lft 0");
        shell("seq 3 20 | sed 's/.*/address add 10.0.1.&\\/24 dev a1/' | ip -batch -");
        shell("ip address add 2001:db8:1::3/64 dev a1 nodad");
        let addresses = rtnl.addresses(interface.index).await.unwrap();
        let old: IpNet = "2001:db8:1::2/64".parse().unwrap();
        assert_eq!((addresses.len(), addresses.last()), (21, Some(&old)), "{addresses:?}");
        shell("ip route add default via 10.0.1.9 metric 5");
        let routes = rtnl.main_routes().await.unwrap();
        let default: IpNet = "0.0.0.0/0".parse().unwrap();
        let found: Vec<_> = routes.iter().filter(|(_, r)| r.destination == default).collect();
        let via = Some(ip("10.0.1.1"));
        assert_eq!(found, [&(interface.index, LinkRoute { destination: default, via })]);
    });
}

#[test]
fn a_rule_that_is_refused_keeps_no_other_away() {
    in_namespace(|rtnl| async move {
        let rule = |table, text: &str| {
            let (from, to) = text.split_once(' ').unwrap();
            let selector = braid_core::kernel::Selector::Way { from: ip(from), to: ip(to) };
            Rule { priority: 4710, selector, table }
        };
        // Two families in one rule.
        let wanted =
            BTreeSet::from([rule(4771, "10.0.1.2 2001:db8::1"), rule(4772, "10.0.2.2 192.0.2.1")]);
        assert!(rtnl.sync_rules(&wanted).await.is_err());
        let without: BTreeSet<_> = wanted.into_iter().filter(|rule| rule.table == 4772).collect();
        assert_eq!(rtnl.sync_rules(&without).await.unwrap(), Changes::default());
    });
}
