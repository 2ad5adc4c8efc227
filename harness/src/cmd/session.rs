//! What `run` and `compare` have in common: a scenario from its file, its run folder, the repetitions, the end.

use super::run::{plan, table};
use crate::claim::{Claim, Meanwhile};
use crate::exit::{self, Exit, Fail};
use crate::gate::Gate;
use crate::interrupt;
use crate::measure::{self, End, Slot, Task, Told, Work};
use crate::models::ModelStore;
use crate::record::{ComparisonPlan, ENGINE, FailureKind, Manifest, Phase, Run, RunFolder, Sample};
use crate::runner::Program;
use crate::scenario::{self, Scenario};
use crate::{export, host, probe, quality, repeat, report, simulate, summary};
use anyhow::Context as _;
use engine::check;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Options of commands that measure.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Prints the cases the scenario expands to, and runs nothing.
    #[arg(long)]
    pub(super) list: bool,
    /// Prints the command lines that would run, and those that repeat the same work with llama.cpp; runs nothing.
    #[arg(long, conflicts_with = "list")]
    pub(super) dry_run: bool,
    /// Replaces a value of the scenario, or the sweep over it: --set engine.threads=1
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Goes on with an interrupted run; without a scenario, with the one the run was started with.
    #[arg(long, value_name = "RUN_DIR", conflicts_with_all = ["list", "dry_run"])]
    pub(super) resume: Option<PathBuf>,
    /// Folder that models are kept in [default: HARNESS_MODELS, else the user's cache folder].
    #[arg(long, value_name = "DIR", env = "HARNESS_MODELS", hide_env = true)]
    models_dir: Option<PathBuf>,
    /// Folder that gets the folder of this run.
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub(super) results_dir: PathBuf,
    #[command(flatten)]
    others: Others,
    /// Writes no report.
    #[arg(long)]
    no_report: bool,
    /// Program that does the work instead of this one: it gets a job on stdin and answers as `harness worker` does.
    #[arg(long, value_name = "PROGRAM", hide = true)]
    worker: Option<PathBuf>,
}

/// Options about other measurements on this machine.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Others {
    /// Waits for the end of another measurement on this machine, instead of giving up with exit code 5.
    #[arg(long)]
    wait: bool,
    /// Measures beside another measurement; the run is marked as disturbed by it.
    #[arg(long, conflicts_with = "wait")]
    beside: bool,
}

impl Others {
    /// The right to measure; results go to `folder`.
    ///
    /// # Errors
    /// As [`Claim::take`].
    pub(super) fn claim(&self, folder: &Path) -> anyhow::Result<Claim> {
        let meanwhile = match (self.wait, self.beside) {
            (true, _) => Meanwhile::Wait,
            (_, true) => Meanwhile::GoOn,
            _ => Meanwhile::GiveUp,
        };
        Claim::take(folder, meanwhile)
    }
}

/// A scenario on its way to results.
pub(super) struct Session<'a> {
    args: &'a Args,
    /// The subcommand, for the line that goes on with it.
    command: &'static str,
    /// What to measure.
    pub(super) scenario: Scenario,
    /// The program that works.
    pub(super) worker: Program,
    /// Where models are.
    pub(super) store: ModelStore,
    resumed: Option<(RunFolder, Run)>,
    /// Held while there is something to measure.
    claim: Option<Claim>,
}

impl<'a> Session<'a> {
    /// Loads the scenario, or takes up the run to go on with. `adjust` gives overrides that the command adds to those of
    /// the command line.
    ///
    /// # Errors
    /// Whatever is wrong with the command line, the scenario or the run.
    pub(super) fn load(
        args: &'a Args,
        command: &'static str,
        path: Option<&Path>,
        adjust: impl Fn(&Scenario) -> Vec<String>,
    ) -> anyhow::Result<Session<'a>> {
        let resumed = args.resume.as_deref().map(RunFolder::resume).transpose()?;
        let scenario = match (path, &resumed) {
            (Some(path), _) => {
                let scenario = scenario::load(path, &args.set)?;
                let more = adjust(&scenario);
                match more.is_empty() {
                    true => scenario,
                    false => scenario::load(path, &[&args.set[..], &more].concat())?,
                }
            }
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
        interrupt::defer();
        Ok(Session {
            args,
            command,
            scenario,
            worker: worker(args)?,
            store: ModelStore::new(args.models_dir.clone())?,
            resumed,
            claim: None,
        })
    }

    /// The run to go on with.
    pub(super) fn resumed(&self) -> Option<&Run> {
        self.resumed.as_ref().map(|(_, run)| run)
    }

