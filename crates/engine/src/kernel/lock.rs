//! The namespace's lock: one braid runs in each.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::error::StartError;
use crate::state_file::DIRECTORY;

/// A file that is held, with our process number in it for the reader.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _held: File,
}

/// Takes it.
///
/// # Errors
/// When another braid has it, or the file cannot be written.
pub(super) fn lock(path: &Path) -> Result<Lock, StartError> {
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

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
