//! An emulated link: what stands between two network namespaces in place of a wire.
//!
//! `shape` says what a link is like, `model` is one direction of it in pure form, `driver` runs
//! a model each way between two TAP devices, `handle` is how others hold and change that, `inspect`
//! looks for what must not be there, `awake` keeps the machine prompt meanwhile, `ceiling` measures
//! what all of it can carry (over a `pair` of namespaces, with `traffic` of its own). Named links are in [`crate::profile`].

mod awake;
pub mod ceiling;
mod driver;
mod handle;
pub mod inspect;
pub mod model;
mod pair;
pub mod shape;
mod traffic;

pub use awake::Awake;
pub use handle::{Counters, Direction, Link};
pub use inspect::{Pattern, Sighting};
pub use shape::{Burst, Duplex, Jitter, Loss, Probability, Rate, Shape, Wander};
