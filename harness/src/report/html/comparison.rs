//! What a comparison found.

use super::super::comparison as tables;
use super::super::plots;
use super::Page;
use super::common::{capital, figure, table};
use crate::compare::{Comparison, PhaseResult, TextCheck};
use maud::{Markup, html};

/// Most verdicts at the head of the page.
const VERDICTS_MAX: usize = 6;

/// The verdicts at the head of the page: a card for each phase.
pub(super) fn verdicts(comparison: &Comparison) -> Markup {
    let several = comparison.cases.len() > 1;
    let all = comparison.cases.iter().flat_map(|case| {
        case.phases
            .iter()
            .map(move |phase| (several.then_some(&case.case), phase))
    });
    html! {
        div.verdicts { @for (case, phase) in all.take(VERDICTS_MAX) { (verdict(case, phase)) } }
    }
}

fn verdict(case: Option<&String>, phase: &PhaseResult) -> Markup {
    let against = phase.best.map(|i| &phase.others[i].title);
    html! {
        div.verdict {
            p class={ "badge " (class(phase)) } {
                span { (phase.verdict) }
                " " (phase.rate.name()) @if let Some(case) = case { ", " (case) }
            }
            @if let Some((judged, against)) = phase.judged.zip(against) {
                p.value { (format!("{:.2}", judged.change.ratio)) small { " times the rate" } }
                p { "of " (against) }
                p.between {
                    (format!(
                        "{:.0} % interval {:.3} to {:.3}, {} rounds",
                        100.0 * judged.change.interval.confidence,
                        judged.change.interval.low,
                        judged.change.interval.high,
                        judged.change.rounds
                    ))
                    @if let Some(floor) = judged.floor {
                        (format!("; the engine against itself: {:.1} %", 100.0 * floor))
                    }
                    @if let Some(rounds) = judged.rounds_advised { "; needs about " (rounds) " rounds" }
                }
            } @else {
                p.between { (phase.sentence) }
            }
        }
    }
}

fn class(phase: &PhaseResult) -> &'static str {
    match phase.verdict {
        "faster" => "good",
        "slower" => "warn",
        _ => "plain",
    }
}

/// Ratios, runners, settings, output and reasons.
pub(super) fn section(page: &Page<'_>) -> anyhow::Result<Option<Markup>> {
    let Some(comparison) = &page.comparison else {
        return Ok(None);
    };
    Ok(Some(html! {
        @for case in &comparison.cases {
            @if comparison.cases.len() > 1 { h3 { (case.case) } }
            @for phase in &case.phases { (one_phase(phase)?) }
            @if let Some(check) = &case.text { (text(check)) }
        }
        @if let Some(settings) = tables::settings(comparison) {
            h3 { "Settings on both sides" }
            (table(&settings))
        }
    }))
}

fn one_phase(phase: &PhaseResult) -> anyhow::Result<Markup> {
    let plot = plots::ratios(phase)?;
    let threshold = phase.judged.map(|j| 100.0 * j.threshold);
    Ok(html! {
        h3 { (capital(phase.rate.name())) }
        p { (capital(&phase.sentence)) "." }
        @if let Some(plot) = &plot {
            (figure(plot, html! {
                "Square and bar: estimate and its interval. Dots: every round of the one that decides, first at the top; hollow: disturbed. "
                "Shaded: what the engine shows against itself. "
                @if let Some(threshold) = threshold { "A change counts from " (format!("{threshold:.1}")) " % on." }
            }, &[tables::rounds(phase)]))
        }
        (table(&tables::runners(phase)))
        @if !phase.reasons.is_empty() {
            h4 { "What explains it" }
            ul { @for reason in &phase.reasons { li { (capital(reason)) "." } } }
        }
    })
}

fn text(check: &TextCheck) -> Markup {
    html! {
        h3 { "Output check" }
        p {
            @match check {
                TextCheck::Equal { .. } => span.status.good { "Equal. " },
                TextCheck::Differs { .. } => span.status.warn { "Differs. " },
                TextCheck::Failed { .. } => span.status.warn { "Not checked. " },
            }
            (capital(&check.sentence())) "."
        }
    }
}
