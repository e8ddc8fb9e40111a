//! Sets of links by name, read from `profiles.toml` and from a file of the user's.
//!
//! What comes out is valid; an error names file, line and key. Making links of it is
//! [`crate::link`]'s.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::link::{Burst, Duplex, Jitter, Loss, Probability, Rate, Shape, Wander};

/// The profiles that come with the program, in the form of a user's file.
pub const BUILT_IN: &str = include_str!("../profiles.toml");

/// A set of links between the two boxes.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Its key in the file.
    pub name: String,
    /// What it stands for, in a few words.
    pub about: String,
    /// At least one; their order is that of the file.
    pub paths: Vec<Duplex>,
}

impl Profile {
    /// The rates of all paths in the faster direction, summed, in Mbit/s; a wandering one counts
    /// with its most.
    pub fn summed_mbit(&self) -> f64 {
        let sum = |rate: fn(&Duplex) -> Rate| self.paths.iter().map(|p| rate(p).mbit()).sum();
        let (up, down): (f64, f64) = (sum(|path| path.up.rate), sum(|path| path.down.rate));
        up.max(down)
    }
}

/// All profiles known.
#[derive(Debug, Clone, PartialEq)]
pub struct Profiles(BTreeMap<String, Profile>);

impl Profiles {
    /// Those built in, with those of `file` added, which replace others of the same name.
    pub fn load(file: Option<&Path>) -> Result<Profiles, Error> {
        let mut profiles = parse("profiles.toml", BUILT_IN)?;
        if let Some(path) = file {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| Error { place: name.clone(), message: error.to_string() })?;
            profiles.append(&mut parse(&name, &text)?);
        }
        Ok(Profiles(profiles))
    }

    /// The profile of this name, or an error that names those there are.
    pub fn get(&self, name: &str) -> Result<&Profile, Error> {
        let unknown = || Error {
            place: format!("profile {name}"),
            message: format!("there is none of this name, but {}", self.names().join(", ")),
        };
        self.0.get(name).ok_or_else(unknown)
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// A file that does not say what it should, or a profile that is not in any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    place: String,
    message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for Error {}

fn parse(file: &str, text: &str) -> Result<BTreeMap<String, Profile>, Error> {
    let sections: BTreeMap<String, Section> =
        toml::from_str(text).map_err(|error| locate(file, text, &error))?;
    let profile = |(name, section): (String, Section)| {
        let paths = section.path.0;
        (name.clone(), Profile { name, about: section.about, paths })
    };
    Ok(sections.into_iter().map(profile).collect())
}

/// Adds line and key to what the parser says.
fn locate(file: &str, text: &str, error: &toml::de::Error) -> Error {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    // The value of `key = value` is marked, or all of a table or the key itself.
    let key = before.rsplit(['\n', '{', ',']).next().and_then(|start| start.split_once('='));
    let key = key.map(|(key, _)| format!("{}: ", key.trim())).unwrap_or_default();
    Error { place: format!("{file}:{line}"), message: format!("{key}{}", error.message()) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    about: String,
    path: Paths,
}

#[derive(Deserialize)]
#[serde(try_from = "Vec<PathSection>")]
struct Paths(Vec<Duplex>);

impl TryFrom<Vec<PathSection>> for Paths {
    type Error = &'static str;

    fn try_from(sections: Vec<PathSection>) -> Result<Paths, &'static str> {
        if sections.is_empty() {
            return Err("path: at least one is needed");
        }
        Ok(Paths(sections.into_iter().map(|section| section.0).collect()))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "RawPath")]
struct PathSection(Duplex);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPath {
    down_mbit: Option<Mbit>,
    up_mbit: Option<Mbit>,
    wander: Option<WanderSection>,
    delay_ms: Millis,
    jitter_ms: Option<[Millis; 2]>,
    queue_ms: Option<Millis>,
    queue_kb: Option<f64>,
    #[serde(default)]
    loss_percent: Percent,
    burst: Option<BurstSection>,
}

impl TryFrom<RawPath> for PathSection {
    type Error = &'static str;

    fn try_from(raw: RawPath) -> Result<PathSection, &'static str> {
        let (down, up, wander) = match (&raw.down_mbit, &raw.up_mbit, &raw.wander) {
            (Some(down), Some(up), None) => (down.0, up.0, None),
            (None, None, Some(wander)) => (wander.max_mbit.0, wander.max_mbit.0, raw.wander()?),
            _ => return Err("needs down_mbit and up_mbit, or wander in place of both"),
        };
        let up = raw.shape(up)?;
        Ok(PathSection(Duplex { up, down: raw.shape(down)?, wander }))
    }
}

