//! `engine synth`: a model file of a given shape with random weights.

use crate::text;
use clap::Args;
use engine::Result;
use engine::synth::{Shape, file_bytes, synth};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// Arguments of `engine synth`.
#[derive(Debug, Args)]
pub(crate) struct SynthArgs {
    /// Shape: one of those that come with the engine (a wrong name lists them), or a TOML file.
    #[arg(long, value_name = "NAME|FILE.toml")]
    shape: String,
    /// Format of the matrices, such as Q4_0, Q4_K, Q8_0, F16.
    #[arg(long, value_name = "FORMAT", default_value = "Q4_0")]
    quant: String,
    /// Seed of the weights: the same seed gives the same file.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// File to write; it must not exist.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Writes the file.
pub(crate) fn run(args: &SynthArgs) -> Result<()> {
    let shape = Shape::load(&args.shape)?;
    let total = file_bytes(&shape, &args.quant, args.seed)?;
    // Draws to standard error, and only where that is a terminal.
    let bar = ProgressBar::new(total).with_style(
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}")
            .expect("a template of known fields"),
    );
    let result = synth(
        &shape,
        &args.quant,
        args.seed,
        &args.output,
        &mut |done, _| {
            bar.set_position(done);
            Ok(())
        },
    );
    bar.finish_and_clear();
    result?;
    eprintln!(
        "wrote \"{}\": {}, shape {}, {}, seed {}",
        args.output.display(),
        text::bytes(total),
        args.shape,
        args.quant.to_uppercase(),
        args.seed
    );
    Ok(())
}
