//! A comparison planned: the exact commands, which become part of the run's manifest, and the tasks they make.

use super::settings;
use super::ways::Way;
use crate::cmd::run::plan::{self, Recorder};
use crate::cmd::session::require_machine;
use crate::exit::Fail;
use crate::measure::{Task, Work};
use crate::models;
use crate::record::{
    ComparisonPlan, ENGINE_AGAIN, Manifest, OtherBuild, ReferencePlan, Refused, SecondEngine, hex,
    write_whole,
};
use crate::reference::{self, Workload};
use crate::repeat::{self, Facts};
use crate::runner::{self, Program};
use crate::scenario::{self, Case, PromptSpec, Scenario};
use anyhow::Context as _;
use engine::topology::Topology;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The subcommand of another build that works.
const WORKER: &str = "worker";
/// Folder of prompts for programs that read one from a file, below the results.
const PROMPTS: &str = "prompts";
/// What stands for such a file in a command.
const PROMPT_FILE: &str = "{prompt_file}";
/// Digits of a hash that name a file.
const NAME_CHARS: usize = 16;

/// What a comparison is going to do; `models` are the files of the cases.
pub(super) fn comparison(
    scenario: &Scenario,
    models: &[PathBuf],
    ways: &[Way],
    second: &SecondEngine,
    results_dir: &Path,
) -> anyhow::Result<ComparisonPlan> {
    let mut plan = ComparisonPlan {
        references: vec![],
        refused: vec![],
        second: second.clone(),
        settings: settings::all(scenario, ways, second),
        texts: vec![],
    };
    let mut recorder = Recorder::new(scenario);
    for ((case, model), index) in scenario.cases.iter().zip(models).zip(0..) {
        let prompt_file = prompt_file(case, results_dir)?;
        let told = Told {
            case,
            index,
            model,
            n_prompt: recorder.n_prompt(case, model),
            prompt_file: prompt_file.as_deref(),
        };
        for way in ways.iter().filter(|way| !way.is_text || has_text(case)) {
            match told.plan(way) {
                Ok(text) if way.is_text => plan.texts.push(text),
                Ok(reference) => plan.references.push(reference),
                Err(reason) => plan.refused.push(Refused {
                    case: index,
                    runner: way.name.clone(),
                    title: way.title.clone(),
                    reason,
                }),
            }
        }
    }
    Ok(plan)
}

/// Whether two programs should write the same text.
fn has_text(case: &Case) -> bool {
    !matches!(case.prompt, PromptSpec::Tokens(_)) && case.sampler.temp == 0.0
}

/// What other programs are told about a case.
struct Told<'a> {
    case: &'a Case,
    index: u32,
    model: &'a Path,
    n_prompt: Option<u32>,
    prompt_file: Option<&'a Path>,
}

impl Told<'_> {
    /// The commands of one way, or why there are none.
    fn plan(&self, way: &Way) -> Result<ReferencePlan, String> {
        let options = &self.case.engine;
        let threads = way.spec.as_ref().and_then(|spec| spec.threads);
        let threads = threads.unwrap_or(options.threads);
        let cpus = Topology::detect().plan(&options.affinity, threads, options.oversubscribe);
        let cpus = cpus.map_err(|e| e.to_string())?;
        let n_prompt = self.n_prompt;
        let work = Workload {
            case: self.case,
            facts: Facts {
                model: self.model,
                cpus: &cpus,
                n_prompt,
                rounds: 1,
            },
            program: &way.program,
            help: &way.help,
            variant: way.variant,
            spec: way.spec.as_ref(),
            prompt_file: self.prompt_file,
        };
        Ok(ReferencePlan {
            case: self.index,
            runner: way.name.clone(),
            title: way.title.clone(),
            kind: way.kind,
            commands: reference::commands(way.kind, &work)?,
            n_prompt: n_prompt.ok_or("the prompt cannot be counted: is the model here?")?,
            n_gen: self.case.n_gen,
            sha256: sha256(&way.program),
        })
    }
}

/// The file that holds the text of a case's prompt; one that the scenario names stays where it is.
fn prompt_file(case: &Case, results_dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    let PromptSpec::Text(text) = &case.prompt else {
        return Ok(None);
    };
    let name = &hex(&Sha256::digest(text))[..NAME_CHARS];
    let path = results_dir.join(PROMPTS).join(format!("{name}.txt"));
    Ok(Some(std::path::absolute(path)?))
}

/// Writes the prompts that commands read from files.
pub(super) fn write_prompts(
    scenario: &Scenario,
    ways: &[Way],
    results_dir: &Path,
) -> anyhow::Result<()> {
    let mut words = ways
        .iter()
        .filter_map(|way| way.spec.as_ref())
        .flat_map(|spec| &spec.command);
    if !words.any(|word| word.contains(PROMPT_FILE)) {
        return Ok(());
    }
    let folder = results_dir.join(PROMPTS);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make \"{}\"", folder.display()))?;
    for case in &scenario.cases {
        if let (PromptSpec::Text(text), Some(path)) =
            (&case.prompt, prompt_file(case, results_dir)?)
        {
            write_whole(&path, text.as_bytes())?;
        }
    }
    Ok(())
}

/// Hash of a program; `None` where it is looked for by its name, or is not there.
fn sha256(program: &Path) -> Option<String> {
    models::sha256(&mut File::open(program).ok()?).ok()
}

