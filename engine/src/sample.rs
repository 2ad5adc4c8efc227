//! Choosing the next token from logits.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::rng::Rng;

/// How tokens are chosen; names, meanings, order and, but for the temperature, defaults are llama.cpp's.
///
/// The best `top_k` tokens stay, of these the best that together have `top_p` of the probability, of these the ones with
/// at least `min_p` of the best one's probability; then the temperature is applied and one token is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerOptions {
    /// Temperature; `0` always takes the most likely token.
    pub temp: f32,
    /// Number of tokens to choose from; `0` means all.
    pub top_k: usize,
    /// Share of the probability to choose from, `0` to `1`; `1` means all.
    pub top_p: f32,
    /// Least probability, as a share of the most likely token's, `0` to `1`; `0` means any.
    pub min_p: f32,
    /// Seed of the draws: the same seed and logits give the same tokens on every machine.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        SamplerOptions {
            temp: 0.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// Refuses numbers outside their ranges.
    ///
    /// # Errors
    /// [`Error::Option`] names the option, what was expected and found.
    pub fn check(&self) -> Result<()> {
        let check = |option, value: f32, max: f32, expected| {
            if (0.0..=max).contains(&value) {
                return Ok(());
            }
            Err(Error::Option {
                option,
                what: format!("expected {expected}, found {value}: give such a number"),
            })
        };
        check("temp", self.temp, f32::MAX, "a number from 0 on")?;
        check("top_p", self.top_p, 1.0, "a number from 0 to 1")?;
        check("min_p", self.min_p, 1.0, "a number from 0 to 1")
    }
}

/// Chooses tokens. Its working memory grows with the first call only.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    rng: Rng,
    candidates: Vec<Candidate>,
    target: Distribution,
}

/// Probabilities of the tokens that may be chosen, ordered by id; all others have none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution(Vec<(u32, f32)>);

impl Distribution {
    /// Makes `token` certain.
    pub fn set_certain(&mut self, token: u32) {
        self.0.clear();
        self.0.push((token, 1.0));
    }

    /// Probability of a token.
    pub fn chance(&self, token: u32) -> f32 {
        let found = self.0.binary_search_by_key(&token, |&(id, _)| id);
        found.map_or(0.0, |at| self.0[at].1)
    }
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    /// Probability, or something proportional to it.
    weight: f32,
}

impl Candidate {
    /// Best first, the lowest id first of equals.
    fn order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
        b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
    }
}

impl Sampler {
    /// A sampler at the start of its random sequence.
    ///
    /// # Errors
    /// [`Error::Option`] for a number outside its range.
    pub fn new(options: SamplerOptions) -> Result<Sampler> {
        options.check()?;
        let rng = Rng::of(options.seed, "sampler");
        Ok(Sampler {
            options,
            rng,
            candidates: Vec::new(),
            target: Distribution::default(),
        })
    }

