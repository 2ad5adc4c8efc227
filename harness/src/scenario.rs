//! Scenarios: what to measure, read from a TOML file, checked, and expanded into cases.
//!
//! A file is read in four steps: its text into [`wire::Scenario`] (names and types, by serde); `--set` overrides;
//! `[matrix]` into cases ([`sweep`]); and each case against the rules no type can express ([`check`]). An error at any
//! step names file, line and column, or the `--set` that caused it.

mod check;
#[cfg(test)]
mod keys;
mod problem;
mod quality;
mod sweep;
mod wire;

pub(crate) use problem::nearest;
pub use quality::{BaseSpec, QualitySpec};
pub use wire::{FlashAttn, Order, Run, Synth};

use crate::counter;
use crate::exit::Fail;
use crate::record::{Figures, ReferenceKind, Swept, hex};
use anyhow::Context as _;
use engine::sample::SamplerOptions;
use problem::{Located, Problem, Source, dotted};
use sha2::{Digest, Sha256};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use toml::de::DeTable;
use toml::{Table, Value};

/// Longest scenario file, in bytes.
const SCENARIO_BYTES_MAX: u64 = 1 << 20;
/// Longest prompt file, in bytes.
const PROMPT_BYTES_MAX: u64 = 4 << 20;

/// A scenario, read and expanded.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Free space it needs for models, in bytes.
    pub disk_bytes_min: u64,
    /// The file it came from, as given.
    pub path: PathBuf,
    /// The file's text.
    pub text: String,
    /// SHA-256 of the text, hex.
    pub sha256: String,
    /// The overrides, as given.
    pub overrides: Vec<String>,
    /// Rounds, order and seeds. `n_gen`, `ignore_eos` and `timeout_s` may differ by case: take those from the case.
    pub run: Run,
    /// Other programs to compare with.
    pub references: Vec<ReferenceSpec>,
    /// How well the cases predict a text, if that is asked for.
    pub quality: Option<QualitySpec>,
    /// The cases, at least one.
    pub cases: Vec<Case>,
}

/// Another program that does the same work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceSpec {
    /// Name in tables and records.
    pub name: String,
    /// Which adapter it takes.
    pub kind: ReferenceKind,
    /// Folder of llama.cpp's programs, if it is not to be looked for.
    pub dir: Option<PathBuf>,
    /// Whether llama.cpp repacks weights for the instruction set; its default if `None`.
    pub repack: Option<bool>,
    /// llama.cpp's flash attention; its default if `None`.
    pub flash_attn: Option<FlashAttn>,
    /// Threads, if not as many as the engine's.
    pub threads: Option<usize>,
    /// The command of kind [`ReferenceKind::Command`].
    pub command: Vec<String>,
    /// Where such a command's rates stand.
    pub figures: Figures,
}

/// One point of a scenario's matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// `engine.threads=2 run.n_gen=64`, or the scenario's name if nothing is swept.
    pub name: String,
    /// The swept keys and their values.
    pub swept: Swept,
    /// The model.
    pub model: ModelSpec,
    /// The prompt.
    pub prompt: PromptSpec,
    /// Tokens to generate.
    pub n_gen: u32,
    /// Whether an end-of-text token is passed over.
    pub ignore_eos: bool,
    /// Time one repetition may take, in seconds.
    pub timeout_s: u64,
    /// Options of the engine.
    pub engine: engine::Options,
    /// How the next token is chosen.
    pub sampler: SamplerOptions,
    /// What is counted while it runs.
    pub counters: counter::Request,
    /// Hash the output must have, hex.
    pub expect_sha256: Option<String>,
}

/// Where a case's weights come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelSpec {
    /// A model of the catalogue, by name.
    Catalogue(String),
    /// A file.
    File(PathBuf),
    /// Seeded random weights.
    Synth(Synth),
}

/// What a case's model reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PromptSpec {
    /// A text.
    Text(String),
    /// A text from a file.
    File(PathBuf, String),
    /// So many seeded token ids.
    Tokens(u32),
}

