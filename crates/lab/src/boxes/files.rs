//! The boxes' keys and configuration files.
//!
//! A key is written only where its option is set: the rest is as braid has it by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Setup;
use crate::topology::{CARRIER_PORT, HOST_LAN, SINK_LAN, Topology};

/// What one box's file is made of.
struct Node {
    key_file: PathBuf,
    /// Whether it is dialled.
    listens: bool,
    /// Interfaces of its paths.
    paths: Vec<String>,
    peer: Peer,
}

/// The other box, as the file names it.
struct Peer {
    name: &'static str,
    public_key: String,
    /// Where it is dialled.
    endpoints: Vec<String>,
    /// The LAN behind it that our hosts reach; they are intercepted if there is one.
    routes: Option<[&'static str; 2]>,
    /// Its hosts' LAN, and ours that they may reach.
    serves: Option<([&'static str; 2], [&'static str; 2])>,
}

/// Makes a key in `file` and returns the public one, by the program under test.
///
/// # Errors
/// With its words when it refuses.
pub fn keygen(braid: &Path, file: &Path) -> Result<String> {
    let output = Command::new(braid).arg("keygen").arg(file).output();
    let output = output.with_context(|| format!("run {}", braid.display()))?;
    ensure!(output.status.success(), "keygen: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Writes keys and configurations into `place`; the ingress box's file is the first.
pub(super) fn write(
    topology: &Topology,
    setup: &Setup,
    place: &Path,
) -> Result<(PathBuf, PathBuf)> {
    let files = (place.join("ingress.toml"), place.join("egress.toml"));
    let [ingress, egress] = nodes(topology, setup, place)?;
    fs::write(&files.0, text(&ingress, setup))?;
    fs::write(&files.1, text(&egress, setup))?;
    Ok(files)
}

fn nodes(topology: &Topology, setup: &Setup, place: &Path) -> Result<[Node; 2]> {
    let keys = ["ingress.key", "egress.key"].map(|name| place.join(name));
    let (ingress_key, egress_key) =
        (keygen(&setup.braid, &keys[0])?, keygen(&setup.braid, &keys[1])?);
    let paths: Vec<String> = topology.links.iter().map(|link| link.name().to_owned()).collect();
    let dial = |addresses: Vec<std::net::SocketAddr>| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let [ingress_file, egress_file] = keys;
    let ingress = Node {
        key_file: ingress_file,
        listens: setup.mesh,
        paths: paths.clone(),
        peer: Peer {
            name: "egress",
            public_key: egress_key,
            endpoints: dial(topology.endpoints(setup.family)?),
            routes: Some(SINK_LAN),
            serves: setup.reverse.then_some((SINK_LAN, HOST_LAN)),
        },
    };
    let back = if setup.mesh { topology.ingress_endpoints(setup.family)? } else { Vec::new() };
    let egress = Node {
        key_file: egress_file,
        listens: true,
        paths: if setup.mesh { paths } else { Vec::new() },
        peer: Peer {
            name: "ingress",
            public_key: ingress_key,
            endpoints: dial(back),
            routes: setup.reverse.then_some(HOST_LAN),
            serves: Some((HOST_LAN, SINK_LAN)),
        },
    };
    Ok([ingress, egress])
}

fn text(node: &Node, setup: &Setup) -> String {
    let mut text = format!("[node]\nkey_file = {:?}\n", node.key_file);
    if node.listens {
        text += &format!("listen = [\"[::]:{CARRIER_PORT}\"]\n");
    }
    for path in &node.paths {
        text += &format!("\n[[path]]\ninterface = \"{path}\"\n");
        if setup.protection == Some("none") {
            text += "trusted = true\n";
        }
    }
    if node.peer.routes.is_some() {
        text += "\n[intercept]\ninterfaces = [\"lan0\"]\n";
    }
    text + &peer(&node.peer, setup)
}

fn peer(peer: &Peer, setup: &Setup) -> String {
    let mut text =
        format!("\n[[peer]]\nname = \"{}\"\npublic_key = \"{}\"\n", peer.name, peer.public_key);
    let mut set = |key: &str, value: String| text += &format!("{key} = {value}\n");
    if !peer.endpoints.is_empty() {
        set("endpoints", list(&peer.endpoints));
    }
    if let Some(routes) = peer.routes {
        set("routes", list(&routes));
    }
    if let Some((sources, destinations)) = peer.serves {
        set("sources", list(&sources));
        set("source", format!("\"{}\"", setup.source));
        set("destinations", list(&destinations));
    }
    if let Some(protection) = setup.protection {
        set("protection", format!("\"{protection}\""));
    }
    if let Some(carriers) = setup.carriers {
        set("carriers", carriers.to_string());
    }
    text
}

fn list(values: &[impl AsRef<str>]) -> String {
    let quoted: Vec<_> = values.iter().map(|value| format!("\"{}\"", value.as_ref())).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(routes: bool, dials: bool) -> Node {
        let endpoints = if dials { vec!["10.77.1.2:4770".to_owned()] } else { Vec::new() };
        let peer = Peer {
            name: "other",
            public_key: "K".into(),
            endpoints,
            routes: routes.then_some(HOST_LAN),
            serves: Some((HOST_LAN, SINK_LAN)),
        };
        Node { key_file: "/k".into(), listens: true, paths: vec!["wan1".into()], peer }
    }

    #[test]
    fn a_key_is_written_only_where_its_option_is_set() {
        let plain = Setup::new(Path::new("braid"));
        let written = text(&node(false, false), &plain);
        for key in ["endpoints", "routes", "intercept", "protection", "trusted", "carriers"] {
            assert!(!written.contains(key), "{written}");
        }
        let setup = Setup { protection: Some("none"), carriers: Some(4), ..plain };
        let written = text(&node(true, true), &setup);
        let lines = [
            "endpoints = [\"10.77.1.2:4770\"]",
            "routes = [\"192.168.10.0/24\", \"fd00:10::/64\"]",
            "interfaces = [\"lan0\"]",
            "trusted = true",
            "protection = \"none\"",
            "carriers = 4",
        ];
        for line in lines {
            assert!(written.contains(line), "{written}");
        }
    }
}
