//! The ways to a peer, as heartbeats and the subflows of its carriers show them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use braid_core::config::PathConfig;
use braid_core::health::{Report, State, Trouble};
use braid_core::path::{Pairing, Role};
use braid_core::status::{WayState, WayStatus};
use braid_sys::mptcp::SubflowInfo;

/// A way by its two addresses.
type Addresses = (IpAddr, IpAddr);

/// The `known` ways in their order, by `paths` and with what heartbeats have found by the path's number,
/// then those that only `carriers` show: the subflows of each.
pub(super) fn ways(
    known: &[Pairing],
    paths: &[PathConfig],
    reports: &BTreeMap<usize, Report>,
    carriers: &[Vec<SubflowInfo>],
) -> Vec<WayStatus> {
    let mut seen: BTreeMap<Addresses, Vec<&SubflowInfo>> = BTreeMap::new();
    for subflow in carriers.iter().flatten() {
        seen.entry((subflow.local.ip(), subflow.remote.ip())).or_default().push(subflow);
    }
    let mut of_path = |way: &Pairing| {
        let addresses = (way.local.to_canonical(), way.remote.ip().to_canonical());
        let role = if way.backup { Role::Backup } else { Role::Normal };
        let path = paths.get(way.path).map(|path| path.interface.clone());
        let subflows = seen.remove(&addresses).unwrap_or_default();
        let seen = WayStatus { path, role: Some(role), ..status(addresses, &subflows) };
        reports.get(&way.path).map_or(seen.clone(), |report| judged(seen, report))
    };
    let mut ways: Vec<_> = known.iter().map(&mut of_path).collect();
    ways.extend(seen.iter().map(|(addresses, subflows)| status(*addresses, subflows)));
    ways
}

/// With what heartbeats have found.
fn judged(seen: WayStatus, report: &Report) -> WayStatus {
    let (state, trouble) = match report.state {
        State::Up => (WayState::Up, None),
        State::Degraded(Trouble::Loss) => (WayState::Degraded, Some("it loses too much")),
        State::Degraded(Trouble::Delay) => (WayState::Degraded, Some("it is too late")),
        State::Down => (WayState::Down, None),
    };
    let blind = report.is_blind.then_some("heartbeats are not answered, judged by TCP alone");
    WayStatus {
        state: Some(state),
        reason: trouble.or(blind).map(str::to_owned),
        state_s: Some(report.since.elapsed().as_secs()),
        jitter_ms: report.round_trip.map(|(_, deviation)| ms(deviation)),
        loss_percent: report.loss.map(|part| hundredths(100.0 * part)),
        ..seen
    }
}

fn status((local, remote): Addresses, subflows: &[&SubflowInfo]) -> WayStatus {
    let heard_last = subflows.iter().min_by_key(|subflow| subflow.last_ack_received);
    let sum = |bytes: fn(&SubflowInfo) -> u64| subflows.iter().map(|s| bytes(s)).sum::<u64>();
    let (arrived, resent) = (sum(|s| s.bytes_acked), sum(|s| s.bytes_retrans));
    let rate = subflows.iter().map(|subflow| subflow.delivery_rate).max();
    WayStatus {
        path: None,
        local,
        remote,
        role: None,
        state: None,
        reason: None,
        state_s: None,
        rtt_ms: heard_last.map(|subflow| ms(subflow.rtt)),
        least_rtt_ms: subflows.iter().filter_map(|subflow| subflow.min_rtt).min().map(ms),
        jitter_ms: None,
        loss_percent: None,
        delivery_rate_mbit: rate
            .filter(|rate| *rate > 0)
            .map(|rate| hundredths(rate as f64 * 8e-6)),
        resent_percent: (arrived > 0)
            .then(|| hundredths(100.0 * resent as f64 / (arrived + resent) as f64)),
        carriers: subflows.len(),
    }
}

fn ms(time: Duration) -> f64 {
    (time.as_micros() as f64) / 1000.0
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn subflow(local: &str, remote: &str, rtt_ms: u64, heard_ms: u64) -> SubflowInfo {
        SubflowInfo {
            id: 0,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            state: 1,
            rtt: Duration::from_millis(rtt_ms),
            rtt_var: Duration::ZERO,
            min_rtt: Some(Duration::from_millis(rtt_ms / 2)),
            rto: Duration::ZERO,
            last_data_received: Duration::ZERO,
            last_ack_received: Duration::from_millis(heard_ms),
            snd_mss: 1400,
            snd_cwnd: 10,
            unacked: 0,
            lost: 0,
            retransmits: 0,
            total_retrans: 0,
            delivery_rate: 125_000 * rtt_ms,
            app_limited: true,
            not_sent: 0,
            bytes_acked: 900,
            bytes_received: 0,
            bytes_retrans: 100,
        }
    }

    #[test]
    fn subflows_are_found_on_their_ways() {
        let way = |path, local: &str| Pairing {
            path,
            local: local.parse().unwrap(),
            remote: "203.0.113.7:4770".parse().unwrap(),
            backup: path == 1,
        };
        let path = |interface: &str| PathConfig {
            interface: interface.into(),
            role: Role::Normal,
            trusted: false,
        };
        let known = [way(0, "192.0.2.1"), way(1, "192.0.2.9")];
        let carriers = [
            vec![subflow("192.0.2.1:5", "203.0.113.7:4770", 30, 900)],
            vec![subflow("192.0.2.1:6", "203.0.113.7:4770", 40, 3)],
            vec![subflow("[2001:db8::1]:4770", "[2001:db8::2]:9", 8, 3)],
        ];
        let lossy = Report {
            state: State::Degraded(Trouble::Loss),
            since: Instant::now(),
            is_blind: false,
            round_trip: Some((Duration::from_millis(30), Duration::from_micros(1500))),
            loss: Some(0.125),
        };
        let paths = [path("dsl"), path("lte")];
        let found = ways(&known, &paths, &BTreeMap::from([(1, lossy)]), &carriers);
        let [dsl, lte, other] = &found[..] else { panic!("three ways") };
        assert_eq!(
            (dsl.path.as_deref(), dsl.role, dsl.carriers),
            (Some("dsl"), Some(Role::Normal), 2)
        );
        assert_eq!((dsl.rtt_ms, dsl.least_rtt_ms), (Some(40.0), Some(15.0)));
        assert_eq!((dsl.delivery_rate_mbit, dsl.resent_percent), (Some(40.0), Some(10.0)));
        assert_eq!(
            (lte.path.as_deref(), lte.role, lte.carriers),
            (Some("lte"), Some(Role::Backup), 0)
        );
        assert_eq!((lte.rtt_ms, lte.delivery_rate_mbit, lte.resent_percent), (None, None, None));
        assert_eq!((dsl.state, dsl.reason.as_deref(), dsl.jitter_ms), (None, None, None));
        assert_eq!((lte.state, lte.state_s), (Some(WayState::Degraded), Some(0)));
        assert_eq!(
            (lte.reason.as_deref(), lte.loss_percent),
            (Some("it loses too much"), Some(12.5))
        );
        assert_eq!(lte.jitter_ms, Some(1.5));
        assert_eq!((other.path.as_deref(), other.role, other.carriers), (None, None, 1));
    }
}