    /// Prints the cases, if that was asked for.
    ///
    /// # Errors
    /// When a model is not known.
    pub(super) fn lists(&self) -> anyhow::Result<bool> {
        if self.args.list {
            let shown = plan::Shown::new(&self.scenario, &self.store)?;
            print(&format!(
                "{}\n",
                table::cases(&shown.cases, &shown.model_names)
            ))?;
        }
        Ok(self.args.list)
    }

    /// Prints the command lines of the engine and what `more` adds to them, if that was asked for.
    ///
    /// # Errors
    /// When a model is not known.
    pub(super) fn is_dry(
        &self,
        more: impl FnOnce(&plan::Shown) -> anyhow::Result<String>,
    ) -> anyhow::Result<bool> {
        if self.args.dry_run {
            require_machine(&self.scenario)?;
            let shown = plan::Shown::new(&self.scenario, &self.store)?;
            let mut recorder = plan::Recorder::new(&self.scenario);
            self.require_models(&self.scenario, &shown.model_paths(), &mut recorder)?;
            print(&shown.commands(&self.worker)?)?;
            print(&more(&shown)?)?;
        }
        Ok(self.args.dry_run)
    }

    /// Refuses cases of `scenario` that their model, at the path of the same place, cannot do, in the order of the cases; not
    /// those whose model is not there. Another worker knows its own limits.
    ///
    /// # Errors
    /// Exit code 2, with the case and the option.
    pub(super) fn require_models(
        &self,
        scenario: &Scenario,
        paths: &[PathBuf],
        recorder: &mut plan::Recorder<'_>,
    ) -> anyhow::Result<()> {
        let cases = scenario.cases.iter().zip(paths);
        for (case, path) in cases.filter(|(_, path)| self.args.worker.is_none() && path.is_file()) {
            let possible = check::model(&case.engine, path).and_then(|()| {
                let n_prompt = recorder.n_prompt(case, path);
                n_prompt.map_or(Ok(()), |n_prompt| {
                    let needed = n_prompt as usize + case.n_gen as usize - 1;
                    check::room(&case.engine, path, needed)
                })
            });
            possible.map_err(|e| impossible(&case.name, e))?;
        }
        Ok(())
    }

    /// Claims the machine, fetches the models, and makes a new run folder or opens the one to go on with, if it is of the same scenario, models
    /// and program. `compare` plans a comparison; one that has begun keeps its plan.
    ///
    /// # Errors
    /// When another process measures, the machine or a model cannot do a case, a model cannot be had, the folder cannot be
    /// written, or another run began in it.
    pub(super) fn open(
        &mut self,
        compare: impl FnOnce(&Self, &Manifest) -> anyhow::Result<Option<ComparisonPlan>>,
    ) -> anyhow::Result<(RunFolder, Run)> {
        require_machine(&self.scenario)?;
        let results_dir = &self.args.results_dir;
        let claim = self.claim.insert(self.args.others.claim(results_dir)?);
        let beside = claim.finding();
        let models = plan::models(&self.scenario, &self.store)?;
        let mut recorder = plan::Recorder::new(&self.scenario);
        let mut manifest = plan::manifest(&mut recorder, &models, &self.worker, &self.store)?;
        let paths = manifest.cases.iter();
        let paths: Vec<PathBuf> = paths
            .map(|c| manifest.models[c.model].path.clone().into())
            .collect();
        self.require_models(&self.scenario, &paths, &mut recorder)?;
        let Some((folder, mut run)) = self.resumed.take() else {
            manifest.host.findings.extend(beside);
            manifest.comparison = compare(self, &manifest)?;
            let folder = RunFolder::create(results_dir, &manifest)?;
            self.works_in(&folder);
            return Ok((folder, Run::empty(manifest)));
        };
        let differences = plan::differences(&run.manifest, &manifest);
        if !differences.is_empty() {
            let path = folder.path().display();
            let what = differences.join(", ");
            let text = format!(
                "cannot go on with \"{path}\": {what} changed since it began; start a new run"
            );
            return Err(Fail::usage(text));
        }
        Gate::forget(folder.path())?;
        if beside.is_some() {
            run.manifest.host.findings.extend(beside);
            folder.write_manifest(&run.manifest)?;
        }
        self.works_in(&folder);
        Ok((folder, run))
    }

    /// Tells other processes that would measure which folder this one writes.
    fn works_in(&mut self, folder: &RunFolder) {
        if let Some(claim) = &mut self.claim {
            claim.works_in(folder.path());
        }
    }

