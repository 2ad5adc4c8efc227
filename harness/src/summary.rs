//! A case at a glance: which repetitions count, and the middle of what they measured.

use crate::record::{CaseRecord, ENGINE, FailureKind, Run, Sample, Taint};
use crate::stats::{self, Interval};
use crate::verdict::{self, Change};
use std::collections::{BTreeMap, BTreeSet};

/// Confidence asked of intervals; few repetitions give less, and what is shown says how much.
pub const CONFIDENCE: f64 = 0.95;

/// One case of a run by one runner.
#[derive(Debug)]
pub struct Summary<'a> {
    /// The case.
    pub case: &'a CaseRecord,
    /// What ran.
    pub runner: &'a str,
    /// Repetitions that count: of each measured round and place in it the last attempt, in their order.
    pub counted: Vec<&'a Sample>,
    /// Repetitions that gave no result.
    pub failures: usize,
    /// Repetitions that wrote something else than expected, or than the first one.
    pub mismatches: usize,
}

/// Summaries of all cases, in their order, those without a single result included. Programs that only wrote a text to
/// compare with are left out.
pub fn summaries(run: &Run) -> Vec<Summary<'_>> {
    let mut all = Vec::new();
    for case in &run.manifest.cases {
        let samples = run.samples.iter().filter(|s| s.case_index == case.index);
        let failures = run.failures.iter().filter(|f| f.case_index == case.index);
        let ran = samples.clone().map(|s| s.runner.as_str());
        let mut runners: Vec<&str> = ran
            .chain(failures.clone().map(|f| f.runner.as_str()))
            .collect();
        let texts = run.manifest.comparison.iter().flat_map(|plan| &plan.texts);
        runners.retain(|runner| texts.clone().all(|text| text.runner != *runner));
        runners.sort_unstable();
        runners.dedup();
        for runner in runners {
            let failures = failures.clone().filter(|f| f.runner == runner);
            let samples = samples.clone().filter(|s| s.runner == runner);
            all.push(Summary {
                case,
                runner,
                mismatches: mismatches(case, samples.clone()),
                counted: counted(samples),
                failures: failures.filter(|f| f.kind != FailureKind::Mismatch).count(),
            });
        }
    }
    all
}

/// How many repetitions that count were disturbed and by what, the most frequent cause first; `None` if none was.
pub fn disturbances(summaries: &[Summary<'_>]) -> Option<String> {
    let counted = || summaries.iter().flat_map(|s| &s.counted);
    let tainted = counted().filter(|s| !s.taint.is_empty()).count();
    let mut causes: BTreeMap<&str, usize> = BTreeMap::new();
    for cause in counted().flat_map(|s| s.taint.iter().map(Taint::cause)) {
        *causes.entry(cause).or_default() += 1;
    }
    let mut causes: Vec<(&str, usize)> = causes.into_iter().collect();
    causes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let said: Vec<String> = causes.iter().map(|(by, n)| format!("{n} {by}")).collect();
    (tainted > 0).then(|| {
        format!(
            "{tainted} of {} repetitions were disturbed: {}",
            counted().count(),
            said.join(", ")
        )
    })
}

/// How many wrote something else than expected, or than the first one; programs that tell no token ids are not checked.
/// Told from the results themselves: the line about it among the failures may be lost.
fn mismatches<'a>(case: &CaseRecord, samples: impl Iterator<Item = &'a Sample>) -> usize {
    let mut right = case.expect_sha256.as_deref();
    let telling = samples.filter(|s| !s.output_ids.is_empty());
    let wrong = telling.filter(|s| *right.get_or_insert(&s.output_sha256) != s.output_sha256);
    wrong.count()
}

