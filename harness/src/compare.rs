//! What a comparison says: pure functions from the records of a run to ratios, verdicts and the words for them.
//!
//! In every round each runner works [`TURNS`] times, the second time in mirrored order, so that a drift within the round
//! meets all alike. A round gives one log-ratio; the engine's two turns in it give what the engine shows against itself.

mod aside;
mod output;
mod words;

pub use aside::left_aside;
pub use output::csv;

use crate::counter;
use crate::record::{
    CaseRecord, ComparisonPlan, ENGINE, ENGINE_AGAIN, Part, ReferencePlan, Run, Sample,
    SecondEngine, Setting, marked,
};
use crate::stats;
use crate::summary::{self, Summary};
use crate::verdict::{self, Better, Change, Judged, Rule, Verdict};
use serde::Serialize;

/// Version of `comparison.json` and `comparison.csv`.
pub const SCHEMA_VERSION: u32 = 1;
/// How often a runner works in a round. A round in which one worked less often is left out: it would lean to a side.
pub const TURNS: usize = 2;
/// Characters shown before and after the place where two texts part.
const SHOWN_CHARS: usize = 24;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rate {
    /// Prompt tokens a second.
    Prefill,
    /// Generated tokens a second.
    Decode,
}

impl Rate {
    /// Both.
    pub const ALL: [Rate; 2] = [Rate::Decode, Rate::Prefill];

    /// The rate as a word.
    pub fn name(self) -> &'static str {
        match self {
            Rate::Prefill => "prefill",
            Rate::Decode => "decode",
        }
    }

    /// The part of a repetition in which it is measured.
    fn part(self) -> Part {
        match self {
            Rate::Prefill => Part::Prefill,
            Rate::Decode => Part::Decode,
        }
    }

    /// The rate of a repetition, in tokens a second.
    pub fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Rate::Prefill => sample.prefill_tok_s(),
            Rate::Decode => sample.decode_tok_s(),
        }
    }

    /// What the unit of [`Row::achieved`] is.
    pub fn achieved_unit(self) -> &'static str {
        match self {
            Rate::Prefill => "GOP/s",
            Rate::Decode => "GB/s",
        }
    }
}

/// All that a comparison found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Runner that is judged: the engine, or the second of two engines where it is compared with itself.
    pub subject: String,
    /// What sets the second engine apart, where the engine is compared with itself.
    pub second: SecondEngine,
    /// When a difference counts.
    pub rule: Rule,
    /// What was made equal, and what could not be.
    pub settings: Vec<Setting>,
    /// One entry a case.
    pub cases: Vec<CaseResult>,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseResult {
    /// Name of the case.
    pub case: String,
    /// Index of the case.
    pub case_index: u32,
    /// Decode and prefill, those that somebody measured.
    pub phases: Vec<PhaseResult>,
    /// The engine's text held against another program's, where there is one.
    pub text: Option<TextCheck>,
}

/// One rate of one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseResult {
    /// Which one.
    pub rate: Rate,
    /// The runner that is judged.
    pub subject: Row,
    /// The runners it is held against, in the order of the plan; those that failed included.
    pub others: Vec<Row>,
    /// The one of `others` that decides: against it the subject looks worst, by the paired ratio of all rounds. Rows that
    /// worked in fewer than half of the rounds of the one that worked in most are left aside.
    pub best: Option<usize>,
    /// The rounds in which subject and best row both worked every turn.
    pub rounds: Vec<Round>,
    /// The verdict on the subject against the best row, and what it rests on; `None` below two rounds.
    pub judged: Option<Judged>,
    /// The verdict in a word: `faster`, `slower`, `no difference`, `inconclusive`, `not compared`.
    pub verdict: &'static str,
    /// The result in a sentence.
    pub sentence: String,
    /// What explains the difference, a sentence each.
    pub reasons: Vec<String>,
}

