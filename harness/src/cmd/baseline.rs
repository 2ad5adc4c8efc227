//! `harness baseline`: runs kept to hold later ones against.

use crate::baseline;
use crate::exit::{Exit, Fail};
use crate::gate::MACHINE;
use crate::host::{HostFacts, plural};
use crate::record::Run;
use std::io::Write as _;
use std::path::PathBuf;

/// Keeps runs to hold later ones against, for the machine they were made on.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Folder of runs and baselines.
    #[arg(long, value_name = "DIR", default_value = "results", global = true)]
    results_dir: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Keeps a run. Several runs under one name tell how the machine drifts.
    Save {
        /// Folder of the run.
        run_dir: PathBuf,
        /// Name to keep it under [default: the scenario's name].
        #[arg(long)]
        name: Option<String>,
    },
    /// Lists this machine's baselines.
    List,
    /// Lists the runs kept under a name.
    Show {
        /// The name.
        name: String,
    },
}

/// Does what the command line asks for.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let results = &args.results_dir;
    let mut out = anstream::stdout();
    match &args.command {
        Command::Save { run_dir, name } => {
            let name = match name {
                Some(name) => checked(name)?,
                None => Run::read(run_dir)?.manifest.scenario.name,
            };
            let (place, runs) = baseline::save(results, run_dir, &name)?;
            let runs = plural(runs, "run");
            writeln!(out, "{} ({runs} under \"{name}\")", place.display())?;
        }
        Command::List => {
            let fingerprint = HostFacts::read().fingerprint();
            let all = baseline::list(results, &fingerprint)?;
            if all.is_empty() {
                eprintln!("no baselines for {MACHINE} {fingerprint}: harness baseline save RUN");
            }
            for (name, runs) in all {
                writeln!(out, "{name}  {}", plural(runs, "run"))?;
            }
        }
        Command::Show { name } => {
            let fingerprint = HostFacts::read().fingerprint();
            let group = baseline::folder(results, &fingerprint).join(checked(name)?);
            if !group.is_dir() {
                return Err(Fail::usage(format!(
                    "no baseline \"{name}\" for {MACHINE} {fingerprint}: see harness baseline list"
                )));
            }
            for place in baseline::runs(&group)? {
                let manifest = Run::read(&place)?.manifest;
                let commit = manifest
                    .binary
                    .git_commit
                    .unwrap_or("unknown commit".into());
                let (created, place) = (manifest.created_at, place.display());
                writeln!(out, "{created}  {commit}  {place}")?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// A name that is a folder's name and no path.
fn checked(name: &str) -> anyhow::Result<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !name.is_empty() && !name.starts_with('.') && name.chars().all(fine) {
        true => Ok(name.to_owned()),
        false => Err(Fail::usage(format!(
            "\"{name}\" is no name for a baseline: use letters, digits, \"-\", \"_\" and \".\""
        ))),
    }
}
