//! `engine imatrix`: what the columns of a model's matrices are multiplied with while it reads a text.
//!
//! The tokens of the text are cut into windows of `--ctx`, each read from an empty cache, its first token replaced by BOS if
//! the vocabulary asks for BOS, as llama-imatrix does.

use crate::open;
use clap::Args;
use engine::Result;
use engine::file::require_new;
use std::path::PathBuf;

/// Arguments of `engine imatrix`.
#[derive(Debug, Args)]
pub(crate) struct ImatrixArgs {
    /// Model file.
    model: PathBuf,
    /// File to write, GGUF; it must not exist.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    windows: open::WindowArgs,
}

/// Writes the matrix.
pub(crate) fn run(args: &ImatrixArgs) -> Result<()> {
    require_new(&args.output)?;
    let windows = args.windows.open(&args.model, |options| {
        open::refuse_sparsity(&options)?;
        Ok(options)
    })?;
    let ctx = args.windows.ctx;
    let mut session = windows.session()?;
    session.observe();
    windows.prefill(&mut session)?;
    let dataset = args.windows.file.display().to_string();
    let observer = session.observed().expect("asked for above");
    observer.save(&args.output, &dataset, windows.len() as u32, ctx)?;
    eprintln!(
        "wrote \"{}\": {} windows of {ctx} tokens",
        args.output.display(),
        windows.len()
    );
    Ok(())
}
