//! The key schedule: from a session's exported secret to each direction of each carrier
//! (PROTOCOL.md, "Keys").
//!
//! The TLS session that exports the secret is the engine's; using the keys is `seal`'s.
//!
//! Secrets are overwritten when they are dropped, as far as safe code goes: the compiler may have
//! left copies where a value was moved, and `ring` does not overwrite the keys it holds.

use std::fmt;

use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use crate::key::PublicKey;

/// What both sides name in the TLS handshake of a session: the protocol and its version.
pub const ALPN: &[u8] = b"braid/1";

/// The label under which a session's secret is exported (RFC 8446 section 7.5), with no context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-braid-1";

/// Bytes that are exported: the session's id, then its secret.
pub const EXPORT_LEN: usize = ID_LEN + SECRET_LEN;

/// Bytes of a nonce, and so of the `iv` it is made from.
pub(crate) const IV_LEN: usize = 12;

const ID_LEN: usize = 8;
const SECRET_LEN: usize = 32;
const SALT: &[u8] = b"braid 1 carrier";

/// Which session a carrier belongs to. No secret: it is the first thing a carrier shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; ID_LEN]);

/// What all keys of a session's carriers come from.
#[derive(Clone)]
pub struct SessionSecret(Secret);

/// What the keys of one direction of a carrier come from, until the next `rekey`.
#[derive(Clone)]
pub struct TrafficSecret(Secret);

/// A carrier's number among those of its dialler in a session; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CarrierNumber(pub u32);

/// How records are sealed, agreed in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-128-GCM (RFC 5116), where both processors have AES.
    Aes128Gcm,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

/// Who sends, on a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// What the carrier's dialler sends.
    FromDialler,
    /// What its acceptor sends.
    FromAcceptor,
}

/// The id and the secret of a session, from the bytes that its TLS exporter gave.
#[must_use]
pub fn split_export(bytes: [u8; EXPORT_LEN]) -> (SessionId, SessionSecret) {
    let mut bytes = bytes;
    let (mut id, mut secret) = ([0; ID_LEN], Secret([0; SECRET_LEN]));
    id.copy_from_slice(&bytes[..ID_LEN]);
    secret.0.copy_from_slice(&bytes[ID_LEN..]);
    overwrite(&mut bytes);
    (SessionId(id), SessionSecret(secret))
}

impl SessionSecret {
    /// The first secret of a direction of a carrier.
    #[must_use]
    pub fn traffic(
        &self,
        dialler: &PublicKey,
        number: CarrierNumber,
        direction: Direction,
    ) -> TrafficSecret {
        let prk = Salt::new(HKDF_SHA256, SALT).extract(&self.0.0);
        let mut secret = Secret([0; SECRET_LEN]);
        let info: [&[u8]; 3] = [&dialler.0, &number.0.to_be_bytes(), &[direction.to_byte()]];
        expand(&prk, &info, &mut secret.0);
        TrafficSecret(secret)
    }
}

impl TrafficSecret {
    /// The secret behind the next `rekey`.
    #[must_use]
    pub fn next(&self) -> Self {
        let mut secret = Secret([0; SECRET_LEN]);
        self.expand(b"rekey", &mut secret.0);
        Self(secret)
    }

    /// Fills `key` with the key for a suite whose keys have its length.
    pub(crate) fn key(&self, key: &mut [u8]) {
        self.expand(b"key", key);
    }

    /// What nonces are made from.
    pub(crate) fn iv(&self) -> [u8; IV_LEN] {
        let mut iv = [0; IV_LEN];
        self.expand(b"iv", &mut iv);
        iv
    }

    fn expand(&self, label: &[u8], out: &mut [u8]) {
        expand(&Prk::new_less_safe(HKDF_SHA256, &self.0.0), &[label], out);
    }
}

impl Direction {
    /// The way back.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::FromDialler => Self::FromAcceptor,
            Self::FromAcceptor => Self::FromDialler,
        }
    }

    fn to_byte(self) -> u8 {
        match self {
            Self::FromDialler => 0,
            Self::FromAcceptor => 1,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128Gcm => "AES-128-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        })
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

impl fmt::Display for CarrierNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret(…)")
    }
}

impl fmt::Debug for TrafficSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficSecret(…)")
    }
}

/// Zeroes secret bytes, in a way that the compiler has no licence to leave out.
pub(crate) fn overwrite(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

/// Bytes that do not outlive their owner.
#[derive(Clone)]
struct Secret([u8; SECRET_LEN]);

impl Drop for Secret {
    fn drop(&mut self) {
        overwrite(&mut self.0);
    }
}

/// How many bytes an expansion is to have, as `ring` wants to be told.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand (RFC 5869) over the concatenation of `info`.
fn expand(prk: &Prk, info: &[&[u8]], out: &mut [u8]) {
    let length = Length(out.len());
    prk.expand(info, length)
        .and_then(|okm| okm.fill(out))
        .expect("an expansion is at most 32 bytes, and filled whole");
}

#[cfg(test)]
impl SessionSecret {
    pub(crate) fn bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0.0
    }
}

#[cfg(test)]
impl TrafficSecret {
    pub(crate) fn bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_the_id_and_then_the_secret() {
        let mut bytes = [7; EXPORT_LEN];
        bytes[..8].copy_from_slice(&[0, 1, 2, 3, 4, 5, 6, 0xff]);
        let (id, secret) = split_export(bytes);
        assert_eq!(format!("{id:?}"), "SessionId(00010203040506ff)");
        assert_eq!(secret.bytes(), &[7; 32]);
    }

    #[test]
    fn secrets_do_not_show_themselves() {
        let (_, secret) = split_export([7; EXPORT_LEN]);
        let traffic = traffic(&secret, 1, 1, Direction::FromDialler);
        assert!(!format!("{secret:?} {traffic:?}").contains('7'));
    }

    #[test]
    fn dialler_number_and_direction_each_make_another_secret() {
        let (_, secret) = split_export([7; EXPORT_LEN]);
        let mut seen = std::collections::BTreeSet::new();
        for dialler in 0..3 {
            for number in [1, 2, 256, u32::MAX] {
                for direction in [Direction::FromDialler, Direction::FromAcceptor] {
                    let mut traffic = traffic(&secret, dialler, number, direction);
                    for _ in 0..3 {
                        assert!(seen.insert(*traffic.bytes()));
                        traffic = traffic.next();
                    }
                }
            }
        }
    }

    fn traffic(secret: &SessionSecret, dialler: u8, number: u32, way: Direction) -> TrafficSecret {
        secret.traffic(&PublicKey([dialler; 32]), CarrierNumber(number), way)
    }
}
