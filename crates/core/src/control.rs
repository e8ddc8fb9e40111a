//! What two boxes say to each other on their control connection, and what follows from their
//! `hello`s (PROTOCOL.md, "Control messages").
//!
//! Encoding and parsing only; the TLS connection that carries the messages, and when which one is
//! due, is the engine's.

use serde::{Deserialize, Serialize};

use crate::addr::{HostAddr, SinkAddr};
use crate::keys::Suite;
use crate::opening::{Failure, OpeningError, put_addresses, take_addresses};

/// The longest message with its length, bytes: what a buffer for one has to hold.
pub const MAX_MESSAGE: usize = LENGTH_LEN + MAX_LENGTH;

/// The fewest carriers that a `hello` may allow.
pub const MIN_CARRIERS: u16 = 2;

const LENGTH_LEN: usize = 2;
const MAX_LENGTH: usize = 1024;

/// From this type up, what is not known may be missed.
const FIRST_OPTIONAL: u8 = 0x80;

/// A message on the control connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first message of each side.
    Hello(Hello),
    /// To be answered at once.
    Ping([u8; 8]),
    /// The answer, with the bytes of the `ping`.
    Pong([u8; 8]),
    /// Connect to a sink, without a carrier.
    Connect {
        /// The asking side's number for it, not 0.
        number: u32,
        /// Where to.
        sink: SinkAddr,
        /// For whom.
        host: HostAddr,
    },
    /// The sink was reached; the connection is held.
    Connected {
        /// The number of the `connect`.
        number: u32,
    },
    /// The sink was not reached.
    Failed {
        /// The number of the `connect`.
        number: u32,
        /// Why.
        failure: Failure,
    },
    /// A `connect` is taken back.
    Cancel {
        /// Its number.
        number: u32,
    },
    /// How many carriers a box that cannot dial wants, on which it opens.
    Want {
        /// For one flow at a time.
        single: u16,
        /// For many.
        shared: u16,
    },
    /// The last message.
    Bye(Bye),
}

/// What a side can and wants, said at the beginning of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its processor has AES in hardware.
    pub aes: bool,
    /// How it would have `data` protected.
    pub protection: Protection,
    /// The most carriers that it accepts at a time, at least [`MIN_CARRIERS`].
    pub carriers: u16,
}

/// How `data` records are protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// Sealed, like all other records.
    #[default]
    Seal,
    /// In clear.
    None,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Bye {
    /// The box stops.
    #[error("the box stops")]
    Stopping = 1,
    /// A newer session has replaced this one.
    #[error("replaced by a newer session")]
    Replaced = 2,
    /// Both boxes have dialled, and the other session stands.
    #[error("the other of two sessions stands")]
    Duplicate = 3,
    /// The peer broke the protocol.
    #[error("protocol broken")]
    Protocol = 4,
    /// A bound is met.
    #[error("a bound is met")]
    Limit = 5,
}

/// What both sides derive from their `hello`s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How records are sealed.
    pub suite: Suite,
    /// Whether `data` records are.
    pub protection: Protection,
    /// The most carriers that a side may dial: the lesser of both bounds.
    pub carriers: u16,
}

/// Bytes that are no message: the session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// A length that no message has.
    #[error("message of length {0}")]
    Length(u16),
    /// A type that this version does not know and may not miss.
    #[error("message of unknown type {0}")]
    UnknownType(u8),
    /// A body that is shorter than its type asks for, or has a value that it cannot have.
    #[error("message of type {0} with a malformed body")]
    Malformed(u8),
}

/// The terms of a session. The same on both sides.
#[must_use]
pub fn agree(ours: &Hello, theirs: &Hello) -> Terms {
    let clear = [ours, theirs].iter().all(|hello| hello.protection == Protection::None);
    Terms {
        suite: if ours.aes && theirs.aes { Suite::Aes128Gcm } else { Suite::ChaCha20Poly1305 },
        protection: if clear { Protection::None } else { Protection::Seal },
        carriers: ours.carriers.min(theirs.carriers),
    }
}

