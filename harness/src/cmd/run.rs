//! `harness run`: a scenario from its file to records, a table and a report.

mod plan;
mod table;

pub(super) use table::new_table;

use crate::exit::{Exit, Fail};
use crate::interrupt;
use crate::measure::{self, End, Told};
use crate::models::ModelStore;
use crate::record::{Manifest, Phase, Run, RunFolder};
use crate::runner::Program;
use crate::scenario::{self, Scenario};
use crate::{export, probe, repeat, report, summary};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Runs a scenario: records, a table, a report.
///
/// Every repetition runs in a fresh process. What is measured is on disk at once; Ctrl-C ends the run with everything
/// measured so far, and --resume goes on from there.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Scenario file.
    #[arg(required_unless_present = "resume")]
    scenario: Option<PathBuf>,
    /// Prints the cases the scenario expands to, and runs nothing.
    #[arg(long)]
    list: bool,
    /// Prints the command lines that would run, and those that repeat the same work with llama.cpp; runs nothing.
    #[arg(long, conflicts_with = "list")]
    dry_run: bool,
    /// Replaces a value of the scenario, or the sweep over it: --set engine.threads=1
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Goes on with an interrupted run; without a scenario, with the one the run was started with.
    #[arg(long, value_name = "RUN_DIR", conflicts_with_all = ["list", "dry_run"])]
    resume: Option<PathBuf>,
    /// Folder that models are kept in [default: HARNESS_MODELS, else the user's cache folder].
    #[arg(long, value_name = "DIR", env = "HARNESS_MODELS", hide_env = true)]
    models_dir: Option<PathBuf>,
    /// Folder that gets the folder of this run.
    #[arg(long, value_name = "DIR", default_value = "results")]
    results_dir: PathBuf,
    /// Writes no report.
    #[arg(long)]
    no_report: bool,
    /// Program that does the work instead of this one: it gets a job on stdin and answers as `harness worker` does.
    #[arg(long, value_name = "PROGRAM", hide = true)]
    worker: Option<PathBuf>,
}

/// Does what the command line asks for.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let (scenario, resumed) = load(args)?;
    let store = ModelStore::new(args.models_dir.clone())?;
    let worker = worker(args)?;
    let shown = plan::Shown::new(&scenario, &store)?;
    if args.list {
        print(&format!(
            "{}\n",
            table::cases(&shown.cases, &shown.model_names)
        ))?;
        return Ok(Exit::Ok);
    }
    if args.dry_run {
        print(&shown.commands(&worker)?)?;
        return Ok(Exit::Ok);
    }
    interrupt::install()?;
    let models = plan::models(&scenario, &store)?;
    let manifest = plan::manifest(&scenario, &models, &worker)?;
    let (mut folder, mut done) = open_folder(args, resumed, manifest)?;
    let end = measure_all(&scenario, &worker, &mut folder, &mut done)?;
    finish(args, &folder, &done, end)
}

/// The scenario, and the run to go on with.
fn load(args: &Args) -> anyhow::Result<(Scenario, Option<(RunFolder, Run)>)> {
    let resumed = match &args.resume {
        Some(path) => Some(RunFolder::resume(path)?),
        None => None,
    };
    let scenario = match (&args.scenario, &resumed) {
        (Some(path), _) => scenario::load(path, &args.set)?,
        (None, Some((_, run))) => {
            let was = &run.manifest.scenario;
            if !args.set.is_empty() {
                return Err(Fail::usage(
                    "--set cannot change a run that has begun: start a new one",
                ));
            }
            scenario::parse(&was.text, Path::new(&was.path), &was.overrides)?
        }
        (None, None) => return Err(Fail::usage("name a scenario file")),
    };
    Ok((scenario, resumed))
}

/// The program that works: this one, unless told otherwise.
fn worker(args: &Args) -> anyhow::Result<Program> {
    Ok(match &args.worker {
        Some(path) => Program {
            path: path.clone(),
            args: vec![],
        },
        None => Program {
            path: std::env::current_exe().context("cannot find this program's own file")?,
            args: vec!["worker".into()],
        },
    })
}

/// A new run folder, or the one to go on with if it is of the same scenario, models and program.
fn open_folder(
    args: &Args,
    resumed: Option<(RunFolder, Run)>,
    manifest: Manifest,
) -> anyhow::Result<(RunFolder, Run)> {
    let Some((folder, run)) = resumed else {
        let folder = RunFolder::create(&args.results_dir, &manifest)?;
        let run = Run::empty(manifest);
        return Ok((folder, run));
    };
    let differences = plan::differences(&run.manifest, &manifest);
    if !differences.is_empty() {
        let path = folder.path().display();
        let what = differences.join(", ");
        let text =
            format!("cannot go on with \"{path}\": {what} changed since it began; start a new run");
        return Err(Fail::usage(text));
    }
    Ok((folder, run))
}

