//! Whether a run is as good as a baseline: per case and metric one of five states, and the files a CI system shows.
//!
//! The two runs were made at different times, so what a machine's drift did between them is part of every difference. A
//! baseline of several runs tells how large that is: the spread of its runs' medians is the floor that a change must
//! exceed twice. Where code of two versions can be run side by side, `harness compare` needs no such care.

mod output;

pub use output::{annotations, junit, markdown};

use crate::measure::ENGINE;
use crate::metric::{Kind, Metric};
use crate::record::{CaseRecord, Manifest, QualityBase, Run, Simulated, write_whole};
use crate::stats;
use crate::summary::{Summary, summaries};
use crate::verdict::{self, Better, Change, Judged, Rule, Verdict};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a fingerprint names, in messages.
pub const MACHINE: &str = "machine";
/// Name of the last verdict on a run, in its folder.
const STORED: &str = "gate.json";
/// Version of the JSON verdict.
pub const SCHEMA_VERSION: u32 = 1;
/// Change of a counted metric that counts: 0.01 is 1 %.
const COUNT_CHANGE_MIN: f64 = 0.01;
/// Fewest runs of a baseline that tell how the machine drifts.
const DRIFT_RUNS_MIN: usize = 3;
/// Turns a median absolute deviation into a standard deviation, for values that are normally distributed.
const MAD_TO_DEVIATION: f64 = 1.4826;

/// How a metric of a case stands against the baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No difference that counts.
    Pass,
    /// Better.
    Improvement,
    /// Worse.
    Regression,
    /// Too few repetitions or too much noise.
    Inconclusive,
    /// The two runs did not do the same work, or not on the same machine.
    Incomparable,
}

impl State {
    /// The state as a word.
    pub fn name(self) -> &'static str {
        match self {
            State::Pass => "pass",
            State::Improvement => "improvement",
            State::Regression => "regression",
            State::Inconclusive => "inconclusive",
            State::Incomparable => "incomparable",
        }
    }
}

/// One metric of one case.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Name of the case.
    pub case: String,
    /// Name of the metric; empty where the case as a whole cannot be compared.
    pub metric: String,
    /// Unit of the metric.
    pub unit: String,
    /// How it stands.
    pub state: State,
    /// Median in the baseline.
    pub baseline: Option<f64>,
    /// Median in the run.
    pub found: Option<f64>,
    /// The change and what it was held against; `None` for counts and where nothing could be compared.
    pub judged: Option<Judged>,
    /// Why, where the numbers do not say it.
    pub reason: Option<String>,
}

/// All rows, and where they come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gate {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The run that was judged.
    pub run: String,
    /// What it was held against.
    pub baseline: String,
    /// Runs in the baseline.
    pub baseline_runs: usize,
    /// When a change counts.
    pub rule: Rule,
    /// The worst state, the one that decides.
    pub state: State,
    /// One row a case and metric.
    pub rows: Vec<Row>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Holds a run against a baseline of one or more runs, the latest last.
