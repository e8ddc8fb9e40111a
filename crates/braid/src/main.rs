//! The `braid` command: reads the command line and the configuration, and runs the engine.

mod cli;

use std::fs;
use std::process::ExitCode;

use braid_core::config::Config;
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

/// The one place that writes results to standard output.
fn print(text: &str) {
    println!("{text}");
}

fn print_key(key: Result<braid_core::key::PublicKey, identity::IdentityError>) -> Outcome {
    let key = key.map_err(|error| (Exit::Configuration, error.to_string()))?;
    print(&key.to_string());
    Ok(())
}

fn run(file: &std::path::Path, level: Level) -> Outcome {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let place = file.display();
    let text = fs::read_to_string(file)
        .map_err(|error| (Exit::Configuration, format!("cannot read {place}: {error}")))?;
    let config = Config::parse(&text).map_err(|error| {
        let at = error.line.map_or_else(String::new, |line| format!("{line}:"));
        (Exit::Configuration, format!("{place}:{at} {}", error.problem))
    })?;
    let _descriptors = braid_sys::resource::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| (Exit::System, format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(async {
        let stop = stop_signal().map_err(|error| (Exit::System, error.to_string()))?;
        let started = braid_engine::run(config, stop).await;
        started.map_err(|error| (Exit::from(error.kind()), at_file(&error, &place)))
    });
    runtime.shutdown_background();
    outcome
}

/// What the configuration asked for in vain is named with the file.
fn at_file(error: &braid_engine::StartError, place: &impl std::fmt::Display) -> String {
    match error.kind() {
        Kind::Configuration => format!("{place}: {error}"),
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