/// Of each measured round and place in it the last attempt.
fn counted<'a>(samples: impl Iterator<Item = &'a Sample>) -> Vec<&'a Sample> {
    let mut counted: Vec<&Sample> = samples.filter(|s| s.is_measured()).collect();
    counted.sort_by_key(|s| (s.round, s.position, std::cmp::Reverse(s.attempt)));
    counted.dedup_by_key(|s| (s.round, s.position));
    counted
}

/// A quantity of one case over that of another, from the rounds that both have.
#[derive(Debug, Clone, PartialEq)]
pub struct Beside {
    /// Hodges-Lehmann estimate of the rounds' ratios.
    pub ratio: f64,
    /// Its signed-rank interval; `None` of one round.
    pub interval: Option<Interval>,
    /// The ratio of each round; of several repetitions in a round, their geometric means.
    pub rounds: Vec<f64>,
}

impl Beside {
    /// A quantity of `these` repetitions over that of `base`; `None` without a round in which both have it.
    pub fn of(
        these: &[&Sample],
        base: &[&Sample],
        quantity: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<Beside> {
        let values = |samples: &[&Sample], round| -> Vec<f64> {
            let here = samples.iter().filter(|s| s.round == round);
            here.filter_map(|s| quantity(s)).collect()
        };
        let rounds: BTreeSet<u32> = base.iter().map(|s| s.round).collect();
        let logs = rounds.into_iter().filter_map(|round| {
            verdict::round_log_ratio(&values(base, round), &values(these, round))
        });
        let logs: Vec<f64> = logs.collect();
        Some(Beside {
            ratio: stats::hodges_lehmann(&logs)?.exp(),
            interval: Change::paired(&logs, CONFIDENCE).map(|change| change.interval),
            rounds: logs.into_iter().map(f64::exp).collect(),
        })
    }

    /// What the interval says of a rate, in a word; nothing is sure of so few rounds that all may lie on one side by chance.
    pub fn word(&self) -> &'static str {
        match self.interval.filter(|i| i.confidence >= CONFIDENCE) {
            Some(i) if i.low > 1.0 => "faster",
            Some(i) if i.high < 1.0 => "slower",
            Some(_) => "no difference seen",
            None => "too few rounds",
        }
    }
}

/// A case beside the first one.
#[derive(Debug)]
pub struct BesideFirst<'a> {
    /// The case.
    pub case: &'a CaseRecord,
    /// Its decode rate over that of the first.
    pub decode: Option<Beside>,
    /// Its prompt rate over that of the first.
    pub prefill: Option<Beside>,
    /// Whether one of the two shared slices with others and the other had the machine to itself, so that they were measured in
    /// different ways.
    pub apart: bool,
}

impl BesideFirst<'_> {
    /// What is to be said of the decode rate, in a word; `None` without one.
    pub fn word(&self) -> Option<&'static str> {
        match self.apart {
            true => Some("not in its slices"),
            false => self.decode.as_ref().map(Beside::word),
        }
    }
}

/// The engine's cases beside the first of the run, that which differs most in decoding first; without those that go on from
/// another text. Empty unless there are several, or where the first gave nothing.
pub fn beside_first(run: &Run) -> Vec<BesideFirst<'_>> {
    let all = summaries(run);
    let is_first = |s: &&Summary<'_>| {
        let first = run.manifest.cases.first();
        s.runner == ENGINE && first.is_some_and(|case| case.index == s.case.index)
    };
    let Some(first) = all.iter().find(is_first) else {
        return vec![];
    };
    let beside = |s: &Summary<'_>, of: fn(&Sample) -> Option<f64>| {
        Beside::of(&s.counted, &first.counted, of)
    };
    let sliced = |s: &Summary<'_>| s.counted.iter().any(|s| s.slices.is_some());
    let others = all
        .iter()
        .filter(|s| s.runner == ENGINE && s.case.index != first.case.index)
        .filter(|s| s.case.prompt == first.case.prompt);
    let rows = others.map(|s| BesideFirst {
        case: s.case,
        decode: beside(s, Sample::decode_tok_s),
        prefill: beside(s, Sample::prefill_tok_s),
        apart: sliced(s) != sliced(first),
    });
    let mut rows: Vec<BesideFirst<'_>> = rows.collect();
    let size = |row: &BesideFirst<'_>| row.decode.as_ref().map_or(-1.0, |b| b.ratio.ln().abs());
    rows.sort_by(|a, b| size(b).total_cmp(&size(a)));
    rows
}

