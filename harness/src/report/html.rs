//! The report as one HTML file: nothing is fetched, nothing runs but the sorting of tables.

use super::data::{self, Group, TokenTime, sweep_axis};
use super::format::{count, interval_kind, number};
use super::plots::{self, Plot, Role};
use super::tables::{self, Table};
use super::words;
use crate::host::{self, Finding, HostFacts, Status, binary_bytes};
use crate::record::Run;
use engine::stage::Stage;
use maud::{DOCTYPE, Markup, PreEscaped, html};

pub(super) const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/sort.js");
/// What the page may do: use its own style and script, and nothing from anywhere else.
pub(super) const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";
/// Most characters of one output text that are shown.
const OUTPUT_CHARS_MAX: usize = 4000;

/// The whole page.
pub(super) fn page(run: &Run) -> anyhow::Result<String> {
    let groups = data::groups(run);
    let manifest = &run.manifest;
    let measured = groups.iter().any(|g| !g.counted.is_empty());
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="color-scheme" content="light dark";
                title { (manifest.scenario.name) " · Tokenlab" }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.kind { "Tokenlab report · " time datetime=(manifest.created_at) { (words::instant(&manifest.created_at)) } }
                    h1 { (manifest.scenario.name) }
                    @if !manifest.scenario.description.is_empty() { p.quiet { (manifest.scenario.description) } }
                    p.summary { (words::summary(run, &groups)) }
                    @if let ([group], true) = (groups.as_slice(), measured) { (tiles(group)) }
                    (contents(measured))
                }
                main {
                    (problems(run, &groups))
                    @if measured {
                        (decode_section(&groups)?)
                        (latency_section(&groups)?)
                        (time_section(&groups)?)
                        (bytes_section(&groups))
                        (memory_section(&groups))
                    }
                    (disturbance_section(run, &groups))
                    @if !run.samples.is_empty() { (output_section(&groups)) }
                    (machine_section(&manifest.host))
                    (settings_section(run))
                    (repeat_section(run))
                }
                footer {
                    p {
                        "Medians are over repetitions, each in a fresh process; warm-ups are shown, not counted. "
                        "Intervals are between order statistics and carry the confidence they really have. "
                        "p99 is given from " (crate::stats::P99_SAMPLES_MIN) " values on. MB and GB are decimal, MiB and GiB binary."
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

/// The four numbers that most readers come for.
fn tiles(group: &Group<'_>) -> Markup {
    let tiles = [
        ("Decode", "tok/s", group.decode()),
        ("Prefill", "tok/s", group.prefill()),
        ("First token", "ms", group.ttft()),
        ("Read while decoding", "GB/s", group.bandwidth()),
    ];
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
        }
    }
}

fn contents(measured: bool) -> Markup {
    let results = [
        ("rate", "Decode rate"),
        ("latency", "Latency"),
        ("time", "Time"),
        ("bytes", "Bytes"),
        ("memory", "Memory"),
    ];
    let always = [
        ("disturbed", "Disturbances"),
        ("machine", "Machine"),
        ("settings", "Settings"),
        ("repeat", "Repeat it"),
    ];
    html! {
        nav aria-label="Contents" {
            ul {
                @for (id, name) in results.iter().filter(|_| measured).chain(&always) {
                    li { a href={ "#" (id) } { (name) } }
                }
            }
        }
    }
}

