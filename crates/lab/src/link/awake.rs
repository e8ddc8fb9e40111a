//! Keeping processors from sleeping, so that a link's thread wakes when it should.
//!
//! A processor that sleeps takes time to wake; a virtual one has first to be scheduled again by
//! its host, which was measured at 0.2 ms in the median and 10 ms in one case of a hundred.

use std::hint;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use braid_sys::sched;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// While it lives, no processor that we may use is idle: each has a thread that spins whenever
/// nothing else wants to run there. The machine's load and idle time then mean nothing; the
/// processor time of single processes still does.
#[derive(Debug)]
pub struct Awake {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    /// Starts spinning on all processors.
    pub fn start() -> io::Result<Awake> {
        let ours = sched_getaffinity(None)?;
        let mut awake = Awake { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| ours.is_set(cpu)) {
            let stop = awake.stop.clone();
            let spin = move || {
                // Never at the cost of others: without the low priority there is no spinning.
                if sched::set_idle().is_ok() && pin(cpu).is_ok() {
                    while !stop.load(Ordering::Relaxed) {
                        hint::spin_loop();
                    }
                }
            };
            awake.threads.push(Builder::new().name(format!("awake-{cpu}")).spawn(spin)?);
        }
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A spinning thread has nothing that could panic.
            let _ = thread.join();
        }
    }
}

fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_dropped() {
        let awake = Awake::start().unwrap();
        let stop = awake.stop.clone();
        assert!(!awake.threads.is_empty());
        drop(awake);
        assert_eq!(Arc::strong_count(&stop), 1);
    }
}
