//! The plots that texts about a run show.

use super::data::{self, Group};
use super::plots::{self, Plot};
use super::sparsity::{Thinned, magnitudes, thinned};
use super::speculation::{Drafted, drafted};
use super::{quality, sweep};
use crate::record::Run;
use crate::summary::beside_first;

/// What each plot shows, as a part of a file's name, and the plot, as far as the run has them.
pub(super) fn all(run: &Run) -> anyhow::Result<Vec<(String, Plot)>> {
    let groups = data::groups(run);
    let own: Vec<&Group<'_>> = data::own(&groups);
    let quality = quality::points(run, &own);
    let drafted = drafted(&own);
    let drafts: Vec<_> = drafted.iter().filter_map(Drafted::speed_up).collect();
    let thinned = thinned(run, &own);
    let sparse: Vec<_> = thinned.iter().filter_map(Thinned::speed_up).collect();
    let sweep = sweep::sweep(run, &own);
    let plots = [
        ("rates", plots::strips(&own)?),
        ("beside-first", plots::beside_first(&beside_first(run))?),
        ("sweep", sweep.map(|s| plots::sweep(&s)).transpose()?),
        ("quality-by-bytes", plots::quality_over_bytes(&quality)?),
        ("quality-by-speed", plots::quality_over_rate(&quality)?),
        (
            "drafts-speed-up",
            plots::speed_ups(&drafts, &plots::DRAFTS)?,
        ),
        ("drafts-times", plots::times(&drafted)?),
        ("drafts-kept", plots::kept(&drafted)?),
        ("drafts-by-position", plots::acceptance(&drafted)?),
        ("pass-costs", plots::pass_costs(&drafted)?),
        (
            "sparsity-speed-up",
            plots::speed_ups(&sparse, &plots::SPARSITY)?,
        ),
        ("sparsity-break-even", plots::break_even(&thinned)?),
        ("sparsity-by-layer", plots::active_by_layer(&thinned)?),
    ];
    let plots = plots.into_iter();
    let mut all: Vec<_> = plots
        .filter_map(|(what, plot)| Some((what.to_owned(), plot?)))
        .collect();
    let magnitudes = magnitudes(run, &thinned);
    for (i, one) in magnitudes.iter().enumerate() {
        // Other texts or models have other magnitudes at the same site.
        let before = magnitudes[..i].iter().filter(|m| m.site == one.site);
        let number = match before.count() {
            0 => String::new(),
            n => format!("-{}", n + 1),
        };
        let what = format!("sparsity-magnitudes-{}{number}", one.site.name());
        all.extend(plots::magnitudes(one)?.map(|plot| (what, plot)));
    }
    Ok(all)
}
