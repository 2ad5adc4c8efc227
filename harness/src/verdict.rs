//! When a difference counts: pure functions from measured values to a verdict.
//!
//! A change counts only if its interval excludes "none" and it is larger than what the same program shows against
//! itself (the A/A floor, twice) and than [`Rule::change_min`]. "No difference" is claimed only if the interval rules out
//! a change of [`Rule::ruled_out`]. Everything else is inconclusive, with the number of rounds it would take.
//! Differences are taken as natural logarithms of ratios; [`Change`] gives them as ratios.

use crate::stats::{self, Interval};
use serde::{Deserialize, Serialize};

/// Most rounds that are advised; beyond it the machine is too noisy.
pub const ROUNDS_ADVISED_MAX: usize = 1000;
/// Turns a median absolute deviation into a standard deviation, for values that are normally distributed.
const MAD_TO_DEVIATION: f64 = 1.4826;
/// Standard deviations beyond which 5 % of a normal distribution lie on one side: the power of an advice.
const POWER: f64 = 1.645;
/// Standard deviations beyond which 5 % of a normal distribution lie on both sides together.
const TWO_SIDED: f64 = 1.96;
/// Standard errors in half a 95 % signed-rank or rank-sum interval of normal values, with a little for small numbers.
const HALF_INTERVAL: f64 = 2.1;

/// When a difference counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Smallest change that counts: 0.03 is 3 %.
    pub change_min: f64,
    /// Change that the interval must rule out for "no difference".
    pub ruled_out: f64,
    /// Fewest rounds for a verdict.
    pub rounds_min: usize,
    /// Confidence of intervals.
    pub confidence: f64,
}

impl Default for Rule {
    fn default() -> Rule {
        Rule {
            change_min: 0.03,
            ruled_out: 0.05,
            rounds_min: 12,
            confidence: 0.95,
        }
    }
}

/// Which way a quantity is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Rates.
    Higher,
    /// Times, bytes, misses.
    Lower,
}

/// What is to be said about a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No difference worth the name.
    Pass,
    /// The second is worse.
    Regression,
    /// The second is better.
    Improvement,
    /// Too few rounds, or too much noise.
    Inconclusive,
}

impl Verdict {
    /// The verdict in words, as tables show it.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "no difference",
            Verdict::Regression => "regression",
            Verdict::Improvement => "improvement",
            Verdict::Inconclusive => "inconclusive",
        }
    }
}

/// A change from a first to a second program, as a ratio of the second over the first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Hodges-Lehmann estimate of the ratio.
    pub ratio: f64,
    /// Interval of the ratio.
    pub interval: Interval,
    /// Standard deviation of one round's log-ratio, from the median absolute deviation.
    pub spread: f64,
    /// Rounds; values of the smaller side where there are no pairs.
    pub rounds: usize,
    /// Two-sided p of the sign test, where there are pairs.
    pub sign_p: Option<f64>,
}

impl Change {
    /// From one log-ratio a round; `None` below two.
    pub fn paired(logs: &[f64], confidence: f64) -> Option<Change> {
        Some(Change {
            ratio: stats::hodges_lehmann(logs)?.exp(),
            interval: exp(stats::wilcoxon_interval(logs, confidence)?),
            spread: MAD_TO_DEVIATION * stats::mad(logs)?,
            rounds: logs.len(),
            sign_p: Some(stats::sign_test_p(logs)),
        })
    }

    /// From values of two programs that were not measured side by side; `None` below two each, or unless all are above 0.
    pub fn unpaired(first: &[f64], second: &[f64], confidence: f64) -> Option<Change> {
        let (a, b) = (logs(first)?, logs(second)?);
        let deviation = |logs: &[f64]| Some(MAD_TO_DEVIATION * stats::mad(logs)?);
        Some(Change {
            ratio: stats::hodges_lehmann_shift(&a, &b)?.exp(),
            interval: exp(stats::rank_sum_interval(&a, &b, confidence)?),
            spread: deviation(&a)?.hypot(deviation(&b)?),
            rounds: a.len().min(b.len()),
            sign_p: None,
        })
    }

    /// Standard error of the estimate, as a log-ratio.
    pub fn error(&self) -> f64 {
        self.spread / (self.rounds as f64).sqrt()
    }

    /// How large a change the interval still allows, as a log-ratio without sign.
    fn farthest(&self) -> f64 {
        self.interval
            .low
            .ln()
            .abs()
            .max(self.interval.high.ln().abs())
    }

    /// Whether the interval excludes "none".
    fn excludes_none(&self) -> bool {
        self.interval.low > 1.0 || self.interval.high < 1.0
    }
}

/// What a program shows against itself: its change, or the standard error of that where it is larger, as a ratio minus
/// one: 0.02 is 2 %.
pub fn floor(itself: &Change) -> f64 {
    itself.ratio.ln().abs().max(itself.error()).exp_m1()
}

