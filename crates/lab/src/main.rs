//! The `braid-lab` command: arguments in, text out; the work is the library's.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use braid_lab::experiment::{self, Part, Plan};
use braid_lab::link::{Awake, ceiling};
use braid_lab::profile::{Profile, Profiles};
use braid_lab::report::{self, model::Results, table};
use clap::{Args, Parser, ValueEnum as _};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Measures braid on emulated links.
#[derive(Parser)]
#[command(version)]
enum Cli {
    /// Measure what the link emulator itself can carry on this machine.
    Link,
    /// Name the profiles there are.
    Profiles(ProfileArgs),
    /// Run the experiment: each path alone, then braid over all of them.
    Run(Box<RunArgs>),
    /// Write the report of a results file again.
    Report {
        /// The results file.
        results: PathBuf,
        /// Where report.html goes.
        #[arg(long, default_value = "results")]
        out: PathBuf,
    },
}

#[derive(Args)]
struct ProfileArgs {
    /// A file of profiles of your own; the form is that of crates/lab/profiles.toml.
    #[arg(long = "profiles", value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    profiles: ProfileArgs,
    /// A profile to run; may be repeated. If none is given all, or `eq` and `dsl` with --quick.
    #[arg(long)]
    profile: Vec<String>,
    /// Congestion control everywhere; may be repeated. By default cubic, and bbr too for the
    /// profiles `dsl` and `lossy`.
    #[arg(long)]
    congestion: Vec<String>,
    /// These figures alone, over each profile, separated by commas. By default all of them, but
    /// burst, crowd, flap, idle, outages, degrade and beyond over `eq` and `dsl` alone, flapping over
    /// `wifi` and the storm over `fat`.
    #[arg(long, value_delimiter = ',', value_name = "FIGURES")]
    only: Vec<Part>,
    /// One stream, 3 s a figure; throughput, times and proofs unless --only says otherwise: a first
    /// look in some four minutes.
    #[arg(long)]
    quick: bool,
    /// How often throughput, times, burst, crowd and beyond are measured, of which the median counts,
    /// and how many downloads of each kind outages has: 20 tell something.
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    /// Seconds that each throughput figure is measured, beside what is left out at its start.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Seconds that the boxes idle before a burst, and while it is measured what that costs.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Seconds that paths go silent in turn.
    #[arg(long, default_value_t = 600)]
    flap_seconds: u64,
    /// Flows of 10 MB in the storm; 0 for none.
    #[arg(long, default_value_t = 200)]
    storm: u64,
    /// Payloads in clear between the boxes: `protection = "none"`.
    #[arg(long)]
    unsealed: bool,
    /// The seed of everything random; the time if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// The `braid` program; by default the one beside this program.
    #[arg(long)]
    braid: Option<PathBuf>,
    /// Where results.json and report.html go.
    #[arg(long, default_value = "results")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse() {
        Cli::Link => link(),
        Cli::Profiles(arguments) => profiles(&arguments),
        Cli::Run(arguments) => run(&arguments),
        Cli::Report { results, out } => report_again(&results, &out),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("braid-lab: {error:#}");
        ExitCode::FAILURE
    })
}

fn link() -> Result<ExitCode> {
    print!("{}", ceiling::measure()?);
    Ok(ExitCode::SUCCESS)
}

fn profiles(arguments: &ProfileArgs) -> Result<ExitCode> {
    let profiles = Profiles::load(arguments.file.as_deref())?;
    for name in profiles.names() {
        println!("{name:<8} {}", profiles.get(name)?.about);
    }
    Ok(ExitCode::SUCCESS)
}

fn report_again(file: &Path, out: &Path) -> Result<ExitCode> {
    show(&report::load(file)?, out)?;
    Ok(ExitCode::SUCCESS)
}

