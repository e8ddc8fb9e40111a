//! A box's configuration, checked: what the rest of braid is given.
//!
//! `raw` reads the file's form and names line and key of what is wrong with it; here is the
//! meaning. Reading the file itself is the binary's.

mod raw;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::control::Protection;
use crate::key::PublicKey;
use crate::path::Role;
use crate::policy::EgressPolicy;

/// The configuration of one box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file with the box's private key.
    pub key_file: PathBuf,
    /// Addresses to accept peers on; none for a box that only dials.
    pub listen: Vec<SocketAddr>,
    /// The paths, in order of preference.
    pub paths: Vec<PathConfig>,
    /// What is taken from hosts; none for a pure egress.
    pub intercept: Option<Intercept>,
    /// The boxes it knows.
    pub peers: Vec<Peer>,
}

/// A path, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathConfig {
    /// The interface's name.
    pub interface: String,
    /// What the path is used for.
    pub role: Role,
    /// Whether nobody but the boxes can read or write on it.
    pub trusted: bool,
}

/// What an ingress box takes from its hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intercept {
    /// Interfaces whose hosts are served.
    pub interfaces: Vec<String>,
    /// Destinations that are left alone.
    pub bypass: Vec<IpNet>,
}

/// Another box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name in logs.
    pub name: String,
    /// Its identity.
    pub public_key: PublicKey,
    /// Where it can be dialled; none for a peer that only dials us.
    pub endpoints: Vec<Endpoint>,
    /// Destinations that are reached through it.
    pub routes: Vec<IpNet>,
    /// What it may do here as our egress's user.
    pub egress: EgressPolicy,
    /// How the bytes of flows are to be protected; none takes both boxes.
    pub protection: Protection,
    /// The most carriers between it and us.
    pub carriers: u16,
}

/// An address at which a peer can be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An IP address and port.
    Address(SocketAddr),
    /// A host name, to be resolved, and a port.
    Name(String, u16),
}

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Line in the file, from 1, where one can be named.
    pub line: Option<usize>,
    /// What is wrong and what would be right, in one line.
    pub problem: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.problem),
            None => f.write_str(&self.problem),
        }
    }
}

impl Config {
    /// Reads and checks the text of a configuration file.
    ///
    /// # Errors
    /// With line and key of the first thing wrong.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        match Self::examine(text) {
            (Some(config), problems) if problems.is_empty() => Ok(config),
            (_, problems) => Err(problems.into_iter().next().expect("there is no other reason")),
        }
    }

    /// Reads the text of a configuration file past what is wrong with it: what is right, if it could be
    /// read at all, and all that is wrong, by line.
    #[must_use]
    pub fn examine(text: &str) -> (Option<Self>, Vec<ConfigError>) {
        raw::parse(text)
    }

    /// Peers that this box dials.
    pub fn dialled(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| !peer.endpoints.is_empty())
    }

    /// Peers that flows are sent to, whichever side dials.
    pub fn routed(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| !peer.routes.is_empty())
    }

    /// All destinations that some peer leads to.
    #[must_use]
    pub fn routes(&self) -> Vec<IpNet> {
        self.peers.iter().flat_map(|peer| peer.routes.iter().copied()).collect()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests;
