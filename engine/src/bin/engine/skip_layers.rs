//! `engine skip-layers`: which layers a draft of `method = "layer-skip"` is best made without, by how often such drafts say what
//! the model would on a text.

use crate::open;
use clap::Args;
use engine::pool::Pool;
use engine::quality;
use engine::session::Session;
use engine::speculate::{LayerSearch, Skipping};
use engine::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Arguments of `engine skip-layers`.
#[derive(Debug, Args)]
pub(crate) struct SkipLayersArgs {
    /// Model file.
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// Text to measure on, UTF-8.
    #[arg(short, long, value_name = "TEXT")]
    file: PathBuf,
    /// Layers to leave out at most; a quarter of them when not given.
    #[arg(long, value_name = "N")]
    most: Option<NonZeroUsize>,
    /// Tokens of a window; every position of it counts.
    #[arg(short, long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(4..))]
    ctx: u32,
    /// Windows to read, spread over the text.
    #[arg(long, value_name = "N", default_value = "2")]
    chunks: NonZeroUsize,
    /// What each further token of a pass adds to its time, in passes of one token; `engine passes` measures it.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pass_slope: f64,
    #[command(flatten)]
    engine: open::EngineArgs,
}

/// Prints a table of the layers chosen, one after the other, and what to put into a scenario.
pub(crate) fn run(args: &SkipLayersArgs) -> Result<()> {
    if !(args.pass_slope >= 0.0 && args.pass_slope.is_finite()) {
        let what = format!("{} is not 0 or more", args.pass_slope);
        return Err(open::refused("--pass-slope", what));
    }
    let text = open::read_text(&args.file)?;
    let options = args.engine.options(args.ctx as usize)?;
    open::refuse_drafts(&options)?;
    open::refuse_sparsity(&options)?;
    let pool = Pool::new(&options)?;
    let model = open::load(&args.model, &pool, &options)?;
    let n_layers = model.config().n_layers();
    let most = args.most.map_or((n_layers / 4).max(1), NonZeroUsize::get);
    if most >= n_layers {
        return Err(open::refused(
            "--most",
            format!(
                "{most} layers cannot be left out: the model has {n_layers}, and one must stay"
            ),
        ));
    }
    let tokenizer = open::tokenizer(model.gguf())?;
    let windows = quality::windows(&tokenizer, &text, args.ctx as usize)?;
    let windows = quality::spread(windows, args.chunks.get());
    let mut session = Session::new(&model, &pool, &options)?;
    let tries: usize = (0..most).map(|chosen| n_layers - chosen).sum();
    let bar = ProgressBar::new(tries as u64).with_style(open::style(
        ProgressStyle::default_bar(),
        "{bar:40} {pos}/{len} layers tried  {eta} left",
    ));
    let mut search = LayerSearch::new(&model, &mut session, &windows)?;
    let found = (0..most).map(|_| search.next(|| bar.inc(1)));
    let found: Vec<Skipping> = found.collect::<Result<_>>()?;
    bar.finish_and_clear();
    open::print(&table(&found, args.pass_slope))?;
    open::print(&best(&found, args.pass_slope)?)
}

/// One row for each number of layers, in markdown.
fn table(found: &[Skipping], slope: f64) -> String {
    let mut text = String::from(
        "| left out | and layer | acceptance | bytes read | draft tokens | speed-up expected |\n|---:|---:|---:|---:|---:|---:|\n",
    );
    for one in found {
        let (k, speed_up) = one.speed_up(slope);
        let [share, error, read] =
            [one.acceptance(), one.acceptance_error(), one.read_share].map(|x| 100.0 * x);
        text += &format!(
            "| {} | {} | {share:.1} % ± {error:.1} | {read:.1} % | {k} | {speed_up:.3} |\n",
            one.layers.len(),
            one.layers.last().expect("one at least"),
        );
    }
    text
}

/// What to put into a scenario, for the number of layers with the highest speed-up.
fn best(found: &[Skipping], slope: f64) -> Result<String> {
    let speed_up = |one: &Skipping| one.speed_up(slope).1;
    let best = found
        .iter()
        .max_by(|a, b| speed_up(a).total_cmp(&speed_up(b)));
    let best = best.ok_or_else(|| Error::Input("no layers were tried".into()))?;
    let (k, expected) = best.speed_up(slope);
    let mut layers = best.layers.clone();
    layers.sort_unstable();
    let remark = match expected > 1.0 {
        true => "",
        false => ", slower than without drafts",
    };
    Ok(format!(
        "\n# {expected:.3} times plain decoding is expected{remark}.\n[engine.speculation]\nmethod = \"layer-skip\"\nskip_layers = {layers:?}\ndraft_tokens = {k}\n"
    ))
}
