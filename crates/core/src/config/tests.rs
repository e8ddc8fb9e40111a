//! The contract's examples parse; what is wrong is named with its line and key.

use super::*;
use crate::policy::Source;

const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

fn ingress() -> String {
    format!(
        r#"[node]
key_file = "/etc/braid/key"

[[path]]
interface = "wan1"

[[path]]
interface = "wan2"
role = "backup"

[intercept]
interfaces = ["br-lan"]
bypass = ["192.168.0.0/16"]

[[peer]]
name = "vps"
public_key = "{KEY}"
endpoints = ["203.0.113.7:4770", "vps.example.org:4770"]
routes = ["0.0.0.0/0", "::/0"]
"#
    )
}

fn problem(text: &str) -> String {
    Config::parse(text).unwrap_err().to_string()
}

#[test]
fn an_ingress_box() {
    let config = Config::parse(&ingress()).unwrap();
    assert_eq!(config.paths[1].role, Role::Backup);
    assert_eq!(config.intercept.unwrap().interfaces, ["br-lan"]);
    let peer = &config.peers[0];
    assert_eq!(peer.endpoints[1], Endpoint::Name("vps.example.org".into(), 4770));
    assert_eq!(peer.routes.len(), 2);
}

#[test]
fn an_egress_box() {
    let text = format!(
        r#"node = {{ key_file = "k", listen = ["[::]:4770"] }}
[[peer]]
name = "home"
public_key = "{KEY}"
sources = ["192.168.10.0/24"]
source = {{ "192.168.20.0/24" = "preserve", "0.0.0.0/0" = "masquerade" }}
destinations = ["0.0.0.0/0", "::/0", "192.168.20.0/24"]
"#
    );
    let config = Config::parse(&text).unwrap();
    let preserve = ("192.168.20.0/24".parse().unwrap(), Source::Preserve);
    assert!(config.peers[0].egress.source.contains(&preserve));
}

#[test]
fn unknown_keys_are_named_with_their_line() {
    let found = problem(&ingress().replace("bypass", "bypas"));
    assert!(found.starts_with("line 13: unknown field `bypas`"), "{found}");
}

#[test]
fn wrong_values_are_named_with_line_key_and_remedy() {
    let cases = [
        ("\"backup\"", "\"spare\"", "line 9: path.role: \"spare\" is not \"normal\""),
        ("203.0.113.7:4770", "203.0.113.7", "line 18: peer.endpoints: \"203.0.113.7\" is not an"),
        ("192.168.0.0/16", "192.168.0.1/16", "line 13: intercept.bypass: \"192.168.0.1/16\""),
        ("192.168.0.0/16", "everything", "line 13: intercept.bypass: \"everything\" is not a pref"),
        (KEY, "c2hvcnQ=", "line 17: peer.public_key: \"c2hvcnQ=\" is not a key of 44"),
        ("wan2", "wan1", "line 8: path.interface: \"wan1\" is there twice"),
        ("br-lan", "lan\\\" }", "line 12: intercept.interfaces:"),
        ("[\"br-lan\"]", "[]", "line 11: intercept.interfaces: name at least one"),
        ("[\"0.0.0.0/0\", \"::/0\"]", "[]", "line 11: [intercept] takes traffic, but no [[peer]]"),
    ];
    for (right, wrong, expected) in cases {
        let found = problem(&ingress().replace(right, wrong));
        assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
        assert!(!found.contains('\n'), "{found}");
    }
}

#[test]
fn more_paths_than_there_are_tables_for_are_refused() {
    let paths: String = (0..65).map(|n| format!("[[path]]\ninterface = \"p{n}\"\n")).collect();
    let found = problem(&ingress().replace("[intercept]", &format!("{paths}[intercept]")));
    assert!(found.contains("at most 64"), "{found}");
}

#[test]
fn the_examples_parse() {
    for text in [
        include_str!("../../../../examples/two-boxes/ingress.toml"),
        include_str!("../../../../examples/two-boxes/egress.toml"),
        include_str!("../../../../examples/wifi-mesh/a.toml"),
        include_str!("../../../../examples/wifi-mesh/b.toml"),
    ] {
        Config::parse(text).unwrap();
    }
}

#[test]
fn a_box_with_nothing_to_do_is_refused() {
    let found = problem("[node]\nkey_file = \"k\"\n");
    assert!(found.contains("nothing to do: set `listen`"), "{found}");
}

#[test]
fn broken_toml_is_one_line() {
    let found = problem("[node\nkey_file = 1");
    assert!(found.starts_with("line 1: ") && !found.contains('\n'), "{found}");
}