/// One round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Round {
    /// Its number, from 0.
    pub round: u32,
    /// Rate of the subject over that of the best row.
    pub ratio: f64,
    /// Rate of the engine's second turn over its first; `None` where one is missing.
    pub itself: Option<f64>,
    /// Whether something disturbed one of the repetitions.
    pub tainted: bool,
}

/// One runner in one case and phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Name in records.
    pub runner: String,
    /// What it is: `llama.cpp b11434 (repack on, flash attention off)`.
    pub title: String,
    /// Every repetition that counts.
    pub values: Vec<Value>,
    /// Median rate in tokens a second.
    pub median: Option<f64>,
    /// Median absolute deviation of the rate.
    pub mad: Option<f64>,
    /// Rate of the subject over this row's, paired by round; `None` for the subject itself.
    pub change: Option<Change>,
    /// What its rate means: bandwidth while decoding in 1e9 bytes a second, or arithmetic while reading the prompt in 1e9
    /// operations a second. For other programs it is what they reach if they read the bytes that the engine counts.
    pub achieved: Option<f64>,
    /// Share of the peak that the probe of the same round found, in percent.
    pub of_peak_pct: Option<f64>,
    /// Instructions a token of this phase, as the CPU counted them over all threads; `None` where nobody could.
    pub instructions: Option<f64>,
    /// CPU cycles a token, likewise.
    pub cycles: Option<f64>,
    /// Medians of what the operating system says.
    pub used: Used,
    /// Whether another variant of the same program was so much faster that it was not run in all rounds.
    pub left_aside: bool,
    /// Repetitions that gave no result.
    pub failures: usize,
    /// The first error, if there was one.
    pub error: Option<String>,
}

/// One repetition.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Value {
    /// Round, from 0.
    pub round: u32,
    /// Place in the round, from 0.
    pub position: u32,
    /// The rate.
    pub tok_s: f64,
    /// Whether something disturbed it.
    pub tainted: bool,
}

/// What the operating system says about a runner, as medians over repetitions. Faults and switches of the engine are
/// those of the timed part; those of other programs are of their whole life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Used {
    /// Page faults served without I/O.
    pub minor_faults: Option<f64>,
    /// Times a thread was made to give up its CPU.
    pub involuntary_switches: Option<f64>,
    /// Times a thread gave up its CPU.
    pub voluntary_switches: Option<f64>,
    /// CPU time of the whole life, in milliseconds.
    pub cpu_ms: Option<f64>,
    /// The whole life, in milliseconds.
    pub wall_ms: Option<f64>,
    /// Largest resident set in bytes.
    pub peak_rss_bytes: Option<f64>,
}

/// The engine's text held against another program's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TextCheck {
    /// They agree.
    Equal {
        /// The other program.
        title: String,
        /// Characters that agree.
        chars: usize,
    },
    /// They part.
    Differs {
        /// The other program.
        title: String,
        /// Characters that agree before the first that does not.
        at_char: usize,
        /// Characters of the engine's text.
        chars: usize,
        /// The engine's text around that place.
        engine: String,
        /// The other program's.
        other: String,
    },
    /// The other program gave none.
    Failed {
        /// The other program.
        title: String,
        /// Why.
        message: String,
    },
}

/// What a run found, if it is a comparison.
pub fn compare(run: &Run) -> Option<Comparison> {
    let plan = run.manifest.comparison.as_ref()?;
    let rule = Rule::default();
    let summaries = summary::summaries(run);
    let cases = run.manifest.cases.iter().map(|case| {
        let input = Input {
            run,
            plan,
            case,
            summaries: summaries
                .iter()
                .filter(|s| s.case.index == case.index)
                .collect(),
            rule: &rule,
        };
        let mut result = CaseResult {
            case: case.name.clone(),
            case_index: case.index,
            phases: input.phases(),
            text: text_check(run, plan, case),
        };
        for (_, runner) in aside::of_case(plan, &result) {
            let rows = result.phases.iter_mut().flat_map(|phase| &mut phase.others);
            for row in rows.filter(|row| row.runner == runner) {
                row.left_aside = true;
            }
        }
        if let Some(first) = result.phases.first_mut() {
            first.reasons.extend(words::left_aside(&first.others));
        }
        result
    });
    Some(Comparison {
        schema_version: SCHEMA_VERSION,
        subject: plan.subject().to_owned(),
        second: plan.second.clone(),
        cases: cases.collect(),
        settings: plan.settings.clone(),
        rule,
    })
}