/// Reads a scenario file and applies `--set` overrides.
///
/// # Errors
/// Whatever is wrong with the file or the overrides, with its place; exit code 2.
pub fn load(path: &Path, overrides: &[String]) -> anyhow::Result<Scenario> {
    let text = read_text(path, SCENARIO_BYTES_MAX).map_err(|e| Fail::usage(format!("{e:#}")))?;
    parse(&text, path, overrides)
}

/// Reads a scenario from its text. `path` names it in errors, and its folder is where relative paths start.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, path: &Path, overrides: &[String]) -> anyhow::Result<Scenario> {
    let name = path.display().to_string();
    let reader = Reader::new(Source { name: &name, text }, overrides);
    let reader = reader.map_err(|e| Fail::usage(e.to_string()))?;
    let mut scenario = reader.read(path).map_err(|e| Fail::usage(e.to_string()))?;
    scenario.overrides = overrides.to_vec();
    Ok(scenario)
}

/// A text file of limited size.
fn read_text(path: &Path, bytes_max: u64) -> anyhow::Result<String> {
    let shown = path.display();
    // Its text has the cause in it.
    let opened = engine::file::open(path).map_err(|e| anyhow::Error::msg(e.to_string()));
    let (file, _) = opened?;
    let mut bytes = Vec::new();
    let read = file.take(bytes_max + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("cannot read \"{shown}\""))?;
    if bytes.len() as u64 > bytes_max {
        anyhow::bail!("\"{shown}\" is longer than {bytes_max} bytes");
    }
    String::from_utf8(bytes).with_context(|| format!("\"{shown}\" is not UTF-8 text"))
}

/// A `--set key=value`.
struct Override<'a> {
    written: &'a str,
    path: Vec<String>,
}

/// A scenario file half read: everything needed to say where a problem is.
struct Reader<'a> {
    source: Source<'a>,
    doc: DeTable<'a>,
    /// Sections of the file with overrides applied, without `[matrix]` and `[[exclude]]`.
    base: Table,
    base_read: wire::Scenario,
    sets: Vec<Override<'a>>,
    axes: Vec<sweep::Axis>,
    points: Vec<sweep::Point>,
}