    /// Runs everything the folder lacks, with a progress bar, and writes the tables.
    ///
    /// # Errors
    /// When a record cannot be written.
    pub(super) fn measure(
        &self,
        tasks: &[Task],
        slots: &[Slot],
        folder: &mut RunFolder,
        done: &mut Run,
    ) -> anyhow::Result<End> {
        let manifest = done.manifest.clone();
        let plan = measure::Plan {
            manifest: &manifest,
            tasks,
            worker: &self.worker,
            slots,
            slice: slice(&self.scenario),
            reruns: self.scenario.run.reruns,
            probes: (&probe::program()?, &plan::probes(&self.scenario, &manifest)),
        };
        require_memory(&plan)?;
        let path = folder.path().display();
        eprintln!("{path}: {}", plan::promise(&self.scenario, slots));
        let disturbing = manifest.host.warnings().count();
        if disturbing > 0 {
            let findings = host::plural(disturbing, "finding");
            eprintln!(
                "{findings} on this machine will disturb the measurement: `harness doctor` says which"
            );
        }
        let bar = bar(slots.len() as u64);
        let end = measure::run(&plan, folder, done, &mut |told| tell(&bar, told))?;
        bar.finish_and_clear();
        Ok(end)
    }

    /// Simulates the cases of the tasks, if the scenario gives it time; after what is measured, never beside it.
    ///
    /// # Errors
    /// When a record cannot be written.
    pub(super) fn simulate(
        &self,
        tasks: &[Task],
        folder: &mut RunFolder,
        done: &mut Run,
    ) -> anyhow::Result<End> {
        let limit = Duration::from_secs(self.scenario.run.simulate_s);
        if limit.is_zero() {
            return Ok(End::Complete);
        }
        let jobs = tasks.iter().filter_map(|task| match &task.work {
            Work::Worker(job) => Some((task.case, (**job).clone())),
            Work::Reference(_) => None,
        });
        let plan = simulate::Plan {
            jobs: &jobs.collect::<Vec<_>>(),
            worker: &self.worker,
            valgrind: simulate::valgrind(),
            limit,
        };
        simulate::run(&plan, folder, done, &mut |what| eprintln!("{what}"))
    }

    /// Measures how well the cases predict the scenario's text, if it names one; after what is timed, never beside it.
    ///
    /// # Errors
    /// When a record cannot be written.
    pub(super) fn quality(&self, folder: &mut RunFolder, done: &mut Run) -> anyhow::Result<End> {
        let (Some(spec), Some(promised)) = (&self.scenario.quality, done.manifest.quality.clone())
        else {
            return Ok(End::Complete);
        };
        let plan = quality::Plan {
            promised: &promised,
            worker: &self.worker,
            store: &self.store,
            limit: Duration::from_secs(spec.timeout_s),
        };
        quality::run(&plan, folder, done, &mut |what| eprintln!("{what}"))
    }

    /// Writes the tables and the report, says what went wrong with the engine, and gives the exit code.
    ///
    /// # Errors
    /// When the report cannot be written.
    pub(super) fn finish(&self, folder: &RunFolder, run: &Run, end: End) -> anyhow::Result<Exit> {
        self.kept(folder, self.write(folder, run))?;
        let path = folder.path().display();
        if end == End::Interrupted {
            eprintln!(
                "interrupted: what was measured is kept; go on with: {}",
                self.resume_line(folder)
            );
            return Ok(Exit::Interrupted);
        }
        let all = summary::summaries(run);
        if all.iter().any(|s| s.mismatches > 0) {
            eprintln!("wrong output: see {path}/failures.jsonl");
            return Ok(Exit::WrongOutput);
        }
        let unfinished = holes(run);
        if unfinished > 0 {
            let cases = host::plural(unfinished, "case");
            eprintln!("{cases} had failures: see {path}/failures.jsonl");
            return Ok(Exit::Error);
        }
        let cases = run.manifest.cases.iter();
        let unknown = cases.filter_map(|c| run.quality_record(c.index)?.missing());
        let unknown = unknown.count();
        if unknown > 0 {
            let cases = host::plural(unknown, "case");
            eprintln!("the quality of {cases} could not be measured: see {path}/quality.jsonl");
            return Ok(Exit::Error);
        }
        Ok(Exit::Ok)
    }

    /// `result`, whose error says that what was measured is kept, and how to go on.
    ///
    /// # Errors
    /// That of `result`.
    pub(super) fn kept(
        &self,
        folder: &RunFolder,
        result: anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        result.map_err(|e| {
            let line = self.resume_line(folder);
            let text = format!(
                "{e:#}; what was measured is kept: make room, or mend what else is wrong, then go on with: {line}"
            );
            Fail::with(exit::of(&e), text)
        })
    }

    /// Writes what is made of the records.
    fn write(&self, folder: &RunFolder, run: &Run) -> anyhow::Result<()> {
        folder.write("results.csv", &export::results_csv(run)?)?;
        folder.write("tokens.csv", &export::tokens_csv(run)?)?;
        if !self.args.no_report {
            let paths = report::write(folder.path())?;
            print(&format!("\nreport: {}\n", paths.html.display()))?;
        }
        Ok(())
    }