/// What the results of a case are drawn from.
struct Input<'a> {
    run: &'a Run,
    plan: &'a ComparisonPlan,
    case: &'a CaseRecord,
    summaries: Vec<&'a Summary<'a>>,
    rule: &'a Rule,
}

impl Input<'_> {
    fn summary(&self, runner: &str) -> Option<&Summary<'_>> {
        self.summaries.iter().copied().find(|s| s.runner == runner)
    }

    /// The rates that somebody has.
    fn phases(&self) -> Vec<PhaseResult> {
        let all = Rate::ALL.iter().filter_map(|&rate| self.phase(rate));
        let mut all: Vec<PhaseResult> = all.collect();
        // What is known of whole repetitions is said once.
        if let Some(first) = all.iter_mut().find(|phase| phase.best.is_some()) {
            let whole = words::whole_reasons(first);
            first.reasons.extend(whole);
        }
        all
    }

    /// One rate; `None` where nobody has it.
    fn phase(&self, rate: Rate) -> Option<PhaseResult> {
        let subject = self.engine(rate, self.plan.subject());
        let mut others = self.others(rate);
        for row in &mut others {
            let logs = rounds(&subject, row).map(|(_, log)| log);
            row.change = Change::paired(&logs.collect::<Vec<_>>(), self.rule.confidence);
        }
        if subject.values.is_empty() && others.iter().all(|row| row.values.is_empty()) {
            return None;
        }
        let best = best(&others);
        let itself = itself(&self.engine(rate, ENGINE));
        let against = best.map(|i| &others[i]);
        let judged = against.and_then(|row| row.change).map(|change| {
            let logs: Vec<f64> = itself.iter().map(|(_, log)| *log).collect();
            let floor = Change::paired(&logs, self.rule.confidence).map(|c| verdict::floor(&c));
            verdict::judge(change, floor, Better::Higher, self.rule)
        });
        let mut result = PhaseResult {
            rate,
            rounds: against.map_or(vec![], |row| paired_rounds(&subject, row, &itself)),
            verdict: judged.map_or(words::NOT_COMPARED, |j| verdict_word(j.verdict)),
            subject,
            others,
            best,
            judged,
            sentence: String::new(),
            reasons: vec![],
        };
        result.sentence = words::sentence(&result);
        result.reasons = words::reasons(&result, self.decode_bytes_per_token());
        Some(result)
    }

    /// The rows that the subject is held against.
    fn others(&self, rate: Rate) -> Vec<Row> {
        if self.plan.itself() {
            return vec![self.engine(rate, ENGINE)];
        }
        let here = |plan: &&ReferencePlan| plan.case == self.case.index;
        let planned = self.plan.references.iter().filter(here);
        let planned = planned.map(|p| self.row(rate, &p.runner, &p.title, None));
        let refused = self.plan.refused.iter();
        let refused = refused.filter(|r| r.case == self.case.index);
        let refused = refused.map(|r| self.row(rate, &r.runner, &r.title, Some(&r.reason)));
        planned.chain(refused).collect()
    }

    /// The row of the engine, or of the second one.
    fn engine(&self, rate: Rate, runner: &str) -> Row {
        let title = match runner {
            ENGINE_AGAIN => self.plan.second.title(self.case.index),
            _ => marked("the engine", self.case.engine.lossy_sparsity().is_some()),
        };
        self.row(rate, runner, &title, None)
    }

    fn row(&self, rate: Rate, runner: &str, title: &str, refused: Option<&str>) -> Row {
        let summary = self.summary(runner);
        let counted = summary.map_or(&[][..], |s| &s.counted);
        let values = counted.iter().filter_map(|s| {
            Some(Value {
                round: s.round,
                position: s.position,
                tok_s: rate.of(s)?,
                tainted: !s.taint.is_empty(),
            })
        });
        let values: Vec<Value> = values.collect();
        let rates: Vec<f64> = values.iter().map(|v| v.tok_s).collect();
        let median = |of: &dyn Fn(&Sample) -> Option<f64>| summary.and_then(|s| s.median(of));
        Row {
            runner: runner.to_owned(),
            title: title.to_owned(),
            median: stats::median(&rates),
            mad: stats::mad(&rates),
            values,
            change: None,
            achieved: median(&|s| self.achieved(rate, s)),
            of_peak_pct: median(&|s| {
                let peak = match rate {
                    Rate::Decode => self.run.peak_gb_s(s),
                    Rate::Prefill => self.peak_gops(s),
                };
                Some(100.0 * self.achieved(rate, s)? / peak?)
            }),
            instructions: median(&|s| Some(counter::per_token(s, rate.part(), "instructions")?.0)),
            cycles: median(&|s| Some(counter::per_token(s, rate.part(), "cycles")?.0)),
            used: used(summary),
            left_aside: false,
            failures: summary.map_or(0, |s| s.failures),
            error: refused
                .map(str::to_owned)
                .or_else(|| first_error(self.run, self.case, runner)),
        }
    }

    /// Bandwidth or arithmetic that a rate stands for, by the engine's own count of bytes and operations.
    fn achieved(&self, rate: Rate, sample: &Sample) -> Option<f64> {
        let per_token = match rate {
            Rate::Decode => self.decode_bytes_per_token()?,
            Rate::Prefill => self.summary(ENGINE)?.median(|s| {
                let gops = s.prefill_gops()?;
                Some(1e9 * gops / s.prefill_tok_s()?)
            })?,
        };
        Some(per_token * rate.of(sample)? / 1e9)
    }

    fn decode_bytes_per_token(&self) -> Option<f64> {
        self.summary(ENGINE)?.median(Sample::decode_bytes_per_token)
    }

    /// The arithmetic peak of a sample's round, for the weights that the engine found in the file.
    fn peak_gops(&self, sample: &Sample) -> Option<f64> {
        let engine = self.summary(ENGINE)?.counted.first()?;
        let with_facts = Sample {
            model: engine.model.clone(),
            ..sample.clone()
        };
        self.run.peak_gops(&with_facts)
    }
}