/// Whether the programs of a comparison are those it began with.
pub(super) fn require_same_programs(plan: &ComparisonPlan) -> anyhow::Result<()> {
    if let Some(build) = &plan.second.build
        && sha256(Path::new(&build.path)).as_ref() != Some(&build.sha256)
    {
        return Err(Fail::usage(format!(
            "cannot go on: the other build, \"{}\", changed since the comparison began; start a new one",
            build.path
        )));
    }
    for reference in plan.references.iter().chain(&plan.texts) {
        let program = reference.commands.first().and_then(|c| c.argv.first());
        let program = program.map(Path::new).unwrap_or(Path::new(""));
        if sha256(program) != reference.sha256 {
            let (title, path) = (&reference.title, program.display());
            return Err(Fail::usage(format!(
                "cannot go on: {title}, \"{path}\", changed since the comparison began; start a new one"
            )));
        }
    }
    Ok(())
}

/// The command lines of the other programs.
pub(super) fn shown(plan: &ComparisonPlan) -> String {
    let mut text = String::new();
    for reference in plan.references.iter().chain(&plan.texts) {
        let _ = writeln!(text, "{}", reference.title);
        for command in &reference.commands {
            let _ = writeln!(text, "  {}", repeat::join(&command.argv));
        }
    }
    for refused in &plan.refused {
        let _ = writeln!(text, "{}\n  not run: {}", refused.title, refused.reason);
    }
    text
}

/// Tasks, and how they belong together.
pub(super) struct WorkList {
    /// All of them.
    pub(super) tasks: Vec<Task>,
    /// Of each case, those that are compared with each other.
    pub(super) blocks: Vec<Vec<u32>>,
    /// Those that are done a single time.
    pub(super) once: Vec<u32>,
}

/// What a comparison's rounds are made of.
pub(super) fn work(scenario: &Scenario, manifest: &Manifest) -> anyhow::Result<WorkList> {
    let plan = manifest.comparison.as_ref();
    let plan = plan.context("the run is no comparison")?;
    let mut list = WorkList {
        tasks: plan::tasks(scenario, manifest),
        blocks: manifest.cases.iter().map(|c| vec![c.index]).collect(),
        once: vec![],
    };
    if plan.itself() {
        for task in second_engine(scenario, manifest, &plan.second)? {
            list.add(task, false);
        }
    }
    for (references, once) in [(&plan.references, false), (&plan.texts, true)] {
        for reference in references {
            let case = scenario.cases.get(reference.case as usize);
            let timeout_s = case
                .context("a program for a case that is not there")?
                .timeout_s;
            let task = Task {
                case: reference.case,
                runner: reference.runner.clone(),
                limit: Duration::from_secs(timeout_s),
                worker: None,
                work: Work::Reference(Box::new(reference.clone())),
            };
            list.add(task, once);
        }
    }
    Ok(list)
}

/// What sets a second engine apart: another build, other options, a busy wait.
///
/// # Errors
/// When the build cannot be read, or an override is none of the engine's options, or impossible.
pub(super) fn second(
    scenario: &Scenario,
    build: Option<&Path>,
    set: &[String],
    slow_down_percent: f64,
) -> anyhow::Result<SecondEngine> {
    if let Some(other) = set
        .iter()
        .find(|set| !set.trim_start().starts_with("engine."))
    {
        return Err(Fail::usage(format!(
            "--other-set \"{other}\" is no option of the engine: expected engine.KEY=VALUE, as the work must be the same"
        )));
    }
    let changed = changed(scenario, set)?;
    require_machine(&changed)?;
    let build = build.map(|path| {
        let path = std::path::absolute(path)?;
        let shown = path.display();
        let hash = sha256(&path).ok_or_else(|| {
            Fail::usage(format!(
                "cannot read \"{shown}\": --other-build is the file of a harness"
            ))
        })?;
        let program = Program {
            path: path.clone(),
            args: vec![WORKER.into()],
        };
        if !runner::is_worker(&program) {
            return Err(Fail::usage(format!(
                "\"{shown}\" does not answer as a worker: --other-build is the file of a harness"
            )));
        }
        anyhow::Ok(OtherBuild {
            path: path.display().to_string(),
            sha256: hash,
        })
    });
    let lossy = (0..).zip(&changed.cases);
    let lossy = lossy.filter(|(_, case)| case.engine.lossy_sparsity().is_some());
    Ok(SecondEngine {
        build: build.transpose()?,
        set: set.to_vec(),
        slow_down_percent,
        lossy: lossy.map(|(index, _)| index).collect(),
    })
}

/// The scenario as the second engine gets it.
pub(super) fn changed(scenario: &Scenario, set: &[String]) -> anyhow::Result<Scenario> {
    let overrides = [&scenario.overrides[..], set].concat();
    let other = scenario::parse(&scenario.text, &scenario.path, &overrides)?;
    match other.cases.len() == scenario.cases.len() {
        true => Ok(other),
        false => Err(Fail::usage(
            "--other-set changes an option that the scenario's matrix takes through several values: name another one",
        )),
    }
}

/// The tasks of the second engine.
fn second_engine(
    scenario: &Scenario,
    manifest: &Manifest,
    second: &SecondEngine,
) -> anyhow::Result<Vec<Task>> {
    let mut tasks = plan::tasks(&changed(scenario, &second.set)?, manifest);
    for task in &mut tasks {
        task.runner = ENGINE_AGAIN.into();
        task.worker = second.build.as_ref().map(|build| Program {
            path: build.path.clone().into(),
            args: vec![WORKER.into()],
        });
        if let Work::Worker(job) = &mut task.work {
            job.slow_down_percent = second.slow_down_percent;
        }
    }
    Ok(tasks)
}

impl WorkList {
    /// Adds a task to the block of its case, or to those that are done once.
    fn add(&mut self, task: Task, once: bool) {
        let index = self.tasks.len() as u32;
        match once {
            true => self.once.push(index),
            false => self.blocks[task.case as usize].push(index),
        }
        self.tasks.push(task);
    }
}
