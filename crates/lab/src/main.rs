//! The `braid-lab` command: arguments in, text out; the work is the library's.

use clap::Parser;

/// Measures braid on emulated links.
#[derive(Parser)]
#[command(version)]
enum Cli {
    /// Measure what the link emulator itself can carry on this machine.
    Link,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse() {
        Cli::Link => print!("{}", braid_lab::link::ceiling::measure()?),
    }
    Ok(())
}