/// Medians of what the operating system says.
fn used(summary: Option<&Summary<'_>>) -> Used {
    let median = |of: fn(&Sample) -> Option<f64>| summary.and_then(|s| s.median(of));
    Used {
        minor_faults: median(|s| s.usage.minor_faults.map(|n| n as f64)),
        involuntary_switches: median(|s| s.usage.involuntary_switches.map(|n| n as f64)),
        voluntary_switches: median(|s| s.usage.voluntary_switches.map(|n| n as f64)),
        cpu_ms: median(|s| Some(s.usage.user_ms? + s.usage.system_ms?)),
        wall_ms: median(|s| s.usage.wall_ms),
        peak_rss_bytes: median(|s| s.usage.peak_rss_bytes.map(|n| n as f64)),
    }
}

/// The rates of each round in which a row worked every turn, in the order of the turns.
fn turns(row: &Row) -> Vec<(u32, Vec<&Value>)> {
    let rounds = row.values.chunk_by(|a, b| a.round == b.round);
    let whole = rounds.filter(|values| values.len() == TURNS);
    whole.map(|v| (v[0].round, v.iter().collect())).collect()
}

/// Log-ratios of the subject over another row, for each round in which both worked every turn.
fn rounds<'a>(subject: &'a Row, other: &'a Row) -> impl Iterator<Item = (u32, f64)> {
    let theirs = turns(other);
    turns(subject).into_iter().filter_map(move |(round, ours)| {
        let (_, theirs) = theirs.iter().find(|(r, _)| *r == round)?;
        let rates = |values: &[&Value]| values.iter().map(|v| v.tok_s).collect::<Vec<_>>();
        let log = verdict::round_log_ratio(&rates(theirs), &rates(&ours))?;
        Some((round, log))
    })
}

