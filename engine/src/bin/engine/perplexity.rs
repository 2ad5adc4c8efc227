//! `engine perplexity`: how well a model predicts a text, by llama-perplexity's protocol.
//!
//! The tokens of the text are cut into windows of `--ctx`; each is read from an empty cache, its first token replaced by
//! BOS if the vocabulary asks for BOS, and the predictions of the second half are counted.

use crate::open;
use clap::Args;
use engine::Result;
use engine::quality::{self, Surprise};
use std::path::PathBuf;

/// Arguments of `engine perplexity`.
#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// Model file.
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    #[command(flatten)]
    windows: open::WindowArgs,
}

/// Prints the perplexity; the last line is `PPL = mean +/- standard error`.
pub(crate) fn run(args: &PerplexityArgs) -> Result<()> {
    let windows = args.windows.open(&args.model, Ok)?;
    let ctx = args.windows.ctx;
    let mut session = windows.session()?;
    let mut surprise = Surprise::default();
    let first = quality::first_counted(ctx as usize);
    windows.each(|window| {
        quality::predict(&mut session, window, first, |logits, next| {
            surprise.add(logits, next)
        })?;
        Ok(format!("PPL {:.4}  ", surprise.perplexity().0))
    })?;
    let (ppl, error) = surprise.perplexity();
    open::print(&format!(
        "{} windows of {ctx} tokens, {} predictions counted\nPPL = {ppl:.4} +/- {error:.4}\n",
        windows.len(),
        surprise.count()
    ))
}
