//! The same scenario on the same machine, over all runs.

use super::super::plots;
use super::super::tables;
use super::Page;
use super::common::{capital, figure};
use crate::history::Series;
use crate::metric::Metric;
use maud::{Markup, html};

/// `None` if there is no earlier or later run.
pub(super) fn section(page: &Page<'_>) -> anyhow::Result<Option<Markup>> {
    let long = |series: &&Series| series.points.len() > 1;
    let all: Vec<&Series> = page.around.history.iter().filter(long).collect();
    if all.is_empty() {
        return Ok(None);
    }
    let several = page.own.len() > 1;
    Ok(Some(html! {
        p.quiet {
            "All runs of this scenario on this machine that lie beside this one, whatever their program; those with other settings apart. "
            "This machine's drift is in it: two versions are best compared side by side, with " code { "harness compare" } "."
        }
        p.quiet {
            "Points: medians of runs; square: this run; hollow: some repetitions were disturbed; thin: median absolute deviation. "
            "Lines: levels between change points, which need five runs on each side."
        }
        @for series in all {
            @if several {
                details.case { summary { (series.case) ": " (title(series)) } (settings(series)) (one(page, series)?) }
            } @else {
                h3 { (capital(title(series))) }
                (settings(series))
                (one(page, series)?)
            }
        }
    }))
}

fn title(series: &Series) -> &'static str {
    Metric::by_name(series.metric).map_or(series.metric, |metric| metric.title)
}

/// What tells a series from others of the same case.
fn settings(series: &Series) -> Markup {
    html! { @if !series.apart.is_empty() { p.quiet { "With " (series.apart) "." } } }
}

fn one(page: &Page<'_>, series: &Series) -> anyhow::Result<Markup> {
    let Some(metric) = Metric::by_name(series.metric) else {
        return Ok(html! {});
    };
    let this = &page.run.manifest.created_at;
    let plot = plots::history(series, metric, this)?;
    Ok(html! {
        @if let Some(plot) = &plot {
            (figure(plot, html! {}, &[tables::history(series, metric)]))
        }
    })
}