/// Runs everything the folder lacks, with a progress bar.
fn measure_all(
    scenario: &Scenario,
    worker: &Program,
    folder: &mut RunFolder,
    done: &mut Run,
) -> anyhow::Result<End> {
    let manifest = done.manifest.clone();
    let tasks = plan::tasks(scenario, &manifest);
    let run = &scenario.run;
    let turns = tasks.len() as u32;
    let slots = measure::schedule(turns, run.warmup, run.rounds, run.order, run.seed);
    let plan = measure::Plan {
        manifest: &manifest,
        tasks: &tasks,
        worker,
        slots: &slots,
        reruns: run.reruns,
        probes: (&probe::program()?, &plan::probes(scenario, &manifest)),
    };
    eprintln!(
        "{}: {}",
        folder.path().display(),
        plan::promise(scenario, &slots)
    );
    let disturbing = manifest.host.warnings().count();
    if disturbing > 0 {
        let findings = counted(disturbing, "finding");
        eprintln!(
            "{findings} on this machine will disturb the measurement: `harness doctor` says which"
        );
    }
    let bar = bar(slots.len() as u64);
    let end = measure::run(&plan, folder, done, &mut |told| tell(&bar, told))?;
    bar.finish_and_clear();
    Ok(end)
}

/// A progress bar on stderr; quiet where that is no terminal. It draws only between repetitions, not during them.
fn bar(slots: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} + {eta} {wide_msg}");
    let bar = ProgressBar::new(slots);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn tell(bar: &ProgressBar, told: Told<'_>) {
    match told {
        Told::Begins(case) => {
            bar.set_message(case.name.clone());
            bar.tick();
        }
        Told::Result(sample) => {
            if let (Phase::Measured, Some(rate)) = (sample.phase, sample.decode_tok_s()) {
                bar.set_message(format!("{} {rate:.1} tok/s", sample.case));
            }
        }
        Told::Failed(failure) => bar.suspend(|| {
            let kind = failure.kind.name();
            eprintln!(
                "{}, round {}: {kind}: {}",
                failure.case, failure.round, failure.message
            );
        }),
        Told::NoPeak(reason) => bar.suspend(|| {
            eprintln!("a peak cannot be taken, so shares of it are unknown: {reason}");
        }),
        Told::Over | Told::Skipped => bar.inc(1),
    }
}

/// Tables, report, and the exit code.
fn finish(args: &Args, folder: &RunFolder, run: &Run, end: End) -> anyhow::Result<Exit> {
    folder.write("results.csv", &export::results_csv(run)?)?;
    folder.write("tokens.csv", &export::tokens_csv(run)?)?;
    print(&format!("{}\n", table::results(run)))?;
    for case in &run.manifest.cases {
        let commands = table::commands(&case.repeat);
        if !commands.is_empty() {
            print(&format!(
                "\nthe same work by llama.cpp ({}):\n{commands}",
                case.name
            ))?;
        }
    }
    if !args.no_report {
        let paths = report::write(folder.path())?;
        print(&format!("\nreport: {}\n", paths.html.display()))?;
    }
    let path = folder.path().display();
    if end == End::Interrupted {
        eprintln!(
            "interrupted: what was measured is kept; go on with: {}",
            resume_line(args, folder)
        );
        return Ok(Exit::Interrupted);
    }
    let all = summary::summaries(run);
    if all.iter().any(|s| s.mismatches > 0) {
        eprintln!("wrong output: see {path}/failures.jsonl");
        return Ok(Exit::WrongOutput);
    }
    let unfinished = all.iter().filter(|s| s.failures > 0).count();
    if unfinished > 0 {
        let cases = counted(unfinished, "case");
        eprintln!("{cases} had failures: see {path}/failures.jsonl");
        return Ok(Exit::Error);
    }
    Ok(Exit::Ok)
}

/// The command line that goes on with a run, quoted for a POSIX shell.
fn resume_line(args: &Args, folder: &RunFolder) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "harness".into());
    // The line may be pasted in another folder.
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let shown = |path: &Path| absolute(path).display().to_string();
    let path = shown(folder.path());
    let mut words = vec![program, "run".into(), "--resume".into(), path];
    for (flag, given) in [
        ("--models-dir", &args.models_dir),
        ("--worker", &args.worker),
    ] {
        words.extend(given.iter().flat_map(|path| [flag.into(), shown(path)]));
    }
    let words: Vec<String> = words.iter().map(|word| repeat::quote(word)).collect();
    words.join(" ")
}

/// A number of things: `1 case`, `2 cases`.
fn counted(n: usize, thing: &str) -> String {
    match n {
        1 => format!("1 {thing}"),
        _ => format!("{n} {thing}s"),
    }
}

/// Writes to stdout; a reader that has gone is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match anstream::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(e).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}
