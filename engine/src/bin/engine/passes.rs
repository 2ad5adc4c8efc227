//! `engine passes`: what a pass of n tokens with all their logits costs, in passes of one token, the v(n) of speculative decoding
//! (Leviathan et al. 2023): how much the target model takes to verify a draft.

use crate::open;
use clap::Args;
use engine::pool::Pool;
use engine::session::Session;
use engine::stage::Tick;
use engine::{Error, Result};
use std::path::PathBuf;

/// Most tokens of a pass.
const TOKENS_MAX: usize = 512;

/// Arguments of `engine passes`.
#[derive(Debug, Args)]
pub(crate) struct PassesArgs {
    /// Model file.
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// Tokens of the passes, separated by commas; one is always measured too.
    #[arg(short, long, default_value = "2,3,4,8,16", value_delimiter = ',')]
    n_tokens: Vec<usize>,
    /// Tokens in the cache before each pass.
    #[arg(short = 'd', long, default_value_t = 32)]
    n_depth: usize,
    /// Rounds: a pass of each kind, forwards and backwards in turn, after one round to warm up.
    #[arg(short, long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    #[command(flatten)]
    engine: open::EngineArgs,
}

/// Measures, and prints a table in markdown.
pub(crate) fn run(args: &PassesArgs) -> Result<()> {
    let mut kinds = vec![1];
    kinds.extend(args.n_tokens.iter().filter(|&&n| n != 1));
    if let Some(n) = kinds.iter().find(|&&n| n == 0 || n > TOKENS_MAX) {
        let range = format!("a pass of {n} tokens: expected 1 to {TOKENS_MAX}");
        return Err(Error::Input(range));
    }
    let longest = kinds.iter().max().expect("one at least");
    let depth = args.n_depth.max(1);
    let options = args.engine.options(depth.saturating_add(*longest))?;
    open::refuse_drafts(&options)?;
    let pool = Pool::new(&options)?;
    let model = open::load(&args.model, &pool, &options)?;
    let mut session = Session::new(&model, &pool, &options)?;
    session.prefill(&open::arbitrary_tokens(&model, depth))?;
    let tokens = open::arbitrary_tokens(&model, *longest);
    let mut times_ns = vec![Vec::new(); kinds.len()];
    for round in 0..=args.rounds {
        let mut order: Vec<usize> = (0..kinds.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            let start = Tick::now();
            session.score(&tokens[..kinds[i]], 0, |_, logits| {
                std::hint::black_box(logits);
            })?;
            let ns = Tick::now().ns_since(start);
            session.truncate(depth);
            if round > 0 {
                times_ns[i].push(ns as f64);
            }
        }
    }
    let mut text = String::from(
        "| tokens | ms, median | passes of one, median | quartiles |\n|---:|---:|---:|---:|\n",
    );
    for (n, times) in kinds.iter().zip(&times_ns) {
        let ratios: Vec<f64> = times
            .iter()
            .zip(&times_ns[0])
            .map(|(t, one)| t / one)
            .collect();
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|q| quantile(&ratios, q));
        let ms = quantile(times, 0.5) / 1e6;
        text += &format!("| {n} | {ms:.2} | {middle:.3} | {low:.3} to {high:.3} |\n");
    }
    open::print(&text)
}

/// The value below which a share `q` of `values` lies, between two of them by their distance.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(
            [0.0, 0.5, 1.0].map(|q| quantile(&values, q)),
            [1.0, 2.5, 4.0]
        );
        assert_eq!(quantile(&[7.0], 0.25), 7.0);
    }
}
