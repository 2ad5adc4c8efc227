//! The statistics of reports and verdicts. Every function says its definition; none assumes a normal distribution.
//!
//! Values must be finite; empty input gives `None`. Intervals carry the confidence they really have, because with
//! few repetitions no interval reaches the one asked for.

use serde::{Deserialize, Serialize};

/// Fewest values for which a 99th percentile is reported: below it, the chance that even the largest value lies
/// above the true one is under 95 % (1 - 0.99^299 = 0.9505).
pub const P99_SAMPLES_MIN: usize = 299;
/// Most differences for which the distribution of the signed-rank statistic is counted exactly.
const WILCOXON_EXACT_MAX: usize = 200;
/// Most pairs for which the distribution of the rank-sum statistic is counted exactly.
const RANK_SUM_EXACT_MAX: usize = 2500;

/// A two-sided interval and its confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Probability with which such intervals hold the true value, from 0 to 1.
    pub confidence: f64,
}

/// Quantile by linear interpolation between order statistics: position `p * (n - 1)` counted from 0
/// (Hyndman and Fan's type 7, the default of R and NumPy). `p` is from 0 to 1.
pub fn quantile(values: &[f64], p: f64) -> Option<f64> {
    let position = p.clamp(0.0, 1.0) * values.len().checked_sub(1)? as f64;
    let below = position.floor();
    let mut list = values.to_vec();
    let (_, low, above) = list.select_nth_unstable_by(below as usize, f64::total_cmp);
    let low = *low;
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    Some(low + (high - low) * (position - below))
}

/// The middle value, or the mean of the two middle ones.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// Median of the absolute deviations from the median, not scaled.
pub fn mad(values: &[f64]) -> Option<f64> {
    let middle = median(values)?;
    let deviations: Vec<f64> = values.iter().map(|v| (v - middle).abs()).collect();
    median(&deviations)
}

/// 99th percentile, if there are at least [`P99_SAMPLES_MIN`] values.
pub fn p99(values: &[f64]) -> Option<f64> {
    (values.len() >= P99_SAMPLES_MIN).then(|| quantile(values, 0.99))?
}

/// Interval of the median between two order statistics, by inverting the sign test: no assumption but independent
/// values. The narrowest one of at least the confidence asked for; or, where there are too few values for that, the
/// range, with the confidence it has (5 values: 93.75 %). `None` below two values.
pub fn median_interval(values: &[f64], confidence: f64) -> Option<Interval> {
    let sorted = sorted(values);
    let n = sorted.len();
    if n < 2 {
        return None;
    }
    let mut best = 0;
    let mut tail = binomial_half_cdf(n, 0);
    for k in 1..n / 2 {
        let wider = binomial_half_cdf(n, k);
        if 1.0 - 2.0 * wider < confidence {
            break;
        }
        (best, tail) = (k, wider);
    }
    Some(Interval {
        low: sorted[best],
        high: sorted[n - 1 - best],
        confidence: 1.0 - 2.0 * tail,
    })
}

/// Two-sided p of the sign test that the median of `differences` is 0. Zeros are left out. 1 if nothing is left.
pub fn sign_test_p(differences: &[f64]) -> f64 {
    let above = differences.iter().filter(|d| **d > 0.0).count();
    let below = differences.iter().filter(|d| **d < 0.0).count();
    (2.0 * binomial_half_cdf(above + below, above.min(below))).min(1.0)
}

/// Hodges-Lehmann estimate of the centre: the median of all Walsh averages `(x_i + x_j) / 2`, `i <= j`.
pub fn hodges_lehmann(values: &[f64]) -> Option<f64> {
    median(&walsh_averages(values))
}

/// Interval around the Hodges-Lehmann estimate by inverting the Wilcoxon signed-rank test: assumes independent
/// values, symmetric about their centre. Like [`median_interval`], the widest one there is, with its confidence,
/// where there are too few values for the one asked for.
pub fn wilcoxon_interval(values: &[f64], confidence: f64) -> Option<Interval> {
    if values.len() < 2 {
        return None;
    }
    let averages = sorted(&walsh_averages(values));
    let tails = signed_rank_cdf(values.len());
    let alpha = (1.0 - confidence) / 2.0;
    let fitting = tails.iter().take_while(|tail| **tail <= alpha).count();
    let k = fitting.max(1) - 1;
    Some(Interval {
        low: averages[k],
        high: averages[averages.len() - 1 - k],
        confidence: 1.0 - 2.0 * tails[k],
    })
}

