//! Network namespaces without a name, which vanish with this process however it ends.
//!
//! A namespace is held by a worker thread and a descriptor, never by a mount. What is built
//! inside it is others' business.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{Builder, JoinHandle};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

use crate::{ifreq, process};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace of our own, with `lo` up and an empty `/run` that only its threads and
/// processes see: what they leave there vanishes too. Dropping it kills the processes spawned in it;
/// it is gone when the last socket, device and thread that use it are.
#[derive(Debug)]
pub struct Netns {
    label: String,
    file: File,
    /// `None` only while it is dropped.
    jobs: Option<Sender<Job>>,
    worker: Option<JoinHandle<()>>,
}

impl Netns {
    /// Makes a namespace; `label` names its threads in listings. Needs CAP_SYS_ADMIN.
    pub fn new(label: &str) -> io::Result<Netns> {
        let (jobs, inbox) = mpsc::channel();
        let (ready, made) = mpsc::channel();
        let worker = Builder::new().name(label.into()).spawn(move || work(&ready, &inbox))?;
        let file = made.recv().map_err(|_| gone())??;
        Ok(Netns { label: label.into(), file, jobs: Some(jobs), worker: Some(worker) })
    }

    /// The name it was given.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs `f` on a new thread in the namespace and returns what it returns; threads that `f`
    /// starts are in the namespace too, and sockets it opens stay there. Several calls may run
    /// at once. A panic in `f` is resumed here; an error means that no thread could be started.
    pub fn run<T, F>(&self, f: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let name = format!("{}-run", self.label);
        let thread = self.on_worker(move || Builder::new().name(name).spawn(f))??;
        thread.join().or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a process in the namespace; the kernel kills it when this `Netns` is dropped or
    /// this process dies.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        // The signal is tied to the thread that forks: it has to be the one that lives longest.
        self.on_worker(move || process::die_with_parent(&mut command).spawn())?
    }

    /// Where other programs find the namespace while this `Netns` lives: `nsenter --net=PATH`.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    fn on_worker<T, F>(&self, f: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (answer, result) = mpsc::channel();
        let job = Box::new(move || drop(answer.send(f())));
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(worker) = self.worker.take() {
            // It ends when its jobs do; a panic in one has reached its caller as an error.
            let _ = worker.join();
        }
    }
}

/// The worker: enters a new namespace, says so, and does what it is sent until the `Netns` goes.
fn work(ready: &Sender<io::Result<File>>, inbox: &Receiver<Job>) {
    let made = enter();
    let failed = made.is_err();
    if ready.send(made).is_err() || failed {
        return;
    }
    for job in inbox {
        job();
    }
}

fn enter() -> io::Result<File> {
    // SAFETY: only unsharing the file table is dangerous; these leave descriptors alone.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }?;
    let all_private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", all_private)?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None)?;
    ifreq::set_up("lo")?;
    File::open("/proc/thread-self/ns/net")
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the namespace's worker thread has ended")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    fn inode(path: impl AsRef<std::path::Path>) -> u64 {
        std::fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn closures_and_their_threads_run_inside() {
        let ns = Netns::new("inside").unwrap();
        let here = inode("/proc/thread-self/ns/net");
        let see = || inode("/proc/thread-self/ns/net");
        let there = ns.run(see).unwrap();
        assert_ne!(here, there);
        assert_eq!(there, inode(ns.path()));
        assert_eq!(there, ns.run(move || std::thread::spawn(see).join().unwrap()).unwrap());
        assert_eq!(here, see());
    }

    #[test]
    fn runs_overlap_and_lo_is_up() {
        let ns = Netns::new("overlap").unwrap();
        let listener = ns.run(|| TcpListener::bind("127.0.0.1:0")).unwrap().unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            let accept = scope.spawn(|| ns.run(move || listener.accept().map(drop)));
            ns.run(move || TcpStream::connect(to).map(drop)).unwrap().unwrap();
            accept.join().unwrap().unwrap().unwrap();
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_namespace_goes_on() {
        let ns = Netns::new("panic").unwrap();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            ns.run(|| std::panic::resume_unwind(Box::new("as asked"))).unwrap();
        }));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"as asked"));
        assert_eq!(ns.run(|| 3).unwrap(), 3);
    }

    #[test]
    fn processes_run_inside_and_die_with_it() {
        let ns = Netns::new("spawn").unwrap();
        let mut command = Command::new("readlink");
        command.arg("/proc/self/ns/net").stdout(Stdio::piped());
        let output = ns.spawn(command).unwrap().wait_with_output().unwrap();
        let there = std::fs::read_link(ns.path()).unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), there.to_str().unwrap());

        let mut entered = Command::new("nsenter");
        entered.arg(format!("--net={}", ns.path().display())).args(["ip", "link", "show", "lo"]);
        assert!(entered.stdout(Stdio::null()).status().unwrap().success());

        let mut sleeper = Command::new("sleep");
        sleeper.arg("600");
        let mut child = ns.spawn(sleeper).unwrap();
        drop(ns);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(Netns::new("again").unwrap().spawn(Command::new("no-such-program")).is_err());
    }

    /// The test binary runs itself: the inner one is killed and its child must go too. The
    /// child's end of the pipe closes when it is dead, and a namespace with no thread, socket
    /// or descriptor left is gone.
    #[test]
    fn all_is_gone_after_sigkill() {
        const INNER: &str = "BRAID_TEST_NETNS_INNER";
        if std::env::var_os(INNER).is_some() {
            let ns = Netns::new("inner").unwrap();
            let mut sleeper = Command::new("sh");
            sleeper.args(["-c", "echo started; exec sleep 600"]);
            ns.spawn(sleeper).unwrap().wait().unwrap();
        }
        let mut inner = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "netns::tests::all_is_gone_after_sigkill", "--nocapture"])
            .env(INNER, "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = io::BufRead::lines(io::BufReader::new(inner.stdout.take().unwrap()));
        while !lines.next().unwrap().unwrap().contains("started") {}
        inner.kill().unwrap();
        inner.wait().unwrap();
        assert!(lines.all(|line| line.is_ok()), "the pipe ends once the grandchild is dead");
    }
}
