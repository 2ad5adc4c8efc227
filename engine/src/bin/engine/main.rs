//! The `engine` command: looks into model files, makes them up, runs them and times them.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 error, 2 wrong usage, which an option
//! that this machine or the model cannot do is too.

mod bench;
mod calibrate;
mod chat;
mod imatrix;
mod info;
mod open;
mod passes;
mod perplexity;
mod plan;
mod quantize;
mod run;
mod skip_layers;
mod synth;
mod text;
mod tokenize;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use engine::Error;

/// Exit code of wrong usage, the one that clap gives.
const USAGE: u8 = 2;

/// Inference of language models in GGUF files on CPUs.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Times prefill and decode, with llama-bench's meanings and field names.
    Bench(bench::BenchArgs),
    /// Finds thresholds for `[engine.sparsity]` on a text.
    Calibrate(calibrate::CalibrateArgs),
    /// Talks with an instruction-tuned model, in turns; "/new" begins anew.
    Chat(chat::ChatArgs),
    /// Makes an importance matrix: what the columns of a model's matrices are multiplied with.
    Imatrix(imatrix::ImatrixArgs),
    /// Shows what a model file contains and what a token costs.
    Info(info::InfoArgs),
    /// Times passes of several tokens against passes of one.
    Passes(passes::PassesArgs),
    /// Measures how well a model predicts a text.
    Perplexity(perplexity::PerplexityArgs),
    /// Measures what each group of matrices loses in other formats, for `quant = "mixed@BITS"`.
    Plan(plan::PlanArgs),
    /// Writes a model file again with its matrices in another format.
    Quantize(quantize::QuantizeArgs),
    /// Completes a prompt.
    Run(run::RunArgs),
    /// Finds the layers that drafts are best made without, for `method = "layer-skip"`.
    SkipLayers(skip_layers::SkipLayersArgs),
    /// Writes a model file of a given shape with random weights.
    Synth(synth::SynthArgs),
    /// Shows a text as tokens.
    Tokenize(tokenize::TokenizeArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Imatrix(args) => imatrix::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Passes(args) => passes::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Run(args) => run::run(&args),
        Command::SkipLayers(args) => skip_layers::run(&args),
        Command::Synth(args) => synth::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", error.to_string().replace('\n', " "));
            match error {
                Error::Option { .. } => ExitCode::from(USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
