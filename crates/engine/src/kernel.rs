//! Puts a plan into the kernel, and takes it out again, also after a crash.
//!
//! What braid changes of others' state (sysctls, MPTCP limits) is written to a file first, so
//! that the next start can put it back if this one is killed. The file and a lock are named by
//! the network namespace: one braid runs in each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use braid_core::kernel::numbers::NFT_TABLE;
use braid_core::kernel::{Plan, Sysctl, Want};
use braid_sys::mptcp_pm::{Limits, PathManager};
use braid_sys::rtnl::{Changes, Rtnl};
use braid_sys::{nft, sysctl};
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use crate::error::StartError;
use crate::state_file::{DIRECTORY, state_file};
use crate::status::KernelReport;

/// Subflows that a connection may have beside the first: the kernel's own maximum.
const MOST_SUBFLOWS: u32 = 8;

/// What others' state was before braid changed it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Remembered {
    /// The start of the machine that this is true for: namespaces' numbers come again.
    boot: String,
    sysctls: BTreeMap<String, Changed>,
    mptcp_limits: Option<(u32, u32)>,
    /// Endpoints that the kernel had made by itself already; those to come are our carriers'.
    implicit_endpoints: Vec<(u8, IpAddr)>,
}

/// A sysctl's value before, and the one that braid gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changed {
    pub(crate) before: String,
    pub(crate) ours: String,
}

/// The kernel state of this namespace, locked for us.
#[derive(Debug)]
pub struct Kernel {
    rtnl: Rtnl,
    manager: PathManager,
    remembered: Remembered,
    memory: PathBuf,
    /// What is done, for the status.
    pub(crate) report: KernelReport,
    _lock: Lock,
}

/// The namespace's lock: a file that is held, with our process number in it for the reader.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _held: File,
}

impl Kernel {
    /// Locks the namespace and removes what a braid that was killed has left.
    ///
    /// # Errors
    /// When another braid runs here, or the kernel refuses.
    pub async fn acquire(rtnl: Rtnl) -> Result<Self, StartError> {
        let lock = lock(&state_file("net", "lock")?)?;
        let memory = state_file("net", "json")?;
        let remembered = recall(&memory);
        let (manager, report) = (PathManager::connect()?, KernelReport::default());
        let mut kernel = Self { rtnl, manager, remembered, memory, report, _lock: lock };
        if kernel.clear().await? {
            info!("removed what a braid that was killed had left in the kernel");
        }
        Ok(kernel)
    }

    /// Makes the kernel hold the plan, and checks that it does.
    ///
    /// # Errors
    /// With what the kernel refused. The caller removes what was applied until then.
    pub async fn apply(&mut self, plan: &Plan) -> Result<(), StartError> {
        for wanted in &plan.sysctls {
            self.set_sysctl(wanted)?;
        }
        self.prepare_acceptor().await?;
        let routes = self.rtnl.sync_routes(&plan.routes).await?;
        let rules = self.rtnl.sync_rules(&plan.rules).await?;
        nft::load(&plan.ruleset.text())?;
        debug!(?routes, ?rules, "plan applied:\n{plan}");
        self.verify(plan).await
    }

    /// Takes away all that is ours and puts back what was others'. Goes on past failures and
    /// reports them in the log.
    pub async fn remove(mut self) {
        if let Err(error) = self.clear().await {
            warn!("cannot remove all kernel state: {error}; the next start tries again");
        }
    }

    /// Whether there was anything to clear.
    async fn clear(&mut self) -> Result<bool, StartError> {
        let had_table = nft::table(NFT_TABLE).is_ok_and(|table| table.is_some());
        // Adding it first makes deleting it right whether it is there or not.
        let table =
            nft::load(&format!("add table inet {NFT_TABLE}\ndelete table inet {NFT_TABLE}\n"));
        let rules = self.rtnl.sync_rules(&BTreeSet::new()).await;
        let routes = self.rtnl.sync_routes(&BTreeSet::new()).await;
        let had_changes = !self.remembered.is_empty();
        self.put_back().await;
        table?;
        Ok(had_table || had_changes || rules?.removed + routes?.removed > 0)
    }

