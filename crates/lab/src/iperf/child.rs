//! A child process that is never left behind: waited for by event, killed and reaped on drop.
//!
//! Which program it is, and in which namespace it starts, is the caller's.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use std::{
    io,
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

/// A child that ends with its owner.
pub(crate) struct Reaped(Child);

impl Reaped {
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits at most `limit` for it to end; `None` if it goes on.
    pub(crate) fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let until = Instant::now() + limit;
        let process = pidfd_open(self.pid()?, PidfdFlags::empty())?;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks it to end, as Ctrl-C does.
    pub(crate) fn interrupt(&self) -> io::Result<()> {
        // Not waited for yet, so the number is still this child's.
        Ok(kill_process(self.pid()?, Signal::INT)?)
    }

    fn pid(&self) -> io::Result<Pid> {
        let number = i32::try_from(self.0.id()).map_err(io::Error::other)?;
        Pid::from_raw(number).ok_or_else(|| io::Error::other("no process id"))
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        // Both fail only for a child that has ended and been reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_waited_for_and_never_left_behind() {
        let mut quick = Reaped::new(Command::new("true").spawn().unwrap());
        assert!(quick.wait(Duration::from_secs(5)).unwrap().unwrap().success());
        assert!(
            quick.wait(Duration::ZERO).is_err() || quick.wait(Duration::ZERO).unwrap().is_some()
        );
        let mut slow = Reaped::new(Command::new("sleep").arg("60").spawn().unwrap());
        assert!(slow.wait(Duration::from_millis(20)).unwrap().is_none());
        let process = format!("/proc/{}", slow.id());
        assert!(std::fs::exists(&process).unwrap());
        drop(slow);
        assert!(!std::fs::exists(&process).unwrap());
    }

    #[test]
    fn an_interrupted_child_ends() {
        let mut child = Reaped::new(Command::new("sleep").arg("60").spawn().unwrap());
        child.interrupt().unwrap();
        let status = child.wait(Duration::from_secs(5)).unwrap().unwrap();
        assert!(!status.success());
    }
}
