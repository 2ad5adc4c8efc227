//! A scenario made ready to run: models, jobs, manifest, and what is said before anything starts.

use super::table;
use crate::clock;
use crate::host::{HostFacts, plural};
use crate::measure::{Slot, Task, Work};
use crate::models::{self, ModelStore};
use crate::probe;
use crate::record::{
    BinaryRecord, CaseRecord, ENGINE, Manifest, ModelRecord, Phase, QualityBase, QualityPlan,
    RepeatCommand, SCHEMA_VERSION, ScenarioRecord, probed,
};
use crate::repeat::{self, Facts};
use crate::runner::quality::require_window;
use crate::runner::{Job, JobPrompt, PROTOCOL_VERSION, Program, engine};
use crate::scenario::{BaseSpec, Case, ModelSpec, PromptSpec, Scenario};
use ::engine::sparsity::Thresholds;
use ::engine::topology::Topology;
use anyhow::Context as _;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A scenario as `--list` and `--dry-run` show it: nothing is fetched.
pub(in crate::cmd) struct Shown {
    /// The cases.
    pub(in crate::cmd) cases: Vec<CaseRecord>,
    /// The model of each case.
    pub(in crate::cmd) model_names: Vec<String>,
    jobs: Vec<Job>,
}

impl Shown {
    pub(in crate::cmd) fn new(scenario: &Scenario, store: &ModelStore) -> anyhow::Result<Shown> {
        let mut shown = Shown {
            cases: vec![],
            model_names: vec![],
            jobs: vec![],
        };
        let mut recorder = Recorder::new(scenario);
        for (index, case) in scenario.cases.iter().enumerate() {
            let found = store.find(&case.model)?;
            shown.cases.push(recorder.case(index, 0, &found.path));
            shown.jobs.push(job(scenario, case, &found.path, None));
            shown.model_names.push(match found.present {
                true => found.name,
                false => format!("{} (to be fetched)", found.name),
            });
        }
        Ok(shown)
    }

    /// The model file of each case.
    pub(in crate::cmd) fn model_paths(&self) -> Vec<PathBuf> {
        self.jobs.iter().map(|job| job.model.clone()).collect()
    }

    /// The exact command lines, case by case.
    pub(in crate::cmd) fn commands(&self, worker: &Program) -> anyhow::Result<String> {
        let mut text = String::new();
        let words = std::iter::once(worker.path.as_os_str())
            .chain(worker.args.iter().map(|a| a.as_os_str()));
        let words: Vec<String> = words.map(|w| repeat::quote(&w.to_string_lossy())).collect();
        for (case, job) in self.cases.iter().zip(&self.jobs) {
            let job = repeat::quote(&serde_json::to_string(job)?);
            let _ = writeln!(text, "{}", case.name);
            let _ = writeln!(text, "  printf %s {job} | {}", words.join(" "));
            text.push_str(&table::commands(&case.repeat));
        }
        Ok(text)
    }
}

/// Fetches or makes the models of all cases; each distinct one once, in the order of the cases.
pub(in crate::cmd) fn models(
    scenario: &Scenario,
    store: &ModelStore,
) -> anyhow::Result<Vec<(ModelSpec, ModelRecord)>> {
    let mut specs: Vec<&ModelSpec> = Vec::new();
    for case in &scenario.cases {
        if !specs.contains(&&case.model) {
            specs.push(&case.model);
        }
    }
    let found = specs.iter().map(|spec| store.find(spec));
    let found = found.collect::<anyhow::Result<Vec<_>>>()?;
    if found.iter().any(|f| !f.present) {
        models::require_space(store.dir(), scenario.disk_bytes_min)?;
    }
    specs
        .into_iter()
        .map(|spec| Ok((spec.clone(), store.ensure(spec)?)))
        .collect()
}

/// The manifest of a run that starts now.
pub(in crate::cmd) fn manifest(
    recorder: &mut Recorder<'_>,
    models: &[(ModelSpec, ModelRecord)],
    worker: &Program,
    store: &ModelStore,
) -> anyhow::Result<Manifest> {
    let scenario = recorder.scenario;
    let cases = scenario.cases.iter().enumerate().map(|(index, case)| {
        let model = models.iter().position(|(spec, _)| *spec == case.model);
        let model = model.context("a case without its model")?;
        let path = models[model].1.path.clone();
        Ok(recorder.case(index, model, Path::new(&path)))
    });
    Ok(Manifest {
        schema_version: SCHEMA_VERSION,
        created_at: clock::timestamp(),
        scenario: ScenarioRecord {
            name: scenario.name.clone(),
            description: scenario.description.clone(),
            // Paths in it start at its folder, from wherever the run is taken up again.
            path: std::path::absolute(&scenario.path)?.display().to_string(),
            text: scenario.text.clone(),
            sha256: scenario.sha256.clone(),
            overrides: scenario.overrides.clone(),
        },
        binary: binary(worker)?,
        host: HostFacts::read(),
        rounds: scenario.run.rounds,
        warmup: scenario.run.warmup,
        order_seed: scenario.run.seed,
        cases: cases.collect::<anyhow::Result<_>>()?,
        models: models.iter().map(|(_, record)| record.clone()).collect(),
        comparison: None,
        files: files(scenario, store),
        thresholds: thresholds(scenario),
        quality: quality_plan(scenario, models, store)?,
    })
}

