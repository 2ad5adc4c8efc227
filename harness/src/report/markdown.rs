//! The report in short, for pull requests and job summaries.

use super::comparison;
use super::data;
use super::quality;
use super::sparsity::{Thinned, thinned};
use super::speculation::{drafted, outputs};
use super::tables::{self, Table};
use super::words;
use crate::compare;
use crate::record::Run;
use crate::summary::beside_first;
use std::fmt::Write as _;

/// The whole text.
pub(super) fn page(run: &Run) -> String {
    let groups = data::groups(run);
    let manifest = &run.manifest;
    let mut out = format!("# {}\n\n", inline(&manifest.scenario.name));
    let own = data::own(&groups);
    let compared = compare::compare(run);
    for case in compared.iter().flat_map(|c| &c.cases) {
        for phase in &case.phases {
            let _ = writeln!(out, "{}.\n", inline(&phase.sentence));
            table(&mut out, &comparison::runners(phase));
            for reason in &phase.reasons {
                let _ = writeln!(out, "- {}", inline(reason));
            }
            out.push('\n');
        }
        if let Some(text) = &case.text {
            let _ = writeln!(out, "{}.\n", inline(&text.sentence()));
        }
    }
    if let Some(settings) = compared.as_ref().and_then(comparison::settings) {
        table(&mut out, &settings);
    }
    let _ = writeln!(out, "{}\n", inline(&words::summary(run, &own)));
    let problems = words::problems(run, &groups);
    if !problems.is_empty() {
        out += "**Before you trust a number:**\n\n";
        for problem in problems {
            let _ = writeln!(out, "- {}", inline(&problem));
        }
        out.push('\n');
    }
    match own.as_slice() {
        [] => {}
        [group] => {
            table(&mut out, &tables::results(run, group));
            table(&mut out, &tables::quantiles(group));
        }
        _ => table(&mut out, &tables::cases(run, &own)),
    }
    let beside = beside_first(run);
    if let (Some(first), false) = (manifest.cases.first(), beside.is_empty()) {
        table(&mut out, &tables::beside_first(first, &beside));
    }
    let (drafted, thinned) = (drafted(&own), thinned(run, &own));
    if !drafted.is_empty() {
        let _ = writeln!(out, "{}\n", inline(&outputs(&drafted)));
        table(&mut out, &tables::speculation(&drafted));
    }
    if !thinned.is_empty() {
        table(&mut out, &tables::sparsity(&thinned));
        for held in thinned.iter().filter_map(Thinned::held) {
            let _ = writeln!(out, "- by channels, {}", inline(&held));
        }
        out.push('\n');
    }
    let predicted = quality::points(run, &own);
    if !predicted.is_empty() {
        table(&mut out, &tables::quality(&predicted));
    }
    if let Some(mixed) = tables::mixed(&own) {
        table(&mut out, &mixed);
    }
    if !own.is_empty() {
        table(&mut out, &tables::bytes(&own));
        table(&mut out, &tables::memory(&own));
    }
    for disturbed in [tables::failures(run), tables::tainted(&groups)]
        .into_iter()
        .flatten()
    {
        table(&mut out, &disturbed);
    }
    let _ = writeln!(
        out,
        "{}. {}\n",
        inline(&manifest.host.summary()),
        inline(&manifest.created_at)
    );
    code(&mut out, &words::own_command(run));
    for case in &manifest.cases {
        for command in &case.repeat {
            code(&mut out, &command.line);
        }
    }
    out
}

fn table(out: &mut String, table: &Table) {
    let _ = writeln!(out, "{}:\n", inline(&table.caption));
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    *out += &line(table.columns.iter().map(|c| inline(c)).collect());
    let rule = |i: usize| match i > 0 && table.rows.iter().any(|r| r[i].sort.is_some()) {
        true => "---:".to_owned(),
        false => "---".to_owned(),
    };
    *out += &line((0..table.columns.len()).map(rule).collect());
    for row in &table.rows {
        *out += &line(row.iter().map(|c| inline(&c.text)).collect());
    }
    out.push('\n');
}

/// A block of code whose fence is longer than any run of backticks inside.
fn code(out: &mut String, text: &str) {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat((longest + 1).max(3));
    let _ = writeln!(out, "{fence}sh\n{text}\n{fence}\n");
}

/// Text on one line in which nothing acts as markup.
fn inline(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '#' | '~' | '$' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_as_markup() {
        let table = [
            ("a|b\nc", "a\\|b c"),
            ("<script>", "&lt;script&gt;"),
            ("[x](y) `z` *w*", "\\[x\\](y) \\`z\\` \\*w\\*"),
        ];
        for (text, expect) in table {
            assert_eq!(inline(text), expect);
        }
        let mut out = String::new();
        code(&mut out, "a ``` b");
        assert!(out.starts_with("````sh\n"), "{out}");
    }
}