fn run(arguments: &RunArgs) -> Result<ExitCode> {
    let scratch = scratch_folder()?;
    clean_up_on_signal(scratch.path())?;
    let _ = tempfile::env::override_temp_dir(scratch.path());
    let plan = plan(arguments)?;
    let mut results = Results::new(experiment::describe_machine(&plan.braid, plan.seed));
    if arguments.seed.is_none() {
        results.run.command_line.push_str(&format!(" --seed {}", plan.seed));
    }
    measure_ceiling(&mut results, &plan)?;
    let _awake = Awake::start()?;
    let keep = |results: &Results| {
        if let Err(error) = report::write(results, &arguments.out) {
            say(&format!("cannot write to {}: {error}", arguments.out.display()));
        }
    };
    keep(&results);
    experiment::run(&plan, &mut results, &say, &keep);
    show(&results, &arguments.out)?;
    // A missed target is a result; a step that failed, or a proof, is a failure.
    let proofs = results.proofs().missed + results.taps().missed;
    let broken = proofs + results.storms().missed + results.failures.len();
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure_ceiling(results: &mut Results, plan: &Plan) -> Result<()> {
    say("measuring what the link emulator carries by itself");
    let ceiling = ceiling::measure().context("measure the link emulator (root?)")?.mbit();
    results.run.emulator_ceiling_mbit = Some(ceiling);
    for (profile, _) in &plan.settings {
        if let Some(warning) = ceiling::warn_if_exceeds(profile, ceiling) {
            say(&warning);
            results.run.warnings.push(warning);
        }
    }
    Ok(())
}

fn show(results: &Results, out: &Path) -> Result<()> {
    let files = report::write(results, out).with_context(|| format!("write {}", out.display()))?;
    print!("\n{}", table::text(results, std::io::stdout().is_terminal()));
    println!("\nresults  {}\nreport   {}", files.json.display(), files.html.display());
    Ok(())
}

fn plan(arguments: &RunArgs) -> Result<Plan> {
    ensure!(arguments.seconds > 0 && arguments.repeat > 0, "--seconds and --repeat start at 1");
    let beside = || Ok(std::env::current_exe()?.with_file_name("braid"));
    let braid = arguments.braid.clone().map_or_else(beside, Ok::<_, std::io::Error>)?;
    ensure!(braid.is_file(), "there is no {}: build it, or name it with --braid", braid.display());
    ensure!(arguments.idle > 0, "--idle starts at 1");
    ensure!(arguments.flap_seconds > 0, "--flap-seconds starts at 1");
    Ok(Plan {
        braid: fs::canonicalize(braid)?,
        settings: settings(arguments)?,
        parts: parts(arguments),
        everywhere: !arguments.only.is_empty(),
        streams: if arguments.quick { vec![1] } else { vec![1, 8] },
        duration: Duration::from_secs(if arguments.quick { 3 } else { arguments.seconds }),
        repeat: arguments.repeat,
        idle: Duration::from_secs(arguments.idle),
        flapping: Duration::from_secs(arguments.flap_seconds),
        storm_flows: arguments.storm,
        unsealed: arguments.unsealed,
        seed: arguments.seed.unwrap_or_else(experiment::any_seed),
    })
}

fn parts(arguments: &RunArgs) -> Vec<Part> {
    match (arguments.only.as_slice(), arguments.quick) {
        ([], true) => vec![Part::Throughput, Part::Times, Part::Proofs],
        ([], false) => Part::value_variants().to_vec(),
        (only, _) => only.to_vec(),
    }
}

fn settings(arguments: &RunArgs) -> Result<Vec<(Profile, String)>> {
    // From the easiest to read to the hardest.
    const ORDER: [&str; 7] = ["eq", "dsl", "lossy", "fat", "three", "long", "wifi"];
    let known = Profiles::load(arguments.profiles.file.as_deref())?;
    let mut names: Vec<&str> = arguments.profile.iter().map(String::as_str).collect();
    if names.is_empty() {
        names = if arguments.quick { vec!["eq", "dsl"] } else { known.names() };
        names.sort_by_key(|name| ORDER.iter().position(|o| o == name).unwrap_or(ORDER.len()));
    }
    let mut settings = Vec::new();
    for name in names {
        let profile = known.get(name)?;
        let both = ["dsl", "lossy"].contains(&name);
        let usual: &[&str] = if both && !arguments.quick { &["cubic", "bbr"] } else { &["cubic"] };
        let asked = arguments.congestion.iter().map(String::as_str);
        let chosen: Vec<&str> =
            if arguments.congestion.is_empty() { usual.to_vec() } else { asked.collect() };
        settings.extend(chosen.into_iter().map(|cc| (profile.clone(), cc.to_owned())));
    }
    Ok(settings)
}

/// A folder named by this process; those of labs that were killed are removed.
fn scratch_folder() -> Result<tempfile::TempDir> {
    const PREFIX: &str = "braid-lab-";
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let gone = owner
            .is_some_and(|id| id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists());
        if gone {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let prefix = format!("{PREFIX}{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?)
}

/// Namespaces, links and boxes vanish with this process; only the scratch folder would stay.
fn clean_up_on_signal(scratch: &Path) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let scratch = scratch.to_owned();
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let _ = fs::remove_dir_all(&scratch);
            eprintln!("braid-lab: interrupted, nothing is left behind");
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn say(line: &str) {
    println!("{line}");
    let _ = std::io::stdout().flush();
}
