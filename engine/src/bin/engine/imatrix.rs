//! `engine imatrix`: what the columns of a model's matrices are multiplied with while it reads a text.
//!
//! The tokens of the text are cut into windows of `--ctx`, each read from an empty cache, its first token replaced by BOS if
//! the vocabulary asks for BOS, as llama-imatrix does.

use crate::open;
use clap::Args;
use engine::Result;
use engine::model::Model;
use engine::pool::Pool;
use engine::quality;
use engine::session::Session;
use engine::tokenizer::Tokenizer;
use indicatif::{ProgressBar, ProgressStyle};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Arguments of `engine imatrix`.
#[derive(Debug, Args)]
pub(crate) struct ImatrixArgs {
    /// Model file.
    model: PathBuf,
    /// Text file, UTF-8.
    #[arg(short, long, value_name = "TEXT")]
    file: PathBuf,
    /// File to write, GGUF; it must not exist.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Tokens of a window.
    #[arg(short, long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    ctx: u32,
    /// Windows to read; all that the text fills when not given.
    #[arg(long, value_name = "N")]
    chunks: Option<NonZeroUsize>,
    #[command(flatten)]
    engine: open::EngineArgs,
}

/// Writes the matrix.
pub(crate) fn run(args: &ImatrixArgs) -> Result<()> {
    let text = open::read_text(&args.file)?;
    let ctx = args.ctx as usize;
    let options = args.engine.options(ctx)?;
    let pool = Pool::new(&options)?;
    let model = Model::load(&args.model, &pool, &options)?;
    let tokenizer = Tokenizer::from_gguf(model.gguf())?;
    let mut windows = quality::windows(&tokenizer, &text, ctx)?;
    windows.truncate(args.chunks.unwrap_or(NonZeroUsize::MAX).get());
    let mut session = Session::new(&model, &pool, &options)?;
    session.observe();
    let bar = ProgressBar::new(windows.len() as u64);
    bar.set_style(open::style(
        ProgressStyle::default_bar(),
        "{bar:40} {pos}/{len} windows  {eta} left",
    ));
    for window in &windows {
        session.truncate(0);
        session.prefill(window)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let dataset = args.file.display().to_string();
    let observer = session.observed().expect("asked for above");
    observer.save(&args.output, &dataset, windows.len() as u32, args.ctx)?;
    eprintln!(
        "wrote \"{}\": {} windows of {ctx} tokens",
        args.output.display(),
        windows.len()
    );
    Ok(())
}
