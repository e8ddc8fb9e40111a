//! What the process may use: descriptors, memory, files; and which namespace it is in.

use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use rustix::fs::Access;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit on open descriptors to what is allowed, and returns it.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    now.current.unwrap_or(u64::MAX)
}

/// The machine's memory in bytes.
///
/// # Errors
/// When /proc/meminfo cannot be read or has no total.
pub fn memory_total() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))
}

/// Whether this process may write a file, or into a directory, that is there.
///
/// # Errors
/// EACCES or EROFS without permission, ENOENT where there is none.
pub fn may_write(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::access(path, Access::WRITE_OK)?)
}

/// The number of the calling thread's network namespace, unique until the machine restarts
/// (SO_NETNS_COOKIE, Linux 5.14).
///
/// # Errors
/// On older kernels.
pub fn network_namespace() -> io::Result<u64> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` is valid for `length` bytes and outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
