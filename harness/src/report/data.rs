//! What a report says, as numbers: samples grouped by case and runner, and estimates over their repetitions.

use crate::record::{CaseRecord, ENGINE, ENGINE_AGAIN, PassStats, Run, Sample};
use crate::stats::{self, Interval};
use crate::summary::{Beside, CONFIDENCE, Summary, summaries};
use engine::stage::{Ledger, Stage, StageTimes};
use std::collections::BTreeSet;

/// A gap between tokens that is longer than so many medians of its repetition is a stall.
pub(super) const STALL_TIMES: f64 = 2.0;
/// Draws of the bootstrap.
const BOOTSTRAP_DRAWS: usize = 500;
/// Seed of the bootstrap, so that the same records always give the same report.
const BOOTSTRAP_SEED: u64 = 2024;

/// All repetitions of one case by one runner.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    /// Name of the case; the runner is added where there are several.
    pub label: String,
    /// The same without the sections of the swept keys, for plots: `threads=2 ctx=512`.
    pub short: String,
    /// The case.
    pub case: &'a CaseRecord,
    /// What ran.
    pub runner: &'a str,
    /// Everything recorded, in the order of the journal.
    pub all: Vec<&'a Sample>,
    /// What counts: of each measured round the last attempt.
    pub counted: Vec<&'a Sample>,
    /// Failures of this case and runner.
    pub failures: usize,
    /// Gaps between tokens of each repetition that counts, in milliseconds.
    pub gaps: Vec<Vec<f64>>,
    /// p50, p90 and p99 of all gaps.
    pub quantiles: Vec<Quantile>,
}

/// A quantity over repetitions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Estimate {
    /// One value per repetition.
    pub values: Vec<f64>,
    /// Their median.
    pub median: f64,
    /// Median absolute deviation.
    pub mad: f64,
    /// Interval of the median; `None` below two values.
    pub interval: Option<Interval>,
}

impl Estimate {
    fn new(values: Vec<f64>) -> Option<Estimate> {
        Some(Estimate {
            median: stats::median(&values)?,
            mad: stats::mad(&values)?,
            interval: stats::median_interval(&values, CONFIDENCE),
            values,
        })
    }
}

/// One quantile of the gaps between tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quantile {
    /// From 0 to 1.
    pub p: f64,
    /// Milliseconds; `None` if there are too few gaps for this quantile.
    pub ms: Option<f64>,
    /// Interval by bootstrap over repetitions, where there are at least two.
    pub interval: Option<Interval>,
}

/// Bytes of one decoded token, mean over repetitions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TokenBytes {
    pub weights: f64,
    /// Those of them that products were looked up for.
    pub lookup: f64,
    /// Weights that sparsity left out.
    pub skipped: f64,
    pub kv_read: f64,
    pub kv_write: f64,
    pub activations: f64,
}

impl TokenBytes {
    /// What comes from memory: weights and KV cache.
    pub(super) fn moved(&self) -> f64 {
        self.weights + self.kv_read + self.kv_write
    }
}

/// Where the time of one token goes, mean over repetitions, in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TokenTime {
    /// Each stage, in the order of a pass.
    pub stages: Vec<(Stage, f64)>,
    /// Time of a token that lies outside all stages.
    pub outside: f64,
}

impl TokenTime {
    /// Whole time of a token.
    pub(super) fn total(&self) -> f64 {
        self.outside + self.stages.iter().map(|(_, ms)| ms).sum::<f64>()
    }
}

/// Samples by case and runner, in the order of the cases. A case with nothing but failures has its group too.
pub(crate) fn groups(run: &Run) -> Vec<Group<'_>> {
    let summaries = summaries(run);
    let runners: BTreeSet<&str> = summaries.iter().map(|s| s.runner).collect();
    let several = runners.len() > 1;
    let groups = summaries.into_iter();
    groups.map(|summary| group(run, several, summary)).collect()
}

/// Those of the engine.
pub(crate) fn own<'a>(groups: &'a [Group<'a>]) -> Vec<&'a Group<'a>> {
    let engines = [ENGINE, ENGINE_AGAIN];
    groups
        .iter()
        .filter(|group| engines.contains(&group.runner))
        .collect()
}

