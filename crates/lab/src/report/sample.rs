//! Made-up results that look like a real run's, for the tests of this module.

use std::collections::BTreeMap;

use super::figure::*;
use super::model::*;

/// The factor of IPv4 carriers: 20 of each segment's 1448 bytes are MPTCP's.
const FRAMING: f64 = 1428.0 / 1448.0;

/// Goodput that plain routing gets out of a rate on the wire.
const PLAIN: f64 = 0.956;

/// One profile: its name, its words, (down, up, delay, loss) a path, the share reached, and the
/// longest stall in ms.
type Shape = (&'static str, &'static str, &'static [(f64, f64, f64, f64)], f64, f64);

const SHAPES: [Shape; 7] = [
    ("eq", "two equal lines", &[(100., 100., 10., 0.), (100., 100., 10., 0.)], 0.991, 129.),
    ("dsl", "two unequal DSL lines", &[(50., 10., 15., 0.), (20., 5., 40., 0.)], 0.977, 289.),
    (
        "long",
        "one short and one long way",
        &[(100., 100., 5., 0.), (100., 100., 90., 0.)],
        0.93,
        410.,
    ),
    (
        "lossy",
        "two lines that lose packets",
        &[(100., 50., 15., 0.5), (50., 20., 25., 1.)],
        0.972,
        725.,
    ),
    (
        "lte",
        "fibre beside a mobile network",
        &[(100., 40., 6., 0.), (40., 15., 35., 0.1)],
        0.974,
        204.,
    ),
    (
        "three",
        "three lines",
        &[(50., 20., 8., 0.), (50., 20., 12., 0.), (25., 10., 30., 0.)],
        0.978,
        155.,
    ),
    ("far", "a satellite beside DSL", &[(16., 1., 15., 0.), (100., 10., 290., 0.2)], 0.964, 2310.),
];

/// Seven settings with every kind of figure, some of them missed, and one failed step.
pub(crate) fn sample() -> Results {
    let mut random = fastrand::Rng::with_seed(7);
    let mut results = Results::new(run());
    results.settings = SHAPES.iter().map(|shape| setting(shape, &mut random)).collect();
    results.settings[6].throughput[3].braid.mbit.clear();
    results.settings[5].storm.as_mut().expect("the sample has storms").hung_flows = 2;
    results.failures.push(Failure {
        setting: Some(results.settings[6].title()),
        step: "down, IPv6, 8 streams, braid".into(),
        message: "no byte for 10 s: \"connect <timed out> & gave up\"".into(),
    });
    results
}

/// The first setting of the sample alone.
pub(crate) fn small_sample() -> Results {
    let mut results = sample();
    results.settings.truncate(1);
    results.failures.clear();
    results
}

fn run() -> Run {
    Run {
        date: "2026-11-22 14:03 UTC".into(),
        version: "0.1.0".into(),
        commit: "3bed8e6".into(),
        kernel: "6.18.5".into(),
        cores: 2,
        cpu: "AMD EPYC 7763 64-Core Processor".into(),
        seed: 42,
        command_line:
            "braid-lab run --profiles eq,dsl,long,lossy,lte,three,far --repeats 3 --seed 42".into(),
        emulator_ceiling_mbit: Some(2140.0),
        warnings: vec![
            "the machine has 2 cores for 5 hosts: figures above 1 Gbit/s mean little".into(),
        ],
    }
}

fn setting(shape: &Shape, random: &mut fastrand::Rng) -> Setting {
    let (name, words, links, reached, stall) = *shape;
    let congestion = if name == "lossy" { "bbr" } else { "cubic" };
    Setting {
        profile: name.into(),
        links: words.into(),
        paths: links.iter().enumerate().map(path).collect(),
        box_congestion: congestion.into(),
        host_congestion: "bbr".into(),
        mptcp: BTreeMap::from([
            ("blackhole_timeout".into(), "0".into()),
            ("scheduler".into(), "default".into()),
            ("stale_loss_cnt".into(), "4".into()),
        ]),
        throughput: combinations()
            .map(|(direction, family, streams)| {
                throughput(direction, family, streams, links, reached, random)
            })
            .collect(),
        flow_times: flow_times(links),
        bursts: bursts(links),
        idle: Some(idle(links.len())),
        black_holes: vec![black_hole(links, stall, random)],
        outages: [Flap::Silence, Flap::CarrierLoss].map(|kind| outages(links, kind, stall)).into(),
        flapping: Some(flapping(links)),
        degraded: [Trouble::Loss, Trouble::Queueing].map(|what| degraded(links, what)).into(),
        beyond: Some(beyond(links)),
        storm: Some(storm()),
        proofs: Some(proofs(links.len())),
        taps: Some(Taps { paths: proofs(links.len()).paths, found: Vec::new() }),
    }
}

fn path((index, &(down, up, delay_ms, loss_percent)): (usize, &(f64, f64, f64, f64))) -> Path {
    let link =
        |rate_mbit| Link { rate_mbit, delay_ms, jitter_ms: 0.5, loss_percent, queue_ms: 50. };
    Path { name: format!("wan{}", index + 1), down: link(down), up: link(up) }
}

fn combinations() -> impl Iterator<Item = (Direction, Family, u32)> {
    [Direction::Down, Direction::Up].into_iter().flat_map(|direction| {
        [(Family::V4, 1), (Family::V4, 8), (Family::V6, 1), (Family::V6, 8)]
            .map(|(family, streams)| (direction, family, streams))
    })
}

fn throughput(
    direction: Direction,
    family: Family,
    streams: u32,
    links: &[(f64, f64, f64, f64)],
    reached: f64,
    random: &mut fastrand::Rng,
) -> Throughput {
    let rates: Vec<f64> =
        links.iter().map(|l| if direction == Direction::Down { l.0 } else { l.1 }).collect();
    let limit: f64 = rates.iter().map(|rate| rate * PLAIN * FRAMING).sum();
    let mut repeats = |mean: f64, spread: f64| Goodput {
        mbit: (0..3).map(|_| round(mean * (1.0 + spread * (random.f64() - 0.5)))).collect(),
        retransmits: Some(random.u64(0..90)),
    };
    let alone = rates.iter().enumerate().map(|(index, rate)| Alone {
        path: format!("wan{}", index + 1),
        goodput: repeats(rate * PLAIN, 0.002),
    });
    Throughput {
        direction,
        family,
        streams,
        alone: alone.collect(),
        framing_factor: FRAMING,
        braid: repeats(limit * reached, 0.012),
        target_percent: if reached > 0.98 { 97. } else { 95. },
        series: (family == Family::V4).then(|| series(&rates, 80, random, |_, _| 1.0)),
    }
}

fn series(
    rates: &[f64],
    len: usize,
    random: &mut fastrand::Rng,
    scale: impl Fn(usize, f64) -> f64,
) -> Series {
    let mut path = |index: usize, rate: f64| PathSeries {
        path: format!("wan{}", index + 1),
        mbit: (0..len)
            .map(|at| {
                let seconds = at as f64 / 10.0;
                let start = (seconds * 4.0 + 0.15).min(1.0) * scale(index, seconds);
                round(rate * 0.96 * start * (1.0 - 0.06 * random.f64() * random.f64()))
            })
            .collect(),
    };
    let paths = rates.iter().enumerate().map(|(index, rate)| path(index, *rate)).collect();
    Series { interval_ms: 100, paths }
}

fn black_hole(links: &[(f64, f64, f64, f64)], stall: f64, random: &mut fastrand::Rng) -> BlackHole {
    let rates: Vec<f64> = links.iter().map(|link| link.0).collect();
    let silent = 4.0..9.3;
    let scale = |index: usize, at: f64| match index {
        0 if silent.contains(&at) => 0.0,
        0 if at >= 9.3 => ((at - 9.2) * 1.4).min(1.0),
        1 if at >= 4.0 && at < 4.0 + stall / 1000.0 => 0.12,
        _ => 1.0,
    };
    BlackHole {
        path: "wan1".into(),
        direction: Direction::Down,
        hit_s: 4.0,
        returned_s: 9.0,
        longest_stall_ms: stall,
        recovered_ms: (stall < 2000.0).then_some(940.0),
        series: Some(series(&rates, 160, random, scale)),
    }
}

fn outages(links: &[(f64, f64, f64, f64)], kind: Flap, stall: f64) -> Outages {
    let most = if kind == Flap::Silence { 250.0 } else { 150.0 };
    let outage = |number: usize| Outage {
        path: format!("wan{}", number % links.len() + 1),
        gone_s: 8.4,
        returned_s: 11.4,
        before_mbit: round(links.iter().map(|link| link.0 * PLAIN).sum()),
        stall_ms: round(stall.min(most) * (1.0 - 0.01 * number as f64)),
        back_ms: Some(520.0 + number as f64),
    };
    Outages {
        kind,
        runs: 10,
        alone: links.iter().enumerate().map(alone).collect(),
        framing_factor: FRAMING,
        bar_percent: 97.0,
        broken: 0,
        unmeasured: 0,
        outages: (0..20).map(outage).collect(),
        target: Some(OutageTarget { stall_ms: most, worst_stall_ms: 1000.0, back_ms: 1000.0 }),
    }
}

fn alone((index, link): (usize, &(f64, f64, f64, f64))) -> PathAlone {
    let path = format!("wan{}", index + 1);
    PathAlone { path, mbit: round(link.0 * PLAIN), allowed_percent: 95.6 }
}

fn flapping(links: &[(f64, f64, f64, f64)]) -> Flapping {
    let path = |(index, link): (usize, &(f64, f64, f64, f64))| FlappingPath {
        path: format!("wan{}", index + 1),
        plain_percent: 95.6,
        live_bytes: (link.0 * 0.75 / 8.0 * 600e6) as u64,
    };
    let allowed: f64 = links.iter().map(|link| link.0 * 0.75 * PLAIN * FRAMING).sum();
    Flapping {
        kind: Flap::Silence,
        half_s: 5.0,
        seconds: 600.0,
        paths: links.iter().enumerate().map(path).collect(),
        framing_factor: FRAMING,
        bytes: (allowed * 0.93 / 8.0 * 600e6) as u64,
        flows: 601,
        lost: 0,
        target_percent: 90.0,
    }
}

fn degraded(links: &[(f64, f64, f64, f64)], trouble: Trouble) -> Degraded {
    let others: f64 = links.iter().skip(1).map(|link| link.0 * PLAIN).sum();
    Degraded {
        path: "wan1".into(),
        trouble,
        before_mbit: round((others + links[0].0 * PLAIN) * 0.98),
        others_mbit: round(others),
        seconds: 20.0,
        mbit: round(others * 0.97),
        stall_ms: 140.0,
        target_percent: 95.0,
    }
}

fn beyond(links: &[(f64, f64, f64, f64)]) -> Beyond {
    let sum: f64 = links.iter().map(|link| link.0 * PLAIN).sum();
    let goodput = |mbit| Goodput { mbit: vec![round(mbit)], retransmits: Some(0) };
    let both =
        |direction| SharedGoodput { direction, free: goodput(sum), used_up: goodput(sum * 0.94) };
    let delay = links[0].2 * 2.0;
    let sizes = [1_000, 100_000].map(|size| SharedTimes {
        size,
        free: Some(times(delay, delay)),
        used_up: Some(times(delay * 1.25, delay)),
    });
    Beyond {
        carriers: 16,
        idle_flows: 20,
        goodput: [Direction::Down, Direction::Up].map(both).into(),
        times: sizes.into(),
    }
}

fn flow_times(links: &[(f64, f64, f64, f64)]) -> Vec<FlowTimes> {
    let (rate, delay) = (links[0].0, links[0].2 * 2.0);
    let sum: f64 = links.iter().map(|link| link.0).sum();
    let sizes =
        [(1_000, 0.0, 1.0), (100_000, 3.0, 0.55), (1_000_000, 5.0, 0.8), (10_000_000, 6.0, 0.97)];
    let sizes = sizes.map(|(size, trips, gain)| {
        let wire = |rate: f64| size as f64 * 8.0 / rate / 1000.0;
        let plain = delay * (2.0 + trips) + wire(rate);
        let braid = delay * 2.0 + 1.0 + delay * trips * gain * 0.6 + wire(sum) * 1.04;
        FlowTimes {
            plain: Some(times(plain, delay)),
            braid: Some(times(braid, delay + 1.0)),
            target: (size < 10_000_000).then_some(if size == 1000 { 1.1 } else { 0.7 }),
            ..FlowTimes::new(size, "wan1")
        }
    });
    let after = FlowTimes { after: Some(Flap::Silence), ..sizes[0].clone() };
    sizes.into_iter().chain([after]).collect()
}

fn bursts(links: &[(f64, f64, f64, f64)]) -> Vec<Burst> {
    let delay = links[0].2 * 2.0;
    [(30, 100_000, 60.0, Some(0.7)), (200, 10_000, 0.0, None)]
        .map(|(flows, size, idle_s, target)| Burst {
            flows,
            size,
            idle_s,
            best_path: "wan1".into(),
            plain: Some(times(delay * 30.0, delay)),
            braid: Some(times(delay * 16.0, delay + 1.0)),
            target,
        })
        .into()
}

fn idle(paths: usize) -> Idle {
    let path = |index| IdlePath { path: format!("wan{index}"), up_bytes: 1410, down_bytes: 1280 };
    Idle { seconds: 60.0, paths: (1..=paths).map(path).collect() }
}

fn times(complete: f64, trip: f64) -> Times {
    let spread =
        |ms: f64| Quantiles { p50: round(ms), p90: round(ms * 1.08), p99: round(ms * 1.3) };
    Times {
        n: 60,
        connect: spread(trip),
        first_byte: spread(trip * 2.0),
        complete: spread(complete),
    }
}

fn storm() -> Storm {
    Storm {
        flows: 5000,
        bytes: 1_310_720_000,
        wrong_bytes: 0,
        hung_flows: 0,
        descriptors_before: 212,
        descriptors_after: 212,
        resets: 500,
        half_closes: 1250,
    }
}

fn proofs(paths: usize) -> Proofs {
    let watched = |wire: String, examined| Watched { wire, examined, forbidden: 0 };
    Proofs {
        paths: (1..=paths).map(|index| watched(format!("wan{index}"), 412_338)).collect(),
        lan_routes: Vec::new(),
        host: watched("host".into(), 623_104),
        sink: watched("sink".into(), 619_377),
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
