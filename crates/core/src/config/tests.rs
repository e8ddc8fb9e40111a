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
fn protection_and_carriers_of_a_peer() {
    let peer =
        |extra: &str| Config::parse(&format!("{}{extra}", ingress())).unwrap().peers.remove(0);
    assert_eq!((peer("").protection, peer("").carriers), (Protection::Seal, 256));
    assert_eq!(peer("protection = \"seal\"\ncarriers = 4096\n").carriers, 4096);
    for (line, expected) in [
        ("carriers = 1", "line 20: peer.carriers: 1 is not a number from 2 to 4096"),
        ("carriers = 4097", "line 20: peer.carriers: 4097 is not a number from 2 to 4096"),
        ("carriers = -5", "line 20: peer.carriers: -5 is not a number from 2 to 4096"),
        ("protection = \"some\"", "line 20: peer.protection: \"some\" is not \"seal\" or \"none\""),
    ] {
        assert_eq!(problem(&format!("{}{line}\n", ingress())), expected);
    }
}

#[test]
fn no_protection_without_trust_in_every_path_that_is_used() {
    let none = format!("{}protection = \"none\"\n", ingress());
    let expected =
        "line 20: peer.protection: \"none\" takes `trusted = true` in every [[path]], and";
    assert_eq!(problem(&none), format!("{expected} \"wan1\" has it not"));
    let one = none.replace("\"wan1\"", "\"wan1\"\ntrusted = true");
    assert!(problem(&one).ends_with("\"wan2\" has it not"));
    for rest in ["role = \"off\"", "role = \"backup\"\ntrusted = true"] {
        let config = Config::parse(&one.replace("role = \"backup\"", rest)).unwrap();
        assert_eq!(config.peers[0].protection, Protection::None);
        assert!(config.paths[0].trusted);
    }
    Config::parse(&accepting("protection = \"none\"")).unwrap();
}

/// A box that dials nobody.
fn accepting(peer: &str) -> String {
    format!(
        "[node]\nkey_file = \"k\"\nlisten = [\"[::]:4770\"]\n\
         [[peer]]\nname = \"home\"\npublic_key = \"{KEY}\"\n{peer}\n"
    )
}

#[test]
fn routes_lead_to_a_peer_that_dials_us() {
    let routes = accepting("routes = [\"10.0.0.0/8\"]");
    let config = Config::parse(&routes).unwrap();
    assert_eq!((config.routed().count(), config.dialled().count()), (1, 0));
    let other = format!("[[peer]]\nname = \"x\"\npublic_key = \"{}\"\n", KEY.replace('B', "C"));
    assert_eq!(Config::parse(&format!("{routes}{other}")).unwrap().routed().count(), 1);

    let found = problem(&routes.replace("listen", "#"));
    assert_eq!(found, "line 4: peer \"home\" has `routes` but no `endpoints` to dial");

    let intercept = format!("{routes}[intercept]\ninterfaces = [\"lan\"]\n");
    assert!(Config::parse(&intercept).unwrap().intercept.is_some());
    let dialled = intercept.replace("routes", "endpoints = [\"192.0.2.1:4770\"]\nroutes");
    assert!(problem(&dialled).contains("there is no [[path]] to carry it"));
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
fn what_the_file_says_is_shown_in_one_line() {
    let found = problem(&ingress().replace("\"backup\"", "\"a\\nb\\u001b\\u2028c\""));
    assert!(found.starts_with("line 9: path.role: \"a\\nb\\u{1b}\\u{2028}c\" is not"), "{found}");
    let found = problem(&ingress().replace("bypass", "\"by\\rpass\""));
    assert!(found.starts_with("line 13: unknown field `by\\rpass`"), "{found}");
}

#[test]
fn broken_toml_is_one_line() {
    let found = problem("[node\nkey_file = 1");
    assert!(found.starts_with("line 1: ") && !found.contains('\n'), "{found}");
}

#[test]
fn all_that_is_wrong_is_named_and_the_rest_is_read() {
    let text = ingress()
        .replace("\"backup\"", "\"spare\"")
        .replace("192.168.0.0/16", "192.168.0.1/16")
        .replace("203.0.113.7:4770", "203.0.113.7")
        .replace("\"::/0\"", "\"everywhere\"");
    let (config, problems) = Config::examine(&text);
    let lines: Vec<_> = problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [Some(9), Some(13), Some(18), Some(19)], "{problems:?}");
    let config = config.unwrap();
    assert_eq!((config.paths.len(), config.peers.len()), (1, 1));
    assert_eq!(config.peers[0].endpoints.len(), 1);
    assert_eq!(Config::parse(&text), Err(problems[0].clone()));
    assert_eq!(Config::examine("[node").0, None);
}
