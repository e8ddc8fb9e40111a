//! The box's identity: one Ed25519 key pair (RFC 8032), made once and kept in a file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use braid_core::key::{KeyTextError, PrivateKey, PublicKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tracing::warn;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key file cannot be read.
    #[error("cannot read the key file {0}: {1}: make one with `braid keygen {0}`")]
    Read(PathBuf, #[source] io::Error),
    /// The key file holds something else.
    #[error("{0}: {1}: make a new one with `braid keygen`")]
    Text(PathBuf, #[source] KeyTextError),
    /// The key file cannot be written.
    #[error("cannot write the key file {0}: {1}")]
    Write(PathBuf, #[source] io::Error),
    /// The system gave no randomness, or the key is not one.
    #[error("cannot make a key: the system's random generator failed")]
    Random,
}

/// A box's key pair.
#[derive(Clone, Debug)]
pub struct Identity {
    /// By which its peers know it.
    pub public: PublicKey,
    /// By which it proves that.
    pub private: PrivateKey,
}

/// Makes a key pair, writes the private key to `file` (mode 0600) and returns the public one.
///
/// # Errors
/// When `file` exists, or cannot be written.
pub fn generate(file: &Path) -> Result<PublicKey, IdentityError> {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| IdentityError::Random)?;
    let private = PrivateKey(seed);
    let failed = |error| IdentityError::Write(file.to_owned(), error);
    let mut options = OpenOptions::new();
    let mut output = options.write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    writeln!(output, "{}", private.to_text()).map_err(failed)?;
    output.sync_all().map_err(failed)?;
    public(&private)
}

/// Reads the private key in `file`; the public one follows from it.
///
/// # Errors
/// When `file` cannot be read or holds no key.
pub fn load(file: &Path) -> Result<Identity, IdentityError> {
    if others_may_read(file) {
        warn!("{}: others may read this private key: chmod 600", file.display());
    }
    let text = fs::read_to_string(file).map_err(|e| IdentityError::Read(file.to_owned(), e))?;
    let private: PrivateKey = text.parse().map_err(|e| IdentityError::Text(file.to_owned(), e))?;
    Ok(Identity { public: public(&private)?, private })
}

/// Whether a key file can be read by others than its owner.
pub(crate) fn others_may_read(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o077 != 0)
}

fn public(private: &PrivateKey) -> Result<PublicKey, IdentityError> {
    let pair =
        Ed25519KeyPair::from_seed_unchecked(&private.0).map_err(|_| IdentityError::Random)?;
    let bytes = pair.public_key().as_ref().try_into().map_err(|_| IdentityError::Random)?;
    Ok(PublicKey(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_generated_loads_and_is_private() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("key");
        let made = generate(&file).unwrap();
        let loaded = load(&file).unwrap();
        assert_eq!(loaded.public, made);
        assert_eq!(public(&loaded.private).unwrap(), made);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(generate(&file), Err(IdentityError::Write(..))));
    }

    #[test]
    fn the_public_key_is_rfc_8032s() {
        // RFC 8032 section 7.1, test 1.
        let hex = |text: &str| -> [u8; 32] {
            let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
            std::array::from_fn(|number| byte(2 * number))
        };
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let known = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(public(&PrivateKey(seed)).unwrap(), PublicKey(known));
    }

    #[test]
    fn a_file_without_a_key_is_named() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("key");
        fs::write(&file, "hello").unwrap();
        let text = load(&file).unwrap_err().to_string();
        assert!(text.contains("key") && text.contains("44 characters"), "{text}");
        assert!(load(&place.path().join("none")).unwrap_err().to_string().contains("braid keygen"));
    }
}
