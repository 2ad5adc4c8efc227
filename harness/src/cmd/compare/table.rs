//! What a comparison says in the terminal.

use crate::cmd::run::new_table;
use crate::cmd::run::table::{align_numbers, wrapped};
use crate::compare::{CaseResult, Comparison, PhaseResult, Row};
use crate::record::above_peak;
use crate::verdict::Verdict;
use anstyle::{AnsiColor, Style};
use std::fmt::Write as _;

/// Shown for what nobody measured.
const UNKNOWN: &str = "-";
/// Marks the row that a verdict is about.
const BEST: &str = "*";

/// Settings, and for each case and phase rates and a verdict.
pub(super) fn all(comparison: &Comparison) -> String {
    let mut text = settings(comparison);
    for case in &comparison.cases {
        let _ = write!(text, "\n{}\n", case.case);
        if case.phases.is_empty() {
            text += "nothing was measured\n";
        }
        for phase in &case.phases {
            let _ = writeln!(text, "{}", rates(phase));
            text += &errors(phase);
            text += &verdict(phase);
        }
        if let Some(check) = &case.text {
            let _ = writeln!(text, "{}", wrapped(&check.sentence(), ""));
        }
    }
    let decides = |case: &CaseResult| case.phases.iter().any(|phase| phase.best.is_some());
    if !comparison.cases.iter().any(decides) {
        return text;
    }
    let best = format!(
        "{BEST} the row that the verdict is about: of all that were measured, the one that the engine looks worst against, by the paired ratios of all rounds"
    );
    let _ = writeln!(text, "{}", wrapped(&best, ""));
    text
}

/// What is equal, and what is not.
fn settings(comparison: &Comparison) -> String {
    let mut table = new_table();
    table.set_header(["setting", "engine", "other", "equal"]);
    for setting in &comparison.settings {
        let equal = if setting.equal { "yes" } else { "no" };
        table.add_row([&setting.name, &setting.engine, &setting.reference, equal]);
    }
    format!("{table}\n")
}

/// One row a runner.
fn rates(phase: &PhaseResult) -> String {
    let mut table = new_table();
    table.set_header([
        phase.rate.name().to_owned(),
        "tok/s".into(),
        "± MAD".into(),
        format!("of peak\n{}", phase.rate.achieved_unit()),
        "ratio to it\ninterval".into(),
        "runs".into(),
    ]);
    table.add_row(cells(&phase.subject, false));
    for (i, other) in phase.others.iter().enumerate() {
        table.add_row(cells(other, phase.best == Some(i)));
    }
    align_numbers(&mut table, 5);
    table.to_string()
}

/// Title, rate, spread, share of the peak, ratio to it, and runs.
fn cells(row: &Row, best: bool) -> [String; 6] {
    let number = |value: Option<f64>, digits| {
        value.map_or(UNKNOWN.to_owned(), |v: f64| format!("{v:.digits$}"))
    };
    let share = row
        .of_peak_pct
        .map(|pct| format!("{pct:.0} %{}", above_peak(pct)));
    let mark = if best { BEST } else { "" };
    [
        // What is in brackets is a line of its own.
        row.title.replacen(" (", "\n(", 1),
        number(row.median, 2),
        number(row.mad, 2),
        match (share, row.achieved) {
            (Some(share), Some(achieved)) => format!("{share}\n{achieved:.1}"),
            _ => number(row.achieved, 1),
        },
        row.change.map_or(UNKNOWN.into(), |change| {
            let interval = change.interval;
            format!(
                "{mark}{:.3}\n{:.3}..{:.3}",
                change.ratio, interval.low, interval.high
            )
        }),
        runs(row),
    ]
}

/// How many repetitions there are, and what is wrong with some.
fn runs(row: &Row) -> String {
    let mut text = row.values.len().to_string();
    let tainted = row.values.iter().filter(|v| v.tainted).count();
    for (count, word) in [(tainted, "disturbed"), (row.failures, "failed")] {
        if count > 0 {
            let _ = write!(text, "\n{count} {word}");
        }
    }
    text
}

/// What went wrong with each row, a line each.
fn errors(phase: &PhaseResult) -> String {
    let rows = std::iter::once(&phase.subject).chain(&phase.others);
    let said = rows.filter_map(|row| Some(format!("{}: {}", row.title, row.error.as_ref()?)));
    said.map(|text| wrapped(&text, "") + "\n").collect()
}

/// The verdict, and what explains it.
fn verdict(phase: &PhaseResult) -> String {
    let colour = match phase.judged.map(|judged| judged.verdict) {
        Some(Verdict::Improvement | Verdict::Pass) => AnsiColor::Green,
        Some(Verdict::Regression) => AnsiColor::Red,
        Some(Verdict::Inconclusive) | None => AnsiColor::Yellow,
    };
    let style = Style::new().fg_color(Some(colour.into())).bold();
    let mut text = format!("{style}{}{style:#}\n", wrapped(&phase.sentence, ""));
    for reason in &phase.reasons {
        let _ = writeln!(text, "{}", wrapped(reason, "  "));
    }
    text
}