    /// The next token, given a logit for each token of the vocabulary.
    ///
    /// # Errors
    /// [`Error::Model`] where a logit is not a number or infinite, or none is left to choose from.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let best = argmax(logits)?;
        if self.options.temp == 0.0 {
            return Ok(best);
        }
        let whole = self.narrow(logits, best);
        self.draw_candidate(whole)
    }

    /// The probabilities that [`Sampler::sample`] draws with.
    ///
    /// # Errors
    /// As there.
    pub fn distribution(&mut self, logits: &[f32], out: &mut Distribution) -> Result<()> {
        let best = argmax(logits)?;
        if self.options.temp == 0.0 {
            out.set_certain(best);
            return Ok(());
        }
        let whole = self.narrow(logits, best);
        let chance = |c: &Candidate| (c.id, (f64::from(c.weight) / whole) as f32);
        out.0.clear();
        out.0.extend(self.candidates.iter().map(chance));
        out.0.sort_unstable_by_key(|&(id, _)| id);
        Ok(())
    }

    /// Draws a token.
    ///
    /// # Errors
    /// [`Error::Model`] where none has a probability above zero.
    pub fn draw(&mut self, from: &Distribution) -> Result<u32> {
        let whole: f64 = from.0.iter().map(|&(_, p)| f64::from(p)).sum();
        draw(&mut self.rng, whole, from.0.iter().copied())
    }

    /// The next token after `drafted` was drawn from `draft`: that one with probability `min(1, p / q)`, else one drawn from
    /// what the probabilities `p` of `logits` have over the draft's `q`. The result is distributed as by
    /// [`Sampler::sample`] (Leviathan et al. 2023, appendix A.1).
    ///
    /// # Errors
    /// As there.
    pub fn verify(&mut self, logits: &[f32], drafted: u32, draft: &Distribution) -> Result<u32> {
        if self.options.temp == 0.0 {
            return argmax(logits);
        }
        let mut target = std::mem::take(&mut self.target);
        self.distribution(logits, &mut target)?;
        let (p, q) = (target.chance(drafted), draft.chance(drafted));
        let token = if self.rng.unit() * f64::from(q) < f64::from(p) {
            Ok(drafted)
        } else {
            for (id, p) in &mut target.0 {
                *p = (*p - draft.chance(*id)).max(0.0);
            }
            match target.0.iter().any(|&(_, p)| p > 0.0) {
                true => self.draw(&target),
                // By rounding alone: the two are the same.
                false => Ok(drafted),
            }
        };
        self.target = target;
        token
    }

    /// Leaves the tokens to choose from with their weights, and gives the sum of these.
    fn narrow(&mut self, logits: &[f32], best: u32) -> f64 {
        let SamplerOptions {
            temp,
            top_k,
            top_p,
            min_p,
            ..
        } = self.options;
        let max = logits[best as usize];
        let all = (0..).zip(logits).map(|(id, &logit)| Candidate {
            id,
            logit,
            weight: 0.0,
        });
        self.candidates.clear();
        self.candidates.extend(all);
        self.keep_top_k(top_k);
        self.keep_top_p(top_p, max);
        if min_p > 0.0 {
            let least = max + min_p.ln();
            self.candidates.retain(|c| c.logit >= least);
        }
        self.weigh(temp, max)
    }

    fn keep_top_k(&mut self, top_k: usize) {
        if (1..self.candidates.len()).contains(&top_k) {
            self.candidates
                .select_nth_unstable_by(top_k - 1, Candidate::order);
            self.candidates.truncate(top_k);
            self.candidates.sort_unstable_by(Candidate::order);
        }
    }

    fn keep_top_p(&mut self, top_p: f32, max: f32) {
        if top_p >= 1.0 {
            return;
        }
        self.candidates.sort_unstable_by(Candidate::order);
        let whole = self.weigh(1.0, max) * f64::from(top_p);
        let mut sum = 0.0;
        let last = self.candidates.iter().position(|c| {
            sum += f64::from(c.weight);
            sum >= whole
        });
        if let Some(last) = last {
            self.candidates.truncate(last + 1);
        }
    }

    /// Sets the weights to `exp((logit - max) / temp)` and returns their sum.
    fn weigh(&mut self, temp: f32, max: f32) -> f64 {
        let mut sum = 0.0;
        for candidate in &mut self.candidates {
            candidate.weight = ((candidate.logit - max) / temp).exp();
            sum += f64::from(candidate.weight);
        }
        sum
    }

    fn draw_candidate(&mut self, whole: f64) -> Result<u32> {
        let weights = self.candidates.iter().map(|c| (c.id, c.weight));
        draw(&mut self.rng, whole, weights)
    }
}

/// A token drawn by its weight; `whole` is the sum of all.
fn draw(rng: &mut Rng, whole: f64, weights: impl Iterator<Item = (u32, f32)>) -> Result<u32> {
    let mut left = whole * rng.unit();
    let mut likely = weights.filter(|&(_, weight)| weight > 0.0).peekable();
    while let Some((id, weight)) = likely.next() {
        left -= f64::from(weight);
        if left < 0.0 || likely.peek().is_none() {
            return Ok(id);
        }
    }
    Err(Error::Model(
        "no token is left to choose from: report it with the options".into(),
    ))
}

