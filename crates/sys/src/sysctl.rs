//! Sysctls of the network namespace that the calling thread is in.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::resource;

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

/// The names below a part of a sysctl's name, as the interfaces below `net.ipv4.conf`.
///
/// # Errors
/// When there is no such part.
pub fn below(name: &str) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(path(name))?.filter_map(Result::ok);
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Whether this process may set a sysctl that there is.
///
/// # Errors
/// EACCES or EROFS without permission.
pub fn may_write(name: &str) -> io::Result<()> {
    resource::may_write(&path(name))
}

/// As sysctl(8) reads names: a dot in an interface's name is a slash here.
fn path(name: &str) -> PathBuf {
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    PathBuf::from("/proc/sys").join(swapped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_in_an_interfaces_name_is_a_slash() {
        let of_vlan = path("net.ipv4.conf.eth0/2.rp_filter");
        assert_eq!(of_vlan, PathBuf::from("/proc/sys/net/ipv4/conf/eth0.2/rp_filter"));
    }
}
