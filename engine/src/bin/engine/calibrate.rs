//! `engine calibrate`: thresholds of sparsity, from what a model computes while it reads a text.
//!
//! The text is cut into windows as for `engine imatrix`. Everything is computed densely; the threshold of a site is the
//! magnitude that the wanted share of those seen there lies below.

use crate::open;
use clap::Args;
use engine::gguf::Gguf;
use engine::model::Config;
use engine::options::sparsity::{Method, Sparsity};
use engine::sparsity::{Thresholds, fingerprint, text_hash};
use engine::{Options, Result};
use std::path::PathBuf;

/// Arguments of `engine calibrate`.
#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    /// Model file.
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// File to write, TOML; it must not exist.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Share of the channels to leave out at every site.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    sparsity: f64,
    /// Method that the thresholds are for, as `engine.sparsity.method` names it; all but `wina` have the same.
    #[arg(long, default_value = "teal", value_parser = open::named::<Method>)]
    method: Method,
    #[command(flatten)]
    windows: open::WindowArgs,
}

fn share(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("expected a share from 0 to below 1, such as 0.5".into()),
    }
}

/// Writes the thresholds.
pub(crate) fn run(args: &CalibrateArgs) -> Result<()> {
    // Only the norms of WINA need the matrices by channels; nothing is left out while several tokens are read.
    let norms = args.method == Method::Wina;
    let sparsity = norms.then(|| Sparsity {
        method: args.method,
        threshold: 0.0,
        thresholds: PathBuf::new(),
    });
    Config::from_gguf(&Gguf::open(&args.model)?)?.check_sparsity()?;
    let windows = args.windows.open(&args.model, |options| Options {
        sparsity,
        ..options
    })?;
    let ctx = args.windows.ctx;
    let mut session = windows.session()?;
    session.observe_magnitudes();
    windows.prefill(&mut session)?;
    let magnitudes = session.magnitudes().expect("asked for above");
    let found = Thresholds {
        norms,
        sparsity: args.sparsity,
        model: fingerprint(windows.model.gguf()),
        text: text_hash(&windows.text),
        tokens: windows.len() as u64 * u64::from(ctx),
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