/// Hodges-Lehmann estimate of how far `b` lies above `a`: the median of all differences `b_j - a_i`.
pub fn hodges_lehmann_shift(a: &[f64], b: &[f64]) -> Option<f64> {
    median(&differences(a, b))
}

/// Interval around that shift by inverting the rank-sum test (Mann and Whitney): assumes independent values, of which
/// those of `b` are distributed as those of `a` but for the shift. The range of differences, with the confidence it
/// has, where there are too few values for the one asked for. `None` below two values on either side.
pub fn rank_sum_interval(a: &[f64], b: &[f64], confidence: f64) -> Option<Interval> {
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let differences = sorted(&differences(a, b));
    let tails = rank_sum_cdf(a.len(), b.len());
    let alpha = (1.0 - confidence) / 2.0;
    let fitting = tails.iter().take_while(|tail| **tail <= alpha).count();
    let k = fitting.max(1) - 1;
    Some(Interval {
        low: differences[k],
        high: differences[differences.len() - 1 - k],
        confidence: 1.0 - 2.0 * tails[k],
    })
}

/// Two-sided p of the Wilcoxon signed-rank test that `differences` are symmetric about 0. Zeros are left out, equal
/// magnitudes share their mean rank. 1 if nothing is left.
pub fn wilcoxon_p(differences: &[f64]) -> f64 {
    let kept: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0).collect();
    if kept.is_empty() {
        return 1.0;
    }
    let rank_sum = |sign: f64| -> f64 {
        let magnitudes = kept.iter().filter(|d| **d * sign > 0.0).map(|d| d.abs());
        magnitudes.map(|m| mean_rank(&kept, m)).sum()
    };
    let smaller = rank_sum(1.0).min(rank_sum(-1.0));
    let tails = signed_rank_cdf(kept.len());
    (2.0 * tails[smaller.floor() as usize]).min(1.0)
}

/// Percentile-bootstrap interval of `statistic` over values that come in repetitions: whole repetitions are drawn
/// with replacement and pooled, because values of one repetition are not independent. The same seed gives the same
/// interval for ever. `None` below two repetitions, or if `statistic` is `None` on any draw.
pub fn bootstrap_interval(
    repetitions: &[Vec<f64>],
    statistic: impl Fn(&[f64]) -> Option<f64>,
    confidence: f64,
    draws: usize,
    seed: u64,
) -> Option<Interval> {
    if repetitions.len() < 2 {
        return None;
    }
    let mut random = SplitMix64::new(seed);
    let mut pooled = Vec::new();
    let estimates: Option<Vec<f64>> = (0..draws)
        .map(|_| {
            pooled.clear();
            for _ in repetitions {
                pooled.extend_from_slice(&repetitions[random.below(repetitions.len())]);
            }
            statistic(&pooled)
        })
        .collect();
    let estimates = estimates?;
    let alpha = (1.0 - confidence) / 2.0;
    Some(Interval {
        low: quantile(&estimates, alpha)?,
        high: quantile(&estimates, 1.0 - alpha)?,
        confidence,
    })
}

/// Ascending copy.
fn sorted(values: &[f64]) -> Vec<f64> {
    let mut list = values.to_vec();
    list.sort_by(f64::total_cmp);
    list
}

/// Averages of all pairs of values, each with itself included.
fn walsh_averages(values: &[f64]) -> Vec<f64> {
    let mut averages = Vec::with_capacity(values.len() * (values.len() + 1) / 2);
    for (i, a) in values.iter().enumerate() {
        averages.extend(values[i..].iter().map(|b| (a + b) / 2.0));
    }
    averages
}