/// What a row shows against itself: log-ratio of its second turn over its first, by round.
fn itself(row: &Row) -> Vec<(u32, f64)> {
    let logs = turns(row).into_iter().filter_map(|(round, values)| {
        let log = verdict::round_log_ratio(&[values[0].tok_s], &[values[1].tok_s])?;
        Some((round, log))
    });
    logs.collect()
}

/// The rounds of the subject and the row that decides.
fn paired_rounds(subject: &Row, other: &Row, itself: &[(u32, f64)]) -> Vec<Round> {
    let tainted = |row: &Row, round| row.values.iter().any(|v| v.round == round && v.tainted);
    let all = rounds(subject, other).map(|(round, log)| Round {
        round,
        ratio: log.exp(),
        itself: itself
            .iter()
            .find(|(r, _)| *r == round)
            .map(|(_, log)| log.exp()),
        tainted: tainted(subject, round) || tainted(other, round),
    });
    all.collect()
}

/// The row against which the subject looks worst.
fn best(others: &[Row]) -> Option<usize> {
    let rounds = |row: &Row| row.change.map_or(0, |c| c.rounds);
    let most = others.iter().map(rounds).max()?;
    let fair = others.iter().enumerate().filter_map(|(i, row)| {
        let change = row.change.filter(|c| 2 * c.rounds >= most)?;
        Some((i, change.ratio))
    });
    let worst = fair.min_by(|a, b| a.1.total_cmp(&b.1));
    worst.map(|(i, _)| i)
}

/// A verdict on the subject, in a word.
pub fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Improvement => "faster",
        Verdict::Regression => "slower",
        Verdict::Pass | Verdict::Inconclusive => verdict.name(),
    }
}

/// Whether the engine and the program that writes texts wrote the same; `None` until both have written.
fn text_check(run: &Run, plan: &ComparisonPlan, case: &CaseRecord) -> Option<TextCheck> {
    let writer = plan.texts.iter().find(|p| p.case == case.index)?;
    let title = writer.title.clone();
    let text = |runner: &str| {
        let mut samples = run.samples.iter();
        let found = samples.find(|s| s.case_index == case.index && s.runner == runner);
        found.map(|s| s.output_text.as_str())
    };
    match text(&writer.runner) {
        Some(theirs) => Some(parting(title, text(ENGINE)?, theirs)),
        None => Some(TextCheck::Failed {
            title,
            message: first_error(run, case, &writer.runner)?,
        }),
    }
}

/// The first error of a runner in a case.
fn first_error(run: &Run, case: &CaseRecord, runner: &str) -> Option<String> {
    let mut failures = run.failures.iter();
    let first = failures.find(|f| f.case_index == case.index && f.runner == runner);
    first.map(|f| f.message.clone())
}

/// Where two texts part. White space at their ends is not looked at: programs end their output with a line.
fn parting(title: String, engine: &str, other: &str) -> TextCheck {
    let (engine, other) = (engine.trim(), other.trim());
    let chars = engine.chars().count();
    let same = engine.chars().zip(other.chars());
    let at_char = same.take_while(|(a, b)| a == b).count();
    if at_char == chars && at_char == other.chars().count() {
        return TextCheck::Equal { title, chars };
    }
    let around = |text: &str| {
        let from = at_char.saturating_sub(SHOWN_CHARS);
        let shown = text.chars().skip(from).take(at_char - from + SHOWN_CHARS);
        shown.collect::<String>()
    };
    TextCheck::Differs {
        title,
        at_char,
        chars,
        engine: around(engine),
        other: around(other),
    }
}

#[cfg(test)]
mod tests;
