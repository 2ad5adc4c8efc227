//! What was run, what came out as text, what went wrong, and how to repeat it.

use super::super::format::count;
use super::super::{tables, words};
use super::Page;
use super::common::table;
use crate::host::{Finding, binary_bytes, plural};
use maud::{Markup, html};

/// Most characters of one output text that are shown.
const OUTPUT_CHARS_MAX: usize = 4000;

/// Most disturbed repetitions that are listed without being asked for.
const DISTURBED_SHOWN_MAX: usize = 6;

pub(super) fn disturbances(page: &Page<'_>) -> Markup {
    let tainted = tables::tainted(page.groups);
    let failures = tables::failures(page.run);
    let warnings: Vec<&Finding> = page.run.manifest.host.warnings().collect();
    html! {
        @if tainted.is_none() && failures.is_none() && warnings.is_empty() {
            p { span.calm { "Nothing. " } "No failure, no disturbed repetition, no warning about the machine." }
        }
        @if let Some(failures) = &failures { (table(failures)) }
        @if let Some(tainted) = &tainted {
            p { (words::disturbances(page.groups).unwrap_or_else(|| "Only repetitions that do not count were disturbed.".to_owned())) }
            details open[tainted.rows.len() <= DISTURBED_SHOWN_MAX] {
                summary { (plural(tainted.rows.len(), "disturbed repetition")) ", one by one" }
                (table(tainted))
            }
        }
        @for finding in warnings { (warning(finding)) }
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

pub(super) fn output(page: &Page<'_>) -> Option<Markup> {
    let groups = &page.own;
    let any = groups.iter().any(|g| !g.counted.is_empty());
    any.then(|| html! {
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
    })
}

pub(super) fn settings(page: &Page<'_>) -> Markup {
    let m = &page.run.manifest;
    html! {
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

pub(super) fn repeat(page: &Page<'_>) -> Markup {
    let manifest = &page.run.manifest;
    let plan = manifest.comparison.iter();
    let references = plan.flat_map(|plan| plan.references.iter().chain(&plan.texts));
    let references: Vec<_> = references.collect();
    html! {
        pre.text tabindex="0" { (words::own_command(page.run)) }
        @if !references.is_empty() {
            details {
                summary { "The commands of the other programs, as they ran" }
                @for reference in references {
                    h3 { (reference.title) }
                    @for command in &reference.commands { pre.text tabindex="0" { (words::command(&command.argv)) } }
                }
            }
        }
        @for case in &manifest.cases {
            @if !case.repeat.is_empty() {
                details open[manifest.cases.len() == 1] {
                    summary {
                        "The same work with other programs"
                        @if manifest.cases.len() > 1 { ": " (case.name) }
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