/// The token with the highest logit, the lowest id of equals.
///
/// # Errors
/// [`Error::Model`] where a logit is not a number or positive infinity, and where there is none.
pub fn argmax(logits: &[f32]) -> Result<u32> {
    let sound = logits
        .iter()
        .fold(true, |sound, &logit| sound & (logit < f32::INFINITY));
    let max = logits
        .iter()
        .fold(f32::NEG_INFINITY, |max, &logit| max.max(logit));
    if !sound || max == f32::NEG_INFINITY {
        let broken = logits
            .iter()
            .position(|&logit| logit.is_nan() || logit == f32::INFINITY);
        return Err(Error::Model(match broken {
            Some(id) => format!(
                "the logit of token {id} is {}, expected a finite number: is the file damaged?",
                logits[id]
            ),
            None => format!(
                "none of {} logits is a finite number: is the file damaged?",
                logits.len()
            ),
        }));
    }
    let best = logits.iter().position(|&logit| logit == max).unwrap_or(0);
    Ok(best as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u32 = 60_000;

    fn random(options: SamplerOptions) -> SamplerOptions {
        SamplerOptions {
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..options
        }
    }

    fn counts(options: SamplerOptions, logits: &[f32]) -> Vec<u32> {
        let mut sampler = Sampler::new(options).unwrap();
        let mut counts = vec![0; logits.len()];
        for _ in 0..DRAWS {
            counts[sampler.sample(logits).unwrap() as usize] += 1;
        }
        counts
    }

    /// Checks draws against `weights` (0 means never), by chi-square at p = 0.001.
    fn check(options: SamplerOptions, logits: &[f32], weights: &[f64]) {
        const CRITICAL: [f64; 6] = [0.0, 10.83, 13.82, 16.27, 18.47, 20.52];
        let whole: f64 = weights.iter().sum();
        let (mut chi_square, mut freedom) = (0.0, 0);
        for (id, (&count, weight)) in counts(options, logits).iter().zip(weights).enumerate() {
            if *weight == 0.0 {
                assert_eq!(count, 0, "token {id} with {options:?}");
                continue;
            }
            let expect = f64::from(DRAWS) * weight / whole;
            chi_square += (f64::from(count) - expect).powi(2) / expect;
            freedom += 1;
        }
        assert!(
            chi_square <= CRITICAL[freedom - 1],
            "{chi_square} with {options:?}"
        );
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let weights = [0.02f64, 0.4, 0.1, 0.25, 0.05, 0.18];
        let logits: Vec<f32> = weights.iter().map(|w| w.ln() as f32 + 3.0).collect();
        let all = random(SamplerOptions {
            temp: 1.0,
            seed: 7,
            ..SamplerOptions::default()
        });
        check(all, &logits, &weights);
        check(
            SamplerOptions { temp: 0.5, ..all },
            &logits,
            &weights.map(|w| w * w),
        );
        check(
            SamplerOptions { temp: 2.0, ..all },
            &logits,
            &weights.map(f64::sqrt),
        );
        check(
            SamplerOptions { top_k: 2, ..all },
            &logits,
            &[0.0, 0.4, 0.0, 0.25, 0.0, 0.0],
        );
        check(
            SamplerOptions { top_k: 1, ..all },
            &logits,
            &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        );
        check(SamplerOptions { top_k: 99, ..all }, &logits, &weights);
        check(
            SamplerOptions { top_p: 0.7, ..all },
            &logits,
            &[0.0, 0.4, 0.0, 0.25, 0.0, 0.18],
        );
        check(
            SamplerOptions { top_p: 0.0, ..all },
            &logits,
            &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        );
        check(
            SamplerOptions { min_p: 0.2, ..all },
            &logits,
            &[0.0, 0.4, 0.1, 0.25, 0.0, 0.18],
        );
        check(
            SamplerOptions { min_p: 1.0, ..all },
            &logits,
            &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        );
    }

    /// Whatever the draft was drawn from, what comes of verifying it is distributed as if it had been sampled.
    #[test]
    fn verified_drafts_follow_the_probabilities() {
        const CRITICAL: f64 = 16.27;
        let logits = [0.05f64, 0.45, 0.2, 0.3].map(|p| p.ln() as f32);
        let options = random(SamplerOptions {
            temp: 1.3,
            ..SamplerOptions::default()
        });
        let logits_of_draft = [
            [0.0, 0.0, 0.0, 0.0],
            [4.0, 0.0, -4.0, 0.0],
            [-30.0, -30.0, -30.0, 9.0],
            logits,
        ];
        let expect = logits.map(|l| f64::exp(f64::from(l) / 1.3));
        let whole: f64 = expect.iter().sum();
        for (seed, draft_logits) in logits_of_draft.iter().enumerate() {
            let sampler = |seed| Sampler::new(SamplerOptions { seed, ..options }).unwrap();
            let (mut drafter, mut target) = (sampler(seed as u64), sampler(100 + seed as u64));
            let (mut draft, mut counts) = (Distribution::default(), [0.0; 4]);
            for _ in 0..DRAWS {
                drafter.distribution(draft_logits, &mut draft).unwrap();
                let drafted = drafter.draw(&draft).unwrap();
                let token = target.verify(&logits, drafted, &draft).unwrap();
                counts[token as usize] += 1.0;
                if draft_logits == &logits {
                    assert_eq!(token, drafted, "the target's own draft is always kept");
                }
            }
            let chi_square: f64 = std::iter::zip(counts, expect)
                .map(|(count, weight)| (count, f64::from(DRAWS) * weight / whole))
                .map(|(count, expect)| f64::powi(count - expect, 2) / expect)
                .sum();
            assert!(
                chi_square < CRITICAL,
                "{chi_square} {draft_logits:?} {counts:?}"
            );
        }
    }

    #[test]
    fn steps_apply_in_order() {
        let weights = [0.4f64, 0.3, 0.2, 0.1];
        let logits = weights.map(|w| w.ln() as f32);
        let all = random(SamplerOptions {
            temp: 1.0,
            ..SamplerOptions::default()
        });
        // The share is one of what top_k has left: 0.4 of 0.7 reaches a half.
        check(
            SamplerOptions {
                top_k: 2,
                top_p: 0.5,
                ..all
            },
            &logits,
            &[1.0, 0.0, 0.0, 0.0],
        );
        // The temperature comes last: at 10, all four would be within 0.8 of the best.
        check(
            SamplerOptions {
                temp: 10.0,
                min_p: 0.7,
                ..all
            },
            &logits,
            &[0.4f64.powf(0.1), 0.3f64.powf(0.1), 0.0, 0.0],
        );
    }

    #[test]
    fn temperature_0_takes_the_best_and_the_lowest_id_of_equals() {
        let greedy = |logits: &[f32]| {
            Sampler::new(SamplerOptions::default())
                .unwrap()
                .sample(logits)
                .unwrap()
        };
        assert_eq!(greedy(&[1.0, 3.0, 2.0]), 1);
        assert_eq!(greedy(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(greedy(&[-0.0, 0.0]), 0);
        assert_eq!(greedy(&[f32::NEG_INFINITY, -5.0]), 1);
        assert_eq!(greedy(&[f32::MIN, f32::MAX]), 1);
    }

    #[test]
    fn a_seed_gives_the_same_tokens_again() {
        let logits: Vec<f32> = (0..500).map(|id| ((id * 37) % 101) as f32 / 20.0).collect();
        let run = |seed| {
            let options = SamplerOptions {
                temp: 0.8,
                seed,
                ..SamplerOptions::default()
            };
            let mut sampler = Sampler::new(options).unwrap();
            (0..64)
                .map(|_| sampler.sample(&logits).unwrap())
                .collect::<Vec<u32>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn extreme_temperatures_and_logits_still_choose() {
        for temp in [1e-38, 1e38] {
            let mut sampler = Sampler::new(random(SamplerOptions {
                temp,
                ..SamplerOptions::default()
            }))
            .unwrap();
            for _ in 0..100 {
                assert!(
                    sampler
                        .sample(&[f32::MAX, f32::MIN, f32::NEG_INFINITY, 0.0])
                        .unwrap()
                        != 2
                );
            }
        }
    }

    #[test]
    fn broken_logits_are_errors() {
        let check = |logits: &[f32], expect: &str| {
            for temp in [0.0, 1.0] {
                let options = SamplerOptions {
                    temp,
                    ..SamplerOptions::default()
                };
                let error = Sampler::new(options)
                    .unwrap()
                    .sample(logits)
                    .unwrap_err()
                    .to_string();
                assert!(error.contains(expect), "{error}");
            }
        };
        check(&[0.0, f32::NAN, 1.0], "the logit of token 1 is NaN");
        check(&[f32::NAN; 3], "the logit of token 0 is NaN");
        check(&[0.0, f32::INFINITY], "the logit of token 1 is inf");
        check(&[f32::NEG_INFINITY; 2], "none of 2 logits");
        check(&[], "none of 0 logits");
    }

    #[test]
    fn memory_is_taken_once() {
        let options = SamplerOptions {
            temp: 1.0,
            ..SamplerOptions::default()
        };
        let mut sampler = Sampler::new(options).unwrap();
        let logits: Vec<f32> = (0..5000).map(|id| (id % 77) as f32).collect();
        sampler.sample(&logits).unwrap();
        let before = (sampler.candidates.as_ptr(), sampler.candidates.capacity());
        assert!((0..10).all(|_| sampler.sample(&logits).is_ok()));
        assert_eq!(
            (sampler.candidates.as_ptr(), sampler.candidates.capacity()),
            before
        );
    }

    #[test]
    fn impossible_options_are_refused() {
        let check = |change: fn(&mut SamplerOptions), expect: &str| {
            let mut options = SamplerOptions::default();
            change(&mut options);
            let error = Sampler::new(options).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(
            |o| o.temp = -1.0,
            "option \"temp\": expected a number from 0 on, found -1",
        );
        check(|o| o.temp = f32::NAN, "found NaN");
        check(|o| o.temp = f32::INFINITY, "found inf");
        check(
            |o| o.top_p = 1.5,
            "option \"top_p\": expected a number from 0 to 1, found 1.5",
        );
        check(|o| o.top_p = f32::NAN, "option \"top_p\"");
        check(|o| o.min_p = -0.1, "option \"min_p\"");
        let unknown = toml::from_str::<SamplerOptions>("top_q = 1")
            .unwrap_err()
            .to_string();
        assert!(unknown.contains("unknown field `top_q`"), "{unknown}");
        assert_eq!(
            toml::from_str::<SamplerOptions>("").unwrap(),
            SamplerOptions::default()
        );
    }
}
