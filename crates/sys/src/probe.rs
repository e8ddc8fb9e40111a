//! What this kernel and this process can do, asked before anything is changed.

use std::fs;
use std::io;

use socket2::{Domain, Protocol, Socket, Type};

use crate::nft::{self, NftError};

/// CAP_NET_ADMIN (`linux/capability.h`): rules, routes, nftables, transparent sockets.
const CAP_NET_ADMIN: u32 = 12;

/// Why there is no MPTCP to be had.
#[derive(Debug, thiserror::Error)]
pub enum MptcpMissing {
    /// `net.mptcp.enabled` is 0.
    #[error("MPTCP is switched off: run `sysctl -w net.mptcp.enabled=1`")]
    SwitchedOff,
    /// Compiled without, or too old.
    #[error(
        "this kernel has no MPTCP: braid needs Linux 6.6 or newer with CONFIG_MPTCP \
         (OpenWrt: 24.10 or newer, not a small-flash image)"
    )]
    NotInKernel,
    /// Anything else.
    #[error("cannot open an MPTCP socket: {0}")]
    Other(#[source] io::Error),
}

/// Whether the process may administer the network.
///
/// # Errors
/// When /proc is not there.
pub fn may_administer_network() -> io::Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    Ok(bits.is_some_and(|bits| bits & (1 << CAP_NET_ADMIN) != 0))
}

/// Whether there is IPv6, and it is not switched off: then `lo` has its address.
#[must_use]
pub fn ipv6() -> bool {
    std::net::UdpSocket::bind("[::1]:0").is_ok()
}

/// Opens an MPTCP socket to see whether there are any.
///
/// # Errors
/// With the reason and what to do about it.
pub fn mptcp() -> Result<(), MptcpMissing> {
    match Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)) {
        Ok(_) => Ok(()),
        Err(error) => Err(mptcp_missing(error)),
    }
}

/// `socket()`: EINVAL before 5.6, EPROTONOSUPPORT when not compiled in, ENOPROTOOPT when off.
fn mptcp_missing(error: io::Error) -> MptcpMissing {
    match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => MptcpMissing::SwitchedOff,
        Some(libc::EINVAL | libc::EPROTONOSUPPORT) => MptcpMissing::NotInKernel,
        _ => MptcpMissing::Other(error),
    }
}

/// Has the kernel judge one rule of each kind that interception needs.
///
/// # Errors
/// With nft's words for the first that it does not know.
pub fn tproxy() -> Result<(), NftError> {
    let rule = |rule: &str| {
        nft::check(&format!(
            "table inet braid_probe {{
 chain c {{
 type filter hook prerouting priority 0
 {rule}
 }}
}}
"
        ))
    };
    rule("meta l4proto tcp socket transparent 1 socket wildcard 0 accept")?;
    rule("meta l4proto tcp tproxy ip to 127.0.0.1:1 accept")?;
    rule("fib daddr type local accept")
}

/// Whether the processor has instructions for AES-GCM. Where it has none ChaCha20-Poly1305 is the
/// faster suite by far.
#[must_use]
pub fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_has_its_remedy() {
        let text = |errno| mptcp_missing(io::Error::from_raw_os_error(errno)).to_string();
        assert!(text(libc::ENOPROTOOPT).contains("net.mptcp.enabled=1"));
        assert!(text(libc::EPROTONOSUPPORT).contains("CONFIG_MPTCP"));
        assert!(text(libc::EINVAL).contains("CONFIG_MPTCP"));
        assert!(text(libc::EMFILE).contains("cannot open"));
    }

    #[test]
    fn this_machine_can_do_it() {
        assert!(may_administer_network().unwrap());
        mptcp().unwrap();
        tproxy().unwrap();
    }
}