impl RawPath {
    fn wander(&self) -> Result<Option<Wander>, &'static str> {
        let Some(raw) = &self.wander else { return Ok(None) };
        let rates = raw.min_mbit.0..=raw.max_mbit.0;
        let every = raw.min_ms.0..=raw.max_ms.0;
        if rates.is_empty() || every.is_empty() {
            return Err("wander: a least value is above its most");
        }
        if every.start().is_zero() {
            return Err("wander: min_ms must be above 0");
        }
        Ok(Some(Wander { rates, every }))
    }

    fn shape(&self, rate: Rate) -> Result<Shape, &'static str> {
        let burst = self.burst.as_ref().map(|raw| Burst {
            enter: raw.enter_percent.0,
            leave: raw.leave_percent.0,
            loss: raw.loss_percent.0,
        });
        Ok(Shape {
            rate,
            delay: self.delay_ms.0,
            jitter: self.jitter()?,
            loss: Loss { random: self.loss_percent.0, burst },
            queue: self.queue(rate)?,
        })
    }

    fn jitter(&self) -> Result<Jitter, &'static str> {
        match &self.jitter_ms {
            None => Ok(Jitter::default()),
            Some([min, max]) if min.0 <= max.0 => Ok(Jitter { min: min.0, max: max.0 }),
            Some(_) => Err("jitter_ms: the least is above the most"),
        }
    }

    fn queue(&self, rate: Rate) -> Result<u64, &'static str> {
        let bytes = match (&self.queue_ms, self.queue_kb) {
            (Some(time), None) => rate.bytes_in(time.0),
            (None, Some(kilobytes)) => (kilobytes * 1e3) as u64,
            _ => return Err("needs either queue_ms or queue_kb"),
        };
        if bytes < 2 * 1514 { Err("the queue must hold two full frames") } else { Ok(bytes) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WanderSection {
    min_mbit: Mbit,
    max_mbit: Mbit,
    min_ms: Millis,
    max_ms: Millis,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BurstSection {
    enter_percent: Percent,
    leave_percent: Percent,
    loss_percent: Percent,
}

/// A rate above zero.
struct Mbit(Rate);

impl<'de> Deserialize<'de> for Mbit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Mbit, D::Error> {
        let rate = Rate::from_mbit(f64::deserialize(from)?);
        rate.map(Mbit).ok_or_else(|| D::Error::custom("must be above 0"))
    }
}

/// A time of at most a minute.
struct Millis(Duration);

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Millis, D::Error> {
        let millis = f64::deserialize(from)?;
        if (0.0..=60_000.0).contains(&millis) {
            Ok(Millis(Duration::from_secs_f64(millis / 1e3)))
        } else {
            Err(D::Error::custom("must be from 0 to 60000"))
        }
    }
}

/// A probability, written in percent.
#[derive(Default)]
struct Percent(Probability);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Percent, D::Error> {
        let probability = Probability::new(f64::deserialize(from)? / 100.0);
        probability.map(Percent).ok_or_else(|| D::Error::custom("must be from 0 to 100"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_profiles_are_as_stated() {
        let profiles = Profiles::load(None).unwrap();
        assert_eq!(profiles.names(), ["dsl", "eq", "fat", "long", "lossy", "three", "wifi"]);
        let dsl = profiles.get("dsl").unwrap();
        assert_eq!(dsl.summed_mbit(), 70.0);
        assert_eq!(dsl.paths[1].up.rate.mbit(), 5.0);
        assert_eq!(dsl.paths[1].up.delay, Duration::from_millis(40));
        assert_eq!(dsl.paths[1].down.queue, 200_000);
        let wifi = &profiles.get("wifi").unwrap().paths[1];
        assert_eq!(wifi.wander.as_ref().unwrap().every.end(), &Duration::from_secs(1));
        assert!(profiles.get("none").unwrap_err().to_string().contains("dsl, eq"));
    }

    #[test]
    fn queues_hold_the_round_trip_and_at_least_50_ms() {
        let profiles = Profiles::load(None).unwrap();
        for (name, profile) in profiles.0 {
            for (index, path) in profile.paths.iter().enumerate() {
                for shape in [path.up, path.down] {
                    let time = (2 * shape.delay).max(Duration::from_millis(50));
                    assert_eq!(shape.queue, shape.rate.bytes_in(time), "{name} path {index}");
                }
            }
        }
    }

    #[test]
    fn a_users_file_adds_and_replaces() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = "down_mbit = 1\nup_mbit = 1\ndelay_ms = 0.5\nqueue_kb = 10\n";
        let burst = "burst = { enter_percent = 1, leave_percent = 20, loss_percent = 100 }\n";
        let text = format!(
            "[mine]\nabout = 'x'\n[[mine.path]]\n{path}{burst}[eq]\nabout = 'y'\n[[eq.path]]\n{path}"
        );
        std::fs::write(file.path(), text).unwrap();
        let profiles = Profiles::load(Some(file.path())).unwrap();
        assert_eq!(profiles.get("eq").unwrap().paths.len(), 1);
        let shape = profiles.get("mine").unwrap().paths[0].up;
        assert_eq!(shape.loss.burst.unwrap().leave.get(), 0.2);
        assert_eq!((shape.queue, shape.delay), (10_000, Duration::from_micros(500)));
        assert!(Profiles::load(Some(Path::new("/no/such"))).is_err());
    }

    #[track_caller]
    fn assert_error(lines: &str, expected: &str) {
        let text = format!("[p]\nabout = ''\n[[p.path]]\n{lines}");
        let error = parse("f.toml", &text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let good = "up_mbit = 1\ndelay_ms = 1\nqueue_kb = 10\n";
        assert_error(&format!("{good}down_mbit = 0"), "f.toml:7: down_mbit: must be above 0");
        assert_error(&format!("{good}down_mbit = 'x'"), "f.toml:7: down_mbit: invalid type");
        assert_error(&format!("{good}colour = 1"), "f.toml:7: unknown field `colour`");
        assert_error(good, "f.toml:3: needs down_mbit and up_mbit");
        assert_error("delay_ms = -1", "f.toml:4: delay_ms: must be from 0");
        let wander = "wander = { min_mbit = 2, max_mbit = 0, min_ms = 1, max_ms = 1 }";
        assert_error(wander, "f.toml:4: max_mbit: must be above 0");
        assert_error("loss_percent = 101", "f.toml:4: loss_percent: must be from 0 to 100");
        let both = "up_mbit = 1\ndown_mbit = 1\ndelay_ms = 1\nqueue_kb = 10\nqueue_ms = 10";
        assert_error(both, "f.toml:3: needs either queue_ms or queue_kb");
        assert!(parse("f", "[p]\nabout = ''\npath = []").unwrap_err().to_string().contains("path"));
    }
}
