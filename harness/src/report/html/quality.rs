//! How well the cases predict a text, beside what that costs.

use super::super::format::count;
use super::super::plots::{self, Role, Shape};
use super::super::quality::{Point, points};
use super::super::tables;
use super::Page;
use super::common::{figure, key, table};
use crate::host::plural;
use crate::quality;
use maud::{Markup, html};

/// Nothing where quality was not asked for.
pub(super) fn section(page: &Page<'_>) -> anyhow::Result<Option<Markup>> {
    let Some(promised) = &page.run.manifest.quality else {
        return Ok(None);
    };
    let known = points(page.run, &page.own);
    let predictions = known.first().map(|p| p.figures.predictions);
    let plots = [
        ("Over bytes a token", plots::quality_over_bytes(&known)?),
        ("Over speed", plots::quality_over_rate(&known)?),
    ];
    Ok(Some(html! {
        p {
            @if let Some(n) = predictions { (count(n)) " predictions: " }
            (quality::sentence(promised)) ". The lower the divergence, the nearer a case is to that base. Perplexity also has the text in it: "
            "it tells how well the base itself predicts, and compares only cases on the same text."
        }
        (missing(page))
        @for (title, plot) in &plots {
            @if let Some(plot) = plot {
                h3 { (title) }
                (figure(plot, caption(&known), &[]))
            }
        }
        @if !known.is_empty() { (table(&tables::quality(&known))) }
        @if let Some(mixed) = tables::mixed(&page.own) { (table(&mixed)) }
    }))
}

fn caption(known: &[Point<'_>]) -> Markup {
    let on_edge = known.iter().any(|p| p.figures.kld_mean < plots::KLD_MIN);
    html! {
        "Steps: the front, cases that no other one beats in both. "
        @if on_edge { "On the lower edge: cases that diverge by less than 0.00001. " }
        span.legend {
            span { (key(Role::Accent, Shape::Dot, false)) "on the front" }
            span { (key(Role::Muted, Shape::Dot, true)) "beaten in both" }
        }
    }
}

/// Cases without figures, and why.
fn missing(page: &Page<'_>) -> Markup {
    let cases = page.run.manifest.cases.iter();
    let without: Vec<(&str, &str)> = cases
        .filter_map(|case| {
            let record = page.run.quality_record(case.index);
            let reason = record.map_or(Some("not measured: the run was stopped before"), |r| {
                r.missing()
            });
            Some((case.name.as_str(), reason?))
        })
        .collect();
    html! {
        @if !without.is_empty() {
            p { span.status.warn { "Quality is unknown" } " of " (plural(without.len(), "case")) ":" }
            ul { @for (case, reason) in &without { li { (case) ": " (reason) } } }
        }
    }
}
