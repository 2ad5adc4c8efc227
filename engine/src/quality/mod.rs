//! How well a model predicts a text, and how far its predictions lie from those of a base.
//!
//! The protocol is llama-perplexity's: the tokens of a text are cut into windows, each is read from an empty cache, its first
//! token replaced by BOS if the vocabulary asks for BOS, and the predictions of the second half count.

mod base;

pub use base::{Prediction, against, base_bytes, write_base};

use crate::error::{Error, Result};
use crate::session::Session;
use crate::tokenizer::{EncodeOptions, Tokenizer};
use serde::{Deserialize, Serialize};

/// Fewest tokens of a window: of fewer, no prediction would count.
pub const WINDOW_TOKENS_MIN: usize = 8;

/// What a model's predictions of a text come to, beside those of a base.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Predictions that were counted.
    pub predictions: u64,
    /// Exponential of the mean negative logarithm of the probability of the token that followed.
    pub perplexity: f64,
    /// Its standard error.
    pub perplexity_error: f64,
    /// Mean Kullback-Leibler divergence of the predictions from the base's, in nats.
    pub kld_mean: f64,
    /// Its standard error.
    pub kld_mean_error: f64,
    /// 99 of 100 predictions diverge less, in nats.
    pub kld_p99: f64,
    /// Share of the predictions whose likeliest token is the base's, 0 to 1.
    pub top1_share: f64,
}

/// Windows of `ctx` tokens, as many as the text fills; the first token of each is BOS if the vocabulary asks for it.
///
/// # Errors
/// When a window would be too short, or the text does not fill one.
pub fn windows(tokenizer: &Tokenizer, text: &str, ctx: usize) -> Result<Vec<Vec<u32>>> {
    if ctx < WINDOW_TOKENS_MIN {
        return Err(Error::Input(format!(
            "a window of {ctx} tokens is too short: use at least {WINDOW_TOKENS_MIN}"
        )));
    }
    let encode = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    let tokens = tokenizer.encode(text, encode);
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let windows: Vec<Vec<u32>> = tokens
        .chunks_exact(ctx)
        .map(|window| {
            let mut window = window.to_vec();
            window[0] = bos.unwrap_or(window[0]);
            window
        })
        .collect();
    match windows.is_empty() {
        true => Err(Error::Input(format!(
            "the text has {} tokens, not one window of {ctx}: use a longer text or shorter windows",
            tokens.len()
        ))),
        false => Ok(windows),
    }
}

/// `n` of the windows, spread over the text; all of them where there are no more.
pub fn spread(mut windows: Vec<Vec<u32>>, n: usize) -> Vec<Vec<u32>> {
    let (all, n) = (windows.len(), n.min(windows.len()));
    let mut number = 0..all;
    windows.retain(|_| {
        let place = number.next();
        place.is_some_and(|i| i * n / all != (i + 1) * n / all)
    });
    windows
}

/// Reads a window from an empty cache, and gives each prediction from the token at position `first` on to
/// `each(logits, token that followed)`.
///
/// # Errors
/// As [`Session::score`].
pub fn predict(
    session: &mut Session<'_>,
    window: &[u32],
    first: usize,
    mut each: impl FnMut(&[f32], u32),
) -> Result<()> {
    session.truncate(0);
    let read = &window[..window.len() - 1];
    session.score(read, first, |i, logits| each(logits, window[i + 1]))
}

/// Position in a window from which on predictions count.
pub fn first_counted(ctx: usize) -> usize {
    ctx / 2
}

/// Logarithm of the sum of exponentials.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from((l - max).exp())).sum();
    f64::from(max) + sum.ln()
}

/// Sums over predictions of the negative logarithm of the probability of the token that followed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surprise {
    mean: Mean,
}

impl Surprise {
    /// Counts a prediction.
    pub fn add(&mut self, logits: &[f32], next: u32) {
        self.mean
            .add(log_sum_exp(logits) - f64::from(logits[next as usize]));
    }

    /// Predictions counted.
    pub fn count(&self) -> u64 {
        self.mean.count
    }

    /// Perplexity and its standard error.
    pub fn perplexity(&self) -> (f64, f64) {
        let ppl = self.mean.value().exp();
        (ppl, ppl * self.mean.error())
    }
}

/// Mean of a quantity, and its standard error.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    count: u64,
    sum: f64,
    squares: f64,
}

impl Mean {
    fn add(&mut self, x: f64) {
        self.count += 1;
        self.sum += x;
        self.squares += x * x;
    }

    fn value(&self) -> f64 {
        self.sum / self.count as f64
    }

    fn error(&self) -> f64 {
        let variance = (self.squares / self.count as f64 - self.value().powi(2)).max(0.0);
        (variance / (self.count as f64 - 1.0)).sqrt()
    }
}

/// The value that a share of the values lies below, between the two nearest as numbers go.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = share * (values.len() - 1) as f64;
    let (low, part) = (place as usize, place.fract());
    let high = values[(low + 1).min(values.len() - 1)];
    values[low] + part * (high - values[low])
}

/// Figures from the predictions of all windows.
///
/// # Errors
/// When they are no numbers.
fn figures(surprise: &Surprise, klds: Vec<f64>, agreeing: u64) -> Result<Figures> {
    let mut kld = Mean::default();
    klds.iter().for_each(|&one| kld.add(one));
    let (perplexity, perplexity_error) = surprise.perplexity();
    let figures = Figures {
        predictions: surprise.count(),
        perplexity,
        perplexity_error,
        kld_mean: kld.value(),
        kld_mean_error: kld.error(),
        kld_p99: quantile(klds, 0.99),
        top1_share: agreeing as f64 / kld.count as f64,
    };
    match figures.perplexity.is_finite() && figures.kld_mean.is_finite() {
        true => Ok(figures),
        false => Err(no_numbers()),
    }
}

fn no_numbers() -> Error {
    Error::Model("its predictions are not finite numbers: are the weights damaged?".into())
}

#[cfg(test)]
mod tests;
