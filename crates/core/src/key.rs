//! A box's identity as text: 32 bytes in base64, for the public and for the private half.
//!
//! Making keys and using them is the engine's; here they are only read and written.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// Bytes in a key, public or private (Ed25519, RFC 8032).
pub const KEY_LEN: usize = 32;

/// The public key by which a peer knows a box.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; KEY_LEN]);

/// A box's private key: the Ed25519 seed. Never printed, not even by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(pub [u8; KEY_LEN]);

/// Text that is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a key: a key is {KEY_LEN} bytes in base64, 44 characters")]
pub struct KeyTextError;

impl FromStr for PublicKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        decode(text).map(Self)
    }
}

impl FromStr for PrivateKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        decode(text).map(Self)
    }
}

impl PrivateKey {
    /// The text for the key file.
    #[must_use]
    pub fn to_text(&self) -> String {
        BASE64_STANDARD.encode(self.0)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

fn decode(text: &str) -> Result<[u8; KEY_LEN], KeyTextError> {
    let bytes = BASE64_STANDARD.decode(text.trim()).map_err(|_| KeyTextError)?;
    bytes.try_into().map_err(|_| KeyTextError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        let key = PublicKey([7; KEY_LEN]);
        assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
    }

    #[test]
    fn wrong_length_and_wrong_letters_are_refused() {
        for text in ["", "AAAA", "not base64 at all!!", &"A".repeat(44), &"A".repeat(88)] {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyTextError), "{text}");
        }
    }

    #[test]
    fn a_private_key_does_not_show_itself() {
        assert!(!format!("{:?}", PrivateKey([7; KEY_LEN])).contains('7'));
    }
}