impl<'a> Reader<'a> {
    /// Reads names and types, and expands the matrix.
    fn new(source: Source<'a>, overrides: &'a [String]) -> Result<Reader<'a>, Located> {
        let syntax = |e: toml::de::Error| {
            let what = e.message().trim_end().replace('\n', ": ");
            Located::new(source, e.span(), &Problem::new("", what))
        };
        let doc = DeTable::parse(source.text).map_err(syntax)?.into_inner();
        let typed = |e: toml::de::Error| {
            let path = e.span().and_then(|span| problem::path_at(&doc, &span));
            // A missing section has no place.
            let span = e
                .span()
                .filter(|_| path.is_some() || !e.message().starts_with("missing"));
            let problem = Problem::from_serde(e.message(), &path.unwrap_or_default());
            Located::new(source, span, &elsewhere(problem))
        };
        let base_read: wire::Scenario = toml::from_str(source.text).map_err(typed)?;
        let mut base: Table = toml::from_str(source.text).map_err(syntax)?;
        base.remove("exclude");
        base.insert("matrix".into(), Value::Table(base_read.matrix.clone()));
        let mut reader = Reader {
            source,
            doc,
            base,
            base_read,
            sets: Vec::new(),
            axes: Vec::new(),
            points: Vec::new(),
        };
        overrides.iter().try_for_each(|text| reader.apply(text))?;
        reader.expand().map_err(|p| reader.locate(p))?;
        Ok(reader)
    }

    /// Applies one `--set`. Sections `model` and `prompt` hold one key, which it takes the place of.
    fn apply(&mut self, written: &'a str) -> Result<(), Located> {
        let source = Source {
            name: "--set",
            text: written,
        };
        let located = |problem: Problem| Located::new(source, Some(0..written.len()), &problem);
        let Some((key, value)) = written.split_once('=') else {
            let problem = Problem::new("", "expected key=value, such as engine.threads=1");
            return Err(located(problem));
        };
        let path = problem::split(key);
        if let [only] = &path[..] {
            let what = format!("\"{only}\" is not a dotted key");
            return Err(located(
                Problem::new("", what).help("write section.key=value, such as engine.threads=1"),
            ));
        }
        let value = value.trim();
        // Whatever is not a TOML value is taken as a bare string.
        let parsed = toml::from_str::<Table>(&format!("v = {value}"));
        let parsed = parsed.ok().and_then(|mut table| table.remove("v"));
        let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
        if let [section, one_of, ..] = &path[..]
            && ["model", "prompt"].contains(&section.as_str())
            && let Some(Value::Table(keys)) = self.base.get_mut(section)
        {
            keys.retain(|key, _| key == one_of);
        }
        sweep::set(&mut self.base, &path, value.clone()).map_err(located)?;
        // A fixed value takes the place of a sweep over the same key, and of what was left out of that.
        let key = problem::dotted(&path);
        if let Some(Value::Table(matrix)) = self.base.get_mut("matrix") {
            remove_axis(matrix, &key);
        }
        let mut exclude = std::mem::take(&mut self.base_read.exclude);
        exclude.retain_mut(|entry| match remove_axis(entry, &key) {
            None => true,
            Some(left_out) => left_out == value && !sweep::leaves(entry, &[]).is_empty(),
        });
        self.base_read = deserialize(&self.base, &path).map_err(located)?;
        self.base_read.exclude = exclude;
        self.sets.push(Override { written, path });
        Ok(())
    }

    /// Expands the matrix, and tries every value of every axis alone, so that a wrong one is blamed itself.
    fn expand(&mut self) -> Result<(), Problem> {
        let Some(Value::Table(matrix)) = self.base.remove("matrix") else {
            return Err(Problem::new("matrix", "expected a section"));
        };
        self.axes = sweep::axes(&matrix)?;
        for axis in &self.axes {
            for (i, value) in axis.values.iter().enumerate() {
                self.try_value(axis, value).map_err(|problem| {
                    let mut path = vec!["matrix".to_owned()];
                    path.extend(axis.written.clone());
                    if !problem.at_key {
                        path.push(i.to_string());
                    }
                    Problem { path, ..problem }
                })?;
            }
        }
        let one_at_a_time = self.base_read.scenario.one_at_a_time;
        self.points = sweep::points(&self.axes, &self.base_read.exclude, one_at_a_time)?;
        Ok(())
    }

    /// Reads the scenario with one value of one axis.
    fn try_value(&self, axis: &sweep::Axis, value: &Value) -> Result<(), Problem> {
        let mut table = self.base.clone();
        sweep::set(&mut table, &axis.path, value.clone())?;
        let mut read = deserialize(&table, &axis.path)?;
        // What concerns a single case may be swept; everything else belongs to the run as a whole.
        let base = &self.base_read;
        read.run.n_gen = base.run.n_gen;
        read.run.ignore_eos = base.run.ignore_eos;
        read.run.timeout_s = base.run.timeout_s;
        let same = read.scenario == base.scenario && read.quality == base.quality;
        if read.run != base.run || !same {
            let key = dotted(&axis.path);
            let what = format!("\"{key}\" concerns the run as a whole and cannot be swept");
            return Err(Problem::new(&key, what));
        }
        Ok(())
    }

    /// Checks the cases and puts everything together.
    fn read(&self, path: &Path) -> Result<Scenario, Located> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let base = &self.base_read;
        check::header(base).map_err(|p| self.locate(p))?;
        let cases = self.points.iter().map(|point| {
            let case = self.case(point, folder);
            case.map_err(|problem| self.locate_in(point, problem))
        });
        Ok(Scenario {
            name: base.scenario.name.clone(),
            description: base.scenario.description.clone(),
            disk_bytes_min: (base.scenario.min_disk_gb * 1e9) as u64,
            path: path.to_owned(),
            text: self.source.text.to_owned(),
            sha256: hex(&Sha256::digest(self.source.text)),
            overrides: Vec::new(),
            run: base.run.clone(),
            references: base
                .reference
                .iter()
                .map(|r| reference(r, folder))
                .collect(),
            quality: quality::spec(base.quality.as_ref(), folder).map_err(|p| self.locate(p))?,
            cases: cases.collect::<Result<_, _>>()?,
        })
    }

    /// The case at one point of the matrix.
    fn case(&self, point: &sweep::Point, folder: &Path) -> Result<Case, Problem> {
        let mut table = self.base.clone();
        let mut swept = Swept::new();
        let mut name = Vec::new();
        for (axis, &at) in self.axes.iter().zip(point) {
            let (key, value) = (dotted(&axis.path), &axis.values[at]);
            sweep::set(&mut table, &axis.path, value.clone())?;
            let json = serde_json::to_value(value);
            let json = json.map_err(|e| Problem::new(&key, e.to_string()))?;
            // Where one key departs at a time, that one says it all.
            if at > 0 || !self.base_read.scenario.one_at_a_time {
                name.push(format!("{key}={}", axis.shown(at)));
            }
            swept.insert(key, json);
        }
        let last = self.axes.last().map(|axis| axis.path.clone());
        let read = deserialize(&table, &last.unwrap_or_default())?;
        check::case(&read)?;
        Ok(Case {
            name: match name.is_empty() {
                true => read.scenario.name.clone(),
                false => name.join(" "),
            },
            swept,
            model: model(read.model, folder)?,
            prompt: prompt(read.prompt, folder)?,
            n_gen: read.run.n_gen,
            ignore_eos: read.run.ignore_eos,
            timeout_s: read.run.timeout_s,
            engine: engine(read.engine, folder),
            sampler: read.sampler,
            counters: read.counters,
            expect_sha256: read.expect.output_sha256.map(|hash| hash.to_lowercase()),
        })
    }

    /// The place of a problem: the `--set` that caused it, else the file.
    fn locate(&self, problem: Problem) -> Located {
        let set = self
            .sets
            .iter()
            .rfind(|set| problem.path.starts_with(&set.path));
        if let Some(set) = set {
            let source = Source {
                name: "--set",
                text: set.written,
            };
            return Located::new(source, Some(0..set.written.len()), &problem);
        }
        let span = problem::span_of(&self.doc, &problem.path, problem.at_key);
        Located::new(self.source, span, &problem)
    }

    /// The place of a problem of one case: the value of an axis if the problem is about a swept key.
    fn locate_in(&self, point: &sweep::Point, problem: Problem) -> Located {
        let mut axes = self.axes.iter().zip(point);
        match axes.rfind(|(axis, _)| problem.path.starts_with(&axis.path)) {
            Some((axis, at)) => {
                let mut path = vec!["matrix".to_owned()];
                path.extend(axis.written.clone());
                path.push(at.to_string());
                self.locate(Problem { path, ..problem })
            }
            None => self.locate(problem),
        }
    }
}