/// The samples of one case by one runner, of `several` there are.
fn group<'a>(run: &'a Run, several: bool, summary: Summary<'a>) -> Group<'a> {
    let by = |name: String| match several {
        true => format!("{name} · {}", summary.runner),
        false => name,
    };
    let here = |s: &&Sample| s.case_index == summary.case.index && s.runner == summary.runner;
    let gaps: Vec<Vec<f64>> = summary
        .counted
        .iter()
        .map(|s| s.gaps_ms())
        .filter(|g| !g.is_empty())
        .collect();
    let name = run.manifest.shown_name(summary.case, summary.runner);
    Group {
        short: by(shortened(summary.case, &name)),
        label: by(name),
        case: summary.case,
        runner: summary.runner,
        all: run.samples.iter().filter(here).collect(),
        failures: summary.failures + summary.mismatches,
        quantiles: quantiles(&gaps),
        gaps,
        counted: summary.counted,
    }
}

/// The shown name of a case with its swept keys shortened.
pub(super) fn short_name(case: &CaseRecord) -> String {
    shortened(case, &case.shown_name())
}

/// A name of a case with its swept keys shortened.
pub(crate) fn shortened(case: &CaseRecord, name: &str) -> String {
    let mut name = name.to_owned();
    for key in case.swept.keys() {
        name = name.replacen(&format!("{key}="), &format!("{}=", short_key(case, key)), 1);
    }
    name
}

/// The end of a swept key, as short as tells it from the others: `threads`, or `sparsity.method` beside
/// `engine.speculation.method`.
fn short_key<'a>(case: &CaseRecord, key: &'a str) -> &'a str {
    let ends_so = |other: &str, end: &str| {
        let before = other.strip_suffix(end);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    let alone = |end: &&str| case.swept.keys().filter(|k| ends_so(k, end)).count() == 1;
    let mut ends = key.rmatch_indices('.').map(|(dot, _)| &key[dot + 1..]);
    ends.find(alone).unwrap_or(key)
}

