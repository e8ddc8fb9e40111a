//! Files that belong to a running box: one of each kind in a network namespace, on a file system that
//! is empty after a restart.

use std::path::{Path, PathBuf};

use braid_sys::resource::network_namespace;

use crate::error::StartError;

/// Where they are.
pub(crate) const DIRECTORY: &str = "/var/run/braid";

/// The file of this namespace, as `state_file("net", "lock")`.
pub(crate) fn state_file(name: &str, extension: &str) -> Result<PathBuf, StartError> {
    let namespace = network_namespace()
        .map_err(|error| StartError::System("cannot name the network namespace", error))?;
    Ok(Path::new(DIRECTORY).join(format!("{name}-{namespace:x}.{extension}")))
}
