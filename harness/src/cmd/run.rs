//! `harness run`: a scenario from its file to records, a table and a report.

pub(super) mod plan;
pub(super) mod table;

pub(super) use table::new_table;

use super::session::{self, Session, print, print_disturbances};
use crate::exit::{Exit, Fail};
use crate::host::plural;
use crate::measure::{self, End};
use crate::record::Run;
use crate::scenario::Scenario;
use std::path::PathBuf;

/// Groups of cases whose commands are printed.
const COMMANDS_MAX: usize = 3;

/// Runs a scenario: records, a table, a report.
///
/// Every repetition runs in a fresh process. What is measured is on disk at once; Ctrl-C ends the run with everything
/// measured so far, and --resume goes on from there.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Scenario file.
    #[arg(required_unless_present = "resume")]
    scenario: Option<PathBuf>,
    #[command(flatten)]
    session: session::Args,
}

/// Does what the command line asks for.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let path = args.scenario.as_deref();
    let mut session = Session::load(&args.session, "run", path, |_| vec![])?;
    if session
        .resumed()
        .is_some_and(|run| run.manifest.comparison.is_some())
    {
        let text = "this run is a comparison: go on with `harness compare --resume`";
        return Err(Fail::usage(text));
    }
    if session.lists()? || session.is_dry(|_| Ok(promise(&session.scenario)))? {
        return Ok(Exit::Ok);
    }
    let (mut folder, mut done) = session.open(|_, _| Ok(None))?;
    let tasks = plan::tasks(&session.scenario, &done.manifest);
    let run = &session.scenario.run;
    let slots = measure::schedule(
        tasks.len() as u32,
        run.warmup,
        run.rounds,
        run.order,
        run.seed,
    );
    let slots = match run.slice_ms {
        0 => slots,
        _ => measure::gathered(slots, &tasks),
    };
    let mut end = session.measure(&tasks, &slots, &mut folder, &mut done)?;
    if end == End::Complete {
        end = session.quality(&mut folder, &mut done)?;
    }
    if end == End::Complete {
        end = session.simulate(&tasks, &mut folder, &mut done)?;
    }
    show(&done)?;
    session.finish(&folder, &done, end)
}

/// What is done beside the command lines of a dry run.
fn promise(scenario: &Scenario) -> String {
    scenario.quality.as_ref().map_or_else(String::new, |spec| {
        format!(
            "then once for each set of options that bears on predictions: \"{}\" is predicted in windows of {} tokens\n",
            spec.corpus.display(),
            spec.ctx
        )
    })
}

/// Which cases leave out what the model would compute.
fn lossy(run: &Run) -> String {
    let cases = run.manifest.cases.iter();
    let lossy = cases.filter(|c| c.engine.lossy_sparsity().is_some());
    let names: Vec<&str> = lossy.map(|c| c.name.as_str()).collect();
    match names.is_empty() {
        true => String::new(),
        false => {
            let said = format!(
                "lossy, as engine.sparsity leaves out channels of small inputs: {}",
                names.join("; ")
            );
            table::wrapped(&said, "") + "\n"
        }
    }
}

/// The table, and what repeats the same work elsewhere.
fn show(run: &Run) -> anyhow::Result<()> {
    print(&format!(
        "{}\n{}",
        table::results(run),
        table::counters(run)
    ))?;
    print(&table::beside_first(run))?;
    print_disturbances(run)?;
    print(&lossy(run))?;
    print(&table::speculation(run))?;
    print(&table::sparsity(run))?;
    print(&table::quality(run))?;
    print(&table::simulated(run))?;
    // Cases that differ in what llama.cpp has no option for have the same commands.
    let mut seen: Vec<(String, Vec<&str>)> = Vec::new();
    for case in &run.manifest.cases {
        let commands = table::commands(&case.repeat);
        match seen.iter_mut().find(|(known, _)| *known == commands) {
            Some((_, names)) => names.push(&case.name),
            None => seen.push((commands, vec![&case.name])),
        }
    }
    let all = seen.len() == 1;
    seen.retain(|(commands, _)| !commands.is_empty());
    let (printed, others) = seen.split_at(seen.len().min(COMMANDS_MAX));
    for (commands, names) in printed {
        let names = match names.len() {
            n if all && n > 1 => "all cases".to_owned(),
            n if n > 3 => format!("{} and {} more", names[..3].join("; "), n - 3),
            _ => names.join("; "),
        };
        print(&format!(
            "\nthe same work by llama.cpp ({names}):\n{commands}"
        ))?;
    }
    if !others.is_empty() {
        print(&format!(
            "\nthe commands of {} stand in the report\n",
            plural(
                others.iter().map(|(_, names)| names.len()).sum(),
                "other case"
            )
        ))?;
    }
    Ok(())
}
