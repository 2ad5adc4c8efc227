//! `engine perplexity`: how well a model predicts a text, by llama-perplexity's protocol.
//!
//! The tokens of the text are cut into windows of `--ctx`; each is read from an empty cache, its first token replaced by
//! BOS if the vocabulary asks for BOS, and the predictions of the second half are counted.

use crate::open;
use clap::Args;
use engine::Result;
use engine::model::Model;
use engine::pool::Pool;
use engine::quality::{self, Surprise};
use engine::session::Session;
use engine::tokenizer::Tokenizer;
use indicatif::{ProgressBar, ProgressStyle};
use std::num::NonZeroUsize;
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
    chunks: Option<NonZeroUsize>,
    #[command(flatten)]
    engine: open::EngineArgs,
}

/// Prints the perplexity; the last line is `PPL = mean +/- standard error`.
pub(crate) fn run(args: &PerplexityArgs) -> Result<()> {
    let text = open::read_text(&args.file)?;
    let ctx = args.ctx as usize;
    let options = args.engine.options(ctx)?;
    let pool = Pool::new(&options)?;
    let model = Model::load(&args.model, &pool, &options)?;
    let tokenizer = Tokenizer::from_gguf(model.gguf())?;
    let mut windows = quality::windows(&tokenizer, &text, ctx)?;
    windows.truncate(args.chunks.unwrap_or(NonZeroUsize::MAX).get());
    let mut session = Session::new(&model, &pool, &options)?;
    let mut surprise = Surprise::default();
    let first = quality::first_counted(ctx);
    let bar = ProgressBar::new(windows.len() as u64);
    bar.set_style(open::style(
        ProgressStyle::default_bar(),
        "{bar:40} {pos}/{len} windows  {msg}  {eta} left",
    ));
    for window in &windows {
        quality::predict(&mut session, window, first, |logits, next| {
            surprise.add(logits, next)
        })?;
        bar.inc(1);
        bar.set_message(format!("PPL {:.4}", surprise.perplexity().0));
    }
    bar.finish_and_clear();
    let (ppl, error) = surprise.perplexity();
    open::print(&format!(
        "{} windows of {ctx} tokens, {} predictions counted\nPPL = {ppl:.4} +/- {error:.4}\n",
        windows.len(),
        surprise.count()
    ))
}
