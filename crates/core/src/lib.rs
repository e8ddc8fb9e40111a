//! The pure part of braid: no I/O, no clock, no unsafe.
//!
//! A box's configuration ([`config`]) names its peers by their keys ([`key`]), its paths and what
//! it intercepts. From that and from what the kernel shows, [`path`] pairs the paths with the
//! peers' endpoints and [`kernel`] states what the kernel should hold. A flow travels as records
//! ([`record`]) that begin with an opening ([`opening`]); [`relay`] decides what each ending of a
//! flow means, and [`policy`] which sinks a peer may reach, from which source.

pub mod addr;
pub mod config;
pub mod joins;
pub mod kernel;
pub mod key;
pub mod opening;
pub mod path;
pub mod policy;
pub mod record;
pub mod relay;