/// A verdict and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The verdict on the second program.
    pub verdict: Verdict,
    /// The change.
    pub change: Change,
    /// The A/A floor; `None` if the program was not measured against itself.
    pub floor: Option<f64>,
    /// The change had to be larger than this: 0.03 is 3 %.
    pub threshold: f64,
    /// The smallest change that such a measurement would find nineteen times in twenty.
    pub detectable: f64,
    /// Rounds that would do, if the verdict is inconclusive and a number below [`ROUNDS_ADVISED_MAX`] would.
    pub rounds_advised: Option<usize>,
}

/// Judges a change. `floor` is the A/A floor; without one, the standard error of the change itself takes its place.
pub fn judge(change: Change, floor: Option<f64>, better: Better, rule: &Rule) -> Judged {
    let noise = floor.unwrap_or_else(|| change.error().exp_m1());
    let threshold = rule.change_min.max(2.0 * noise);
    let size = change.ratio.ln().abs().exp_m1();
    let clear = change.excludes_none() && size > threshold;
    // Of a handful of rounds all may lie on one side by chance.
    let sure = change.interval.confidence >= rule.confidence;
    let enough = change.rounds >= rule.rounds_min;
    let verdict = if !enough {
        Verdict::Inconclusive
    } else if clear {
        match (change.ratio > 1.0) == (better == Better::Higher) {
            true => Verdict::Improvement,
            false => Verdict::Regression,
        }
    } else if change.farthest().exp_m1() <= rule.ruled_out {
        Verdict::Pass
    } else {
        Verdict::Inconclusive
    };
    let error = change.error();
    let seen = threshold.ln_1p().max(HALF_INTERVAL * error);
    Judged {
        verdict,
        change,
        floor,
        threshold,
        detectable: (seen + POWER * error).exp_m1(),
        rounds_advised: match verdict {
            Verdict::Inconclusive if clear && sure => Some(rule.rounds_min),
            Verdict::Inconclusive => rounds_advised(change.spread, floor.is_some(), rule),
            _ => None,
        },
    }
}

/// Rounds after which a change of [`Rule::ruled_out`] would be found, and "no difference" be said where there is none,
/// about nineteen times in twenty; `None` beyond [`ROUNDS_ADVISED_MAX`]. `spread` is that of one round's log-ratio.
pub fn rounds_advised(spread: f64, with_floor: bool, rule: &Rule) -> Option<usize> {
    // A pair of a program with itself has two values where a round's log-ratio has four.
    let floor_spread = match with_floor {
        true => spread * std::f64::consts::SQRT_2,
        false => spread,
    };
    (rule.rounds_min..=ROUNDS_ADVISED_MAX).find(|&rounds| {
        let root = (rounds as f64).sqrt();
        let (error, floor_error) = (spread / root, floor_spread / root);
        // The floor is an estimate too: now and then it is twice its own error.
        let over_floor = (2.0 * TWO_SIDED * floor_error).hypot(POWER * error);
        let over_rest = rule.change_min.ln_1p().max(HALF_INTERVAL * error) + POWER * error;
        over_floor.max(over_rest) <= rule.ruled_out.ln_1p()
    })
}

/// Log-ratio of a round: the geometric mean of the second program's values over that of the first's. `None` if a side is
/// empty or a value is not above 0.
pub fn round_log_ratio(first: &[f64], second: &[f64]) -> Option<f64> {
    Some(mean(&logs(second)?)? - mean(&logs(first)?)?)
}

