//! One token: its latency, its time by stage, its counters, its memory.

use super::super::data::{Group, STALL_TIMES, TokenTime};
use super::super::format::{count, number, percent};
use super::super::plots::Role;
use super::super::{plots, tables};
use super::Page;
use super::common::{capital, figure, swatch, table};
use crate::counter;
use crate::host;
use crate::simulate;
use crate::stats;
use engine::stage::Stage;
use maud::{Markup, html};

/// Latency of a single case, or of each of several.
pub(super) fn latency(page: &Page<'_>) -> anyhow::Result<Markup> {
    if let [group] = page.own.as_slice() {
        return one_latency(group);
    }
    Ok(html! {
        (table(&tables::stalls(&page.own)))
        @for group in &page.own {
            details.case { summary { (group.short) } (one_latency(group)?) }
        }
    })
}

fn one_latency(group: &Group<'_>) -> anyhow::Result<Markup> {
    let Some((plot, clipped, edge)) = plots::latency(group)? else {
        return Ok(html! { p { "No repetition that counts gave two tokens." } });
    };
    let distribution = plots::distribution(group)?;
    Ok(html! {
        @if let Some(stalls) = group.stalls() {
            p {
                @match stalls.count {
                    0 => { span.calm { "No stall: " } "no gap between tokens was longer than " (STALL_TIMES) " medians of its repetition." }
                    n => {
                        span.status.warn { (host::plural(n, "stall")) } " among " (count(stalls.gaps as u64))
                        " gaps between tokens, longer than " (STALL_TIMES) " medians of their repetition; they cost "
                        (percent(stalls.lost_share)) " of the time of decoding."
                    }
                }
            }
        }
        (figure(&plot, html! {
            "Time from one token to the next, every repetition that counts. Line: median at each position. "
            "The first token is not among them: see time to first token. "
            @if clipped > 0 {
                "Triangles at the upper edge: " (host::plural(clipped, "stall")) " longer than " (number(edge)) " ms."
            }
        }, &[tables::positions(group)]))
        @if let Some((plot, longer, end)) = distribution {
            h3 { "Distribution" }
            (figure(&plot, html! {
                "How many tokens took how long."
                @if longer > 0 { " Bar at the right: " (count(longer)) " longer than " (number(end)) " ms." }
            }, &[]))
        }
        (table(&tables::quantiles(group)))
        @if group.gaps.concat().len() < stats::P99_SAMPLES_MIN {
            p.quiet { "p99 needs at least " (stats::P99_SAMPLES_MIN) " gaps." }
        }
    })
}

pub(super) fn time(page: &Page<'_>) -> anyhow::Result<Markup> {
    let groups = &page.own;
    let name = |group: &Group<'_>, phase: &str| match groups.len() {
        1 => phase.to_owned(),
        _ => format!("{}, {phase}", group.short),
    };
    let decode = groups
        .iter()
        .filter_map(|g| Some((name(g, "decode"), g.decode_time()?)));
    let prefill = groups
        .iter()
        .filter_map(|g| Some((name(g, "prefill"), g.prefill_time()?)));
    let rows: Vec<(String, TokenTime)> = decode.chain(prefill).collect();
    let plot = plots::stages(&rows)?;
    Ok(html! {
        @match plot {
            Some(plot) => (figure(&plot, html! {
                (stage_legend())
                "Threads averaged."
            }, &[tables::stages(&rows)])),
            None => p { "The stage clock was off, or nothing was measured." }
        }
    })
}

fn stage_legend() -> Markup {
    html! {
        span.legend {
            @for stage in Stage::ALL { span { (swatch(Role::Stage(stage))) (stage.name()) ": " (stage.meaning()) } }
            span { (swatch(Role::Outside)) "outside: time of a token that no stage claims" }
        }
    }
}

/// Events per token with their sources.
pub(super) fn counters(page: &Page<'_>) -> Markup {
    let simulated = &page.run.simulated;
    let rows: Vec<Vec<counter::Row>> = page
        .own
        .iter()
        .map(|group| counter::table(&group.counted))
        .collect();
    html! {
        p.quiet {
            "Bytes per token are counted by the engine itself, see " a href="#ceiling" { "share of the ceiling" } "."
        }
        @let sentences: Vec<String> = page.own.iter().map(|g| counter::sentence(&g.counted)).collect();
        @let alike = sentences.windows(2).all(|pair| pair[0] == pair[1]);
        @if let Some(all) = sentences.first().filter(|_| alike) { p { (capital(all)) "." } }
        @for (group, rows) in page.own.iter().zip(&rows) {
            @if !alike {
                p { strong { (group.short) ": " } (capital(&counter::sentence(&group.counted))) "." }
            }
            @if rows.iter().any(|row| row.absent.is_none()) {
                details open[page.own.len() == 1] {
                    summary { "Counters per token" @if page.own.len() > 1 { ", " (group.short) } }
                    (table(&tables::counters(rows)))
                }
            }
        }
        @let absent = absent(rows.iter().flatten());
        @if !absent.is_empty() {
            details {
                summary { "What could not be counted, and why" }
                ul { @for (reason, titles) in &absent { li { (titles.join(", ")) ": " (reason) "." } } }
            }
        }
        @if simulated.is_empty() {
            p {
                "Nothing was simulated: with " code { "--set run.simulate_s=60" } " instructions and cache misses per token are counted under valgrind, on any machine."
            }
        } @else {
            h3 { "Simulated" }
            p.quiet { "Counts of a simulated machine with these caches: never times, and not what this machine's prefetchers leave." }
        }
        @for record in simulated {
            p { @if page.run.manifest.cases.len() > 1 { strong { (record.case) ": " } } (simulate::sentence(record)) "." }
            @let rows = simulate::rows(record);
            @if !rows.is_empty() { (table(&tables::simulated(&rows))) }
        }
    }
}

/// What could not be counted in any case, by reason.
fn absent<'a>(rows: impl Iterator<Item = &'a counter::Row>) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in rows {
        let Some(absent) = &row.absent else { continue };
        let at = all.iter().position(|(reason, _)| *reason == absent.reason);
        let at = at.unwrap_or_else(|| {
            all.push((&absent.reason, Vec::new()));
            all.len() - 1
        });
        if !all[at].1.contains(&row.title.as_str()) {
            all[at].1.push(&row.title);
        }
    }
    all
}

/// Memory and loading.
pub(super) fn memory(page: &Page<'_>) -> Markup {
    table(&tables::memory(&page.own))
}
