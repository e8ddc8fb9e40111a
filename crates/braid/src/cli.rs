//! The command line: what was asked for, and the exit codes that answer.

use std::path::PathBuf;
use std::process::ExitCode;

use braid_engine::Kind;
use lexopt::prelude::*;
use tracing::Level;

/// Printed by `braid --help`.
const HELP: &str = "\
braid joins the links between two boxes into one.

  braid run -c FILE [--log LEVEL]
                      run this box; LEVEL: error, warn, info (default), debug, trace
  braid check -c FILE look for all that is wrong with FILE and this machine, changing nothing
  braid status [--json]
                      what the box that runs here does
  braid keygen FILE   make a key pair: private key into FILE (0600), public key printed
  braid pubkey FILE   print the public key of the private key in FILE
  braid --version     print the version
  braid --help        print this

Exit codes: 0 stopped as asked or nothing wrong, 64 wrong command line, 69 the system lacks
something (MPTCP, nftables) or braid does not run, 71 the system refused, 73 something
needed is in use, 77 no permission, 78 wrong configuration or key file. Each but 0 with one
line on standard error.";

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Print this and be done.
    Print(String),
    /// Make a key pair in this file.
    Keygen(PathBuf),
    /// Print the public key of this file.
    Pubkey(PathBuf),
    /// Run the box of this configuration.
    Run {
        /// The configuration's file.
        config: PathBuf,
        /// The least important messages to log.
        level: Level,
    },
    /// Check this configuration and the machine.
    Check {
        /// The configuration's file.
        config: PathBuf,
    },
    /// Print the status of the box that runs here.
    Status {
        /// As JSON.
        json: bool,
    },
}

/// How the command ends when it fails: sysexits.h, where it has a fitting number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The command line is wrong.
    Usage = 64,
    /// The system lacks something.
    Unavailable = 69,
    /// The system refused.
    System = 71,
    /// Something needed is in use.
    InUse = 73,
    /// No permission.
    Permission = 77,
    /// The configuration is wrong.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<Kind> for Exit {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Configuration => Self::Configuration,
            Kind::Permission => Self::Permission,
            Kind::Unavailable => Self::Unavailable,
            Kind::InUse => Self::InUse,
            Kind::System => Self::System,
        }
    }
}

pub(crate) fn parse(parser: lexopt::Parser) -> Result<Command, (Exit, String)> {
    parse_arguments(parser).map_err(|error| (Exit::Usage, format!("{error} (see `braid --help`)")))
}

fn parse_arguments(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let Some(first) = parser.next()? else { return Err("no command given".into()) };
    let command = match first {
        Long("help") | Short('h') => Command::Print(HELP.to_owned()),
        Long("version") | Short('V') => Command::Print(env!("CARGO_PKG_VERSION").to_owned()),
        Value(name) if name == "keygen" => Command::Keygen(parser.value()?.into()),
        Value(name) if name == "pubkey" => Command::Pubkey(parser.value()?.into()),
        Value(name) if name == "run" => parse_run(&mut parser)?,
        Value(name) if name == "check" => parse_check(&mut parser)?,
        Value(name) if name == "status" => parse_status(&mut parser)?,
        Value(name) => return Err(format!("no such command: {}", name.display()).into()),
        other => return Err(other.unexpected()),
    };
    match parser.next()? {
        None => Ok(command),
        Some(extra) => Err(extra.unexpected()),
    }
}

fn parse_run(parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut config, mut level) = (None, Level::INFO);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('c') | Long("config") => config = Some(PathBuf::from(parser.value()?)),
            Long("log") => level = parser.value()?.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    let config = config.ok_or("`run` needs -c FILE")?;
    Ok(Command::Run { config, level })
}

fn parse_check(parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut config = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('c') | Long("config") => config = Some(PathBuf::from(parser.value()?)),
            other => return Err(other.unexpected()),
        }
    }
    let config = config.ok_or("`check` needs -c FILE")?;
    Ok(Command::Check { config })
}

fn parse_status(parser: &mut lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut json = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => json = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Status { json })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Command, (Exit, String)> {
        parse(lexopt::Parser::from_args(words.split_whitespace()))
    }

    #[test]
    fn run_takes_a_file_and_a_level() {
        let command = parsed("run -c box.toml --log debug").unwrap();
        assert_eq!(command, Command::Run { config: "box.toml".into(), level: Level::DEBUG });
    }

    #[test]
    fn check_takes_a_file_and_status_a_form() {
        assert_eq!(parsed("check -c b.toml"), Ok(Command::Check { config: "b.toml".into() }));
        assert_eq!(parsed("status"), Ok(Command::Status { json: false }));
        assert_eq!(parsed("status --json"), Ok(Command::Status { json: true }));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for words in
            ["", "walk", "run", "check", "status x", "keygen", "keygen a b", "run -x", "--helpp"]
        {
            assert_eq!(parsed(words).unwrap_err().0, Exit::Usage, "{words}");
        }
    }

    #[test]
    fn the_version_is_printed_alone() {
        assert_eq!(parsed("--version"), Ok(Command::Print(env!("CARGO_PKG_VERSION").into())));
    }
}