fn logs(values: &[f64]) -> Option<Vec<f64>> {
    let logs = values.iter().map(|v| (*v > 0.0).then(|| v.ln()));
    logs.collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn exp(logs: Interval) -> Interval {
    Interval {
        low: logs.low.exp(),
        high: logs.high.exp(),
        confidence: logs.confidence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::SplitMix64;

    /// Normal values: the sum of twelve uniform ones.
    fn normal(random: &mut SplitMix64, deviation: f64) -> f64 {
        let sum: f64 = (0..12).map(|_| random.below(1 << 20) as f64).sum();
        (sum / f64::from(1 << 20) - 6.0) * deviation
    }

    /// A comparison in A B B A rounds where every repetition scatters by `noise` and the second is `ratio` times the first.
    fn compare(random: &mut SplitMix64, ratio: f64, noise: f64, rounds: usize) -> Judged {
        let (mut logs, mut itself) = (vec![], vec![]);
        for _ in 0..rounds {
            let mut value = |of: f64| of * normal(random, noise).exp();
            let (a, b) = ([value(1.0), value(1.0)], [value(ratio), value(ratio)]);
            logs.extend(round_log_ratio(&a, &b));
            itself.extend(round_log_ratio(&a[..1], &a[1..]));
        }
        let floor = Change::paired(&itself, 0.95).map(|change| floor(&change));
        let change = Change::paired(&logs, 0.95).expect("rounds");
        judge(change, floor, Better::Higher, &Rule::default())
    }

    #[test]
    fn verdicts_follow_the_rule() {
        use Verdict::*;
        let change = |ratio: f64, low: f64, high: f64, rounds| Change {
            ratio,
            interval: Interval {
                low,
                high,
                confidence: 0.95,
            },
            spread: 0.02,
            rounds,
            sign_p: None,
        };
        let rows = [
            (
                1.93,
                1.85,
                2.01,
                12,
                Some(0.02),
                Better::Higher,
                Improvement,
            ),
            (1.93, 1.85, 2.01, 12, Some(0.02), Better::Lower, Regression),
            (0.95, 0.93, 0.96, 12, Some(0.01), Better::Higher, Regression),
            (0.95, 0.93, 0.96, 12, Some(0.01), Better::Lower, Improvement),
            // Too few rounds.
            (
                1.93,
                1.85,
                2.01,
                11,
                Some(0.02),
                Better::Higher,
                Inconclusive,
            ),
            // Real, but smaller than what counts.
            (1.02, 1.01, 1.03, 12, Some(0.01), Better::Higher, Pass),
            // Larger than 3 %, but not than twice the floor.
            (
                1.04,
                1.01,
                1.06,
                12,
                Some(0.03),
                Better::Higher,
                Inconclusive,
            ),
            (1.04, 1.01, 1.049, 12, Some(0.03), Better::Higher, Pass),
            // Nothing seen, much not ruled out.
            (1.0, 0.9, 1.1, 50, Some(0.01), Better::Higher, Inconclusive),
            (1.04, 0.99, 1.07, 12, None, Better::Higher, Inconclusive),
            (0.96, 0.95, 0.97, 12, None, Better::Higher, Regression),
        ];
        for (ratio, low, high, rounds, floor, better, expect) in rows {
            let judged = judge(
                change(ratio, low, high, rounds),
                floor,
                better,
                &Rule::default(),
            );
            assert_eq!(judged.verdict, expect, "{judged:?}");
            assert_eq!(judged.rounds_advised.is_some(), expect == Inconclusive);
        }
        // A difference that no noise explains needs no more than the fewest rounds.
        let noisy = Change {
            spread: 0.3,
            ..change(5.9, 5.4, 6.3, 9)
        };
        let judged = judge(noisy, Some(0.04), Better::Higher, &Rule::default());
        assert_eq!(judged.rounds_advised, Some(12));
    }

    #[test]
    fn a_program_against_itself_is_no_regression() {
        let mut random = SplitMix64::new(5);
        for noise in [0.005, 0.02, 0.1] {
            let all: Vec<Verdict> = (0..400)
                .map(|_| compare(&mut random, 1.0, noise, 12).verdict)
                .collect();
            let wrong = all.iter().filter(|v| **v != Verdict::Pass);
            let called = wrong.clone().filter(|v| **v != Verdict::Inconclusive);
            assert!(called.count() <= 12, "{noise}");
            if noise < 0.03 {
                assert!(wrong.count() <= 20, "{noise}");
            }
        }
    }

    #[test]
    fn five_percent_are_found_after_the_advised_rounds() {
        let mut random = SplitMix64::new(9);
        for noise in [0.01, 0.04, 0.1] {
            let rounds = rounds_advised(noise, true, &Rule::default()).expect("a number");
            let verdicts = (0..300).map(|_| compare(&mut random, 0.95, noise, rounds).verdict);
            let found = verdicts.filter(|v| *v == Verdict::Regression).count();
            assert!(
                found >= 276,
                "noise {noise}, {rounds} rounds: {found} of 300"
            );
        }
        assert_eq!(rounds_advised(0.01, true, &Rule::default()), Some(12));
        assert_eq!(rounds_advised(1.0, true, &Rule::default()), None);
    }

    #[test]
    fn values_that_were_not_paired_are_compared_too() {
        let first: Vec<f64> = (0..12).map(|i| 100.0 + f64::from(i % 3)).collect();
        let slower: Vec<f64> = first.iter().map(|v| v * 0.9).collect();
        let change = Change::unpaired(&first, &slower, 0.95).expect("values");
        let judged = judge(change, None, Better::Higher, &Rule::default());
        assert_eq!(judged.verdict, Verdict::Regression);
        assert!((change.ratio - 0.9).abs() < 0.01, "{change:?}");
        let change = Change::unpaired(&first, &first, 0.95).expect("values");
        let judged = judge(change, None, Better::Higher, &Rule::default());
        assert_eq!(judged.verdict, Verdict::Pass);
        assert_eq!(Change::unpaired(&first, &[0.0; 12], 0.95), None);
    }

    #[test]
    fn rounds_are_geometric_means() {
        let ratio = round_log_ratio(&[10.0, 40.0], &[40.0]).map(f64::exp);
        assert!((ratio.expect("positive") - 2.0).abs() < 1e-12);
        assert_eq!(round_log_ratio(&[], &[1.0]), None);
        assert_eq!(round_log_ratio(&[1.0], &[-1.0]), None);
    }
}
