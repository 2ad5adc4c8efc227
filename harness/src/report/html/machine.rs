//! The machine, and what was found about it.

use crate::host::{self, Finding, HostFacts, Status, binary_bytes};
use maud::{Markup, html};

pub(super) fn section(facts: &HostFacts) -> Markup {
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
            dl.facts { @for (name, value) in &rows { @if !value.is_empty() { dt { (name) } dd { (value) } } } }
            @if !facts.findings.is_empty() {
                details { summary { "Everything that was looked at" } (findings(&facts.findings)) }
            }
    }
}

fn findings(findings: &[Finding]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Findings about the machine" {
            table.stacks {
                thead { tr { @for name in ["topic", "state", "found", "meaning", "what to do"] { th.left scope="col" { (name) } } } }
                tbody {
                    @for f in findings {
                        tr {
                            th.left scope="row" { (f.topic) }
                            td.left data-label="state" {
                                span.status.warn[f.status == Status::Warn].good[f.status == Status::Good] { (f.status.name()) }
                            }
                            td.words data-label="found" title=(f.source) { (f.found) }
                            td.words data-label="meaning" { (f.means) }
                            td.words data-label="what to do" { @if let Some(advice) = &f.advice { code { (advice) } } }
                        }
                    }
                }
            }
        }
    }
}