/// The files that options name, by absolute paths, as a run is gone on with from anywhere, and their hashes; one that is not there
/// is missed by the engine.
fn files(scenario: &Scenario, store: &ModelStore) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for case in &scenario.cases {
        for path in case.engine.clone().files_mut() {
            let Ok(path) = std::path::absolute(path) else {
                continue;
            };
            let name = path.display().to_string();
            if files.contains_key(&name) {
                continue;
            }
            if let Ok((_, sha256)) = store.content(&path, &name) {
                files.insert(name, sha256);
            }
        }
    }
    files
}

/// The thresholds that cases leave channels out by; the engine says what is wrong with those that cannot be read.
fn thresholds(scenario: &Scenario) -> BTreeMap<String, Thresholds> {
    let all = scenario.cases.iter();
    let all = all.filter_map(|case| case.engine.sparsity.as_ref());
    let leaving_out = all.filter(|sparsity| !sparsity.method.sites().is_empty());
    let paths = leaving_out.map(|sparsity| &sparsity.thresholds);
    let read = |path: &PathBuf| Some((path.display().to_string(), Thresholds::open(path).ok()?));
    paths.filter_map(read).collect()
}

/// What quality is measured on, if it is.
fn quality_plan(
    scenario: &Scenario,
    models: &[(ModelSpec, ModelRecord)],
    store: &ModelStore,
) -> anyhow::Result<Option<QualityPlan>> {
    let Some(spec) = &scenario.quality else {
        return Ok(None);
    };
    for (_, model) in models {
        require_window(Path::new(&model.path), &spec.corpus, spec.ctx)
            .context("\"quality.corpus\"")?;
    }
    let base = match &spec.base {
        BaseSpec::Own(format) => QualityBase::Own(format.clone()),
        BaseSpec::File(path) => QualityBase::File {
            path: path.display().to_string(),
            sha256: store
                .content(path, "the base")
                .context("the base of [quality]")?
                .1,
        },
    };
    Ok(Some(QualityPlan {
        corpus: spec.corpus.display().to_string(),
        corpus_sha256: spec.corpus_sha256.clone(),
        ctx: spec.ctx,
        windows: spec.windows,
        base,
    }))
}

/// What this program is, and the hash of the one that works.
fn binary(worker: &Program) -> anyhow::Result<BinaryRecord> {
    let path = &worker.path;
    let file =
        File::open(path).with_context(|| format!("cannot open worker \"{}\"", path.display()));
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(BinaryRecord {
        version: env!("CARGO_PKG_VERSION").into(),
        sha256: models::sha256(&mut file?)?,
        git_commit: known(env!("HARNESS_COMMIT")),
        compiler: known(env!("HARNESS_COMPILER")),
        profile: env!("HARNESS_PROFILE").into(),
    })
}

/// Makes the records of cases. Prompts are counted in tokens, each once; not while the model is not there.
pub(in crate::cmd) struct Recorder<'a> {
    scenario: &'a Scenario,
    counts: HashMap<(PathBuf, String), Option<u32>>,
}

