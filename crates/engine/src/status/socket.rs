//! The status socket: who connects is sent the status, and that is all. Both ends of it are here.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::PathBuf;
use std::time::Duration;

use braid_core::bounded::Bounded;
use braid_core::status::{Status, VERSION};
use braid_sys::local;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;
use tracing::debug;

use super::Sources;
use crate::error::{Kind, StartError};
use crate::ingress::Trouble;
use crate::state_file::state_file;
use crate::tasks::Tasks;

/// Readers at a time; one more ends the oldest.
const READERS: usize = 8;

/// How long a reader may take, and how long it waits for a box that does not answer.
const LIMIT: Duration = Duration::from_secs(5);

/// More than any status: 4,096 carriers do not make it longer, peers and paths do.
const LONGEST: u64 = 16 << 20;

/// The socket's place in the file system, until it is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

/// Why there is no status to be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nobody listens.
    #[error(
        "braid does not run in this network namespace (nobody answers at {0}): start it by `braid \
         run -c FILE`"
    )]
    NotRunning(PathBuf),
    /// It is another user's.
    #[error("{0}: {1}: ask as the user that braid runs as, usually root")]
    NotAllowed(PathBuf, #[source] io::Error),
    /// It does not answer.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// It does not even have a place.
    #[error(transparent)]
    Place(#[from] StartError),
    /// What it says is not understood.
    #[error(
        "the status of the braid that runs here has another form than this program knows: {0}: ask \
         by the program that runs, or `braid status --json`"
    )]
    Form(String),
}

impl ReadError {
    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotRunning(_) => Kind::Unavailable,
            Self::NotAllowed(..) => Kind::Permission,
            Self::Io(..) | Self::Form(_) => Kind::System,
            Self::Place(error) => error.kind(),
        }
    }
}

impl SocketFile {
    /// Listens in this namespace, which has to be locked for us: what is in its place is stale.
    pub(crate) fn bind() -> Result<(Self, UnixListener), StartError> {
        let path = state_file("status", "sock")?;
        let bound = local::listener(&path).and_then(UnixListener::from_std);
        let listener = bound.map_err(|e| StartError::StateDirectory(path.clone(), e))?;
        Ok((Self(path), listener))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            debug!("{}: {error}", self.0.display());
        }
    }
}

/// Answers whoever connects, until it is dropped.
pub(crate) async fn serve(listener: UnixListener, sources: Sources, tasks: Tasks) {
    let trouble = Trouble::default();
    let (mut last, mut readers) = (0u64, Bounded::<u64, AbortHandle>::new(READERS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                trouble.accept_failed(&error).await;
                continue;
            }
        };
        let text = serde_json::to_string(&sources.status()).expect("its keys are all text");
        readers.take_if(AbortHandle::is_finished);
        last += 1;
        let reader = tasks.spawn(answer(stream, text));
        if let Some((_, oldest)) = readers.insert(last, reader) {
            oldest.abort();
        }
    }
}

async fn answer(mut stream: UnixStream, text: String) {
    let written = async {
        stream.write_all(text.as_bytes()).await?;
        stream.write_all(b"\n").await
    };
    match tokio::time::timeout(LIMIT, written).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a reader of the status has gone"),
        Err(_) => debug!("a reader of the status takes too long"),
    }
}

/// The status of the braid in this network namespace, as JSON.
///
/// # Errors
/// See [`ReadError`].
pub fn read() -> Result<String, ReadError> {
    let path = state_file("status", "sock")?;
    let asked = || -> io::Result<String> {
        let stream = BlockingStream::connect(&path)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut text = String::new();
        stream.take(LONGEST).read_to_string(&mut text)?;
        if text.ends_with('\n') { Ok(text) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    };
    asked().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ReadError::NotRunning(path),
        io::ErrorKind::PermissionDenied => ReadError::NotAllowed(path, error),
        _ => ReadError::Io(path, error),
    })
}

/// The value of a status as JSON.
///
/// # Errors
/// [`ReadError::Form`].
pub fn parse(text: &str) -> Result<Status, ReadError> {
    let status: Status =
        serde_json::from_str(text).map_err(|error| ReadError::Form(error.to_string()))?;
    match status.version {
        VERSION => Ok(status),
        other => Err(ReadError::Form(format!("version {other} is not {VERSION}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_not_read() {
        let text = |version: u32| {
            let bounds = r#"{"unproved_connections": 0, "flows_of_one_host": 0}"#;
            let kernel = r#"{"changed": [], "refused": [], "restored": []}"#;
            format!(
                r#"{{"version": {version}, "braid": "9", "process": 7, "public_key": "K", "up_s": 1,
                "paths": [], "peers": [], "bounds_met": {bounds}, "kernel": {kernel}}}"#
            )
        };
        assert_eq!(parse(&text(VERSION)).unwrap().process, 7);
        for other in [text(VERSION + 1), "{}".into(), String::new()] {
            assert!(matches!(parse(&other), Err(ReadError::Form(_))), "{other}");
        }
    }
}