fn problems(run: &Run, groups: &[Group<'_>]) -> Markup {
    let problems = words::problems(run, groups);
    html! {
        @if !problems.is_empty() {
            section.problems aria-label="Before you trust a number" {
                h2 { "Before you trust a number" }
                ul { @for problem in &problems { li { (problem) } } }
            }
        }
    }
}

fn decode_section(groups: &[Group<'_>]) -> anyhow::Result<Markup> {
    let body = match groups {
        [group] => one_rate(group)?,
        _ => html! {
            (sweep_figure(groups)?)
            @if let Some(plot) = plots::strips(groups)? {
                (figure(&plot, html! {
                    "Every repetition of every case. Line: median; band: its interval; hollow: warm-up or replaced; "
                    "triangle: disturbed."
                }, &[]))
            }
            (table(&tables::cases(groups)))
        },
    };
    Ok(html! { section #rate { h2 { "Decode rate" } (body) } })
}

fn one_rate(group: &Group<'_>) -> anyhow::Result<Markup> {
    let plot = plots::rounds(group)?;
    Ok(html! {
        @if let Some((plot, start)) = plot {
            (figure(&plot, html! {
                "Line: median; band: its interval; hollow: warm-up or replaced; triangle: disturbed. "
                @if start > 0.0 { "The axis does not start at 0." }
            }, &[tables::repetitions(group)]))
        } @else {
            p { "No repetition that counts gave a decode rate." }
        }
        (table(&tables::results(group)))
    })
}

fn sweep_figure(groups: &[Group<'_>]) -> anyhow::Result<Markup> {
    let Some(key) = sweep_axis(groups) else {
        return Ok(html! {});
    };
    let Some((plot, names)) = plots::sweep(groups, &key)? else {
        return Ok(html! {});
    };
    Ok(html! {
        figure {
            h3 { "Over " code { (key) } }
            @if names.len() > 1 {
                ul.legend {
                    @for (i, name) in names.iter().enumerate() {
                        li { (swatch(Role::Series(i as u8))) (name) }
                    }
                }
            }
            (maud::Render::render(&plot))
            figcaption { "Large points and lines: medians; small points: repetitions." }
        }
    })
}

fn swatch(role: Role) -> Markup {
    html! { (PreEscaped(format!(
        "<svg viewBox=\"0 0 14 14\" aria-hidden=\"true\"><rect width=\"14\" height=\"14\" rx=\"3\" fill=\"var(--{})\"/></svg>",
        role.name()
    ))) }
}

/// Latency of a single case, or everything about each of several.
fn latency_section(groups: &[Group<'_>]) -> anyhow::Result<Markup> {
    Ok(match groups {
        [group] => html! {
            section #latency { h2 { "Latency per token" } (one_latency(group)?) }
        },
        _ => html! {
            section #latency {
                h2 { "Each case: repetitions and latency per token" }
                @for group in groups {
                    details.case {
                        summary { (group.short) }
                        h3 { "Decode rate" }
                        (one_rate(group)?)
                        h3 { "Latency per token" }
                        (one_latency(group)?)
                    }
                }
            }
        },
    })
}

fn one_latency(group: &Group<'_>) -> anyhow::Result<Markup> {
    let Some((plot, clipped, edge)) = plots::latency(group)? else {
        return Ok(html! { p { "No repetition that counts gave two tokens." } });
    };
    let distribution = plots::distribution(group)?;
    Ok(html! {
        (figure(&plot, html! {
            "Time from one token to the next, every repetition that counts. Line: median at each position. "
            "The first token is not among them: see time to first token. "
            @if clipped > 0 {
                "Triangles at the upper edge: " (host::plural(clipped, "gap")) " longer than " (number(edge)) " ms."
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
        @if group.gaps.concat().len() < crate::stats::P99_SAMPLES_MIN {
            p.quiet { "p99 needs at least " (crate::stats::P99_SAMPLES_MIN) " gaps." }
        }
    })
}

fn time_section(groups: &[Group<'_>]) -> anyhow::Result<Markup> {
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
        section #time {
            h2 { "Where a token's time goes" }
            @match plot {
                Some(plot) => (figure(&plot, html! {
                    (stage_legend())
                    "Threads averaged. " code { "wait" } " is time at barriers, waiting for other threads; "
                    code { "outside" } " is time of a token that no stage claims."
                }, &[tables::stages(&rows)])),
                None => p { "The stage clock was off, or nothing was measured." }
            }
        }
    })
}

fn stage_legend() -> Markup {
    html! {
        span.legend {
            @for stage in Stage::ALL { span { (swatch(Role::Stage(stage))) (stage.name()) } }
            span { (swatch(Role::Outside)) "outside" }
        }
    }
}

fn bytes_section(groups: &[Group<'_>]) -> Markup {
    html! {
        section #bytes {
            h2 { "Bytes per token" }
            (table(&tables::bytes(groups)))
            p.quiet {
                "The achieved rate is weights and KV cache over the time of decoding; activations stay in the caches."
            }
        }
    }
}

fn memory_section(groups: &[Group<'_>]) -> Markup {
    html! { section #memory { h2 { "Memory" } (table(&tables::memory(groups))) } }
}

fn disturbance_section(run: &Run, groups: &[Group<'_>]) -> Markup {
    let tainted = tables::tainted(groups);
    let failures = tables::failures(run);
    let warnings: Vec<&Finding> = run.manifest.host.warnings().collect();
    html! {
        section #disturbed {
            h2 { "What disturbed the run" }
            @if tainted.is_none() && failures.is_none() && warnings.is_empty() {
                p { span.calm { "Nothing. " } "No failure, no disturbed repetition, no warning about the machine." }
            }
            @if let Some(failures) = &failures { (table(failures)) }
            @if let Some(tainted) = &tainted { (table(tainted)) }
            @for finding in warnings { (warning(finding)) }
        }
    }
}

fn warning(finding: &Finding) -> Markup {
    html! {
        p {
            span.status.warn { (finding.topic) ": " }
            (finding.found) "; " (finding.means) ". "
            @if let Some(advice) = &finding.advice { code { (advice) } }
        }
    }
}

fn output_section(groups: &[Group<'_>]) -> Markup {
    html! {
        section #output {
            h2 { "Output" }
            @for group in groups {
                @if let Some(sample) = group.counted.first() {
                    @let shown: String = sample.output_text.chars().take(OUTPUT_CHARS_MAX).collect();
                    @if groups.len() > 1 { h3 { (group.label) } }
                    p {
                        @match group.same_output() {
                            Some(true) if group.counted.len() > 1 => {
                                span.status.good { "The same " } "in all " (group.counted.len()) " repetitions that count. "
                            }
                            Some(true) => "One repetition. ",
                            _ => span.status.warn { "Repetitions differ; this is the first. " },
                        }
                        @match &group.case.expect_sha256 {
                            Some(hash) if *hash == sample.output_sha256 => "It is what the scenario expects. ",
                            Some(_) => span.status.warn { "It is not what the scenario expects. " },
                            None => "The scenario expects no particular output. ",
                        }
                    }
                    pre.text tabindex="0" { (shown) }
                    p.quiet {
                        (count(sample.n_out() as u64)) " tokens, SHA-256 of the ids " code { (sample.output_sha256) }
                        @if shown.len() < sample.output_text.len() { ", text shortened" }
                    }
                }
            }
        }
    }
}

fn machine_section(facts: &HostFacts) -> Markup {
    let yes_no = |b: Option<bool>| {
        b.map_or("unknown", |b| if b { "on" } else { "off" })
            .to_owned()
    };
    let caches: Vec<String> = facts
        .caches
        .iter()
        .map(|c| {
            format!(
                "L{} {} {} per {}",
                c.level,
                c.kind.to_lowercase(),
                binary_bytes(c.bytes),
                host::plural(c.shared_by, "CPU")
            )
        })
        .collect();
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    let rows = [
        ("CPU", known(&facts.cpu)),
        ("Instruction sets", facts.features.join(" ")),
        (
            "CPUs usable",
            format!(
                "{} on {}: {}",
                facts.cpus,
                host::plural(facts.cores, "core"),
                facts.cpus_allowed
            ),
        ),
        (
            "Sockets, NUMA nodes",
            format!("{}, {}", facts.packages, facts.numa_nodes),
        ),
        ("Caches", caches.join("; ")),
        (
            "Memory",
            facts
                .memory_bytes
                .map_or_else(|| "unknown".to_owned(), binary_bytes),
        ),
        (
            "System",
            [known(&facts.os), format!("kernel {}", known(&facts.kernel))].join(", "),
        ),
        (
            "Virtual machine",
            facts
                .hypervisor
                .map_or("unknown", |v| if v { "yes" } else { "no" })
                .to_owned(),
        ),
        ("Governor", known(&facts.governor)),
        ("Boost", yes_no(facts.boost)),
        ("SMT", yes_no(facts.smt)),
        ("Huge pages", known(&facts.thp)),
    ];
    html! {
        section #machine {
            h2 { "Machine" }
            dl.facts { @for (name, value) in &rows { @if !value.is_empty() { dt { (name) } dd { (value) } } } }
            @if !facts.findings.is_empty() {
                details { summary { "Everything that was looked at" } (findings(&facts.findings)) }
            }
        }
    }
}

fn findings(findings: &[Finding]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Findings about the machine" {
            table {
                thead { tr { @for name in ["", "topic", "found", "meaning", "what to do"] { th.left scope="col" { (name) } } } }
                tbody {
                    @for f in findings {
                        tr {
                            td.left {
                                span.status.warn[f.status == Status::Warn].good[f.status == Status::Good] { (f.status.name()) }
                            }
                            th.left scope="row" { (f.topic) }
                            td.words title=(f.source) { (f.found) }
                            td.words { (f.means) }
                            td.words { @if let Some(advice) = &f.advice { code { (advice) } } }
                        }
                    }
                }
            }
        }
    }
}

fn settings_section(run: &Run) -> Markup {
    let m = &run.manifest;
    html! {
        section #settings {
            h2 { "Settings" }
            dl.facts {
                dt { "Scenario" } dd { code { (m.scenario.path) } }
                @if !m.scenario.overrides.is_empty() {
                    dt { "Overrides" } dd { @for o in &m.scenario.overrides { code { (o) } " " } }
                }
                dt { "Rounds" } dd { (m.rounds) " measured, " (m.warmup) " warm-up, order seed " (m.order_seed) }
                @for model in &m.models {
                    dt { "Model" }
                    dd {
                        (model.name) ", " (binary_bytes(model.file_bytes))
                        @if let Some(licence) = &model.licence { ", " (licence) }
                        br; span.quiet { "SHA-256 " code { (model.sha256) } }
                    }
                }
                dt { "Program" }
                dd {
                    "harness " (m.binary.version) ", " (m.binary.profile)
                    @if let Some(commit) = &m.binary.git_commit { ", commit " code { (commit) } }
                    @if let Some(compiler) = &m.binary.compiler { ", " (compiler) }
                }
            }
            details {
                summary { "Scenario file" }
                pre tabindex="0" { (m.scenario.text) }
            }
        }
    }
}

fn repeat_section(run: &Run) -> Markup {
    html! {
        section #repeat {
            h2 { "Repeat it" }
            pre.text tabindex="0" { (words::own_command(run)) }
            @for case in &run.manifest.cases {
                @if !case.repeat.is_empty() {
                    details open[run.manifest.cases.len() == 1] {
                        summary {
                            "The same work with other programs"
                            @if run.manifest.cases.len() > 1 { ": " (case.name) }
                        }
                        @for command in &case.repeat {
                            h3 { (command.tool) }
                            pre.text tabindex="0" { (command.line) }
                            @if let Some(note) = &command.note { p.quiet { (note) } }
                        }
                    }
                }
            }
        }
    }
}

fn figure(plot: &Plot, caption: Markup, data: &[Table]) -> Markup {
    html! {
        figure {
            (maud::Render::render(plot))
            figcaption { (caption) }
            @for table_behind in data {
                details { summary { "Data" } (table(table_behind)) }
            }
        }
    }
}

/// A table in a box of its own that scrolls; sortable where there is something to sort.
fn table(table: &Table) -> Markup {
    let numeric: Vec<bool> = (0..table.columns.len())
        .map(|i| table.rows.iter().any(|r| r[i].sort.is_some()))
        .collect();
    html! {
        p.caption { (table.caption) }
        div.scroll tabindex="0" role="region" aria-label=(table.caption) {
            table.sortable[table.rows.len() > 1].many[table.columns.len() > 8] aria-label=(table.caption) {
                thead {
                    tr {
                        @for (i, column) in table.columns.iter().enumerate() {
                            th scope="col" .left[!numeric[i]] { (column) }
                        }
                    }
                }
                tbody {
                    @for row in &table.rows {
                        tr {
                            @for (i, cell) in row.iter().enumerate() {
                                @let long = cell.text.len() > 40;
                                @if i == 0 {
                                    th scope="row" data-sort=[cell.sort] { (cell.text) }
                                } @else {
                                    td data-sort=[cell.sort] .left[!numeric[i]] .words[long] { (cell.text) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
