//! Child processes that cannot outlive us.
//!
//! Who starts them, and on which thread, is the caller's: see [`crate::netns`].

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Has the kernel kill the child when the *thread* that starts it ends, also by SIGKILL.
///
/// Start the command on a thread that lives as long as the child should. The setting survives
/// `exec` but not a further fork: grandchildren are the child's to reap.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = rustix::process::getpid();
    let armed = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // A parent that died before the line above will send no signal.
        if getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: the closure makes two system calls, and allocates nothing, takes no lock and
    // touches no memory but its own.
    unsafe { command.pre_exec(armed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::sync::mpsc;

    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let (send, receive) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut command = Command::new("sleep");
            send.send(die_with_parent(command.arg("600")).spawn().unwrap()).unwrap();
        });
        thread.join().unwrap();
        let mut child = receive.recv().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
