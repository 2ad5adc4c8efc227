//! What a comparison found.

use super::super::comparison as tables;
use super::super::format::number;
use super::super::plots;
use super::super::plots::{Role, Shape};
use super::common::{capital, figure, key, swatch, table};
use crate::compare::{Comparison, PhaseResult, Rate, Row, TextCheck};
use crate::host::plural;
use crate::record::above_peak;
use crate::verdict::{Judged, Verdict};
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

/// Who is faster, by how much, how sure that is, and why.
fn verdict(case: Option<&String>, phase: &PhaseResult) -> Markup {
    let name = phase.rate.name();
    let against = phase.best.map(|i| &phase.others[i]);
    html! {
        div.verdict {
            p class={ "badge " (class(phase)) } {
                (capital(name)) @if let Some(case) = case { ", " (case) } ": "
                span { (answer(phase)) }
            }
            @if let Some((judged, against)) = phase.judged.zip(against) {
                @let interval = judged.change.interval;
                p.value { (format!("{:.2}×", judged.change.ratio)) }
                p { "the " (name) " rate of " (against.title) }
                p {
                    (format!("Between {:.2} and {:.2} times, with {:.0} % confidence.", interval.low, interval.high, 100.0 * interval.confidence))
                }
                p.between { strong { "How sure: " } (how_sure(phase, &judged)) }
                @if let Some(why) = why(phase, against) {
                    p.between { strong { @if class(phase) == "plain" { "Reached: " } @else { "Why: " } } (why) }
                }
            } @else {
                p.between { (capital(&phase.sentence)) "." }
            }
        }
    }
}

/// The verdict as an answer to "who is faster?".
fn answer(phase: &PhaseResult) -> String {
    let subject = &phase.subject.title;
    match phase.verdict {
        "faster" | "slower" => format!("{subject} is {}", phase.verdict),
        "no difference" => "no difference that counts".to_owned(),
        "inconclusive" => "not decided".to_owned(),
        other => other.to_owned(),
    }
}

/// In how many rounds, against which floor, and what it would take where nothing is decided.
fn how_sure(phase: &PhaseResult, judged: &Judged) -> String {
    let (rounds, faster) = (&phase.rounds, judged.change.ratio >= 1.0);
    let same = rounds.iter().filter(|r| (r.ratio >= 1.0) == faster).count();
    let mut text = format!(
        "{} in {same} of {} measured side by side. ",
        if faster { "faster" } else { "slower" },
        plural(rounds.len(), "round")
    );
    if let Some(floor) = judged.floor {
        text += &format!(
            "Against itself the engine shows up to {:.1} %; a difference counts from {:.1} % on. ",
            100.0 * floor,
            100.0 * judged.threshold
        );
    }
    text += &match judged.verdict {
        Verdict::Inconclusive => match judged.rounds_advised {
            Some(rounds) => format!("A verdict needs about {rounds} rounds."),
            None => "This machine is too noisy for a verdict.".to_owned(),
        },
        _ => format!(
            "A change of {:.1} % would have been found.",
            100.0 * judged.detectable
        ),
    };
    capital(&text)
}

/// What both reach of what the machine gave.
fn why(phase: &PhaseResult, against: &Row) -> Option<String> {
    let (what, unit) = match phase.rate {
        Rate::Decode => ("read bandwidth", "GB/s"),
        Rate::Prefill => ("arithmetic peak", "GOP/s"),
    };
    let side = |row: &Row| {
        let reached = format!("{} {unit}", number(row.achieved?));
        Some(match row.of_peak_pct {
            Some(pct) => format!("{pct:.0} % of the {what}{} ({reached})", above_peak(pct)),
            None => reached,
        })
    };
    Some(format!(
        "{} reaches {}, the other {}.",
        capital(&phase.subject.title),
        side(&phase.subject)?,
        side(against)?
    ))
}

fn class(phase: &PhaseResult) -> &'static str {
    match phase.verdict {
        "faster" => "good",
        "slower" => "warn",
        _ => "plain",
    }
}

/// Every round, all ratios, and what explains them.
pub(super) fn section(comparison: &Comparison) -> anyhow::Result<Markup> {
    let several = comparison.cases.len() > 1;
    Ok(html! {
        @for case in &comparison.cases {
            @if several { h3 { (case.case) } }
            @for phase in &case.phases { (one_phase(phase)?) }
        }
    })
}

fn one_phase(phase: &PhaseResult) -> anyhow::Result<Markup> {
    let rounds = plots::by_round(phase)?;
    let all = plots::ratios(phase)?;
    Ok(html! {
        h3 { (capital(phase.rate.name())) }
        @if let Some(plot) = &rounds {
            (figure(plot, html! {
                "Every round gives one ratio, from runs side by side. "
                span.legend {
                    span { (key(Role::Series(1), Shape::Dot, false)) "ratio of a round" }
                    @if phase.rounds.iter().any(|r| r.tainted) {
                        span { (key(Role::Series(1), Shape::Triangle, false)) "disturbed" }
                    }
                    @if let Some(judged) = &phase.judged {
                        @let interval = judged.change.interval;
                        span { (swatch(Role::Interval)) (format!("interval of the estimate: {:.3} to {:.3}", interval.low, interval.high)) }
                    }
                    @if phase.rounds.iter().any(|r| r.itself.is_some()) {
                        span { (key(Role::Muted, Shape::Dot, false)) "the engine over itself" }
                    }
                    @if let Some(floor) = phase.judged.and_then(|j| j.floor) {
                        span { (swatch(Role::Band)) (format!("what the engine shows against itself: up to {:.1} %", 100.0 * floor)) }
                    }
                }
            }, &[tables::rounds(phase)]))
        } @else {
            p { (capital(&phase.sentence)) "." }
        }
        @if let Some(plot) = &all {
            (figure(plot, html! {
                "Against each program: estimate and interval. The one that the engine beats least, or that beats it most, decides."
            }, &[]))
        }
        @if !phase.reasons.is_empty() {
            h4 { "What explains it" }
            ul { @for reason in &phase.reasons { li { (capital(reason)) "." } } }
        }
    })
}

/// What was made equal; `None` if the engine was compared with itself.
pub(super) fn settings(comparison: &Comparison) -> Option<Markup> {
    tables::settings(comparison).map(|settings| table(&settings))
}

/// The rates of every program, and what they wrote.
pub(super) fn programs(comparison: &Comparison) -> Markup {
    let several = comparison.cases.len() > 1;
    html! {
        @for case in &comparison.cases {
            @if several { h3 { (case.case) } }
            @for phase in &case.phases { (table(&tables::runners(phase))) }
            @if let Some(check) = &case.text { (text(check)) }
        }
    }
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
