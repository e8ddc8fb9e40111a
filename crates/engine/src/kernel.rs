//! Puts a plan into the kernel, and takes it out again, also after a crash.
//!
//! What braid changes of others' state (sysctls, MPTCP limits) is written to a file first, so
//! that the next start can put it back if this one is killed. The file and a lock are named by
//! the network namespace: one braid runs in each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use braid_core::kernel::numbers::NFT_TABLE;
use braid_core::kernel::{Plan, Sysctl};
use braid_sys::mptcp_pm::{Limits, PathManager};
use braid_sys::rtnl::{Changes, Rtnl, RtnlError};
use braid_sys::{nft, sysctl};
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use crate::error::StartError;
use crate::state_file::state_file;
use crate::status::KernelReport;

mod lock;
mod sysctls;

use lock::{Lock, lock};
pub(crate) use sysctls::change_of;
use sysctls::{Changed, put_back};

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

/// The kernel state of this namespace, locked for us.
#[derive(Debug)]
pub struct Kernel {
    rtnl: Rtnl,
    manager: PathManager,
    remembered: Remembered,
    /// Our table as nft showed it when it had been loaded first.
    table: Option<String>,
    /// Sysctls that the system did not let us set.
    given_up: BTreeSet<&'static str>,
    memory: PathBuf,
    /// What is done, for the status.
    pub(crate) report: KernelReport,
    _lock: Lock,
}

/// What of our state may not be as it was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Touched {
    /// Rules and routes.
    pub routing: bool,
    /// The nftables table.
    pub table: bool,
    /// Sysctls and MPTCP limits.
    pub values: bool,
}

/// What was done to the kernel so that it holds the plan again.
#[derive(Debug, Default)]
pub struct Mended {
    /// What was put right.
    pub done: Vec<Done>,
    /// The first thing that could not be.
    pub refused: Option<StartError>,
}

/// One thing that was put right.
#[derive(Debug)]
pub struct Done {
    /// Its name, as `routes`.
    pub what: String,
    /// What was added and removed; none where it was put right as a whole.
    changes: Option<Changes>,
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
        let (table, given_up) = (None, BTreeSet::new());
        let mut kernel =
            Self { rtnl, manager, remembered, table, given_up, memory, report, _lock: lock };
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
        self.remember_limits().await?;
        let whole = self.mend(plan, Touched::ALL).await;
        if let Some(refused) = whole.refused {
            return Err(refused);
        }
        debug!(changed = ?whole.done, "plan applied:\n{plan}");
        self.verify(plan).await
    }

    /// Makes the kernel hold what of the plan it may not, as far as it lets us.
    pub async fn mend(&mut self, plan: &Plan, touched: Touched) -> Mended {
        let mut mended = Mended::default();
        if touched.values {
            for wanted in &plan.sysctls {
                let set = self.set_sysctl(wanted);
                mended.note(&format!("sysctl {}", wanted.name), set);
            }
            mended.note("MPTCP limits", self.raise_limits().await);
        }
        if touched.routing {
            mended.note_changes("routes", self.rtnl.sync_routes(&plan.routes).await);
            mended.note_changes("rules", self.rtnl.sync_rules(&plan.rules).await);
        }
        if touched.table {
            mended.note("nftables table", self.load_table(&plan.ruleset.text()));
        }
        mended
    }

    /// Loads our table unless it is there as it was. In place, though it takes some milliseconds: a
    /// load must not outlive us.
    fn load_table(&mut self, ruleset: &str) -> Result<bool, StartError> {
        if self.table.is_some() && nft::table(NFT_TABLE)? == self.table {
            return Ok(false);
        }
        nft::load(ruleset)?;
        if self.table.is_none() {
            // Only once: later on somebody may be faster than this. The notice of our load brings us
            // back here to compare.
            self.table = nft::table(NFT_TABLE)?;
        }
        Ok(true)
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
            let outcome = put_back(name, changed);
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
        if self.table.is_none() {
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

    /// Whether it was not as wanted.
    fn set_sysctl(&mut self, wanted: &Sysctl) -> Result<bool, StartError> {
        let name = wanted.name;
        if self.given_up.contains(name) {
            return Ok(false);
        }
        let Some(changed) = change_of(wanted)? else { return Ok(false) };
        let ours = changed.ours.clone();
        // What was before the first change is what will be put back.
        let first = self.remembered.sysctls.entry(name.to_owned()).or_insert(changed);
        let before = first.before.clone();
        self.remember()?;
        match sysctl::write(name, &ours) {
            Ok(()) => {
                info!("sysctl {name} set to \"{ours}\" while braid runs");
                self.report.changed(name, before, ours);
                Ok(true)
            }
            Err(source) => {
                let reason = source.to_string();
                let refused = StartError::Sysctl { name, wanted: ours.clone(), source };
                if wanted.needed {
                    return Err(refused);
                }
                warn!("{refused}; braid goes on without");
                self.report.refused(name, ours, reason);
                self.given_up.insert(name);
                Ok(false)
            }
        }
    }

    async fn remember_limits(&mut self) -> Result<(), StartError> {
        let endpoints = self.manager.implicit_endpoints().await?;
        self.remembered.implicit_endpoints =
            endpoints.iter().map(|endpoint| (endpoint.id, endpoint.address)).collect();
        let Limits { accepted_addresses, subflows } = self.manager.limits().await?;
        self.remembered.mptcp_limits = Some((accepted_addresses, subflows));
        self.remember()
    }

    /// Whether they were too low for peers' joins.
    async fn raise_limits(&self) -> Result<bool, StartError> {
        let limits = self.manager.limits().await?;
        if limits.subflows >= MOST_SUBFLOWS {
            return Ok(false);
        }
        self.manager.set_limits(Limits { subflows: MOST_SUBFLOWS, ..limits }).await?;
        Ok(true)
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

impl Touched {
    /// All of it.
    pub const ALL: Self = Self { routing: true, table: true, values: true };

    /// This and that.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            routing: self.routing || other.routing,
            table: self.table || other.table,
            values: self.values || other.values,
        }
    }
}

impl Mended {
    /// That it was put right, or was as it should be.
    fn note(&mut self, what: &str, outcome: Result<bool, StartError>) {
        match outcome {
            Ok(true) => self.done.push(Done { what: what.to_owned(), changes: None }),
            Ok(false) => {}
            Err(error) => self.refuse(error),
        }
    }

    fn note_changes(&mut self, what: &str, outcome: Result<Changes, RtnlError>) {
        match outcome {
            Ok(changes) if changes == Changes::default() => {}
            Ok(changes) => {
                self.done.push(Done { what: what.to_owned(), changes: Some(changes) });
            }
            Err(error) => self.refuse(error.into()),
        }
    }

    fn refuse(&mut self, error: StartError) {
        self.refused = self.refused.take().or(Some(error));
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.changes {
            Some(Changes { added, removed }) => write!(f, " (+{added} -{removed})"),
            None => Ok(()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
