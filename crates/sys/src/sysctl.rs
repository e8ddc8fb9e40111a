//! Sysctls of the network namespace that the calling thread is in.

use std::fs;
use std::io;
use std::path::PathBuf;

/// The value of a sysctl, as `net.ipv4.tcp_rmem`; `None` where this kernel has no such.
///
/// # Errors
/// When it cannot be read.
pub fn read(name: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(path(name)) {
        Ok(value) => Ok(Some(value.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets a sysctl.
///
/// # Errors
/// EACCES or EROFS without permission, EINVAL for a value that the kernel does not take.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    fs::write(path(name), value)
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name.replace('.', "/"))
}
