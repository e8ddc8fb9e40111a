//! Virtual Ethernet devices whose other end is this process.
//!
//! A device exists as long as its [`Tap`], in the network namespace of the thread that opened
//! it. Addresses and the up state are given to it by name, by others.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::ifreq;

/// Frames that a device holds for us before it drops: 120 ms of full frames at 1 Gbit/s. The
/// kernel's own 1000 are lost in one spell off the processor.
const QUEUE: u16 = 10_000;

/// A TAP device, read and written a whole Ethernet frame at a time, without blocking.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
}

impl Tap {
    /// Creates the device `name` (at most 15 bytes; `%d` in it is replaced by a number) in the
    /// calling thread's network namespace. Needs CAP_NET_ADMIN there.
    pub fn open(name: &str) -> io::Result<Tap> {
        let (fd, name) = attach(name, libc::IFF_TAP | libc::IFF_NO_PI)?;
        ifreq::set_queue_len(&name, QUEUE)?;
        Ok(Tap { fd, name })
    }

    /// The device's name, as the kernel has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Plugs the cable in or pulls it out, as the namespace sees it.
    pub fn set_carrier(&self, on: bool) -> io::Result<()> {
        let on = libc::c_int::from(on);
        // SAFETY: the descriptor is open, and TUNSETCARRIER reads one `int` from the pointer.
        match unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TUNSETCARRIER, &raw const on) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Takes the next frame that the namespace sent and returns its length in bytes, cut to that
    /// of `frame`. `WouldBlock` when there is none.
    pub fn read(&self, frame: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, frame)?)
    }

    /// Hands a frame to the namespace. EIO while the device is administratively down.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.fd, frame)?;
        Ok(())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A descriptor attached to a new device with these flags, and the name it was given.
fn attach(name: &str, flags: libc::c_int) -> io::Result<(OwnedFd, String)> {
    let open = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/net/tun", open, Mode::empty())?;
    let mut request = ifreq::request(name)?;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    ifreq::call(&fd, u64::from(libc::TUNSETIFF as u32), &mut request)?;
    Ok((fd, ifreq::name(&request)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Netns;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::net::UdpSocket;

    /// Sets the device up with an address; the namespace's kernel now speaks on it.
    fn raise(ns: &Netns, tap: &Tap) {
        let script = format!(
            "echo 1 >/proc/sys/net/ipv6/conf/{0}/disable_ipv6
             ip address add 10.9.0.1/24 dev {0} && ip link set {0} up &&
             ip neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 dev {0}",
            tap.name()
        );
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script]);
        assert!(ns.spawn(command).unwrap().wait().unwrap().success());
    }

    fn next_frame(tap: &Tap, frame: &mut [u8]) -> usize {
        poll(&mut [PollFd::new(tap, PollFlags::IN)], None).unwrap();
        tap.read(frame).unwrap()
    }

    #[test]
    fn frames_cross_both_ways() {
        let ns = Netns::new("tap").unwrap();
        let tap = ns.run(|| Tap::open("t%d")).unwrap().unwrap();
        assert_eq!(tap.name(), "t0");
        raise(&ns, &tap);
        let mut frame = [0; 2048];
        assert_eq!(tap.read(&mut frame).unwrap_err().kind(), io::ErrorKind::WouldBlock);

        let socket = ns.run(|| UdpSocket::bind("10.9.0.1:9")).unwrap().unwrap();
        socket.send_to(b"hello", "10.9.0.2:9").unwrap();
        let length = next_frame(&tap, &mut frame);
        assert_eq!(&frame[length - 5..length], b"hello");

        // Turn the frame round: addresses swapped at both layers, ports are equal.
        let (to, from) = (frame[0..6].to_vec(), frame[6..12].to_vec());
        frame[0..6].copy_from_slice(&from);
        frame[6..12].copy_from_slice(&to);
        let (to, from) = (frame[30..34].to_vec(), frame[26..30].to_vec());
        frame[30..34].copy_from_slice(&from);
        frame[26..30].copy_from_slice(&to);
        tap.write(&frame[..length]).unwrap();
        let mut text = [0; 16];
        assert_eq!(socket.recv(&mut text).unwrap(), 5);
    }

    #[test]
    fn the_carrier_is_seen_in_the_namespace() {
        let ns = Netns::new("carrier").unwrap();
        let tap = ns.run(|| Tap::open("t0")).unwrap().unwrap();
        raise(&ns, &tap);
        let state = || {
            let mut command = std::process::Command::new("ip");
            command.args(["link", "show", "t0"]).stdout(std::process::Stdio::piped());
            let output = ns.spawn(command).unwrap().wait_with_output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(!state().contains("NO-CARRIER"));
        tap.set_carrier(false).unwrap();
        assert!(state().contains("NO-CARRIER"));
        tap.set_carrier(true).unwrap();
        assert!(!state().contains("NO-CARRIER"));
    }

    #[test]
    fn a_bad_name_is_an_error() {
        assert!(Tap::open("a-name-that-is-too-long").is_err());
        assert!(Tap::open("nul\0").is_err());
    }
}
