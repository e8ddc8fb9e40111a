//! How promptly a thread is run: real-time or idle priority, exact timers.
//!
//! Real-time needs a privilege that may be missing; what to do without it is the caller's to decide.

use std::io;
use std::num::NonZeroU64;

/// Puts the calling thread under SCHED_FIFO at `priority` (1 to 99). Threads and processes that
/// it starts do not inherit this.
///
/// Fails with EPERM without CAP_SYS_NICE, and EINVAL for a priority out of range; the thread
/// then runs on as before.
pub fn set_realtime(priority: u8) -> io::Result<()> {
    set_policy(libc::SCHED_FIFO, libc::c_int::from(priority))
}

/// Has the calling thread run only where a processor has nothing else to do (SCHED_IDLE).
/// Threads and processes that it starts do not inherit this.
pub fn set_idle() -> io::Result<()> {
    set_policy(libc::SCHED_IDLE, 0)
}

fn set_policy(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: priority };
    let policy = policy | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `parameter` is a valid `sched_param` that outlives the call; 0 is this thread.
    match unsafe { libc::sched_setscheduler(0, policy, &parameter) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Has the calling thread's timers expire when asked, not up to 50 µs later as is usual. A
/// real-time thread needs no such call.
pub fn set_exact_timers() -> io::Result<()> {
    Ok(rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn realtime_is_this_thread_alone_and_a_bad_priority_is_an_error() {
        let run = || {
            assert!(set_realtime(100).is_err());
            set_realtime(1).unwrap();
            // SAFETY: a call without pointers; 0 is this thread.
            let policy = || unsafe { libc::sched_getscheduler(0) };
            assert_eq!(policy(), libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK);
            let child = std::thread::spawn(policy).join().unwrap();
            assert_eq!(child, libc::SCHED_OTHER);
        };
        std::thread::spawn(run).join().unwrap();
    }

    #[test]
    fn exact_timers_are_granted_to_anyone() {
        set_exact_timers().unwrap();
        assert_eq!(rustix::thread::current_timer_slack().unwrap(), 1);
    }
}
