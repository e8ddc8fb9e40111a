//! The Linux edge: one file per kernel facility, and the only unsafe code of the workspace.
//!
//! Sockets: `mptcp` (carriers), `udp` (heartbeats), `tproxy` (intercepted flows, kept sources).
//! Kernel state: `rtnl` (links, routes, rules), `mptcp_pm` (subflows), `sock_diag` (ending them),
//! `nft`, `sysctl`; `notices` tells that it has changed. What the kernel and the process may do:
//! `probe`, `resource`. For programs of the same machine: `local`. For the lab and for tests: `netns`,
//! `tap`, `process`, `sched`.

mod ifreq;
pub mod local;
pub mod mptcp;
pub mod mptcp_pm;
pub mod netns;
pub mod nft;
pub mod notices;
pub mod probe;
pub mod process;
pub mod resource;
pub mod rtnl;
pub mod sched;
pub mod sock_diag;
pub mod sysctl;
pub mod tap;
pub mod tproxy;
pub mod udp;