impl Message {
    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0, 0, self.kind()];
        self.put_body(&mut bytes);
        let length = (bytes.len() - LENGTH_LEN) as u16;
        bytes[..LENGTH_LEN].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// The first message in `bytes` and how many bytes it takes, or `None` when it is not whole
    /// yet. There is no message inside where it is one that this version may miss.
    ///
    /// # Errors
    /// When the bytes cannot begin a message.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Option<Self>, usize)>, ControlError> {
        let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let length = u16::from_be_bytes(*length);
        if length == 0 || usize::from(length) > MAX_LENGTH {
            return Err(ControlError::Length(length));
        }
        let Some((&kind, body)) = rest.split_first() else { return Ok(None) };
        if !(1..=9).contains(&kind) && kind < FIRST_OPTIONAL {
            return Err(ControlError::UnknownType(kind));
        }
        let Some(body) = body.get(..usize::from(length) - 1) else { return Ok(None) };
        let message = if kind < FIRST_OPTIONAL {
            Some(
                Self::parse_body(kind, body)
                    .map_err(|OpeningError| ControlError::Malformed(kind))?,
            )
        } else {
            None
        };
        Ok(Some((message, LENGTH_LEN + usize::from(length))))
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Ping(_) => 2,
            Self::Pong(_) => 3,
            Self::Connect { .. } => 4,
            Self::Connected { .. } => 5,
            Self::Failed { .. } => 6,
            Self::Cancel { .. } => 7,
            Self::Want { .. } => 8,
            Self::Bye(_) => 9,
        }
    }

    fn put_body(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => {
                bytes.extend([u8::from(hello.aes), u8::from(hello.protection == Protection::None)]);
                bytes.extend(hello.carriers.to_be_bytes());
            }
            Self::Ping(choice) | Self::Pong(choice) => bytes.extend(choice),
            Self::Connect { number, sink, host } => {
                bytes.extend(number.to_be_bytes());
                put_addresses(bytes, *sink, *host);
            }
            Self::Connected { number } | Self::Cancel { number } => {
                bytes.extend(number.to_be_bytes());
            }
            Self::Failed { number, failure } => {
                bytes.extend(number.to_be_bytes());
                bytes.push(failure.code());
            }
            Self::Want { single, shared } => {
                bytes.extend(single.to_be_bytes());
                bytes.extend(shared.to_be_bytes());
            }
            Self::Bye(reason) => bytes.push(*reason as u8),
        }
    }

    fn parse_body(kind: u8, mut body: &[u8]) -> Result<Self, OpeningError> {
        let body = &mut body;
        Ok(match kind {
            1 => Self::Hello(Hello::parse(body)?),
            2 => Self::Ping(take(body)?),
            3 => Self::Pong(take(body)?),
            4 => {
                let number = take_number(body)?;
                let (sink, host, _) = take_addresses(body)?;
                Self::Connect { number, sink, host }
            }
            5 => Self::Connected { number: take_number(body)? },
            6 => {
                let number = take_number(body)?;
                Self::Failed { number, failure: Failure::parse(&take::<1>(body)?)? }
            }
            7 => Self::Cancel { number: take_number(body)? },
            8 => Self::Want { single: take_u16(body)?, shared: take_u16(body)? },
            _ => Self::Bye(Bye::parse(take(body)?)),
        })
    }
}

impl Hello {
    fn parse(body: &mut &[u8]) -> Result<Self, OpeningError> {
        let [capabilities, protection] = take(body)?;
        let protection = match protection {
            0 => Protection::Seal,
            1 => Protection::None,
            _ => return Err(OpeningError),
        };
        let carriers = take_u16(body)?;
        if carriers < MIN_CARRIERS {
            return Err(OpeningError);
        }
        Ok(Self { aes: capabilities & 1 != 0, protection, carriers })
    }
}

impl Bye {
    fn parse([reason]: [u8; 1]) -> Self {
        match reason {
            2 => Self::Replaced,
            3 => Self::Duplicate,
            4 => Self::Protocol,
            5 => Self::Limit,
            _ => Self::Stopping,
        }
    }
}

fn take<const N: usize>(body: &mut &[u8]) -> Result<[u8; N], OpeningError> {
    let (taken, rest) = body.split_first_chunk().ok_or(OpeningError)?;
    *body = rest;
    Ok(*taken)
}

fn take_u16(body: &mut &[u8]) -> Result<u16, OpeningError> {
    take(body).map(u16::from_be_bytes)
}

/// A connect number, which is not 0.
fn take_number(body: &mut &[u8]) -> Result<u32, OpeningError> {
    match take(body).map(u32::from_be_bytes)? {
        0 => Err(OpeningError),
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests;
