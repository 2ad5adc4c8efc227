//! What leaving channels out was worth.

use super::super::format::count;
use super::super::sparsity::{Magnitudes, Thinned, magnitudes, thinned};
use super::super::{plots, tables};
use super::Page;
use super::common::{figure, table};
use maud::{Markup, html};

/// Nothing where nothing was left out.
pub(super) fn section(page: &Page<'_>) -> anyhow::Result<Option<Markup>> {
    let all = thinned(page.run, &page.own);
    if all.is_empty() {
        return Ok(None);
    }
    let speed_ups: Vec<_> = all.iter().filter_map(Thinned::speed_up).collect();
    let speed_ups = plots::speed_ups(&speed_ups, &plots::SPARSITY)?;
    let break_even = plots::break_even(&all)?;
    let layers = plots::active_by_layer(&all)?;
    let told = magnitudes(page.run, &all);
    Ok(Some(html! {
        p {
            "Activation sparsity is lossy: small inputs are taken as 0, and the model says something else than without it. "
            @if page.run.manifest.quality.is_none() {
                "What that costs, a table " code { "[quality]" } " in the scenario measures. "
            }
            "Speed-ups are those over the dense case with the same settings otherwise, where there is one."
        }
        (table(&tables::sparsity(&all)))
        @if all.iter().any(|one| one.held().is_some()) {
            p { "What cases hold a second time in memory, by channels, and what of it is encoded anew from the file:" }
            ul { @for held in all.iter().filter_map(Thinned::held) { li { (held) } } }
        }
        @if let Some(speed_ups) = &speed_ups {
            h3 { "Measured, and by bytes" }
            (figure(speed_ups, html! { "How many times as fast as densely." }, &[]))
        }
        @if let Some(break_even) = &break_even {
            h3 { "From which share on it pays" }
            (figure(break_even, html! { "Above 1 it pays." }, &[]))
        }
        @if let Some(layers) = &layers {
            h3 { "Channels that take part, by layer" }
            (figure(layers, html! { "Over all sites of a layer." }, &[]))
        }
        @for one in &told { (magnitudes_at(one)?) }
    }))
}

/// A plot of how large the values at a site were in the text that thresholds were found on.
fn magnitudes_at(one: &Magnitudes<'_>) -> anyhow::Result<Markup> {
    let Magnitudes { site, found } = one;
    let plot = plots::magnitudes(one)?;
    Ok(html! {
        @if let Some(plot) = &plot {
            h3 { "What a threshold leaves out at " code { (site.name()) } ", by layer" }
            (figure(plot, html! {
                "The magnitudes below which these shares lay in " (count(found.tokens)) " tokens of the text with SHA-256 "
                code { (format!("{:.12}", found.text)) } ", read by the model " code { (format!("{:.12}", found.model)) } "."
            }, &[]))
        }
    })
}
