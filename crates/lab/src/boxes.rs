//! Runs the real `braid` in both boxes, with keys and configuration files written for the run.
//!
//! What stands in the files is `files`'s.

mod files;

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use braid_sys::netns::Netns;
use tempfile::TempDir;

pub use files::keygen;

use crate::report::figure::Family;
use crate::topology::Topology;

/// How long a box may take to say that it runs, or to stop.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is written into the boxes' configuration.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The `braid` program.
    pub braid: PathBuf,
    /// The family of the carriers' endpoints.
    pub family: Family,
    /// The egress box takes its own LAN's flows, too: from the sink to the host.
    pub reverse: bool,
    /// Each box listens, has paths and dials the other.
    pub mesh: bool,
    /// `seal` or `none`, in both boxes; `none` also trusts each path.
    pub protection: Option<&'static str>,
    /// How many carriers each box keeps for its peer.
    pub carriers: Option<u16>,
    /// `preserve` or `masquerade`.
    pub source: &'static str,
    /// The log level of both boxes.
    pub log: &'static str,
}

impl Setup {
    /// The usual one: IPv4 carriers from ingress to egress, sources kept, all else as braid has it.
    #[must_use]
    pub fn new(braid: &Path) -> Self {
        Self {
            braid: braid.to_owned(),
            family: Family::V4,
            reverse: false,
            mesh: false,
            protection: None,
            carriers: None,
            source: "preserve",
            log: "info",
        }
    }
}

/// Both boxes at work.
#[derive(Debug)]
pub struct Boxes {
    /// The ingress box.
    pub ingress: Running,
    /// The egress box.
    pub egress: Running,
    files: TempDir,
}

/// One braid process. Dropping it kills it; [`Running::stop`] stops it in order.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    log: Vec<String>,
    command: (PathBuf, PathBuf, &'static str),
}

impl Boxes {
    /// Writes keys and configurations, starts both boxes and waits until they run.
    ///
    /// # Errors
    /// With the box's own words when it does not start.
    pub fn start(topology: &Topology, setup: &Setup) -> Result<Self> {
        let files = tempfile::Builder::new().prefix("braid-lab-").tempdir()?;
        let (ingress_toml, egress_toml) = files::write(topology, setup, files.path())?;
        let egress = Running::start(&topology.egress, &setup.braid, &egress_toml, setup.log)?;
        let ingress = Running::start(&topology.ingress, &setup.braid, &ingress_toml, setup.log)?;
        Ok(Self { ingress, egress, files })
    }

    /// Where keys and configurations are.
    #[must_use]
    pub fn files(&self) -> &Path {
        self.files.path()
    }

    /// Descriptors open in both boxes together.
    ///
    /// # Errors
    /// When one of them is gone.
    pub fn descriptors(&self) -> Result<u64> {
        Ok(self.ingress.descriptors()? + self.egress.descriptors()?)
    }

    /// Stops both boxes in order.
    ///
    /// # Errors
    /// When one of them does not stop, or says that it failed.
    pub fn stop(mut self) -> Result<()> {
        self.ingress.stop().context("ingress box")?;
        self.egress.stop().context("egress box")
    }
}

impl Running {
    /// Starts a box and waits until it says that it runs.
    ///
    /// # Errors
    /// With the box's own words when it ends instead.
    pub fn start(node: &Netns, braid: &Path, config: &Path, log: &'static str) -> Result<Self> {
        let command = (braid.to_owned(), config.to_owned(), log);
        let (child, lines) = spawn(node, &command)?;
        let mut running = Self { child, lines, log: Vec::new(), command };
        running.wait_for(node.label(), "running")?;
        Ok(running)
    }

    /// Starts the same box again, after it was killed or stopped.
    ///
    /// # Errors
    /// See [`Running::start`].
    pub fn restart(&mut self, node: &Netns) -> Result<()> {
        (self.child, self.lines) = spawn(node, &self.command)?;
        self.log.clear();
        self.wait_for(node.label(), "running")
    }

    /// What it has said so far.
    pub fn log(&mut self) -> &[String] {
        self.log.extend(self.lines.try_iter());
        &self.log
    }

    /// Its process number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Descriptors that it has open.
    ///
    /// # Errors
    /// When it is gone.
    pub fn descriptors(&self) -> Result<u64> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.id())).context("braid has ended")?;
        Ok(open.count() as u64)
    }

    /// Memory that it occupies, bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.context("no VmRSS: braid has ended")? * 1024)
    }

    /// Sends SIGKILL and waits for the end.
    ///
    /// # Errors
    /// From `kill` and `wait`.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM and waits for a good end.
    ///
    /// # Errors
    /// When it does not end in time, or fails.
    pub fn stop(&mut self) -> Result<()> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        // Its standard error ends when it does.
        while self.next_line(deadline)?.is_some() {}
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended with {status}: {}", self.log.join("\n"));
        Ok(())
    }

    fn wait_for(&mut self, label: &str, word: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(line) = self.next_line(deadline)? {
            if line.contains(word) {
                return Ok(());
            }
        }
        bail!("braid in {label} did not start: {}", self.log.join("\n"))
    }

    fn next_line(&mut self, deadline: Instant) -> Result<Option<String>> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.log.push(line.clone());
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("braid said nothing: {}", self.log.join("\n")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(
    node: &Netns,
    (braid, config, log): &(PathBuf, PathBuf, &'static str),
) -> Result<(Child, Receiver<String>)> {
    let mut command = Command::new(braid);
    command.args(["run", "--log", log, "-c"]).arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = node.spawn(command).with_context(|| format!("start {}", braid.display()))?;
    let stderr = child.stderr.take().context("no standard error")?;
    Ok((child, follow(stderr)))
}

fn follow(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
