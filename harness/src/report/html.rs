//! The report as one HTML file: nothing is fetched, nothing runs but sorting tables and reading values off plots.

mod bandwidth;
mod ceiling;
mod common;
mod comparison;
mod gate;
mod history;
mod machine;
mod quality;
mod rates;
mod record;
mod sparsity;
mod speculation;
mod tokens;

pub use bandwidth::bandwidth_page;

use super::Around;
use super::data::{self, Group};
use super::format::{interval_kind, number};
use super::words;
use crate::compare::{self, Comparison};
use crate::host::binary_bytes;
use crate::record::{ENGINE, Run};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Everything's look; the first value of a variable is that of light pages.
pub(super) const STYLE: &str = include_str!("html/style.css");
/// The look of what lies over and under the marks of a plot.
pub(super) const MARKS: &str = include_str!("html/marks.css");
const SORT: &str = include_str!("html/sort.js");
const PLOTS: &str = include_str!("html/plots.js");
/// What the page may do: use its own style and script, and nothing from anywhere else.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";

/// What the sections are drawn from.
struct Page<'a> {
    run: &'a Run,
    /// All cases by all runners.
    groups: &'a [Group<'a>],
    /// Those of the engine.
    own: Vec<&'a Group<'a>>,
    comparison: Option<Comparison>,
    around: &'a Around,
}

/// A part of the page with a title.
struct Section {
    id: &'static str,
    title: &'static str,
    body: Markup,
}

/// The whole page.
pub(super) fn page(run: &Run, around: &Around) -> anyhow::Result<String> {
    let groups = data::groups(run);
    let page = Page {
        run,
        own: data::own(&groups),
        groups: &groups,
        comparison: compare::compare(run),
        around,
    };
    let sections = sections(&page)?;
    let manifest = &run.manifest;
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            (head(&manifest.scenario.name))
            body {
                header {
                    p.kind { "Tokenlab report · " time datetime=(manifest.created_at) { (words::instant(&manifest.created_at)) } }
                    h1 { (manifest.scenario.name) }
                    @if !manifest.scenario.description.is_empty() { p.quiet { (manifest.scenario.description) } }
                    @if let Some(comparison) = &page.comparison { (comparison::verdicts(comparison)) }
                    @if let Some(gate) = &page.around.gate { (gate::verdict(gate)) }
                    @if page.comparison.is_none() { (alone(&page)) }
                    nav aria-label="Contents" {
                        ul { @for section in &sections { li { a href={ "#" (section.id) } { (section.title) } } } }
                    }
                }
                main {
                    (problems(&page))
                    @for section in &sections {
                        section id=(section.id) { h2 { (section.title) } (section.body) }
                    }
                }
                (footer())
                (script())
            }
        }
    };
    Ok(markup.into_string())
}

/// Sorting tables, and reading values off plots.
fn script() -> Markup {
    html! { script { (PreEscaped(SORT)) (PreEscaped(PLOTS)) } }
}

/// Title, style and what the page may do.
fn head(title: &str) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta http-equiv="Content-Security-Policy" content=(POLICY);
            meta name="color-scheme" content="light dark";
            title { (title) " · Tokenlab" }
            link rel="icon" href="data:,";
            style { (PreEscaped(MARKS)) (PreEscaped(STYLE)) }
        }
    }
}