/// Options of the engine; paths start at the scenario's folder.
fn engine(mut read: engine::Options, folder: &Path) -> engine::Options {
    for path in read.files_mut() {
        *path = folder.join(&path);
    }
    if !read.packed_cache.as_os_str().is_empty() {
        read.packed_cache = folder.join(&read.packed_cache);
    }
    read
}

/// Another program; paths start at the scenario's folder.
fn reference(read: &wire::Reference, folder: &Path) -> ReferenceSpec {
    ReferenceSpec {
        name: read.name.clone(),
        kind: read.kind,
        dir: read.dir.as_ref().map(|dir| folder.join(dir)),
        repack: read.repack,
        flash_attn: read.flash_attn,
        threads: read.threads,
        command: read.command.clone(),
        figures: Figures {
            prefill_tok_s: read.prefill_tok_s.clone(),
            decode_tok_s: read.decode_tok_s.clone(),
        },
    }
}

/// A table as a scenario; an error is about `path`.
fn deserialize(table: &Table, path: &[String]) -> Result<wire::Scenario, Problem> {
    let read = wire::Scenario::deserialize_table(table.clone());
    read.map_err(|e| elsewhere(Problem::from_serde(e.message(), path)))
}

impl wire::Scenario {
    fn deserialize_table(table: Table) -> Result<wire::Scenario, toml::de::Error> {
        Value::Table(table).try_into()
    }
}

