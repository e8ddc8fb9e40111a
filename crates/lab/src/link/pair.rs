//! Two namespaces joined by links: the ground on which the emulator itself is measured and
//! tested.

use std::io;
use std::net::Ipv4Addr;
use std::process::Command;

use braid_sys::netns::Netns;
use braid_sys::tap::Tap;

use super::handle::Link;
use super::shape::Duplex;

/// Two namespaces and the links between them; link `n` has the device `p<n>` at both ends.
pub(super) struct Pair {
    pub(super) links: Vec<Link>,
    pub(super) a: Netns,
    pub(super) b: Netns,
}

/// Which end of a [`Pair`].
#[derive(Clone, Copy)]
pub(super) enum End {
    A = 1,
    B = 2,
}

impl Pair {
    pub(super) fn new(duplexes: &[Duplex]) -> io::Result<Pair> {
        let mut pair =
            Pair { links: Vec::new(), a: Netns::new("link-a")?, b: Netns::new("link-b")? };
        for (index, duplex) in duplexes.iter().enumerate() {
            let a = end(&pair.a, index, End::A)?;
            let b = end(&pair.b, index, End::B)?;
            pair.links.push(Link::start(&format!("link-{index}"), a, b, duplex, 1)?);
        }
        Ok(pair)
    }
}

/// The address of an end of link `index`.
pub(super) fn address(index: usize, end: End) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, index as u8, end as u8)
}

/// A device that is up, with an address and without IPv6: its own chatter would be counted.
fn end(ns: &Netns, index: usize, end: End) -> io::Result<Tap> {
    let name = format!("p{index}");
    let open = name.clone();
    let tap = ns.run(move || Tap::open(&open))??;
    let script = format!(
        "echo 1 >/proc/sys/net/ipv6/conf/{name}/disable_ipv6 &&
         ip address add {}/24 dev {name} && ip link set {name} up",
        address(index, end)
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]);
    if !ns.spawn(shell)?.wait()?.success() {
        return Err(io::Error::other(format!("device {name} could not be set up")));
    }
    Ok(tap)
}
