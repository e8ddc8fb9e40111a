//! The `braid` command: reads the command line and the configuration, runs the engine, and prints what
//! it says.

mod cli;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use braid_core::config::{Config, ConfigError};
use braid_engine::check::Finding;
use braid_engine::status::{self, ReadError};
use braid_engine::{Kind, identity};
use cli::{Command, Exit};
use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;

fn main() -> ExitCode {
    let outcome = cli::parse(lexopt::Parser::from_env()).and_then(|command| match command {
        Command::Print(text) => {
            print(&text);
            Ok(())
        }
        Command::Keygen(file) => print_key(identity::generate(&file)),
        Command::Pubkey(file) => print_key(identity::load(&file).map(|found| found.public)),
        Command::Run { config, level } => run(&config, level),
        Command::Check { config } => check(&config),
        Command::Status { json } => print_status(json),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err((exit, problem)) => {
            eprintln!("braid: {problem}");
            exit.into()
        }
    }
}

type Outcome = Result<(), (Exit, String)>;

/// The one place that writes results to standard output. Who reads only the head of it has enough.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn print_key(key: Result<braid_core::key::PublicKey, identity::IdentityError>) -> Outcome {
    let key = key.map_err(|error| (Exit::Configuration, error.to_string()))?;
    print(&key.to_string());
    Ok(())
}

fn print_status(json: bool) -> Outcome {
    let failed = |error: ReadError| (Exit::from(error.kind()), error.to_string());
    let text = status::read().map_err(failed)?;
    let shown = if json { text } else { status::parse(&text).map_err(failed)?.to_string() };
    print(shown.trim_end());
    Ok(())
}

/// Prints all that is wrong; fails if there is an error among it, with the code of the first.
fn check(file: &Path) -> Outcome {
    let (config, problems) = Config::examine(&read(file)?);
    let findings = runtime()?.block_on(braid_engine::check(config.as_ref()));
    let mut errors = Vec::new();
    for problem in &problems {
        errors.push(Exit::Configuration);
        print(&format!("error: {}", at_line(file, problem)));
    }
    for finding in &findings {
        match finding {
            Finding::Error(error) => {
                errors.push(Exit::from(error.kind()));
                print(&format!("error: {}", at_file(error, file)));
            }
            other => print(&other.to_string()),
        }
    }
    match errors[..] {
        [] => {
            print(&format!("{}: braid can start", file.display()));
            Ok(())
        }
        [first, ..] => Err((first, format!("braid cannot start (errors: {})", errors.len()))),
    }
}

fn run(file: &Path, level: Level) -> Outcome {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let config = Config::parse(&read(file)?)
        .map_err(|error| (Exit::Configuration, at_line(file, &error)))?;
    let _descriptors = braid_sys::resource::raise_descriptor_limit();
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let stop = stop_signal().map_err(|error| (Exit::System, error.to_string()))?;
        let started = braid_engine::run(config, stop).await;
        started.map_err(|error| (Exit::from(error.kind()), at_file(&error, file)))
    });
    runtime.shutdown_background();
    outcome
}

fn read(file: &Path) -> Result<String, (Exit, String)> {
    let failed = |error| format!("cannot read {}: {error}", file.display());
    fs::read_to_string(file).map_err(|error| (Exit::Configuration, failed(error)))
}

fn runtime() -> Result<tokio::runtime::Runtime, (Exit, String)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| (Exit::System, format!("cannot start: {error}")))
}

/// A mistake in the configuration, with the file and the line.
fn at_line(file: &Path, error: &ConfigError) -> String {
    let at = error.line.map_or_else(String::new, |line| format!("{line}:"));
    format!("{}:{at} {}", file.display(), error.problem)
}

/// What the configuration asked for in vain is named with the file.
fn at_file(error: &braid_engine::StartError, file: &Path) -> String {
    match error.kind() {
        Kind::Configuration => format!("{}: {error}", file.display()),
        _ => error.to_string(),
    }
}

/// Ready at the first signal that asks a program to end.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    })
}
