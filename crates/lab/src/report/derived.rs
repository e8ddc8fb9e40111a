//! Derived values in the results file, so that a reader needs no code to see them.
//!
//! Each figure here is written as it is stored, with one more field, `derived`. Reading leaves
//! that field aside: what counts is what was measured.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::figure::{FlowTimes, Goodput, Proofs, Storm, Throughput, Verdict};

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
struct OfFlowTimes {
    braid_by_plain: Option<f64>,
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
with_derived!(FlowTimes, |times| OfFlowTimes { braid_by_plain: times.ratio() });
with_derived!(Storm, |storm| OfVerdict { verdict: storm.verdict() });
with_derived!(Proofs, |proofs| OfVerdict { verdict: proofs.verdict() });
