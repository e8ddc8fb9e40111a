//! What makes braid work worse, in words: for `check`, and for the log of a box that runs.

use std::path::PathBuf;

use braid_core::path::{Link, Path};

use crate::error::StartError;

/// One thing that makes braid work worse; its text names the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Warning {
    /// The private key is not private.
    #[error("node.key_file: others may read the private key: chmod 600 {0}")]
    KeyExposed(PathBuf),
    /// Hosts behind it are not served; they are when it comes, since the kernel goes by its name.
    #[error("intercept.interfaces: there is no interface \"{0}\" here (see `ip link`)")]
    NoHosts(String),
    /// A path without its interface.
    #[error("path.interface: path is down: there is no interface \"{0}\" here (see `ip link`)")]
    PathMissing(String),
    /// A path whose interface carries nothing.
    #[error(
        "path.interface: path is down: \"{0}\" has no carrier, or is switched off: is the cable in? \
         (see `ip link`)"
    )]
    PathDown(String),
    /// The kernel tells ways by their addresses.
    #[error(
        "path.interface: \"{first}\" and \"{second}\" have the same address: only \"{first}\" is used \
         while both are up. Give the modem behind \"{second}\" another network"
    )]
    SameAddress {
        /// The interface of the path that is used.
        first: String,
        /// That of the other.
        second: String,
    },
    /// Nothing leads to a peer that is to be dialled.
    #[error(
        "no [[path]] leads to peer \"{0}\" now: none of its `endpoints` is on a path's link or behind \
         a gateway of a path"
    )]
    Unreached(String),
    /// A path that is up does not lead to a peer.
    #[error("path.interface: \"{path}\" does not lead to peer \"{peer}\": {reason}")]
    NoWay {
        /// The path's interface.
        path: String,
        /// The peer's name.
        peer: String,
        /// What is missing, and the remedy.
        reason: &'static str,
    },
    /// A sysctl that braid would set.
    #[error("{0}; braid goes on without")]
    Sysctl(#[source] StartError),
    /// The kernel looks for the way back of marked packets, and finds our local table.
    #[error(
        "sysctl {0} is 1, so that the kernel drops the IPv4 packets that braid intercepts (wg-quick \
         and some VPN clients set it): run `sysctl -w {0}=0`, and keep it in /etc/sysctl.conf"
    )]
    MarkedSources(String),
    /// Peers that come in here are answered elsewhere, and never come in.
    #[error(
        "sysctl {0} is strict, and answers to what comes in there leave by another interface: peers \
         that dial this box's address there are dropped: run `sysctl -w {0}=2`, and keep it in \
         /etc/sysctl.conf"
    )]
    StrictSources(String),
}

impl Warning {
    /// What is wrong with the interface of a path that is to be used.
    pub(crate) fn of_link(path: &Path) -> Option<Self> {
        match path.link {
            Link::Up => None,
            Link::Down => Some(Self::PathDown(path.interface.clone())),
            Link::Missing => Some(Self::PathMissing(path.interface.clone())),
        }
    }

    /// Of two paths with the same address.
    pub(crate) fn of_same((first, second): (&str, &str)) -> Self {
        Self::SameAddress { first: first.to_owned(), second: second.to_owned() }
    }
}
