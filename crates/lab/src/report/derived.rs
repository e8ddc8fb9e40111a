//! Derived values in the results file, so that a reader needs no code to see them.
//!
//! Each figure here is written as it is stored, with one more field, `derived`. Reading leaves
//! that field aside: what counts is what was measured.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::change::Spread;
use super::figure::{
    Burst, Degraded, Flapping, FlowTimes, Goodput, Idle, Outages, Proofs, SharedGoodput,
    SharedTimes, Storm, Taps, Throughput, Verdict,
};

/// Writes `$figure` with its `derived` field. `#[serde(remote = "Self")]` on the figure makes
/// serde's own code for it an inherent function, which both impls call.
macro_rules! with_derived {
    ($figure:ident, $derive:expr) => {
        impl Serialize for $figure {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                #[derive(Serialize)]
                struct Full<'a, D> {
                    #[serde(flatten, serialize_with = "stored")]
                    stored: &'a $figure,
                    derived: D,
                }
                fn stored<S: Serializer>(figure: &&$figure, to: S) -> Result<S::Ok, S::Error> {
                    $figure::serialize(*figure, to)
                }
                let derive: fn(&$figure) -> _ = $derive;
                Serialize::serialize(&Full { stored: self, derived: derive(self) }, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $figure {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $figure::deserialize(deserializer)
            }
        }
    };
}

#[derive(Serialize)]
struct OfThroughput {
    sum_mbit: Option<f64>,
    limit_mbit: Option<f64>,
    reached_percent: Option<f64>,
    verdict: Option<Verdict>,
}

#[derive(Serialize)]
struct OfGoodput {
    median_mbit: Option<f64>,
}

#[derive(Serialize)]
struct OfFlows {
    braid_by_plain: Option<f64>,
    verdict: Option<Verdict>,
}

#[derive(Serialize)]
struct OfOutages {
    limit_mbit: f64,
    bar_mbit: f64,
    /// Median, 95th percentile and worst; none where there are none, or it never happened.
    stall_ms: [Option<f64>; 3],
    back_ms: [Option<f64>; 3],
    verdict: Option<Verdict>,
}

#[derive(Serialize)]
struct OfFlapping {
    allowed_mbit: f64,
    mbit: f64,
    reached_percent: Option<f64>,
    verdict: Option<Verdict>,
}

#[derive(Serialize)]
struct OfDegraded {
    reached_percent: Option<f64>,
    verdict: Option<Verdict>,
}

#[derive(Serialize)]
struct OfShared {
    used_up_by_free: Option<f64>,
}

#[derive(Serialize)]
struct OfIdle {
    bytes_per_hour: f64,
}

#[derive(Serialize)]
struct OfVerdict {
    verdict: Verdict,
}

with_derived!(Throughput, |figure| OfThroughput {
    sum_mbit: figure.sum(),
    limit_mbit: figure.limit(),
    reached_percent: figure.reached_percent(),
    verdict: figure.verdict(),
});
with_derived!(Goodput, |goodput| OfGoodput { median_mbit: goodput.median() });
with_derived!(FlowTimes, |times| OfFlows {
    braid_by_plain: times.ratio(),
    verdict: times.verdict(),
});
with_derived!(Burst, |burst| OfFlows { braid_by_plain: burst.ratio(), verdict: burst.verdict() });
with_derived!(Outages, |outages| OfOutages {
    limit_mbit: outages.limit_mbit(),
    bar_mbit: outages.bar_mbit(),
    stall_ms: finite(outages.stalls()),
    back_ms: finite(outages.backs()),
    verdict: outages.verdict(),
});
with_derived!(Flapping, |flapping| OfFlapping {
    allowed_mbit: flapping.allowed_mbit(),
    mbit: flapping.mbit(),
    reached_percent: flapping.reached_percent(),
    verdict: flapping.verdict(),
});
with_derived!(Degraded, |degraded| OfDegraded {
    reached_percent: degraded.reached_percent(),
    verdict: degraded.verdict(),
});
with_derived!(SharedGoodput, |goodput| OfShared { used_up_by_free: goodput.ratio() });
with_derived!(SharedTimes, |times| OfShared { used_up_by_free: times.ratio() });
with_derived!(Idle, |idle| OfIdle { bytes_per_hour: idle.bytes_per_hour() });
with_derived!(Taps, |taps| OfVerdict { verdict: taps.verdict() });
with_derived!(Storm, |storm| OfVerdict { verdict: storm.verdict() });
with_derived!(Proofs, |proofs| OfVerdict { verdict: proofs.verdict() });