/// Removes what stands at a dotted key, however it is written, and gives it.
fn remove_axis(matrix: &mut Table, key: &str) -> Option<Value> {
    matrix.remove(key).or_else(|| {
        let (section, rest) = key.split_once('.')?;
        remove_axis(matrix.get_mut(section)?.as_table_mut()?, rest)
    })
}

/// If an unknown key is a key of another section, says so. The names come from serde: every section is asked for its
/// own by giving it a key that none has.
fn elsewhere(problem: Problem) -> Problem {
    let Some((key, _)) = problem
        .what
        .strip_prefix("unknown key \"")
        .and_then(|rest| rest.split_once('"'))
    else {
        return problem;
    };
    let near = problem
        .help
        .as_ref()
        .is_some_and(|h| h.contains("did you mean"));
    let home = section_names().into_iter().find(|section| {
        let names = key_names(&format!("{section}.?"));
        names.iter().any(|name| name == key)
    });
    match home.filter(|_| !near) {
        Some(section) => {
            let help = format!("\"{key}\" belongs in [{section}]");
            problem.help(help)
        }
        None => problem,
    }
}

/// Names of the sections of a scenario.
fn section_names() -> Vec<String> {
    key_names("?")
}

/// Names that are valid in place of the last part of a dotted key, as serde lists them.
fn key_names(path: &str) -> Vec<String> {
    let mut table = Table::new();
    let path: Vec<String> = path.split('.').map(str::to_owned).collect();
    if sweep::set(&mut table, &path, Value::Boolean(true)).is_err() {
        return Vec::new();
    }
    let message = match wire::Scenario::deserialize_table(table) {
        Ok(_) => return Vec::new(),
        Err(e) => e.message().to_owned(),
    };
    let unknown = message.starts_with("unknown field");
    let names = message.split('`').skip(1).step_by(2).skip(1);
    names.filter(|_| unknown).map(str::to_owned).collect()
}

/// The model of a case; paths start at the scenario's folder.
fn model(model: wire::Model, folder: &Path) -> Result<ModelSpec, Problem> {
    if let Some(name) = model.name {
        return Ok(ModelSpec::Catalogue(name));
    }
    if let Some(path) = model.path {
        return Ok(ModelSpec::File(folder.join(path)));
    }
    let synth = model.synth.ok_or_else(check::no_model)?;
    let shape = match synth.shape.ends_with(".toml") {
        true => folder.join(&synth.shape).display().to_string(),
        false => synth.shape.clone(),
    };
    Ok(ModelSpec::Synth(Synth { shape, ..synth }))
}

/// The prompt of a case; a file is read.
fn prompt(prompt: wire::Prompt, folder: &Path) -> Result<PromptSpec, Problem> {
    if let Some(text) = prompt.text {
        return Ok(PromptSpec::Text(text));
    }
    if let Some(tokens) = prompt.tokens {
        return Ok(PromptSpec::Tokens(tokens));
    }
    let path = folder.join(prompt.file.ok_or_else(check::no_prompt)?);
    let text = read_text(&path, PROMPT_BYTES_MAX);
    let text = text.map_err(|e| Problem::new("prompt.file", format!("{e:#}")))?;
    match text.is_empty() {
        true => Err(Problem::new(
            "prompt.file",
            format!("\"{}\" is empty", path.display()),
        )),
        false => Ok(PromptSpec::File(
            std::path::absolute(&path).unwrap_or(path),
            text,
        )),
    }
}

#[cfg(test)]
mod tests;
