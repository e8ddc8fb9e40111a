//! The async shell around `braid_core`.