pub fn gate(run: &Run, baseline: &[Run], metrics: &[&'static Metric], rule: &Rule) -> Gate {
    let mut rows = Vec::new();
    for summary in summaries(run).iter().filter(|s| s.runner == ENGINE) {
        rows.extend(case(run, summary, baseline, metrics, rule));
    }
    for gone in missing(run, baseline) {
        rows.push(incomparable(&gone, "the run does not have this case"));
    }
    let state = worst(&rows);
    let mut notes = Vec::new();
    if baseline.len() < DRIFT_RUNS_MIN && metrics.iter().any(|m| m.kind == Kind::Timed) {
        notes.push(format!(
            "the baseline holds {}: how the machine drifts from run to run is unknown; save {DRIFT_RUNS_MIN} or more of one commit, or measure both versions side by side",
            crate::host::plural(baseline.len(), "run")
        ));
    }
    Gate {
        schema_version: SCHEMA_VERSION,
        run: String::new(),
        baseline: String::new(),
        baseline_runs: baseline.len(),
        rule: *rule,
        state,
        rows,
        notes,
    }
}

impl Gate {
    /// Leaves the verdict in the run's folder, where its report finds it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn store(&self, run_dir: &Path) -> anyhow::Result<()> {
        write_whole(&run_dir.join(STORED), &serde_json::to_vec_pretty(self)?)
    }

    /// Removes the verdict on a run that goes on: it was about what the run was.
    ///
    /// # Errors
    /// If there is one that cannot be removed.
    pub fn forget(run_dir: &Path) -> anyhow::Result<()> {
        let path = run_dir.join(STORED);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove \"{}\"", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The last verdict on a run; `None` if there is none of this version.
    pub fn stored(run_dir: &Path) -> Option<Gate> {
        let bytes = std::fs::read(run_dir.join(STORED)).ok()?;
        let gate: Gate = serde_json::from_slice(&bytes).ok()?;
        (gate.schema_version == SCHEMA_VERSION).then_some(gate)
    }
}

/// The state that decides: a regression before everything, then what could not be told.
fn worst(rows: &[Row]) -> State {
    let order = [
        State::Regression,
        State::Incomparable,
        State::Inconclusive,
        State::Improvement,
    ];
    let found = order
        .into_iter()
        .find(|state| rows.iter().any(|row| row.state == *state));
    match found {
        Some(state) => state,
        None if rows.is_empty() => State::Incomparable,
        None => State::Pass,
    }
}

/// Cases of the baseline that the run lacks.
fn missing(run: &Run, baseline: &[Run]) -> Vec<String> {
    let has = |name: &str| run.manifest.cases.iter().any(|case| case.name == name);
    let last = baseline.last().map(|run| run.manifest.cases.iter());
    let names = last.into_iter().flatten().map(|case| case.name.clone());
    names.filter(|name| !has(name)).collect()
}

/// The rows of one case.
fn case(
    run: &Run,
    summary: &Summary<'_>,
    baseline: &[Run],
    metrics: &[&'static Metric],
    rule: &Rule,
) -> Vec<Row> {
    let name = &summary.case.name;
    let mut comparable = Vec::new();
    let mut why = "the baseline does not have this case".to_owned();
    for base in baseline {
        let found = summaries(base)
            .into_iter()
            .find(|b| b.case.name == *name && b.runner == summary.runner);
        let Some(found) = found else { continue };
        match differences(run, summary, base, &found) {
            all if all.is_empty() => comparable.push((base, found)),
            all => why = format!("not the same: {}", all.join(", ")),
        }
    }
    if summary.mismatches > 0 {
        return vec![incomparable(
            name,
            "its repetitions wrote different outputs",
        )];
    }
    if comparable.is_empty() {
        return vec![incomparable(name, &why)];
    }
    let same_host = comparable
        .iter()
        .all(|(base, _)| base.manifest.host.fingerprint() == run.manifest.host.fingerprint());
    let rows = metrics.iter().filter_map(|metric| {
        let values: Vec<Vec<f64>> = comparable
            .iter()
            .map(|(base, found)| metric.values(base, found))
            .collect();
        let found = metric.values(run, summary);
        if found.is_empty() && values.iter().all(Vec::is_empty) {
            return None;
        }
        let row = match metric.kind {
            Kind::Timed if !same_host => {
                let mut row = incomparable(name, "measured on another machine");
                (row.metric, row.unit) = (metric.name.to_owned(), metric.unit.to_owned());
                row
            }
            Kind::Timed => timed(name, metric, &values, &found, rule),
            Kind::Simulated { .. } | Kind::Predicted if values.iter().all(Vec::is_empty) => {
                return None;
            }
            Kind::Predicted => match comparable.last().and_then(|(base, _)| text(run, base)) {
                None => counted(name, metric, &values, &found),
                Some(why) => Row {
                    metric: metric.name.to_owned(),
                    unit: metric.unit.to_owned(),
                    ..incomparable(name, why)
                },
            },
            Kind::Simulated { caches } => {
                let last = comparable
                    .last()
                    .map(|(base, found)| (*base, found.case.index));
                match last.and_then(|last| setting(run, summary.case.index, last, caches)) {
                    None => counted(name, metric, &values, &found),
                    Some(why) => Row {
                        metric: metric.name.to_owned(),
                        unit: metric.unit.to_owned(),
                        ..incomparable(name, why)
                    },
                }
            }
            Kind::Counted => counted(name, metric, &values, &found),
        };
        Some(row)
    });
    rows.collect()
}

fn incomparable(case: &str, why: &str) -> Row {
    Row {
        case: case.to_owned(),
        metric: String::new(),
        unit: String::new(),
        state: State::Incomparable,
        baseline: None,
        found: None,
        judged: None,
        reason: Some(why.to_owned()),
    }
}

/// What two runs of a case must share for their numbers to mean the same, and do not.
fn differences(run: &Run, a: &Summary<'_>, base: &Run, b: &Summary<'_>) -> Vec<&'static str> {
    let model = |manifest: &Manifest, case: &CaseRecord| {
        manifest.models.get(case.model).map(|m| m.sha256.clone())
    };
    let isa = |s: &Summary<'_>| s.counted.first().and_then(|first| first.isa.clone());
    let threads = |s: &Summary<'_>| s.counted.first().and_then(|first| first.threads);
    let (x, y) = (a.case, b.case);
    let rows = [
        ("model", model(&run.manifest, x) == model(&base.manifest, y)),
        (
            "prompt",
            (&x.prompt, x.prompt_tokens) == (&y.prompt, y.prompt_tokens),
        ),
        ("number of tokens", x.n_gen == y.n_gen),
        ("engine options", x.engine == y.engine),
        ("threads", threads(a) == threads(b)),
        ("instruction set", isa(a) == isa(b)),
        (
            "build profile",
            run.manifest.binary.profile == base.manifest.binary.profile,
        ),
        ("output", a.output_sha256() == b.output_sha256()),
    ];
    let differing = rows.into_iter().filter(|(_, same)| !same);
    differing.map(|(what, _)| what).collect()
}

/// What two simulations of a case must share for their counts to mean the same, and do not. A missing one is for
/// [`counted`] to say.
fn setting(
    run: &Run,
    case: u32,
    (base, base_case): (&Run, u32),
    caches: bool,
) -> Option<&'static str> {
    let (a, b) = (run.simulated(case)?, base.simulated(base_case)?);
    let tokens = |s: &Simulated| (s.prefill.tokens, s.decode.as_ref().map(|d| d.tokens));
    if (&a.isa, a.threads, tokens(a)) != (&b.isa, b.threads, tokens(b)) {
        return Some("simulated with other instructions, threads or tokens");
    }
    let shapes = |s: &Simulated| (s.l1i, s.l1d, s.ll);
    (caches && shapes(a) != shapes(b)).then_some("simulated with other caches")
}

