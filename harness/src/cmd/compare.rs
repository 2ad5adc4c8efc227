//! `harness compare`: the engine and other programs side by side, with a verdict.

mod plan;
mod settings;
mod table;
mod ways;

use super::run::plan::Recorder;
use super::session::{self, Session, print, print_disturbances};
use crate::compare::{self, Comparison};
use crate::exit::{Exit, Fail};
use crate::measure::{self, End};
use crate::record::{Run, RunFolder};
use crate::scenario::Scenario;
use crate::verdict::{Rule, Verdict};
use std::path::{Path, PathBuf};

/// The scenario where none is named.
const SCENARIO: &str = "scenarios/strict.toml";

/// Milliseconds that each of two engines runs before the other does, where the engine is compared with itself.
const SLICE_MS: u32 = 5;

/// Measures the engine and other programs in turn, and says which one is faster, how sure that is, and why.
///
/// Same file, threads, CPUs, KV type and numbers of tokens; every repetition in fresh processes. In each round all take
/// their turns forwards and then backwards, after a probe of the machine. The engine is held against the program, or the
/// variant of llama.cpp, that looks best; its own two turns in a round tell what a difference must exceed. A program that
/// fails is a row with its error. Ctrl-C ends a comparison with everything measured so far, and --resume goes on from there.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Scenario file; the programs of its [[reference]] sections are compared with [default: scenarios/strict.toml].
    scenario: Option<PathBuf>,
    /// Compares with llama.cpp: weights repacked or not, flash attention on and off.
    #[arg(long)]
    llama_cpp: bool,
    /// Folder of llama.cpp's programs [default: LLAMA_CPP_DIR, PATH, what `harness reference install` built].
    #[arg(long, value_name = "DIR")]
    llama_cpp_dir: Option<PathBuf>,
    /// Compares the engine with itself, in slices of a few milliseconds: with another build or other options, or with the
    /// same, to see what this machine and the method make of no difference.
    #[arg(long, conflicts_with_all = ["llama_cpp", "llama_cpp_dir"])]
    itself: bool,
    /// Makes the second engine slower by a busy wait after every token, to see whether it is noticed.
    #[arg(
        long,
        value_name = "PERCENT",
        requires = "itself",
        default_value_t = 0.0
    )]
    slow_down: f64,
    /// Takes the second engine from another build of this program.
    #[arg(long, value_name = "PROGRAM", requires = "itself")]
    other_build: Option<PathBuf>,
    /// Changes an option of the second engine: --other-set engine.kv=q8_0
    #[arg(long, value_name = "KEY=VALUE", requires = "itself")]
    other_set: Vec<String>,
    /// Measured rounds, as --set run.rounds=N [default: the scenario's, at least 12].
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    rounds: Option<u32>,
    /// A slower engine ends with exit code 3, an inconclusive comparison with 4.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    session: session::Args,
}

