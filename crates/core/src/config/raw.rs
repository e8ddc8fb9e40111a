//! The configuration file's form: TOML tables and keys, each with its place.
//!
//! Unknown keys are errors. Every refusal names line, key and what would be right.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use toml::Spanned;

use super::{Config, ConfigError, Endpoint, Intercept, PathConfig, Peer};
use crate::control::{MIN_CARRIERS, Protection};
use crate::kernel::numbers::MAX_PATHS;
use crate::path::Role;
use crate::policy::{EgressPolicy, Source};

/// The most carriers that a peer may be given, and how many it is given where nothing is said.
const MAX_CARRIERS: u16 = 4096;
const CARRIERS: u16 = 256;

type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    node: Spanned<RawNode>,
    #[serde(default)]
    path: Vec<RawPath>,
    intercept: Option<Spanned<RawIntercept>>,
    #[serde(default)]
    peer: Vec<Spanned<RawPeer>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    key_file: PathBuf,
    #[serde(default)]
    listen: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPath {
    interface: Text,
    role: Option<Text>,
    #[serde(default)]
    trusted: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIntercept {
    interfaces: Vec<Text>,
    #[serde(default)]
    bypass: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeer {
    name: Text,
    public_key: Text,
    #[serde(default)]
    endpoints: Vec<Text>,
    #[serde(default)]
    routes: Vec<Text>,
    #[serde(default)]
    sources: Vec<Text>,
    source: Option<Spanned<toml::Value>>,
    destinations: Option<Vec<Text>>,
    protection: Option<Text>,
    carriers: Option<Spanned<i64>>,
}

/// The text being read, to turn places into line numbers, and what is wrong with it so far.
struct Reader<'a> {
    text: &'a str,
    problems: RefCell<Vec<ConfigError>>,
}

/// The configuration without what is wrong, and all of that by line. Of a text that is no TOML of ours
/// the first thing only, and no configuration.
pub(super) fn parse(text: &str) -> (Option<Config>, Vec<ConfigError>) {
    let reader = Reader { text, problems: RefCell::default() };
    let read = toml::from_str(text).map_err(|error| ConfigError {
        line: error.span().map(|span| reader.line(span.start)),
        problem: one_line(&error.message().lines().collect::<Vec<_>>().join(" ")),
    });
    let config = reader.keep(read).map(|raw| reader.config(&raw));
    let mut problems = reader.problems.into_inner();
    problems.sort_by_key(|problem| problem.line);
    (config, problems)
}

impl Reader<'_> {
    fn config(&self, raw: &RawConfig) -> Config {
        let node = raw.node.get_ref();
        let right = "an address with a port, as [::]:4770";
        let intercept = raw.intercept.as_ref();
        let config = Config {
            key_file: node.key_file.clone(),
            listen: self.each(&node.listen, |text| self.one(text, "node.listen", right)),
            paths: self.paths(&raw.path),
            intercept: intercept
                .and_then(|raw| self.keep(self.intercept(raw.span().start, raw.get_ref()))),
            peers: self.peers(&raw.peer),
        };
        // What is left out would be missed here.
        if self.problems.borrow().is_empty() {
            self.check_whole(raw, &config);
        }
        config
    }

    /// What is wrong with tables only because of other tables.
    fn check_whole(&self, raw: &RawConfig, config: &Config) {
        for (raw, peer) in raw.peer.iter().zip(&config.peers) {
            self.keep(self.check_peer(raw, peer, config));
        }
        let is_idle = config.listen.is_empty() && config.dialled().next().is_none();
        if is_idle && self.problems.borrow().is_empty() {
            let problem = "nothing to do: set `listen` in [node], or `endpoints` in a [[peer]]";
            self.keep::<()>(Err(self.error(raw.node.span().start, problem)));
        }
        if let Some(intercept) = &raw.intercept {
            self.keep(self.check_ingress(intercept.span().start, config));
        }
    }

    /// Notes what is wrong and goes on without.
    fn keep<T>(&self, read: Result<T, ConfigError>) -> Option<T> {
        read.map_err(|problem| self.problems.borrow_mut().push(problem)).ok()
    }

    fn each<R, T>(&self, raw: &[R], read: impl FnMut(&R) -> Result<T, ConfigError>) -> Vec<T> {
        raw.iter().map(read).filter_map(|read| self.keep(read)).collect()
    }

    /// What is wrong with a peer only because of the rest of the file.
    fn check_peer(
        &self,
        raw: &Spanned<RawPeer>,
        peer: &Peer,
        config: &Config,
    ) -> Result<(), ConfigError> {
        if !peer.routes.is_empty() && peer.endpoints.is_empty() && config.listen.is_empty() {
            let problem = format!("peer \"{}\" has `routes` but no `endpoints` to dial", peer.name);
            return Err(self.error(raw.span().start, problem));
        }
        let open = |path: &&PathConfig| path.role != Role::Off && !path.trusted;
        match (&raw.get_ref().protection, config.paths.iter().find(open)) {
            (Some(text), Some(path)) if peer.protection == Protection::None => Err(self.error(
                text.span().start,
                format!(
                    "peer.protection: \"none\" takes `trusted = true` in every [[path]], and \
                     \"{}\" has it not",
                    path.interface
                ),
            )),
            _ => Ok(()),
        }
    }

    fn check_ingress(&self, at: usize, config: &Config) -> Result<(), ConfigError> {
        let problem = if config.routes().is_empty() {
            "[intercept] takes traffic, but no [[peer]] has `routes` to send it to"
        } else if config.paths.iter().all(|path| path.role == Role::Off)
            && config.routed().any(|peer| !peer.endpoints.is_empty())
        {
            "[intercept] takes traffic, but there is no [[path]] to carry it"
        } else {
            return Ok(());
        };
        Err(self.error(at, problem))
    }

    fn paths(&self, raw: &[RawPath]) -> Vec<PathConfig> {
        if let Some(path) = raw.get(MAX_PATHS) {
            let problem = format!("path: a box has at most {MAX_PATHS}");
            self.keep::<()>(Err(self.error(path.interface.span().start, problem)));
        }
        let mut seen = BTreeSet::new();
        self.each(raw, |path| {
            let interface = self.interface(&path.interface, "path.interface")?;
            if !seen.insert(interface.clone()) {
                let problem = format!("path.interface: \"{interface}\" is there twice");
                return Err(self.error(path.interface.span().start, problem));
            }
            let role = path.role.as_ref().map(|role| self.role(role)).transpose()?;
            let role = role.unwrap_or(Role::Normal);
            Ok(PathConfig { interface, role, trusted: path.trusted })
        })
    }

    fn role(&self, text: &Text) -> Result<Role, ConfigError> {
        match text.get_ref().as_str() {
            "normal" => Ok(Role::Normal),
            "backup" => Ok(Role::Backup),
            "off" => Ok(Role::Off),
            _ => Err(self.wrong(text, "path.role", "\"normal\", \"backup\" or \"off\"")),
        }
    }

    fn intercept(&self, at: usize, raw: &RawIntercept) -> Result<Intercept, ConfigError> {
        if raw.interfaces.is_empty() {
            return Err(self.error(at, "intercept.interfaces: name at least one interface"));
        }
        let interfaces =
            self.each(&raw.interfaces, |name| self.interface(name, "intercept.interfaces"));
        Ok(Intercept { interfaces, bypass: self.prefixes(&raw.bypass, "intercept.bypass") })
    }

    fn peers(&self, raw: &[Spanned<RawPeer>]) -> Vec<Peer> {
        let (mut names, mut keys) = (BTreeSet::new(), BTreeSet::new());
        self.each(raw, |raw| {
            let peer = self.peer(raw.get_ref())?;
            if !names.insert(peer.name.clone()) || !keys.insert(peer.public_key) {
                let problem = format!("peer \"{}\": its name or key is there twice", peer.name);
                return Err(self.error(raw.get_ref().name.span().start, problem));
            }
            Ok(peer)
        })
    }

    fn peer(&self, raw: &RawPeer) -> Result<Peer, ConfigError> {
        let name = raw.name.get_ref().clone();
        let public_key = self.one(
            &raw.public_key,
            "peer.public_key",
            "a key of 44 characters, as `braid pubkey` prints it",
        )?;
        let endpoints = self.each(&raw.endpoints, |text| self.endpoint(text));
        let routes = self.prefixes(&raw.routes, "peer.routes");
        Ok(Peer {
            name,
            public_key,
            endpoints,
            routes,
            egress: self.egress(raw)?,
            protection: raw
                .protection
                .as_ref()
                .map_or(Ok(Protection::Seal), |text| self.protection(text))?,
            carriers: raw.carriers.as_ref().map_or(Ok(CARRIERS), |number| self.carriers(number))?,
        })
    }

    fn protection(&self, text: &Text) -> Result<Protection, ConfigError> {
        match text.get_ref().as_str() {
            "seal" => Ok(Protection::Seal),
            "none" => Ok(Protection::None),
            _ => Err(self.wrong(text, "peer.protection", "\"seal\" or \"none\"")),
        }
    }

    fn carriers(&self, number: &Spanned<i64>) -> Result<u16, ConfigError> {
        let allowed = |number: &u16| (MIN_CARRIERS..=MAX_CARRIERS).contains(number);
        u16::try_from(*number.get_ref()).ok().filter(allowed).ok_or_else(|| {
            let right = format!("a number from {MIN_CARRIERS} to {MAX_CARRIERS}");
            let problem = format!("peer.carriers: {} is not {right}", number.get_ref());
            self.error(number.span().start, problem)
        })
    }

    fn egress(&self, raw: &RawPeer) -> Result<EgressPolicy, ConfigError> {
        let destinations = match &raw.destinations {
            Some(list) => self.prefixes(list, "peer.destinations"),
            None => everywhere().to_vec(),
        };
        let source = raw.source.as_ref().map_or(Ok(Vec::new()), |raw| self.source(raw))?;
        let sources = self.prefixes(&raw.sources, "peer.sources");
        Ok(EgressPolicy { sources, destinations, source })
    }

    /// `source` is one word for all sinks, or a table of words by the sink's prefix.
    fn source(&self, raw: &Spanned<toml::Value>) -> Result<Vec<(IpNet, Source)>, ConfigError> {
        let text = |text: &str| Spanned::new(raw.span(), text.to_owned());
        let word = |value: &toml::Value| match value.as_str() {
            Some("preserve") => Ok(Source::Preserve),
            Some("masquerade") => Ok(Source::Masquerade),
            _ => {
                let right = "\"preserve\" or \"masquerade\"";
                let wrong = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                Err(self.wrong(&text(&wrong), "peer.source", right))
            }
        };
        match raw.get_ref() {
            toml::Value::Table(table) => table
                .iter()
                .map(|(prefix, value)| {
                    Ok((self.prefix(&text(prefix), "peer.source")?, word(value)?))
                })
                .collect(),
            value => {
                let source = word(value)?;
                Ok(everywhere().map(|prefix| (prefix, source)).to_vec())
            }
        }
    }

    fn endpoint(&self, text: &Text) -> Result<Endpoint, ConfigError> {
        let right =
            "an address or host name with a port, as 203.0.113.7:4770 or [2001:db8::7]:4770";
        if let Ok(address) = text.get_ref().parse() {
            return Ok(Endpoint::Address(address));
        }
        let wrong = || self.wrong(text, "peer.endpoints", right);
        let (name, port) = text.get_ref().rsplit_once(':').ok_or_else(wrong)?;
        let plausible = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if name.is_empty() || !name.chars().all(plausible) {
            return Err(wrong());
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        Ok(Endpoint::Name(name.to_owned(), port))
    }

    /// An interface's name as the kernel takes it: it goes into the ruleset's text.
    fn interface(&self, text: &Text, key: &str) -> Result<String, ConfigError> {
        let name = text.get_ref();
        let allowed = |c: char| c.is_ascii_graphic() && !"/:\"'\\*".contains(c);
        if name.is_empty() || name.len() > 15 || !name.chars().all(allowed) {
            return Err(self.wrong(text, key, "an interface's name of 1 to 15 characters"));
        }
        Ok(name.clone())
    }

    fn prefixes(&self, list: &[Text], key: &str) -> Vec<IpNet> {
        self.each(list, |text| self.prefix(text, key))
    }

    fn prefix(&self, text: &Text, key: &str) -> Result<IpNet, ConfigError> {
        let prefix: IpNet = self.one(text, key, "a prefix, as 192.168.0.0/16 or 2001:db8::/32")?;
        if prefix.trunc() != prefix {
            let right = format!("\"{}\": there are bits set behind the prefix", prefix.trunc());
            return Err(self.wrong(text, key, &right));
        }
        Ok(prefix)
    }

    fn one<T: FromStr>(&self, text: &Text, key: &str, right: &str) -> Result<T, ConfigError> {
        text.get_ref().parse().map_err(|_| self.wrong(text, key, right))
    }

    fn wrong(&self, text: &Text, key: &str, right: &str) -> ConfigError {
        self.error(text.span().start, format!("{key}: \"{}\" is not {right}", text.get_ref()))
    }

    fn error(&self, at: usize, problem: impl Display) -> ConfigError {
        ConfigError { line: Some(self.line(at)), problem: one_line(&problem.to_string()) }
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count()
    }
}

/// A text in which strings of the file may stand, with their line breaks and the like escaped.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

fn everywhere() -> [IpNet; 2] {
    [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]
}
