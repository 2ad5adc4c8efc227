//! What leaving channels out was worth.

use super::super::sparsity::thinned;
use super::super::{plots, tables};
use super::Page;
use super::common::{figure, swatch, table};
use maud::{Markup, html};

/// Nothing where nothing was left out.
pub(super) fn section(page: &Page<'_>) -> anyhow::Result<Option<Markup>> {
    let all = thinned(&page.own);
    if all.is_empty() {
        return Ok(None);
    }
    let layers = plots::active_by_layer(&all)?;
    Ok(Some(html! {
        p {
            "Activation sparsity is lossy: small inputs are taken as 0, and the model says something else than without it. "
            "What that costs is measured with " code { "engine perplexity" } " and the same options. "
            "Speed-ups are those over the dense case, where there is one."
        }
        (table(&tables::sparsity(&all)))
        h3 { "Channels that take part, by layer" }
        (figure(&layers, html! {
            "Over all sites of a layer. "
            span.legend {
                @for (i, one) in all.iter().enumerate() {
                    span { (swatch(plots::Role::Series(i as u8))) (one.group.short) }
                }
            }
        }, &[]))
    }))
}