    /// The command line that goes on with a run, quoted for a POSIX shell.
    fn resume_line(&self, folder: &RunFolder) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "harness".into());
        // The line may be pasted in another folder.
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let shown = |path: &Path| absolute(path).display().to_string();
        let path = shown(folder.path());
        let mut words = vec![program, self.command.into(), "--resume".into(), path];
        for (flag, given) in [
            ("--models-dir", &self.args.models_dir),
            ("--worker", &self.args.worker),
        ] {
            words.extend(given.iter().flat_map(|path| [flag.into(), shown(path)]));
        }
        repeat::join(&words)
    }
}

/// Refuses cases that this machine cannot do.
///
/// # Errors
/// Exit code 2, with the case and the option.
pub(super) fn require_machine(scenario: &Scenario) -> anyhow::Result<()> {
    for case in &scenario.cases {
        check::machine(&case.engine).map_err(|e| impossible(&case.name, e))?;
    }
    Ok(())
}

/// A case that the engine refuses; an option is an error of the user.
fn impossible(case: &str, error: engine::Error) -> anyhow::Error {
    match error {
        engine::Error::ContextFull { .. } => Fail::usage(format!("case \"{case}\": {error}")),
        engine::Error::Option { option, what } => {
            Fail::usage(format!("case \"{case}\": engine.{option}: {what}"))
        }
        other => anyhow::Error::new(other).context(format!("case \"{case}\"")),
    }
}

/// How long a slice is, where repetitions take turns.
fn slice(scenario: &Scenario) -> Option<Duration> {
    let ms = scenario.run.slice_ms;
    (ms > 0).then(|| Duration::from_millis(ms.into()))
}

/// Refuses repetitions at the same time whose models do not fit into memory together.
fn require_memory(plan: &measure::Plan<'_>) -> anyhow::Result<()> {
    let bytes = |slot: &Slot| {
        let case = &plan.manifest.cases[plan.tasks[slot.task as usize].case as usize];
        plan.manifest.models[case.model].file_bytes
    };
    let needed = plan.groups().map(|group| group.iter().map(bytes).sum());
    let needed: u64 = needed.max().unwrap_or(0);
    match plan.manifest.host.memory_available_bytes {
        Some(free) if plan.slice.is_some() && needed > free => {
            let (needed, free) = (host::binary_bytes(needed), host::binary_bytes(free));
            Err(Fail::usage(format!(
                "the models of a round, which take turns, need {needed} together, and {free} of memory are available: --set run.slice_ms=0 runs one at a time"
            )))
        }
        _ => Ok(()),
    }
}

/// Cases in which the engine failed at a repetition that no later attempt made good. Other programs are rows of their
/// comparison, whatever they do.
fn holes(run: &Run) -> usize {
    let slot = |s: &Sample| (s.case_index, s.phase, s.round, s.position);
    let done: HashSet<_> = run.samples.iter().map(slot).collect();
    let open = run.failures.iter().filter(|f| {
        f.runner.starts_with(ENGINE)
            && f.kind != FailureKind::Mismatch
            && !done.contains(&(f.case_index, f.phase, f.round, f.position))
    });
    let cases: HashSet<u32> = open.map(|f| f.case_index).collect();
    cases.len()
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
        Told::Begins(case, runner) => {
            bar.set_message(named(&case.name, runner));
            bar.tick();
        }
        Told::Result(sample) => {
            if let (Phase::Measured, Some(rate)) = (sample.phase, sample.decode_tok_s()) {
                let name = named(&sample.case, &sample.runner);
                bar.set_message(format!("{name} {rate:.1} tok/s"));
            }
        }
        Told::Failed(failure) => bar.suspend(|| {
            let name = named(&failure.case, &failure.runner);
            let kind = failure.kind.name();
            eprintln!(
                "{name}, round {}: {kind}: {}",
                failure.round, failure.message
            );
        }),
        Told::NoPeak(reason) => bar.suspend(|| {
            eprintln!("a peak cannot be taken, so shares of it are unknown: {reason}");
        }),
        Told::Over | Told::Skipped => bar.inc(1),
    }
}

/// A case, with the runner if that is not the engine.
fn named(case: &str, runner: &str) -> String {
    match runner {
        ENGINE => case.to_owned(),
        _ => format!("{case}, {runner}"),
    }
}

/// Says how many repetitions were disturbed and by what, if any were.
pub(super) fn print_disturbances(run: &Run) -> anyhow::Result<()> {
    match summary::disturbances(&summary::summaries(run)) {
        Some(said) => print(&(table::wrapped(&said, "") + "\n")),
        None => Ok(()),
    }
}

/// Writes to stdout; a reader that has gone is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match anstream::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(e).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}