    /// What cannot be put back stays remembered for the next start.
    async fn put_back(&mut self) {
        self.remembered.sysctls.retain(|name, changed| {
            let outcome = put_sysctl_back(name, changed);
            outcome.inspect_err(|e| warn!("cannot put sysctl {name} back: {e}")).is_err()
        });
        if let Some((accepted_addresses, subflows)) = self.remembered.mptcp_limits {
            self.delete_endpoints_but(&self.remembered.implicit_endpoints).await;
            match self.manager.set_limits(Limits { accepted_addresses, subflows }).await {
                Ok(()) => self.remembered.mptcp_limits = None,
                Err(error) => warn!("cannot put the MPTCP limits back: {error}"),
            }
        }
        let kept = if self.remembered.is_empty() {
            fs::remove_file(&self.memory).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })
        } else {
            self.write_memory()
        };
        if let Err(error) = kept {
            warn!("{}: {error}", self.memory.display());
        }
    }

    async fn delete_endpoints_but(&self, others: &[(u8, IpAddr)]) {
        let endpoints = self.manager.implicit_endpoints().await.unwrap_or_default();
        for endpoint in endpoints.iter().filter(|e| !others.contains(&(e.id, e.address))) {
            if let Err(error) = self.manager.delete(*endpoint).await {
                warn!(address = %endpoint.address, "cannot delete an implicit endpoint: {error}");
            }
        }
    }

    async fn verify(&self, plan: &Plan) -> Result<(), StartError> {
        let missing = |what| {
            let error = io::Error::other("it was applied, but the kernel does not show it");
            Err(StartError::System(what, error))
        };
        if nft::table(NFT_TABLE)?.is_none() {
            return missing("the nftables table");
        }
        if self.rtnl.sync_rules(&plan.rules).await? != Changes::default() {
            return missing("policy routing rules");
        }
        if self.rtnl.sync_routes(&plan.routes).await? != Changes::default() {
            return missing("routes");
        }
        Ok(())
    }

    fn set_sysctl(&mut self, wanted: &Sysctl) -> Result<(), StartError> {
        let (name, Some(changed)) = (wanted.name, change_of(wanted)?) else { return Ok(()) };
        let Changed { before, ours } = changed.clone();
        self.remembered.sysctls.entry(name.to_owned()).or_insert(changed);
        self.remember()?;
        match sysctl::write(name, &ours) {
            Ok(()) => {
                info!("sysctl {name} set to \"{ours}\" while braid runs");
                self.report.changed(name, before, ours);
            }
            Err(source) => {
                let reason = source.to_string();
                let refused = StartError::Sysctl { name, wanted: ours.clone(), source };
                if wanted.needed {
                    return Err(refused);
                }
                warn!("{refused}; braid goes on without");
                self.report.refused(name, ours, reason);
            }
        }
        Ok(())
    }

    async fn prepare_acceptor(&mut self) -> Result<(), StartError> {
        let endpoints = self.manager.implicit_endpoints().await?;
        self.remembered.implicit_endpoints =
            endpoints.iter().map(|endpoint| (endpoint.id, endpoint.address)).collect();
        let Limits { accepted_addresses, subflows } = self.manager.limits().await?;
        self.remembered.mptcp_limits = Some((accepted_addresses, subflows));
        self.remember()?;
        let limits = Limits { accepted_addresses, subflows: subflows.max(MOST_SUBFLOWS) };
        Ok(self.manager.set_limits(limits).await?)
    }

    fn remember(&self) -> Result<(), StartError> {
        self.write_memory().map_err(|error| StartError::StateDirectory(self.memory.clone(), error))
    }

    /// Written beside and renamed: there is always a whole file.
    fn write_memory(&self) -> io::Result<()> {
        let new = self.memory.with_extension("new");
        fs::write(&new, serde_json::to_string(&self.remembered)?)?;
        fs::rename(&new, &self.memory)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Remembered {
    fn is_empty(&self) -> bool {
        self.sysctls.is_empty() && self.mptcp_limits.is_none()
    }
}

fn recall(memory: &Path) -> Remembered {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let text = fs::read_to_string(memory).unwrap_or_default();
    let remembered: Remembered = serde_json::from_str(&text).unwrap_or_default();
    if remembered.boot == boot { remembered } else { Remembered { boot, ..Remembered::default() } }
}

/// Puts a sysctl back, unless somebody has changed it since.
fn put_sysctl_back(name: &str, changed: &Changed) -> io::Result<()> {
    let ours = |value: String| value.split_whitespace().eq(changed.ours.split_whitespace());
    if sysctl::read(name)?.is_some_and(ours) {
        sysctl::write(name, &changed.before)?;
    }
    Ok(())
}

fn lock(path: &Path) -> Result<Lock, StartError> {
    let failed = |error| StartError::StateDirectory(path.to_owned(), error);
    fs::create_dir_all(DIRECTORY).map_err(failed)?;
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(path).map_err(failed)?;
    // A braid that stops removes the file it holds: only a lock on the file that is still there
    // counts.
    let still_there =
        || -> io::Result<bool> { Ok(fs::metadata(path)?.ino() == file.metadata()?.ino()) };
    let locked = match file.try_lock() {
        Ok(()) => still_there().unwrap_or(false),
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    };
    if !locked {
        let mut owner = String::new();
        let _ = file.read_to_string(&mut owner);
        return Err(StartError::AlreadyRunning(owner.trim().to_owned()));
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(Lock { path: path.to_owned(), _held: file })
}

/// How a sysctl has to be changed; `None` when it stands as wanted, or is not there and not needed.
pub(crate) fn change_of(wanted: &Sysctl) -> Result<Option<Changed>, StartError> {
    let name = wanted.name;
    let current =
        sysctl::read(name).map_err(|error| StartError::System("cannot read a sysctl", error))?;
    match current {
        Some(before) => {
            let ours = value_to_set(&wanted.want, &before);
            Ok(ours.map(|ours| Changed { before, ours }))
        }
        None if wanted.needed => {
            let source = io::ErrorKind::NotFound.into();
            Err(StartError::Sysctl { name, wanted: String::new(), source })
        }
        None => {
            debug!("this kernel has no sysctl {name}");
            Ok(None)
        }
    }
}

/// The value that a sysctl has to be given; `None` when it stands as wanted.
fn value_to_set(want: &Want, current: &str) -> Option<String> {
    match want {
        Want::Exactly(value) => (value != current).then(|| value.clone()),
        Want::LastTwoAtLeast(first, most) => {
            let numbers: Vec<u64> =
                current.split_whitespace().map_while(|number| number.parse().ok()).collect();
            let [least, old_first, old_most] = numbers[..] else { return None };
            let wanted = [least, old_first.max(*first), old_most.max(*most)];
            (wanted[..] != numbers).then(|| wanted.map(|number| number.to_string()).join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_too_small_is_raised() {
        let wanted = Want::LastTwoAtLeast(20, 100);
        assert_eq!(value_to_set(&wanted, "4\t16\t50"), Some("4 20 100".into()));
        assert_eq!(value_to_set(&wanted, "4\t30\t50"), Some("4 30 100".into()));
        assert_eq!(value_to_set(&wanted, "4\t20\t200"), None);
        assert_eq!(value_to_set(&wanted, "what is this"), None);
        let exactly = Want::Exactly("0".into());
        assert_eq!(value_to_set(&exactly, "3600"), Some("0".into()));
        assert_eq!(value_to_set(&exactly, "0"), None);
    }

    #[test]
    fn what_is_remembered_reads_back_and_rubbish_is_nothing() {
        let mut remembered = Remembered { mptcp_limits: Some((0, 2)), ..Default::default() };
        let changed = || Changed { before: "1 2".into(), ours: "1 3".into() };
        remembered.sysctls.insert("a.b".into(), changed());
        let text = serde_json::to_string(&remembered).unwrap();
        assert_eq!(serde_json::from_str::<Remembered>(&text).unwrap().sysctls["a.b"], changed());
        assert!(serde_json::from_str::<Remembered>("{").unwrap_or_default().is_empty());
    }
}