/// All differences `b_j - a_i`.
fn differences(a: &[f64], b: &[f64]) -> Vec<f64> {
    let all = a.iter().flat_map(|x| b.iter().map(move |y| y - x));
    all.collect()
}

/// Mean rank, from 1, of magnitude `m` among the magnitudes of `values`.
fn mean_rank(values: &[f64], m: f64) -> f64 {
    let below = values.iter().filter(|v| v.abs() < m).count();
    let equal = values.iter().filter(|v| v.abs() == m).count();
    below as f64 + (equal as f64 + 1.0) / 2.0
}

/// Probability of at most `k` heads in `n` throws of a fair coin.
fn binomial_half_cdf(n: usize, k: usize) -> f64 {
    // Terms are summed as logarithms, so that a large n does not underflow.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = log_term.exp();
    for i in 1..=k.min(n) {
        log_term += ((n - i + 1) as f64 / i as f64).ln();
        sum += log_term.exp();
    }
    sum.min(1.0)
}

/// Probability that the signed-rank statistic of `n` values is at most `t`, for `t` from 0 to `n (n + 1) / 2`:
/// counted exactly, or by the normal approximation with continuity correction where `n` is large.
fn signed_rank_cdf(n: usize) -> Vec<f64> {
    let max = n * (n + 1) / 2;
    if n > WILCOXON_EXACT_MAX {
        let mean = max as f64 / 2.0;
        let deviation = (mean * (2 * n + 1) as f64 / 6.0).sqrt();
        return (0..=max)
            .map(|t| normal_cdf((t as f64 + 0.5 - mean) / deviation))
            .collect();
    }
    // Each rank is in the sum or not, with probability one half.
    let mut probability = vec![0.0; max + 1];
    probability[0] = 1.0;
    for rank in 1..=n {
        for t in (0..=max).rev() {
            let with = if t >= rank {
                probability[t - rank]
            } else {
                0.0
            };
            probability[t] = (probability[t] + with) / 2.0;
        }
    }
    let mut sum = 0.0;
    probability
        .iter()
        .map(|p| {
            sum += p;
            f64::min(sum, 1.0)
        })
        .collect()
}

/// Probability that of `n * m` pairs from two equal distributions at most `u` have the second value below the first,
/// for `u` from 0 to `n * m`: counted exactly, or by the normal approximation with continuity correction.
fn rank_sum_cdf(n: usize, m: usize) -> Vec<f64> {
    let max = n * m;
    if max > RANK_SUM_EXACT_MAX {
        let mean = max as f64 / 2.0;
        let deviation = (max as f64 * (n + m + 1) as f64 / 12.0).sqrt();
        let cdf = (0..=max).map(|u| normal_cdf((u as f64 + 0.5 - mean) / deviation));
        return cdf.collect();
    }
    // The largest value of i + j is one of the first i with probability i / (i + j), and then has j pairs above.
    let mut row: Vec<Vec<f64>> = vec![vec![0.0; max + 1]; m + 1];
    for probability in &mut row {
        probability[0] = 1.0;
    }
    for i in 1..=n {
        for j in 1..=m {
            let first = i as f64 / (i + j) as f64;
            let step = |u: usize| {
                let taken = u.checked_sub(j).map_or(0.0, |at| row[j][at]);
                first * taken + (1.0 - first) * row[j - 1][u]
            };
            row[j] = (0..=max).map(step).collect();
        }
    }
    let mut sum = 0.0;
    let cdf = row[m].iter().map(|p| {
        sum += p;
        f64::min(sum, 1.0)
    });
    cdf.collect()
}

/// Distribution function of the standard normal (Abramowitz and Stegun 26.2.17, absolute error below 7.5e-8).
fn normal_cdf(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let series = t
        * (0.319_381_530
            + t * (-0.356_563_782
                + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * series;
    if z > 0.0 { 1.0 - tail } else { tail }
}

/// Steele, Lea and Flood's SplitMix64: small, seedable, and the same on every machine.
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// The sequence that `seed` begins.
    pub(crate) fn new(seed: u64) -> SplitMix64 {
        SplitMix64(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `n` exclusive; the bias is below `n` / 2^64.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests;