impl<'a> Recorder<'a> {
    pub(in crate::cmd) fn new(scenario: &'a Scenario) -> Recorder<'a> {
        Recorder {
            scenario,
            counts: HashMap::new(),
        }
    }

    /// The record of a case, whose model is the `model`-th of the manifest and lies at `path`.
    fn case(&mut self, index: usize, model: usize, path: &Path) -> CaseRecord {
        let case = &self.scenario.cases[index];
        let (prompt, prompt_tokens) = match &case.prompt {
            PromptSpec::Text(text) | PromptSpec::File(_, text) => (Some(text.clone()), None),
            PromptSpec::Tokens(tokens) => (None, Some(*tokens)),
        };
        CaseRecord {
            index: index as u32,
            name: case.name.clone(),
            swept: case.swept.clone(),
            model,
            engine: case.engine.clone(),
            n_gen: case.n_gen,
            prompt,
            prompt_tokens,
            temp: Some(case.sampler.temp),
            expect_sha256: case.expect_sha256.clone(),
            repeat: self.repeat(case, path),
        }
    }

    /// How many tokens the prompt of a case has; `None` while its model is not there.
    pub(in crate::cmd) fn n_prompt(&mut self, case: &Case, model: &Path) -> Option<u32> {
        match &case.prompt {
            PromptSpec::Tokens(tokens) => Some(*tokens),
            PromptSpec::Text(text) | PromptSpec::File(_, text) => {
                let known = self.counts.entry((model.to_owned(), text.clone()));
                *known.or_insert_with(|| engine::count_tokens(model, text).ok())
            }
        }
    }

    /// llama.cpp's command lines; none where this machine cannot run the case, which the engine will then refuse itself.
    fn repeat(&mut self, case: &Case, model: &Path) -> Vec<RepeatCommand> {
        let e = &case.engine;
        let cpus = Topology::detect().plan(&e.affinity, e.threads, e.oversubscribe);
        let n_prompt = self.n_prompt(case, model);
        let Ok(cpus) = cpus else {
            return Vec::new();
        };
        let facts = Facts {
            model,
            cpus: &cpus,
            n_prompt,
            rounds: self.scenario.run.rounds,
        };
        repeat::commands(case, &facts)
    }
}

/// What is repeated in every round.
pub(in crate::cmd) fn tasks(scenario: &Scenario, manifest: &Manifest) -> Vec<Task> {
    let parent = Some(std::process::id() as i32);
    let cases = scenario.cases.iter().zip(&manifest.cases);
    let tasks = cases.map(|(case, record)| {
        let path = &manifest.models[record.model].path;
        Task {
            case: record.index,
            runner: ENGINE.into(),
            limit: Duration::from_secs(case.timeout_s),
            worker: None,
            work: Work::Worker(Box::new(job(scenario, case, Path::new(path), parent))),
        }
    });
    tasks.collect()
}

/// The peaks taken in every round: one for each setting of the cases that bears on them.
pub(in crate::cmd) fn probes(scenario: &Scenario, manifest: &Manifest) -> Vec<probe::Job> {
    let mut jobs: Vec<probe::Job> = Vec::new();
    for case in manifest.cases.iter().filter(|_| scenario.run.probe) {
        let engine = probed(&case.engine);
        if !jobs.iter().any(|job| job.engine == engine) {
            let points = probe::round_points(&manifest.host);
            jobs.push(probe::Job { engine, points });
        }
    }
    jobs
}

fn job(scenario: &Scenario, case: &Case, model: &Path, parent: Option<i32>) -> Job {
    Job {
        protocol: PROTOCOL_VERSION,
        model: model.to_owned(),
        prompt: match &case.prompt {
            PromptSpec::Text(text) | PromptSpec::File(_, text) => JobPrompt::Text(text.clone()),
            PromptSpec::Tokens(tokens) => JobPrompt::Random {
                tokens: *tokens,
                seed: scenario.run.seed,
            },
        },
        n_gen: case.n_gen,
        ignore_eos: case.ignore_eos,
        engine: case.engine.clone(),
        sampler: case.sampler,
        parent,
        slow_down_percent: 0.0,
        simulated: None,
        counters: case.counters.clone(),
    }
}

/// What differs between a run that began and one that would go on with it.
pub(in crate::cmd) fn differences(began: &Manifest, now: &Manifest) -> Vec<&'static str> {
    let hashes = |m: &Manifest| {
        m.models
            .iter()
            .map(|m| m.sha256.clone())
            .collect::<Vec<_>>()
    };
    let prompts = |m: &Manifest| m.cases.iter().map(|c| c.prompt.clone()).collect::<Vec<_>>();
    let rows = [
        ("the scenario", began.scenario.sha256 == now.scenario.sha256),
        ("--set", began.scenario.overrides == now.scenario.overrides),
        ("a prompt file", prompts(began) == prompts(now)),
        ("a file that an option names", began.files == now.files),
        ("a model file", hashes(began) == hashes(now)),
        (
            "the text or the base of [quality]",
            began.quality == now.quality,
        ),
        ("the program", began.binary.sha256 == now.binary.sha256),
    ];
    rows.into_iter()
        .filter(|(_, same)| !same)
        .map(|(what, _)| what)
        .collect()
}

/// What a run is going to do, in a line.
pub(in crate::cmd) fn promise(scenario: &Scenario, slots: &[Slot]) -> String {
    let warmup = slots.iter().filter(|s| s.phase == Phase::Warmup).count();
    let cases = plural(scenario.cases.len(), "case");
    let warm_ups = plural(warmup, "warm-up");
    let measured = slots.len() - warmup;
    format!("{cases}, {measured} measured after {warm_ups}, each repetition in a fresh process")
}
