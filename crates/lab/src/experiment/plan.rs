//! What of the experiment is wanted, and how many steps that takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::profile::Profile;
use crate::report::figure::{Direction, Family};

/// A kind of figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Goodput over all paths against each path alone.
    Throughput,
    /// Times of flows of four sizes, one after the other.
    Times,
    /// Flows at once after a long idle time.
    Burst,
    /// Many more small flows at once.
    Crowd,
    /// Flow times after the best path was away for a while.
    Flap,
    /// What crosses the paths while nobody has anything to say.
    Idle,
    /// A path that goes silent under a download.
    BlackHole,
    /// Paths that go away and come back under downloads, again and again.
    Outages,
    /// Paths that go silent in turn, for minutes, with small flows beside the download.
    Flapping,
    /// A path that begins to lose or to hold back what it carries, under a download.
    Degrade,
    /// Flows that find the peer's bound of carriers used up.
    Beyond,
    /// Flows with every kind of ending, each byte checked.
    Storm,
    /// That nothing goes round braid, and that nothing can be read on the paths.
    Proofs,
}

impl Part {
    /// Whether a profile has it unless told otherwise.
    fn is_usual(self, profile: &str) -> bool {
        match self {
            Self::Storm => profile == "fat",
            Self::Flapping => profile == "wifi",
            Self::Burst
            | Self::Crowd
            | Self::Flap
            | Self::Idle
            | Self::Outages
            | Self::Degrade
            | Self::Beyond => ["eq", "dsl"].contains(&profile),
            _ => true,
        }
    }
}

/// What of the experiment is wanted.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `braid` program.
    pub braid: PathBuf,
    /// Profiles, each with the congestion controls to run it under.
    pub settings: Vec<(Profile, String)>,
    /// The figures wanted.
    pub parts: Vec<Part>,
    /// Each profile has all of `parts`, and not only those that are usual for it.
    pub everywhere: bool,
    /// Parallel connections of the throughput figures.
    pub streams: Vec<u8>,
    /// How long each throughput figure is measured, whole seconds.
    pub duration: Duration,
    /// How often throughput, flow times, flows at once, outages and flows beyond the bound of
    /// carriers are measured; the median counts, of outages each.
    pub repeat: usize,
    /// How long paths go silent in turn.
    pub flapping: Duration,
    /// How long the boxes idle, before a burst and when what that costs is measured.
    pub idle: Duration,
    /// Flows in the storm; 0 for no storm.
    pub storm_flows: u64,
    /// Payloads go in clear between the boxes.
    pub unsealed: bool,
    /// The seed of everything random.
    pub seed: u64,
}

/// One throughput figure's choice.
pub(super) type Choice = (Direction, Family, u8);

impl Plan {
    /// Whether a profile has this part.
    pub(super) fn has(&self, part: Part, profile: &Profile) -> bool {
        let some = part != Part::Storm || self.storm_flows > 0;
        some && self.parts.contains(&part) && (self.everywhere || part.is_usual(&profile.name))
    }

    /// The throughput figures to be measured, in their order.
    pub(super) fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        if !self.parts.contains(&Part::Throughput) {
            return choices;
        }
        for direction in [Direction::Down, Direction::Up] {
            for family in [Family::V4, Family::V6] {
                choices.extend(self.streams.iter().map(|streams| (direction, family, *streams)));
            }
        }
        choices
    }

    pub(super) fn steps(&self, profile: &Profile) -> usize {
        let paths = profile.paths.len();
        let each = [
            (Part::Throughput, self.choices().len() * (paths + 1)),
            (Part::Times, 2),
            (Part::Burst, 2),
            (Part::Crowd, 2),
            (Part::Flap, 2),
            (Part::Idle, 1),
            (Part::BlackHole, paths),
            (Part::Outages, 2 * self.repeat),
            (Part::Flapping, 1),
            (Part::Degrade, 2 * paths),
            (Part::Beyond, 2),
            (Part::Storm, 1),
            (Part::Proofs, 2),
        ];
        let steps: usize =
            each.iter().filter(|(part, _)| self.has(*part, profile)).map(|(_, steps)| steps).sum();
        // Each path alone is downloaded over once for all of these.
        let by_download = [Part::Outages, Part::Flapping, Part::Degrade];
        let alone = by_download.iter().any(|part| self.has(*part, profile));
        steps + if alone { paths } else { 0 }
    }

    /// Left out at the start of a figure: a fresh connection's slow start, which takes longer the
    /// longer the path.
    pub(super) fn omit(profile: &Profile) -> Duration {
        let longest = profile.paths.iter().map(|path| path.down.delay + path.up.delay).max();
        let seconds = (longest.unwrap_or_default() * 25).as_secs_f64().ceil().max(2.0);
        Duration::from_secs_f64(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profiles;

    #[test]
    fn a_profile_has_its_usual_parts_unless_told_otherwise() {
        let mut plan = Plan {
            braid: PathBuf::new(),
            settings: Vec::new(),
            parts: Part::value_variants().to_vec(),
            everywhere: false,
            streams: vec![1, 8],
            duration: Duration::ZERO,
            repeat: 1,
            flapping: Duration::ZERO,
            idle: Duration::ZERO,
            storm_flows: 9,
            unsealed: false,
            seed: 1,
        };
        let profiles = Profiles::load(None).unwrap();
        let [eq, fat] = ["eq", "fat"].map(|name| profiles.get(name).unwrap());
        assert!(plan.has(Part::Burst, eq) && !plan.has(Part::Storm, eq));
        assert!(!plan.has(Part::Burst, fat) && plan.has(Part::Storm, fat));
        assert_eq!((plan.steps(eq), plan.steps(fat)), (47, 31));
        plan.everywhere = true;
        assert!(plan.has(Part::Burst, fat) && plan.has(Part::Storm, eq));
        plan.parts = vec![Part::Flapping];
        assert_eq!(plan.steps(eq), 3);
        plan.parts = vec![Part::Flap];
        assert_eq!((plan.steps(eq), plan.choices().len()), (2, 0));
    }
}