fn finite(spread: Option<Spread>) -> [Option<f64>; 3] {
    let values = spread.map(|spread| [spread.median, spread.p95, spread.worst]);
    values.map_or([None; 3], |values| values.map(|value| Some(value).filter(|v| v.is_finite())))
}

#[cfg(test)]
mod tests {
    use super::super::figure::{Alone, Direction, Family};
    use super::*;

    fn goodput(mbit: &[f64]) -> Goodput {
        Goodput { mbit: mbit.into(), retransmits: None }
    }

    fn figure(alone: &[&[f64]], braid: &[f64]) -> Throughput {
        let alone = alone.iter().map(|mbit| Alone { path: "a".into(), goodput: goodput(mbit) });
        Throughput {
            direction: Direction::Down,
            family: Family::V4,
            streams: 1,
            alone: alone.collect(),
            framing_factor: 0.98,
            braid: goodput(braid),
            target_percent: 97.0,
            series: None,
        }
    }

    #[test]
    fn median_is_the_middle_or_the_mean_of_both() {
        assert_eq!(goodput(&[]).median(), None);
        assert_eq!(goodput(&[5.0, 1.0, 3.0]).median(), Some(3.0));
        assert_eq!(goodput(&[4.0, 1.0, 2.0, 9.0]).median(), Some(3.0));
    }

    #[test]
    fn limit_is_the_sum_less_framing_and_the_target_is_met_or_missed_by_it() {
        let met = figure(&[&[100.0], &[50.0, 40.0, 60.0]], &[142.7]);
        assert_eq!((met.sum(), met.limit()), (Some(150.0), Some(147.0)));
        assert_eq!(met.verdict(), Some(Verdict::Met));
        assert_eq!(figure(&[&[100.0], &[50.0]], &[142.5]).verdict(), Some(Verdict::Missed));
    }

    #[test]
    fn a_figure_that_lacks_a_path_or_braid_has_no_verdict() {
        assert_eq!(figure(&[&[100.0], &[]], &[90.0]).limit(), None);
        assert_eq!(figure(&[], &[90.0]).verdict(), None);
        assert_eq!(figure(&[&[0.0]], &[0.0]).verdict(), None);
        assert_eq!(figure(&[&[100.0]], &[]).verdict(), None);
    }

    #[test]
    fn proofs_need_packets_and_storms_need_clean_ends() {
        let setting = super::super::sample::sample().settings.remove(0);
        let (mut proofs, mut storm) = (setting.proofs.unwrap(), setting.storm.unwrap());
        assert_eq!((proofs.verdict(), storm.verdict()), (Verdict::Met, Verdict::Met));
        proofs.host.examined = 0;
        storm.descriptors_after += 1;
        assert_eq!((proofs.verdict(), storm.verdict()), (Verdict::Missed, Verdict::Missed));
        assert_eq!(Proofs::default().verdict(), Verdict::Missed);
    }

    #[test]
    fn file_carries_derived_values_and_reading_leaves_them_aside() {
        let figure = figure(&[&[100.0], &[50.0]], &[147.0]);
        let mut value = serde_json::to_value(&figure).unwrap();
        assert_eq!(value["derived"]["limit_mbit"], 147.0);
        assert_eq!(value["derived"]["verdict"], "met");
        assert_eq!(value["braid"]["derived"]["median_mbit"], 147.0);
        value["derived"]["limit_mbit"] = 1.0.into();
        assert_eq!(serde_json::from_value::<Throughput>(value).unwrap(), figure);
    }
}
