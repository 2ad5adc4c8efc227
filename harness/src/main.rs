//! The `harness` command: usage and one `match`.

use clap::{Parser, Subcommand};
use harness::cmd::{
    baseline, compare, doctor, gate, history, launch, models, probe, reference, report, run, worker,
};
use harness::exit::{self, Exit};
use harness::{interrupt, runner};
use std::process::ExitCode;

/// Measures how fast language models run on this machine's CPUs: scenarios in, records and reports out.
///
/// The commands everybody needs:
///
///     harness run scenarios/strict.toml
///     harness compare --llama-cpp
///
/// The first fetches the model if need be, runs every repetition in a fresh process pinned to the physical cores, checks that
/// all of them write the same text, prints a table and the llama.cpp command lines that repeat the same work, and leaves
/// records and a report in a folder below results/. The second measures engine and llama.cpp in turn, and says which one is
/// faster, how sure that is, and why.
#[derive(Debug, Parser)]
#[command(name = "harness", version, verbatim_doc_comment, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 error, 2 usage or invalid scenario, 3 regression, \
4 inconclusive, 5 environment unfit (another measurement is going on; `doctor --strict`), \
6 wrong output, 7 reference missing, 130 interrupted (go on with --resume).";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Compare(compare::Args),
    Gate(gate::Args),
    Probe(probe::Args),
    Baseline(baseline::Args),
    History(history::Args),
    Models(models::Args),
    Doctor(doctor::Args),
    Report(report::Args),
    Reference(reference::Args),
    #[command(hide = true)]
    Launch(launch::Args),
    #[command(hide = true)]
    Worker(worker::Args),
}

fn main() -> ExitCode {
    if let Ok(program) = std::env::current_exe() {
        runner::launch_through(program);
    }
    let command = Cli::parse().command;
    // Those two end with the process that started them.
    let is_child = matches!(command, Command::Launch(_) | Command::Worker(_));
    if let Err(error) = (!is_child).then(interrupt::install).transpose() {
        return tell(&error).into();
    }
    let result = match command {
        Command::Run(args) => run::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Gate(args) => gate::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Baseline(args) => baseline::run(&args),
        Command::History(args) => history::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Reference(args) => reference::run(&args),
        Command::Launch(args) => launch::run(&args),
        Command::Worker(args) => worker::run(&args),
    };
    let exit = result.unwrap_or_else(|error| tell(&error));
    exit.into()
}

/// Prints an error on one line, with its causes.
fn tell(error: &anyhow::Error) -> Exit {
    let exit = exit::of(error);
    if exit == Exit::Interrupted {
        eprintln!("{error:#}");
        return exit;
    }
    if interrupt::requested() {
        eprintln!("interrupted: {error:#}");
        return Exit::Interrupted;
    }
    eprintln!("error: {error:#}");
    exit
}