impl Summary<'_> {
    /// A quantity of every repetition that counts and knows it.
    pub fn values(&self, quantity: impl Fn(&Sample) -> Option<f64>) -> Vec<f64> {
        self.counted.iter().filter_map(|s| quantity(s)).collect()
    }

    /// Median of a quantity; `None` if no repetition knows it.
    pub fn median(&self, quantity: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        stats::median(&self.values(quantity))
    }

    /// Gaps between tokens of all repetitions that count, in milliseconds.
    pub fn gaps_ms(&self) -> Vec<f64> {
        self.counted.iter().flat_map(|s| s.gaps_ms()).collect()
    }

    /// The output hash, if all repetitions agree on one.
    pub fn output_sha256(&self) -> Option<&str> {
        let hashes = self.counted.iter().map(|s| s.output_sha256.as_str());
        let mut hashes = hashes.filter(|hash| !hash.is_empty());
        let first = hashes.next()?;
        hashes.all(|hash| hash == first).then_some(first)
    }

    /// Repetitions that count although something disturbed them.
    pub fn tainted(&self) -> usize {
        self.counted.iter().filter(|s| !s.taint.is_empty()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Phase;
    use crate::record::tests::{manifest, sample};

    #[test]
    fn the_last_attempt_of_each_measured_round_counts() {
        let at = |round, attempt, phase, load_ms| Sample {
            round,
            attempt,
            phase,
            load_ms: Some(load_ms),
            ..sample()
        };
        let run = Run {
            samples: vec![
                at(0, 0, Phase::Warmup, 100.0),
                at(1, 0, Phase::Measured, 2.0),
                at(0, 0, Phase::Measured, 50.0),
                at(0, 1, Phase::Measured, 1.0),
            ],
            ..Run::empty(manifest())
        };
        let summaries = summaries(&run);
        assert_eq!(summaries.len(), 1);
        assert_eq!(summaries[0].values(|s| s.load_ms), [1.0, 2.0]);
        assert_eq!(summaries[0].median(|s| s.load_ms), Some(1.5));
        assert_eq!(
            summaries[0].median(|s| s.kv_capacity_bytes.map(|b| b as f64)),
            None
        );
    }

    #[test]
    fn cases_are_paired_by_round() {
        let at = |case_index, round, tok_s: f64| Sample {
            case_index,
            round,
            arrival_ns: vec![0, (1e9 / tok_s) as u64],
            ..sample()
        };
        // The machine becomes four times as fast on the way; the second case is always a tenth slower than the first.
        let rates = [50.0, 60.0, 80.0, 100.0, 150.0, 200.0];
        let mut run = Run::empty(manifest());
        for (index, factor) in [(0, 1.0), (1, 0.9), (2, 0.5), (3, 1.02)] {
            let mut case = run.manifest.cases[0].clone();
            (case.index, case.name) = (index, index.to_string());
            run.manifest.cases.push(case);
            let rounds = rates.iter().zip(0..);
            run.samples
                .extend(rounds.map(|(rate, round)| at(index, round, rate * factor)));
        }
        run.manifest.cases.remove(0);
        let rows = beside_first(&run);
        let names: Vec<&str> = rows.iter().map(|row| row.case.name.as_str()).collect();
        assert_eq!(names, ["2", "1", "3"], "the largest difference first");
        let tenth = rows[1].decode.as_ref().expect("rounds");
        assert!((tenth.ratio - 0.9).abs() < 1e-6, "{tenth:?}");
        let interval = tenth.interval.expect("six rounds");
        assert!(interval.confidence > 0.95 && (interval.high - interval.low) < 1e-6);
        assert_eq!((tenth.word(), tenth.rounds.len()), ("slower", 6));
        assert_eq!(rows[2].decode.as_ref().map(Beside::word), Some("faster"));

        // A round that the first case lacks is left out, and of five no interval is sure.
        run.samples.retain(|s| (s.case_index, s.round) != (0, 2));
        let fewer = beside_first(&run);
        let tenth = fewer[1].decode.as_ref().expect("rounds");
        assert_eq!((tenth.word(), tenth.rounds.len()), ("too few rounds", 5));

        // Alone on the machine, beside others in slices.
        for sample in run.samples.iter_mut().filter(|s| s.case_index != 1) {
            sample.slices = Some(Default::default());
        }
        let words: Vec<_> = beside_first(&run).iter().map(BesideFirst::word).collect();
        let expect = ["too few rounds", "not in its slices", "too few rounds"];
        assert_eq!(words, expect.map(Some));

        // Nothing stands beside a first case that gave nothing.
        run.samples.retain(|s| s.case_index != 0);
        assert!(beside_first(&run).is_empty());
        run.manifest.cases.truncate(1);
        assert!(beside_first(&run).is_empty());
    }

    #[test]
    fn the_most_frequent_disturbance_is_named_first() {
        let mut run = Run {
            samples: vec![sample(); 4],
            ..Run::empty(manifest())
        };
        assert_eq!(disturbances(&summaries(&run)), None);
        let switched = Taint::InvoluntarySwitches { count: 90 };
        for (round, sample) in (0..).zip(&mut run.samples) {
            sample.round = round;
            sample.taint = vec![switched.clone()];
        }
        run.samples[0].taint = vec![];
        run.samples[1].taint = vec![Taint::Steal { ms: 5.0 }, switched];
        let said = disturbances(&summaries(&run)).expect("disturbed");
        let expect = "3 of 4 repetitions were disturbed: 3 by other programs on these CPUs (forced switches), 1 by the hypervisor (steal)";
        assert_eq!(said, expect);
    }

    #[test]
    fn disturbances_of_the_parts_of_a_repetition_are_added() {
        let mut all = vec![Taint::Steal { ms: 5.0 }];
        let switches = |count| Taint::InvoluntarySwitches { count };
        Taint::merge(&mut all, vec![switches(3), Taint::Steal { ms: 2.0 }]);
        Taint::merge(&mut all, vec![switches(4)]);
        assert_eq!(all, [Taint::Steal { ms: 7.0 }, switches(7)]);
    }

    #[test]
    fn wrong_outputs_are_told_from_the_results() {
        let mut run = Run {
            samples: vec![sample(), sample(), sample()],
            ..Run::empty(manifest())
        };
        let mut check = |second: &str, expect: Option<&str>, wrong| {
            run.samples[1].output_sha256 = second.into();
            run.manifest.cases[0].expect_sha256 = expect.map(str::to_owned);
            assert_eq!(summaries(&run)[0].mismatches, wrong, "{second} {expect:?}");
        };
        let right = sample().output_sha256;
        check(&right, None, 0);
        check(&right, Some(&right), 0);
        check("other", None, 1);
        check("other", Some(&right), 1);
        check("other", Some("another"), 3);
    }

    #[test]
    fn a_hash_stands_only_for_repetitions_that_agree() {
        let mut run = Run {
            samples: vec![sample(), sample()],
            ..Run::empty(manifest())
        };
        run.samples[1].round = 1;
        let hash = sample().output_sha256;
        assert_eq!(summaries(&run)[0].output_sha256(), Some(hash.as_str()));
        run.samples[1].output_sha256 = "other".into();
        assert_eq!(summaries(&run)[0].output_sha256(), None);
    }
}
