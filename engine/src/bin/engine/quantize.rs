//! `engine quantize`: a model file with its matrices in another format.

use crate::{open, text};
use clap::Args;
use engine::gguf::Gguf;
use engine::quantize::{Recipe, Rule, format, quantize};
use engine::topology::Topology;
use engine::{Options, Result};
use indicatif::{ProgressBar, ProgressStyle};
use regex::Regex;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Arguments of `engine quantize`.
#[derive(Debug, Args)]
pub(crate) struct QuantizeArgs {
    /// Model file; best one in F32, F16 or BF16.
    input: PathBuf,
    /// File to write; it must not exist.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Format of the matrices, such as Q4_K, Q8_0, IQ4_XS. The output's matrix keeps at least Q6_K, norms stay as they are.
    /// Or "native" for what they are, "mixed@4.5" for the formats of a plan with so many bits a weight on average, over the
    /// matrices that every token is multiplied with.
    #[arg(long, value_name = "FORMAT")]
    to: String,
    /// With --to mixed@BITS, the plan of `engine plan`.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Another format for the matrices whose names the expression finds, such as ffn_down=Q6_K; may be repeated, the first
    /// that fits counts.
    #[arg(long, value_name = "REGEX=FORMAT")]
    tensor_type: Vec<String>,
    /// Importance matrix of `engine imatrix` or llama-imatrix, in GGUF form.
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Threads; 0 for one per CPU.
    #[arg(short, long, default_value_t = 0)]
    threads: usize,
}

/// Writes the file and says what it is made of.
pub(crate) fn run(args: &QuantizeArgs) -> Result<()> {
    let file = Gguf::open(&args.input)?;
    let options = Options {
        quant: args.to.clone(),
        quant_plan: args.plan.clone().unwrap_or_default(),
        quant_imatrix: args.imatrix.clone().unwrap_or_default(),
        ..Options::default()
    };
    let mut recipe = Recipe::from_options(&options, &file)?;
    let rules = args.tensor_type.iter().map(|r| rule(r));
    let rules = rules.collect::<Result<Vec<_>>>()?;
    recipe.rules.splice(0..0, rules);
    let threads = match args.threads {
        0 => Topology::detect().cpus.len(),
        n => n,
    };
    let bar = ProgressBar::new(0).with_style(open::style(
        ProgressStyle::default_bar(),
        "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
    ));
    let result = quantize(&file, &recipe, &args.output, threads, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let planned = result?;
    let mut by_format: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for p in &planned {
        let (count, bytes) = by_format.entry(p.format).or_default();
        (*count, *bytes) = (*count + 1, *bytes + p.bytes);
    }
    let values: u64 = planned.iter().map(|p| p.from.n_values()).sum();
    let bytes: u64 = planned.iter().map(|p| p.bytes).sum();
    let parts: Vec<String> = by_format
        .iter()
        .map(|(name, (count, bytes))| format!("{count} tensors {name} ({})", text::bytes(*bytes)))
        .collect();
    eprintln!(
        "wrote \"{}\": {}, {:.2} bits a weight: {}",
        args.output.display(),
        text::bytes(bytes),
        8.0 * bytes as f64 / values.max(1) as f64,
        parts.join(", ")
    );
    Ok(())
}

/// An expression and the format of what it finds.
fn rule(text: &str) -> Result<Rule> {
    let refused = |what: &str| open::refused("--tensor-type", format!("\"{text}\": {what}"));
    let (name, to) = text
        .rsplit_once('=')
        .ok_or_else(|| refused("expected REGEX=FORMAT, such as ffn_down=Q6_K"))?;
    let regex = Regex::new(name).map_err(|e| {
        let what = e.to_string();
        let why = what.lines().last().unwrap_or_default();
        refused(&format!("\"{name}\" is no regular expression: {why}"))
    })?;
    let format = format(to).map_err(|e| refused(&e.to_string()))?;
    Ok((regex, format))
}
