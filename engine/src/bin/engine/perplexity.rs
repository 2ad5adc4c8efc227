//! `engine perplexity`: how well a model predicts a text, by llama-perplexity's protocol.
//!
//! The tokens of the text are cut into windows of `--ctx`; each is read from an empty cache, its first token replaced by
//! BOS if the vocabulary asks for BOS, and the predictions of the second half are counted.

use crate::{open, windows};
use clap::Args;
use engine::Result;
use engine::model::Model;
use engine::pool::Pool;
use engine::session::Session;
use engine::tokenizer::Tokenizer;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// Arguments of `engine perplexity`.
#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// Model file.
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// Text file, UTF-8.
    #[arg(short, long, value_name = "TEXT")]
    file: PathBuf,
    /// Tokens of a window.
    #[arg(short, long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    ctx: u32,
    /// Windows to read; all that the text fills when not given.
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
    #[command(flatten)]
    engine: open::EngineArgs,
}

/// Sums over the counted predictions.
#[derive(Debug, Default)]
struct Sums {
    count: u64,
    nll: f64,
    nll_squares: f64,
}

impl Sums {
    fn add(&mut self, logits: &[f32], next: u32) {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
        let nll = sum.ln() - f64::from(logits[next as usize] - max);
        self.count += 1;
        self.nll += nll;
        self.nll_squares += nll * nll;
    }

    /// Perplexity and its standard error.
    fn perplexity(&self) -> (f64, f64) {
        let count = self.count as f64;
        let mean = self.nll / count;
        let variance = (self.nll_squares / count - mean * mean).max(0.0);
        let ppl = mean.exp();
        (ppl, ppl * (variance / (count - 1.0)).sqrt())
    }
}

/// Prints the perplexity; the last line is `PPL = mean +/- standard error`.
pub(crate) fn run(args: &PerplexityArgs) -> Result<()> {
    let text = open::read_text(&args.file)?;
    let ctx = args.ctx as usize;
    let options = args.engine.options(ctx)?;
    let pool = Pool::new(&options)?;
    let model = Model::load(&args.model, &pool, &options)?;
    let tokenizer = Tokenizer::from_gguf(model.gguf())?;
    let windows = windows::of(&tokenizer, &text, ctx, args.chunks)?;
    let mut session = Session::new(&model, &pool, &options)?;
    let mut sums = Sums::default();
    let bar = ProgressBar::new(windows.len() as u64);
    bar.set_style(open::style(
        ProgressStyle::default_bar(),
        "{bar:40} {pos}/{len} windows  {msg}  {eta} left",
    ));
    for window in &windows {
        session.truncate(0);
        session.score(&window[..ctx - 1], ctx / 2, |i, logits| {
            sums.add(logits, window[i + 1])
        })?;
        bar.inc(1);
        bar.set_message(format!("PPL {:.4}", sums.perplexity().0));
    }
    bar.finish_and_clear();
    let (ppl, error) = sums.perplexity();
    open::print(&format!(
        "{} windows of {ctx} tokens, {} predictions counted\nPPL = {ppl:.4} +/- {error:.4}\n",
        windows.len(),
        sums.count
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_give_the_vocabulary_size_without_error() {
        let mut sums = Sums::default();
        (0..10).for_each(|i| sums.add(&[0.5; 32], i));
        let (ppl, error) = sums.perplexity();
        assert!(
            (ppl - 32.0).abs() < 1e-9 && error < 1e-6,
            "{ppl} +/- {error}"
        );
    }

    #[test]
    fn a_certain_prediction_gives_one() {
        let mut sums = Sums::default();
        (0..10).for_each(|_| sums.add(&[0.0, 100.0], 1));
        assert!((sums.perplexity().0 - 1.0).abs() < 1e-9);
    }
}