/// The swept keys that `wanted` wants, shortened as in [`short_name`], with their values.
pub(super) fn short_words(case: &CaseRecord, wanted: impl Fn(&str) -> bool) -> String {
    let swept = case.swept.iter().filter(|(key, _)| wanted(key));
    let words = swept.map(|(key, value)| {
        let short = short_key(case, key);
        match value.as_str() {
            Some(text) => format!("{short}={text}"),
            None => format!("{short}={value}"),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// p50, p90 and p99 of all gaps; intervals are over repetitions.
fn quantiles(gaps: &[Vec<f64>]) -> Vec<Quantile> {
    let pooled = gaps.concat();
    let at = |p: f64, values: &[f64]| match p > 0.985 {
        true => stats::p99(values),
        false => stats::quantile(values, p),
    };
    [0.5, 0.9, 0.99]
        .into_iter()
        .map(|p| Quantile {
            p,
            ms: at(p, &pooled),
            interval: stats::bootstrap_interval(
                gaps,
                |values| at(p, values),
                CONFIDENCE,
                BOOTSTRAP_DRAWS,
                BOOTSTRAP_SEED,
            ),
        })
        .collect()
}

/// Gaps between tokens that are far longer than the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stalls {
    /// How many.
    pub count: usize,
    /// Of how many gaps.
    pub gaps: usize,
    /// What they took beyond the median gap, as a share of the time of decoding.
    pub lost_share: f64,
}

impl Group<'_> {
    /// The gap, in milliseconds, above which one of these gaps of a repetition is a stall; `None` where tokens were drafted: those
    /// of a pass come together, and passes differ in length.
    pub(super) fn stall_ms(&self, gaps: &[f64]) -> Option<f64> {
        let drafted = |s: &&Sample| s.speculation.as_ref().is_some_and(|t| t.drafted > 0);
        match self.counted.iter().any(drafted) {
            true => None,
            false => Some(STALL_TIMES * stats::median(gaps)?),
        }
    }

    /// Gaps longer than [`STALL_TIMES`] medians of their repetition; `None` without gaps, and where tokens were drafted.
    pub(super) fn stalls(&self) -> Option<Stalls> {
        let (mut count, mut lost, mut all) = (0, 0.0, 0.0);
        for gaps in &self.gaps {
            let stall_ms = self.stall_ms(gaps)?;
            for gap in gaps {
                all += gap;
                if *gap > stall_ms {
                    count += 1;
                    lost += gap - stall_ms / STALL_TIMES;
                }
            }
        }
        (all > 0.0).then(|| Stalls {
            count,
            gaps: self.gaps.iter().map(Vec::len).sum(),
            lost_share: lost / all,
        })
    }

    /// Estimate of any quantity over the repetitions that count and have it.
    pub(super) fn estimate(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<Estimate> {
        Estimate::new(self.counted.iter().filter_map(|s| of(s)).collect())
    }

    /// Decode rate in tokens a second.
    pub(super) fn decode(&self) -> Option<Estimate> {
        self.estimate(Sample::decode_tok_s)
    }

    /// Whether both cases have the same values of all swept keys but those that begin with `section`.
    pub(super) fn alike(&self, other: &Group<'_>, section: &str) -> bool {
        let keys = |case: &CaseRecord| {
            let mut swept = case.swept.clone();
            swept.retain(|key, _| !key.starts_with(section));
            swept
        };
        keys(self.case) == keys(other.case)
    }

    /// Decode rate over that of `base`.
    pub(super) fn beside(&self, base: &Group<'_>) -> Option<Beside> {
        Beside::of(&self.counted, &base.counted, Sample::decode_tok_s)
    }

    /// Prompt rate in tokens a second.
    pub(super) fn prefill(&self) -> Option<Estimate> {
        self.estimate(Sample::prefill_tok_s)
    }

    /// Time to first token in milliseconds.
    pub(super) fn ttft(&self) -> Option<Estimate> {
        self.estimate(Sample::ttft_ms)
    }

    /// Achieved bandwidth while decoding in 1e9 bytes a second.
    pub(super) fn bandwidth(&self) -> Option<Estimate> {
        self.estimate(Sample::decode_gb_s)
    }

    /// Largest resident set over the repetitions, in bytes.
    pub(super) fn peak_rss_bytes(&self) -> Option<u64> {
        self.counted
            .iter()
            .filter_map(|s| s.usage.peak_rss_bytes)
            .max()
    }

    /// Whether a repetition that counts carries a taint.
    pub(super) fn tainted(&self) -> usize {
        self.counted.iter().filter(|s| !s.taint.is_empty()).count()
    }

    /// Median gap at each position, over repetitions, in milliseconds.
    pub(super) fn median_gap_by_position(&self) -> Vec<f64> {
        let gaps = &self.gaps;
        let longest = gaps.iter().map(Vec::len).max().unwrap_or(0);
        (0..longest)
            .filter_map(|i| {
                let here: Vec<f64> = gaps.iter().filter_map(|g| g.get(i).copied()).collect();
                stats::median(&here)
            })
            .collect()
    }

    /// Bytes of a decoded token.
    pub(super) fn decode_bytes(&self) -> Option<TokenBytes> {
        let mut ledger = Ledger::default();
        let mut tokens = 0;
        for sample in self.counted.iter().filter(|s| s.n_out() > 1) {
            if let Some(stats) = used(sample.decode) {
                ledger.add(&stats.ledger);
                tokens += sample.n_out() - 1;
            }
        }
        let per_token = |bytes: u64| bytes as f64 / tokens as f64;
        (tokens > 0).then(|| TokenBytes {
            weights: per_token(ledger.weight_bytes),
            lookup: per_token(ledger.lookup_bytes),
            skipped: per_token(ledger.skipped_bytes),
            kv_read: per_token(ledger.kv_read_bytes),
            kv_write: per_token(ledger.kv_write_bytes),
            activations: per_token(ledger.activation_bytes),
        })
    }

    /// Where the time of a decoded token goes; `None` if the stage clock was off.
    pub(super) fn decode_time(&self) -> Option<TokenTime> {
        self.token_time(|s| {
            Some((
                used(s.decode)?,
                s.n_out().checked_sub(1)?,
                s.decode_s()? * 1e3,
            ))
        })
    }

    /// Where the time of a prompt token goes; `None` if the stage clock was off.
    pub(super) fn prefill_time(&self) -> Option<TokenTime> {
        self.token_time(|s| Some((used(s.prefill)?, s.n_prompt as usize, s.ttft_ms()?)))
    }

    /// `of` gives a phase's stages, its tokens and its wall time in milliseconds.
    fn token_time(
        &self,
        of: impl Fn(&Sample) -> Option<(PassStats, usize, f64)>,
    ) -> Option<TokenTime> {
        let (mut times, mut tokens, mut wall_ms) = (StageTimes::default(), 0, 0.0);
        for (stats, n, ms) in self.counted.iter().filter_map(|s| of(s)) {
            times.add(&stats.stages);
            tokens += n;
            wall_ms += ms;
        }
        if tokens == 0 || times.total_ns() == 0 {
            return None;
        }
        let per_token = |ms: f64| ms / tokens as f64;
        Some(TokenTime {
            stages: Stage::ALL
                .iter()
                .map(|&s| (s, per_token(times.get(s) as f64 / 1e6)))
                .collect(),
            outside: per_token((wall_ms - times.total_ns() as f64 / 1e6).max(0.0)),
        })
    }

    /// Whether all repetitions that count gave the same tokens; `None` without any.
    pub(super) fn same_output(&self) -> Option<bool> {
        let first = self.counted.first()?;
        Some(
            self.counted
                .iter()
                .all(|s| s.output_sha256 == first.output_sha256),
        )
    }
}

/// Statistics of a phase that had passes.
fn used(stats: Option<PassStats>) -> Option<PassStats> {
    stats.filter(|s| s.passes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{manifest, sample};
    use serde_json::json;

    #[test]
    fn a_stall_is_a_gap_of_more_than_two_medians() {
        let stalls = |gaps_ms: &[u64]| {
            let mut at = 0;
            let arrivals = std::iter::once(&0).chain(gaps_ms).map(|ms| {
                at += ms * 1_000_000;
                at
            });
            let run = Run {
                samples: vec![Sample {
                    arrival_ns: arrivals.collect(),
                    ..sample()
                }],
                ..Run::empty(manifest())
            };
            groups(&run)[0].stalls()
        };
        let found = stalls(&[10, 10, 20, 10, 50]).expect("gaps");
        assert_eq!((found.count, found.gaps), (1, 5));
        assert!((found.lost_share - 0.4).abs() < 1e-9, "{found:?}");
        assert_eq!(stalls(&[]), None);
    }

    #[test]
    fn keys_are_as_short_as_tells_them_apart() {
        let named = |name: &str, swept: serde_json::Value| {
            let case = CaseRecord {
                name: name.to_owned(),
                swept: swept.as_object().expect("keys").clone(),
                ..manifest().cases[0].clone()
            };
            (
                short_name(&case),
                short_words(&case, |key| !key.starts_with("run.")),
            )
        };
        let same = |text: &str| (text.to_owned(), text.to_owned());
        assert_eq!(
            named(
                "engine.threads=2 engine.ctx=512",
                json!({"engine.threads": 2, "engine.ctx": 512})
            ),
            same("threads=2 ctx=512")
        );
        // Where one key departs at a time, the others are not in the name, but could be in that of the next case.
        assert_eq!(
            named(
                "engine.speculation.method=qcsd",
                json!({"engine.speculation.method": "qcsd", "engine.sparsity.method": "teal", "run.seed": 1.5})
            ),
            (
                "speculation.method=qcsd".to_owned(),
                "speculation.method=qcsd sparsity.method=teal".to_owned()
            )
        );
        // One key that is the end of another.
        assert_eq!(
            named("b.c=1 a.b.c=2", json!({"b.c": 1, "a.b.c": 2})),
            same("b.c=1 a.b.c=2")
        );
        assert_eq!(
            named("strict", json!({})),
            ("strict".to_owned(), String::new())
        );
    }
}
