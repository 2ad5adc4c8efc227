//! `engine calibrate`: thresholds of sparsity, from what a model computes while it reads a text.
//!
//! The text is cut into windows as for `engine imatrix`. Everything is computed densely; the threshold of a site is the
//! magnitude that the wanted share of those seen there lies below.

use crate::open;
use clap::Args;
use engine::gguf::Gguf;
use engine::model::{Config, Model};
use engine::options::sparsity::{Method, Sparsity};
use engine::pool::Pool;
use engine::quality;
use engine::session::Session;
use engine::sparsity::{Thresholds, fingerprint, text_hash};
use engine::tokenizer::Tokenizer;
use engine::{Options, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Arguments of `engine calibrate`.
#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    /// Model file.
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// Text file, UTF-8.
    #[arg(short, long, value_name = "TEXT")]
    file: PathBuf,
    /// File to write, TOML; it must not exist.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Share of the channels to leave out at every site.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    sparsity: f64,
    /// Method that the thresholds are for, as `engine.sparsity.method` names it; all but `wina` have the same.
    #[arg(long, default_value = "teal", value_parser = open::named::<Method>)]
    method: Method,
    /// Tokens of a window.
    #[arg(short, long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    ctx: u32,
    /// Windows to read; all that the text fills when not given.
    #[arg(long, value_name = "N")]
    chunks: Option<NonZeroUsize>,
    #[command(flatten)]
    engine: open::EngineArgs,
}

fn share(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("expected a share from 0 to below 1, such as 0.5".into()),
    }
}

/// Writes the thresholds.
pub(crate) fn run(args: &CalibrateArgs) -> Result<()> {
    let text = open::read_text(&args.file)?;
    let ctx = args.ctx as usize;
    // Only the norms of WINA need the matrices by channels; nothing is left out while several tokens are read.
    let norms = args.method == Method::Wina;
    let sparsity = norms.then(|| Sparsity {
        method: args.method,
        threshold: 0.0,
        thresholds: PathBuf::new(),
    });
    let options = Options {
        sparsity,
        ..args.engine.options(ctx)?
    };
    Config::from_gguf(&Gguf::open(&args.model)?)?.check_sparsity()?;
    let pool = Pool::new(&options)?;
    let model = Model::load(&args.model, &pool, &options)?;
    let tokenizer = Tokenizer::from_gguf(model.gguf())?;
    let mut windows = quality::windows(&tokenizer, &text, ctx)?;
    windows.truncate(args.chunks.unwrap_or(NonZeroUsize::MAX).get());
    let mut session = Session::new(&model, &pool, &options)?;
    session.observe_magnitudes();
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
    let magnitudes = session.magnitudes().expect("asked for above");
    let found = Thresholds {
        norms,
        sparsity: args.sparsity,
        model: fingerprint(model.gguf()),
        text: text_hash(&text),
        tokens: (windows.len() * ctx) as u64,
        layer: magnitudes.quantiles(args.sparsity),
    };
    found.save(&args.output)?;
    eprintln!(
        "wrote \"{}\": thresholds of {} layers from {} windows of {ctx} tokens",
        args.output.display(),
        found.layer.len(),
        windows.len()
    );
    Ok(())
}
