//! nftables, by the `nft` program: a ruleset as text in, applied as one transaction or not at all.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

/// Why nft did not take a ruleset.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no `nft` to run.
    #[error(
        "cannot run `nft`: {0}: install nftables (Debian: apt install nftables; OpenWrt: nftables-json)"
    )]
    Missing(#[source] io::Error),
    /// It refused; its words, in one line.
    #[error("nft refused: {0}")]
    Refused(String),
}

/// Loads `ruleset` as `nft -f -` does.
///
/// # Errors
/// See [`NftError`].
pub fn load(ruleset: &str) -> Result<(), NftError> {
    run(&["-f", "-"], ruleset).map(|_| ())
}

/// Has the kernel judge `ruleset` without taking it.
///
/// # Errors
/// See [`NftError`].
pub fn check(ruleset: &str) -> Result<(), NftError> {
    run(&["-c", "-f", "-"], ruleset).map(|_| ())
}

/// The text of a table of family `inet`; `None` when there is no such table.
///
/// # Errors
/// When nft cannot be run.
pub fn table(name: &str) -> Result<Option<String>, NftError> {
    match run(&["list", "table", "inet", name], "") {
        Ok(text) => Ok(Some(text)),
        Err(NftError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn run(arguments: &[&str], input: &str) -> Result<String, NftError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NftError::Missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that refuses early closes its input; its own words say why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(NftError::Missing)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let first = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(NftError::Refused(first.trim().to_owned()))
}
