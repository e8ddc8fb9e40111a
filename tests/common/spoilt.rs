//! An ingress box that does not run, whose configuration is right, to be spoilt.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use braid_lab::boxes::keygen;
use braid_lab::topology::Topology;
use tempfile::TempDir;

use super::{BRAID, topology};

/// Its machine and its files: `box.toml`, `key`, and its peer's, `peer`.
pub(crate) struct Spoilt {
    pub(crate) topology: Topology,
    pub(crate) files: TempDir,
}

impl Spoilt {
    /// With these `[[path]]`s.
    pub(crate) fn new(paths: &str) -> Result<Self> {
        let (topology, files) = (topology()?, tempfile::tempdir()?);
        keygen(Path::new(BRAID), &files.path().join("key"))?;
        let peer = keygen(Path::new(BRAID), &files.path().join("peer"))?;
        let config = format!(
            "[node]\nkey_file = \"{}/key\"\nlisten = [\"[::]:4770\"]\n\n{paths}\n\
             [intercept]\ninterfaces = [\"lan0\"]\n\n[[peer]]\nname = \"egress\"\n\
             public_key = \"{peer}\"\nendpoints = [\"10.77.1.2:4770\", \"10.77.2.2:4770\"]\n\
             routes = [\"0.0.0.0/0\"]\n",
            files.path().display()
        );
        let spoilt = Self { topology, files };
        fs::write(spoilt.config(), config)?;
        Ok(spoilt)
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.files.path().join("box.toml")
    }

    /// Makes one thing in the configuration wrong.
    pub(crate) fn spoil(&self, right: &str, wrong: &str) -> Result<()> {
        let text = fs::read_to_string(self.config())?;
        ensure!(text.contains(right), "{right}");
        Ok(fs::write(self.config(), text.replacen(right, wrong, 1))?)
    }
}
