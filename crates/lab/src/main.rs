//! The `braid-lab` command.
fn main() {}
