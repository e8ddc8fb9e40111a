//! Why a box does not start, sorted by what the user has to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use braid_sys::mptcp_pm::PmError;
use braid_sys::nft::NftError;
use braid_sys::probe::MptcpMissing;
use braid_sys::rtnl::RtnlError;

use crate::identity::IdentityError;
use crate::tls::TlsError;

/// Sorts of failure; each has an exit code of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The configuration asks for what is not there: mend the file.
    Configuration,
    /// The process may not: run it with more rights.
    Permission,
    /// The kernel or system lacks something: install or switch it on.
    Unavailable,
    /// Something else has what we need: an address, the namespace.
    InUse,
    /// The system refused in a way that we did not foresee.
    System,
}

/// Why a box does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No CAP_NET_ADMIN.
    #[error(
        "braid needs CAP_NET_ADMIN to route and intercept: run it as root, or give it that capability"
    )]
    Permission,
    /// No MPTCP.
    #[error(transparent)]
    Mptcp(#[from] MptcpMissing),
    /// No nft, or a kernel without the modules.
    #[error(
        "this system cannot intercept: {0} (needed: nftables, and the kernel modules nft_tproxy, \
         nft_socket, nft_fib_inet; OpenWrt: kmod-nft-tproxy kmod-nft-socket kmod-nft-fib)"
    )]
    Tproxy(#[source] NftError),
    /// The private key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The peer's key is the box's.
    #[error(
        "peer.public_key of \"{0}\" is this box's own: put the one there that `braid pubkey` prints \
         on the peer's box"
    )]
    OwnKey(String),
    /// An endpoint's host name has no address.
    #[error("peer.endpoints: cannot resolve \"{0}\": {1}")]
    Resolve(String, #[source] io::Error),
    /// A listening address is taken, or not ours.
    #[error("node.listen: cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The same for heartbeats.
    #[error("node.listen: cannot take heartbeats, which come by UDP, on {0}: {1}")]
    ListenUdp(SocketAddr, #[source] io::Error),
    /// Another braid has this namespace.
    #[error("another braid runs here (process {0}): stop it first")]
    AlreadyRunning(String),
    /// The place for our state cannot be written.
    #[error("cannot write {0}: {1}")]
    StateDirectory(PathBuf, #[source] io::Error),
    /// A sysctl that braid cannot do without.
    #[error(
        "cannot set sysctl {name} to {wanted}: {source}: set it by `sysctl -w {name}=\"{wanted}\"`"
    )]
    Sysctl {
        /// Its name.
        name: &'static str,
        /// The value that it should have.
        wanted: String,
        /// The kernel's refusal.
        #[source]
        source: io::Error,
    },
    /// nft refused our table.
    #[error("cannot load the nftables table: {0}")]
    Nft(#[from] NftError),
    /// rtnetlink refused.
    #[error("routing: {0}")]
    Routing(#[from] RtnlError),
    /// The key cannot be used for TLS.
    #[error("TLS: {0}")]
    Tls(#[source] TlsError),
    /// The MPTCP path manager refused.
    #[error("MPTCP path manager: {0}")]
    PathManager(#[from] PmError),
    /// Anything else.
    #[error("{0}: {1}")]
    System(&'static str, #[source] io::Error),
}

impl StartError {
    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Permission | Self::Sysctl { .. } => Kind::Permission,
            Self::Mptcp(_) | Self::Tproxy(_) => Kind::Unavailable,
            Self::Identity(_) | Self::OwnKey(_) | Self::Resolve(..) => Kind::Configuration,
            Self::Listen(_, error) | Self::ListenUdp(_, error)
                if error.kind() == io::ErrorKind::AddrNotAvailable =>
            {
                Kind::Configuration
            }
            Self::Listen(..) | Self::ListenUdp(..) | Self::AlreadyRunning(_) => Kind::InUse,
            Self::StateDirectory(..)
            | Self::Nft(_)
            | Self::Routing(_)
            | Self::Tls(_)
            | Self::PathManager(_)
            | Self::System(..) => Kind::System,
        }
    }
}
