//! What drafting tokens was worth.

use super::super::speculation::{Drafted, drafted, outputs};
use super::super::{plots, tables};
use super::Page;
use super::common::{figure, table};
use maud::{Markup, html};

/// Nothing where nothing could be drafted.
pub(super) fn section(page: &Page<'_>) -> anyhow::Result<Option<Markup>> {
    let all = drafted(&page.own);
    if all.is_empty() {
        return Ok(None);
    }
    let speed_ups: Vec<_> = all.iter().filter_map(Drafted::speed_up).collect();
    let speed_ups = plots::speed_ups(&speed_ups, &plots::DRAFTS)?;
    let times = plots::times(&all)?;
    let kept = plots::kept(&all)?;
    let positions = plots::acceptance(&all)?;
    let costs = plots::pass_costs(&all)?;
    Ok(Some(html! {
        p {
            "Speculative decoding loses nothing: what a draft proposes is kept where the model would have chosen the same. "
            (outputs(&all)) " Speed-ups are those over the case without drafts, where there is one."
        }
        (table(&tables::speculation(&all)))
        @if let Some(speed_ups) = &speed_ups {
            h3 { "Measured and expected" }
            (figure(speed_ups, html! { "How many times as fast as without drafts." }, &[]))
        }
        @if let Some(times) = &times {
            h3 { "What the time goes into" }
            (figure(times, html! {
                "Time of a token in passes over one token: left of the line a case is faster than without drafts. CPU time of the thread that drives the others."
            }, &[]))
        }
        @if let Some(kept) = &kept {
            h3 { "How often drafts are kept" }
            (figure(kept, html! { "Of the tokens that the model came to look at, the share it kept, and from which share on such drafts pay." }, &[]))
        }
        @if let Some(positions) = &positions {
            h3 { "Acceptance at each position of a draft" }
            (figure(positions, html! { "Of the tokens that the model came to look at there, the share it kept." }, &[]))
        }
        @if let Some(costs) = &costs {
            h3 { "A pass over several tokens" }
            (figure(costs, html! {
                "Time of a pass over n tokens in passes over one, v(n). The lower, the longer drafts may be."
            }, &[]))
        }
    }))
}
