//! `engine calibrate`: thresholds of sparsity, from what a model computes while it reads a text.
//!
//! The text is cut into windows as for `engine imatrix`. Everything is computed densely; the threshold of a site is the
//! magnitude that the wanted share of those seen there lies below. The file has them with the curve of each layer and site:
//! which threshold would leave out which share.

use crate::open;
use clap::Args;
use engine::file::require_new;
use engine::gguf::Gguf;
use engine::model::Config;
use engine::options::sparsity::{Method, Sparsity};
use engine::sparsity::{CURVE_SHARES, MadeBy, Thresholds, fingerprint, text_hash};
use engine::{Error, Options, Result};
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
    #[arg(long, default_value = "teal", value_parser = method)]
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

/// A method that has thresholds.
fn method(text: &str) -> std::result::Result<Method, String> {
    match open::named(text)? {
        Method::None => Err("it leaves nothing out and has no thresholds: name a method".into()),
        method => Ok(method),
    }
}

/// Writes the thresholds, and shows them by layer.
pub(crate) fn run(args: &CalibrateArgs) -> Result<()> {
    require_new(&args.output)?;
    // Only the norms of WINA need the matrices by channels. While several tokens are read nothing is left out, whatever the
    // threshold.
    let norms = args.method == Method::Wina;
    let sparsity = norms.then(|| Sparsity {
        method: args.method,
        threshold: f32::MIN_POSITIVE,
        thresholds: PathBuf::new(),
    });
    let program = std::env::current_exe().map_err(|source| Error::Io {
        action: "find",
        path: "engine".into(),
        source,
    })?;
    let made_by = MadeBy::program(&program, args.method)?;
    Config::from_gguf(&Gguf::open(&args.model)?)?.check_sparsity()?;
    let windows = args.windows.open(&args.model, |options| {
        open::refuse_sparsity(&options)?;
        Ok(Options {
            sparsity,
            ..options
        })
    })?;
    let ctx = args.windows.ctx;
    let mut session = windows.session()?;
    session.observe_magnitudes();
    windows.prefill(&mut session)?;
    let magnitudes = session.magnitudes().expect("asked for above");
    let layer = magnitudes.quantiles(args.sparsity);
    let found = Thresholds {
        norms,
        sparsity: args.sparsity,
        model: fingerprint(windows.model.gguf()),
        text: text_hash(&windows.text),
        tokens: windows.len() as u64 * u64::from(ctx),
        made_by: Some(made_by),
        left_out: magnitudes.shares_below(&layer),
        layer,
        curve: magnitudes.curves(&CURVE_SHARES),
    };
    found.save(&args.output)?;
    open::print(&shown(&found, args.method))?;
    eprintln!(
        "wrote \"{}\": thresholds of {} layers from {} windows of {ctx} tokens",
        args.output.display(),
        found.layer.len(),
        windows.len()
    );
    Ok(())
}

/// Thresholds of each layer at the sites of `method`, and the shares of the channels that they leave out.
fn shown(found: &Thresholds, method: Method) -> String {
    let mut page = String::from("thresholds by layer, with the share of the channels below\n");
    for (l, (thresholds, shares)) in found.layer.iter().zip(&found.left_out).enumerate() {
        let cells = method.sites().iter().map(|site| {
            let share = 100.0 * shares[site];
            format!("{} {:.4} ({share:.1} %)", site.name(), thresholds[site])
        });
        page += &format!("  {l:3}  {}\n", cells.collect::<Vec<_>>().join("  "));
    }
    page
}