/// All sections that have something to say, in their order.
fn sections(page: &Page<'_>) -> anyhow::Result<Vec<Section>> {
    let mut all = Vec::new();
    let mut add = |id, title, body: Option<Markup>| {
        all.extend(body.map(|body| Section { id, title, body }));
    };
    if let Some(comparison) = &page.comparison {
        let rounds = comparison::section(comparison)?;
        add("comparison", "Round by round", Some(rounds));
        let settings = comparison::settings(comparison);
        add("equal", "What was made equal", settings);
        let programs = comparison::programs(comparison);
        add("programs", "Every program", Some(programs));
        let alone = (comparison.subject == ENGINE).then(|| alone(page));
        add("engine", "The engine alone", alone);
    }
    let gate = page.around.gate.as_ref().map(gate::section);
    add("gate", "Against the baseline", gate);
    if page.own.iter().any(|g| !g.counted.is_empty()) {
        add("rate", "Decode rate", Some(rates::section(page)?));
        add(
            "ceiling",
            "Share of the ceiling",
            Some(ceiling::section(page)?),
        );
        add(
            "quality",
            "Quality beside size and speed",
            quality::section(page)?,
        );
        add(
            "speculation",
            "What drafts were worth",
            speculation::section(page)?,
        );
        add(
            "sparsity",
            "What sparsity was worth",
            sparsity::section(page)?,
        );
        add("latency", "Latency per token", Some(tokens::latency(page)?));
        add(
            "time",
            "Where a token's time goes",
            Some(tokens::time(page)?),
        );
        add(
            "counters",
            "Counters per token",
            Some(tokens::counters(page)),
        );
        add("memory", "Memory", Some(tokens::memory(page)));
        add("history", "History", history::section(page)?);
    }
    add(
        "disturbed",
        "What disturbed the run",
        Some(record::disturbances(page)),
    );
    add("output", "Output", record::output(page));
    add(
        "machine",
        "Machine",
        Some(machine::section(&page.run.manifest.host)),
    );
    add("settings", "Settings", Some(record::settings(page)));
    add("repeat", "Repeat it", Some(record::repeat(page)));
    Ok(all)
}

/// What the engine reached, without others.
fn alone(page: &Page<'_>) -> Markup {
    html! {
        p.summary { (words::summary(page.run, &page.own)) }
        @if let [group] = page.own.as_slice() { (tiles(page.run, group)) }
    }
}

/// The numbers that most readers come for.
fn tiles(run: &Run, group: &Group<'_>) -> Markup {
    if group.counted.is_empty() {
        return html! {};
    }
    let tiles = [
        ("Decode", "tok/s", group.decode()),
        ("Prefill", "tok/s", group.prefill()),
        ("First token", "ms", group.ttft()),
        (
            "Of the read bandwidth",
            "%",
            group.estimate(|s| run.bw_pct(s)),
        ),
        (
            "Of the arithmetic peak",
            "%",
            group.estimate(|s| run.prefill_pct(s)),
        ),
    ];
    let memory = group.peak_rss_bytes().map(binary_bytes);
    html! {
        dl.tiles {
            @for (name, unit, estimate) in &tiles {
                div.tile {
                    dt { (name) }
                    @match estimate {
                        Some(e) => {
                            dd.value { (number(e.median)) " " small { (unit) } }
                            dd.between {
                                @if let Some(i) = e.interval { (number(i.low)) " to " (number(i.high)) br; }
                                (interval_kind(e))
                            }
                        }
                        None => { dd.value { small { "not measured" } } }
                    }
                }
            }
            div.tile {
                dt { "Peak memory" }
                dd.value { @match &memory { Some(text) => (text), None => small { "not measured" } } }
                dd.between { "largest of all repetitions" }
            }
        }
    }
}

fn problems(page: &Page<'_>) -> Markup {
    let problems = words::problems(page.run, page.groups);
    html! {
        @if !problems.is_empty() {
            section.problems aria-label="Before you trust a number" {
                h2 { "Before you trust a number" }
                ul { @for problem in &problems { li { (problem) } } }
            }
        }
    }
}

fn footer() -> Markup {
    html! {
        footer {
            p {
                "Medians are over repetitions, each in a fresh process; warm-ups are shown, not counted. "
                "Intervals are between order statistics and carry the confidence they really have. "
                "p99 is given from " (crate::stats::P99_SAMPLES_MIN) " values on. MB and GB are decimal, MiB and GiB binary."
            }
        }
    }
}
