//! What drafting tokens was worth.

use super::super::speculation::{Drafted, drafted};
use super::super::{plots, tables};
use super::Page;
use super::common::{figure, swatch, table};
use maud::{Markup, html};

/// Nothing where nothing was drafted.
pub(super) fn section(page: &Page<'_>) -> anyhow::Result<Option<Markup>> {
    let all = drafted(&page.own);
    if all.is_empty() {
        return Ok(None);
    }
    let positions = plots::acceptance(&all)?;
    let costs = plots::pass_costs(&all)?;
    Ok(Some(html! {
        p {
            "Speculative decoding loses nothing: what a draft proposes is kept where the model would have chosen the same. "
            "Speed-ups are those over the case without drafts, where there is one."
        }
        (table(&tables::speculation(&all)))
        h3 { "Acceptance at each position of a draft" }
        (figure(&positions, html! {
            "Of the tokens that the model came to look at there, the share it kept. " (legend(&all))
        }, &[]))
        @if let Some(costs) = &costs {
            h3 { "A pass over several tokens" }
            (figure(costs, html! {
                "Time of a pass over n tokens in passes over one, v(n). The lower, the longer drafts may be. " (legend(&all))
            }, &[]))
        }
    }))
}

fn legend(all: &[Drafted<'_>]) -> Markup {
    html! {
        span.legend {
            @for (i, one) in all.iter().enumerate() {
                span { (swatch(plots::Role::Series(i as u8))) (one.group.short) }
            }
        }
    }
}
