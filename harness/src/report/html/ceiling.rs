//! What was reached, under what the machine gave in the same rounds.

use super::super::ceiling::{self, WorkingSets};
use super::super::plots::{self, Role, Shape};
use super::super::{tables, words};
use super::Page;
use super::common::{figure, key, swatch, table};
use crate::host::HostFacts;
use crate::record::above_peak;
use maud::{Markup, html};

pub(super) fn section(page: &Page<'_>) -> anyhow::Result<Markup> {
    let places = ceiling::places(page.run, &page.own);
    let roofs = ceiling::roofs(page.run, &page.own);
    let others = ceiling::others(page.comparison.as_ref(), &page.own, &places);
    let plot = plots::roofline(&roofs, &places, &others)?;
    let fits = page
        .own
        .iter()
        .any(|g| ceiling::fits_cache(page.run, g) == Some(true));
    Ok(html! {
        @if fits {
            p.quiet { "What a token reads fits into the last-level cache here: the decode rate can exceed what memory gives." }
        }
        @if let Some(plot) = &plot {
            (figure(plot, html! {
                "Roofs: medians of the probes taken in the rounds that count, with the same threads, CPUs and pages"
                @if roofs.len() > 1 { "; dark: the configuration that read fastest" } ". "
                "The further a point lies below the roof over it, the more of its time goes elsewhere. "
                @if !others.is_empty() {
                    "Other programs stand where they do if they move the bytes that the engine counts. "
                }
                span.legend {
                    span { (key(Role::Accent, Shape::Dot, false)) "decode" }
                    span { (key(Role::Accent, Shape::Square, false)) "prefill" }
                    @if !others.is_empty() { span { (swatch(plots::OTHERS)) "other programs" } }
                    @if places.iter().any(|p| p.tainted) {
                        span { (key(Role::Accent, Shape::Dot, true)) "hollow: some repetitions were disturbed" }
                    }
                }
            }, &[tables::roofs(&roofs)]))
        } @else {
            p { "No probe was taken in the rounds that count, so nothing can be held against a peak." }
        }
        @if !places.is_empty() { (table(&tables::shares(&places))) }
        @if places.iter().filter_map(|p| p.share.as_ref()).any(|s| !above_peak(s.median).is_empty()) {
            p.quiet {
                "Above the probe: a peak is what another loop reached in the same round, on the same threads. "
                "A share above 100 % says that what was read lay in a cache in part, or that the machine was slower while the probe ran."
            }
        }
        (table(&tables::bytes(&page.own)))
        p.quiet {
            "Bytes are counted where they are read. The achieved rate is weights and KV cache over the time of decoding; activations stay in the caches."
        }
        h3 { "Bandwidth over the size of what is read" }
        @match page.around.probe.as_ref().and_then(|probe| ceiling::working_sets(probe, &page.own)) {
            Some(sets) => (working_sets(&sets, &page.run.manifest.host)?),
            None => p.quiet { "No stored probe of this machine lies beside this run: " code { "harness probe" } " takes one." },
        }
    })
}

/// Bandwidth over size, and the cases on it if there are any.
pub(super) fn working_sets(sets: &WorkingSets, host: &HostFacts) -> anyhow::Result<Markup> {
    let caches = host.caches.iter().filter(|c| c.kind != "Instruction");
    let caches: Vec<(u32, u64)> = caches.map(|c| (c.level, c.bytes)).collect();
    let plot = plots::working_sets(sets, &caches)?;
    Ok(figure(
        &plot,
        html! {
            "From the probe of " (words::instant(&sets.created_at))
            @if !sets.cases.is_empty() { ", not of this run's rounds" }
            ". Vertical lines: caches of one core, or shared. "
            span.legend {
                @for (i, (name, _)) in sets.lines.iter().enumerate() {
                    span { (swatch(Role::Series(i as u8 + 1))) (name) }
                }
                @if !sets.cases.is_empty() {
                    span { (key(Role::Accent, Shape::Square, false)) "decode of a case, at the bytes of one token" }
                }
            }
        },
        &[tables::working_sets(sets)],
    ))
}