/// Does what the command line asks for.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    if !(0.0..=1000.0).contains(&args.slow_down) {
        return Err(Fail::usage("--slow-down is a percentage from 0 to 1000"));
    }
    let resumes = args.session.resume.is_some();
    let path = args.scenario.as_deref();
    let path = path.or_else(|| (!resumes).then_some(Path::new(SCENARIO)));
    let adjust = |scenario: &Scenario| [rounds(args, scenario), slices(args)].concat();
    let mut session = Session::load(&args.session, "compare", path, adjust)?;
    if session.scenario.quality.take().is_some() {
        eprintln!("[quality] is left out of a comparison: `harness run` measures it");
    }
    if let Some(run) = session.resumed() {
        let began = run.manifest.comparison.as_ref();
        plan::require_same_programs(began.ok_or_else(|| {
            Fail::usage("this run is no comparison: go on with `harness run --resume`")
        })?)?;
    }
    if session.lists()? {
        return Ok(Exit::Ok);
    }
    let ways = match resumes {
        // What it begins with is what it ends with.
        true => vec![],
        false => ways::find(args, &session.scenario)?,
    };
    let scenario = session.scenario.clone();
    let build = args.other_build.as_deref();
    let second = plan::second(&scenario, build, &args.other_set, args.slow_down)?;
    let results_dir = &args.session.results_dir;
    let promise = |session: &Session<'_>, models: &[PathBuf]| {
        if second.build.is_none() && !second.set.is_empty() {
            let other = plan::changed(&scenario, &second.set)?;
            session.require_models(&other, models, &mut Recorder::new(&other))?;
        }
        plan::comparison(&scenario, models, &ways, &second, results_dir)
    };
    if session.is_dry(|shown| Ok(plan::shown(&promise(&session, &shown.model_paths())?)))? {
        return Ok(Exit::Ok);
    }
    let (mut folder, mut done) = session.open(|session, manifest| {
        let models = manifest.cases.iter();
        let models = models.map(|case| manifest.models[case.model].path.clone().into());
        let plan = promise(session, &models.collect::<Vec<_>>())?;
        plan::write_prompts(&scenario, &ways, results_dir)?;
        Ok(Some(plan))
    })?;
    let end = measure(&session, &mut folder, &mut done)?;
    let comparison = compare::compare(&done);
    let comparison = comparison.ok_or_else(|| anyhow::anyhow!("the run is no comparison"))?;
    session.kept(&folder, write(&folder, &comparison))?;
    print(&table::all(&comparison))?;
    print_disturbances(&done)?;
    let exit = session.finish(&folder, &done, end)?;
    Ok(match exit {
        Exit::Ok => judge(args, &comparison),
        other => other,
    })
}

/// Overrides for the number of rounds: what --rounds says, or as many as a verdict needs.
fn rounds(args: &Args, scenario: &Scenario) -> Vec<String> {
    let least = Rule::default().rounds_min as u32;
    let set = args.session.set.iter();
    let is_set = set
        .clone()
        .any(|set| set.trim_start().starts_with("run.rounds"));
    match args.rounds {
        Some(rounds) => vec![format!("run.rounds={rounds}")],
        None if !is_set && scenario.run.rounds < least => {
            eprintln!(
                "{least} rounds instead of the scenario's {}: a verdict needs as many; --rounds sets another number",
                scenario.run.rounds
            );
            vec![format!("run.rounds={least}")]
        }
        None => vec![],
    }
}

/// Override that has two engines take turns, unless told otherwise.
fn slices(args: &Args) -> Vec<String> {
    let mut set = args.session.set.iter();
    match args.itself && !set.any(|set| set.trim_start().starts_with("run.slice_ms")) {
        true => vec![format!("run.slice_ms={SLICE_MS}")],
        false => vec![],
    }
}

/// Runs everything the folder lacks.
fn measure(session: &Session<'_>, folder: &mut RunFolder, done: &mut Run) -> anyhow::Result<End> {
    let work = plan::work(&session.scenario, &done.manifest)?;
    let run = &session.scenario.run;
    let rounds = (run.warmup, run.rounds);
    let slots = measure::mirrored(&work.blocks, &work.once, rounds, run.order, run.seed);
    session.measure(&work.tasks, &slots, folder, done)
}

/// The files beside `results.csv`.
fn write(folder: &RunFolder, comparison: &Comparison) -> anyhow::Result<()> {
    folder.write("comparison.json", &serde_json::to_vec_pretty(comparison)?)?;
    folder.write("comparison.csv", &compare::csv(comparison)?)
}

/// The exit code of a comparison in which the engine did its part.
fn judge(args: &Args, comparison: &Comparison) -> Exit {
    let phases = comparison.cases.iter().flat_map(|case| &case.phases);
    let verdicts = phases.map(|phase| phase.judged.map(|judged| judged.verdict));
    let verdicts: Vec<Option<Verdict>> = verdicts.collect();
    if verdicts.iter().all(Option::is_none) {
        eprintln!("nothing was compared: the rows above say why");
        return Exit::Error;
    }
    let has = |verdict| verdicts.contains(&Some(verdict));
    match args.strict {
        true if has(Verdict::Regression) => Exit::Regression,
        true if has(Verdict::Inconclusive) || verdicts.contains(&None) => Exit::Inconclusive,
        _ => Exit::Ok,
    }
}