/// What two measurements of quality must share for their figures to mean the same, and do not. Where a file lies does not
/// matter.
fn text(run: &Run, base: &Run) -> Option<&'static str> {
    let of = |run: &Run| {
        let quality = run.manifest.quality.as_ref()?;
        let base = match &quality.base {
            QualityBase::Own(format) => format.clone(),
            QualityBase::File { sha256, .. } => sha256.clone(),
        };
        Some((
            quality.corpus_sha256.clone(),
            quality.ctx,
            quality.windows,
            base,
        ))
    };
    (of(run) != of(base)).then_some("measured on another text, other windows or another base")
}

/// A metric that scatters.
fn timed(case: &str, metric: &Metric, baseline: &[Vec<f64>], found: &[f64], rule: &Rule) -> Row {
    let pooled = baseline.concat();
    let floor = drift(baseline);
    let change = Change::unpaired(&pooled, found, rule.confidence);
    let judged = change.map(|change| verdict::judge(change, floor, metric.better, rule));
    let (state, reason) = match &judged {
        None => (
            State::Inconclusive,
            Some("fewer than two repetitions on a side".to_owned()),
        ),
        Some(judged) => (state(judged.verdict), undecided(judged, rule)),
    };
    Row {
        case: case.to_owned(),
        metric: metric.name.to_owned(),
        unit: metric.unit.to_owned(),
        state,
        baseline: stats::median(&pooled),
        found: stats::median(found),
        judged,
        reason,
    }
}

fn state(verdict: Verdict) -> State {
    match verdict {
        Verdict::Pass => State::Pass,
        Verdict::Regression => State::Regression,
        Verdict::Improvement => State::Improvement,
        Verdict::Inconclusive => State::Inconclusive,
    }
}

/// What would decide a case that is not decided.
fn undecided(judged: &Judged, rule: &Rule) -> Option<String> {
    if judged.verdict != Verdict::Inconclusive {
        return None;
    }
    let rounds = judged.change.rounds;
    if rounds < rule.rounds_min {
        let needed = judged.rounds_advised.unwrap_or(rule.rounds_min);
        return Some(format!(
            "{rounds} rounds on the smaller side: a verdict needs at least {}, here about {needed}",
            rule.rounds_min
        ));
    }
    Some(match judged.rounds_advised {
        Some(n) => format!("too noisy: needs about {n} rounds"),
        None => "too noisy for any number of rounds: quieten the machine (`harness doctor`)".into(),
    })
}

/// How far a baseline's runs lie apart, as a ratio minus one: the standard deviation of the logarithms of their medians,
/// from the median absolute deviation. `None` below [`DRIFT_RUNS_MIN`] runs.
fn drift(baseline: &[Vec<f64>]) -> Option<f64> {
    let medians = baseline.iter().filter_map(|values| stats::median(values));
    let logs: Vec<f64> = medians.filter(|m| *m > 0.0).map(f64::ln).collect();
    if logs.len() < DRIFT_RUNS_MIN {
        return None;
    }
    Some((MAD_TO_DEVIATION * stats::mad(&logs)?).exp_m1())
}

/// A metric that does not scatter: the medians decide.
fn counted(case: &str, metric: &Metric, baseline: &[Vec<f64>], found: &[f64]) -> Row {
    let before = stats::median(baseline.last().map_or(&[], |values| values));
    let after = stats::median(found);
    let (state, reason) = match before.zip(after) {
        None => (
            State::Incomparable,
            Some("counted on one side only".to_owned()),
        ),
        Some((a, b)) => (count_state(a, b, metric.better), None),
    };
    Row {
        case: case.to_owned(),
        metric: metric.name.to_owned(),
        unit: metric.unit.to_owned(),
        state,
        baseline: before,
        found: after,
        judged: None,
        reason,
    }
}

fn count_state(before: f64, after: f64, better: Better) -> State {
    if (after - before).abs() <= COUNT_CHANGE_MIN * before.abs() {
        State::Pass
    } else if (after > before) == (better == Better::Higher) {
        State::Improvement
    } else {
        State::Regression
    }
}

#[cfg(test)]
mod tests;
