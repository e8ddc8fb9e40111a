//! The text of a fixed status, and the names that scripts rely on.

use super::*;

fn way(path: Option<&str>, local: &str, remote: &str) -> WayStatus {
    WayStatus {
        path: path.map(str::to_owned),
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        role: path.map(|_| Role::Normal),
        state: None,
        reason: None,
        state_s: None,
        rtt_ms: None,
        least_rtt_ms: None,
        jitter_ms: None,
        loss_percent: None,
        delivery_rate_mbit: None,
        resent_percent: None,
        carriers: 0,
    }
}

fn vps() -> PeerStatus {
    let dsl = WayStatus {
        state: Some(WayState::Up),
        state_s: Some(7262),
        rtt_ms: Some(31.24),
        least_rtt_ms: Some(30.0),
        delivery_rate_mbit: Some(47.9),
        carriers: 29,
        ..way(Some("wan1"), "192.168.178.20", "203.0.113.7")
    };
    let lte = WayStatus {
        role: Some(Role::Backup),
        state: Some(WayState::Degraded),
        reason: Some("it is too late".into()),
        loss_percent: Some(3.0),
        ..way(Some("wan2"), "100.64.3.4", "203.0.113.7")
    };
    PeerStatus {
        name: "vps".into(),
        public_key: "E".repeat(43) + "=",
        session: Some(SessionStatus {
            protection: Protection::Seal,
            suite: "AES-128-GCM".into(),
            dialled_here: true,
            up_s: 2520,
        }),
        ways: vec![dsl, lte],
        carriers: CarriersStatus {
            ours: CarrierCounts { idle: 27, busy: 2, shared: 4 },
            theirs: CarrierCounts::default(),
            dialling: 1,
            bound: 256,
        },
        flows: FlowsStatus { ours: 5, theirs: 0, bound: 512 },
        bounds_met: PeerBounds { carriers: 0, flows: 3, unfetched_connections: 0 },
    }
}

/// One that has dialled in, and is gone.
fn home() -> PeerStatus {
    PeerStatus {
        name: "home".into(),
        session: None,
        ways: vec![WayStatus { carriers: 2, ..way(None, "2001:db8::1", "2001:db8:7::2") }],
        bounds_met: PeerBounds { carriers: 0, flows: 0, unfetched_connections: 0 },
        ..vps()
    }
}

fn status() -> Status {
    let path =
        |interface: &str, role| PathStatus { interface: interface.into(), role, trusted: false };
    Status {
        version: VERSION,
        braid: "1.2.3".into(),
        process: 4242,
        public_key: "B".repeat(43) + "=",
        up_s: 266_400,
        paths: vec![
            path("wan1", Role::Normal),
            path("wan2", Role::Backup),
            path("wan3", Role::Off),
        ],
        peers: vec![vps(), home()],
        bounds_met: BoxBounds { unproved_connections: 17, flows_of_one_host: 0 },
        kernel: KernelStatus {
            changed: vec![ChangedSysctl {
                sysctl: "net.mptcp.path_manager".into(),
                before: "kernel".into(),
                now: "userspace".into(),
            }],
            refused: vec![RefusedSysctl {
                sysctl: "net.mptcp.blackhole_timeout".into(),
                wanted: "0".into(),
                reason: "Read-only file system".into(),
            }],
            restored: vec![Restored { what: "nftables table".into(), times: 2 }],
        },
    }
}

#[test]
fn a_person_reads() {
    let text = status().to_string();
    assert_eq!(text, include_str!("golden/status.txt"));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

/// docs/status.md shows this value: the names are the contract.
#[test]
fn a_script_reads() {
    let page = include_str!("../../../../docs/status.md");
    let example = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(serde_json::from_str::<Status>(example).unwrap(), status());
    let ours = serde_json::to_value(status()).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(example).unwrap(), ours);
}

#[test]
fn a_newer_box_says_more_and_is_read() {
    let mut value = serde_json::to_value(status()).unwrap();
    value["weather"] = "fine".into();
    value["peers"][0]["mood"] = 7.into();
    assert_eq!(serde_json::from_value::<Status>(value).unwrap(), status());
}
