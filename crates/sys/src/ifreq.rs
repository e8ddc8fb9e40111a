//! The `ifreq` calls: what a network interface is told by name, in the calling thread's
//! network namespace.
//!
//! Addresses and routes are not here: they go over rtnetlink.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// An empty request for the interface `name`; fails when the name is too long or holds a NUL.
pub(crate) fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.bytes().any(|byte| byte == 0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("interface name {name:?} is not usable"),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// The name that the kernel wrote into `request`.
pub(crate) fn name(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().take_while(|&&c| c != 0);
    bytes.map(|&c| char::from(c as u8)).collect()
}

/// Sets the interface administratively up.
pub(crate) fn set_up(name: &str) -> io::Result<()> {
    let socket = socket()?;
    let mut request = request(name)?;
    call(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has just filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    call(&socket, libc::SIOCSIFFLAGS, &mut request)
}

/// Sets how many frames may wait in the interface for whoever takes them.
pub(crate) fn set_queue_len(name: &str, frames: u16) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_metric = libc::c_int::from(frames);
    call(&socket()?, libc::SIOCSIFTXQLEN, &mut request)
}

/// Any socket takes these calls; it only says which namespace is meant.
fn socket() -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let flags = SocketFlags::CLOEXEC;
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?)
}

/// One ioctl whose argument is an `ifreq`.
pub(crate) fn call(fd: impl AsFd, code: u64, request: &mut libc::ifreq) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the call, and every code passed by this crate takes a
    // pointer to an `ifreq`, which `request` is.
    match unsafe { libc::ioctl(fd, code as _, std::ptr::from_mut(request)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
