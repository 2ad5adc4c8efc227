//! What a comparison says in the terminal.

use crate::cmd::run::new_table;
use crate::cmd::run::table::align_numbers;
use crate::compare::{CaseResult, Comparison, PhaseResult, Row};
use crate::verdict::Verdict;
use anstyle::{AnsiColor, Style};
use std::fmt::Write as _;

/// Shown for what nobody measured.
const UNKNOWN: &str = "-";
/// Marks the row that a verdict is about.
const BEST: &str = "*";

/// Settings, rates and verdicts.
pub(super) fn all(comparison: &Comparison) -> String {
    let mut text = settings(comparison);
    for case in &comparison.cases {
        let _ = write!(text, "\n{}\n{}\n", case.case, rates(case));
        for phase in &case.phases {
            text += &verdict(phase);
        }
        if let Some(check) = &case.text {
            let _ = writeln!(text, "{}", check.sentence());
        }
    }
    let _ = writeln!(
        text,
        "{BEST} the row that the verdict is about: of all that were measured, the one that the engine looks worst against, by the paired ratios of all rounds"
    );
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
fn rates(case: &CaseResult) -> String {
    let mut table = new_table();
    let mut header = vec!["".to_owned()];
    for phase in &case.phases {
        let name = phase.rate.name();
        header.extend([
            format!("{name}\ntok/s"),
            "± MAD".into(),
            format!("of peak\n{}", phase.rate.achieved_unit()),
            "ratio to it\ninterval".into(),
        ]);
    }
    header.push("runs".into());
    table.set_header(header);
    let Some(first) = case.phases.first() else {
        return "nothing was measured".into();
    };
    let runners = std::iter::once(None).chain((0..first.others.len()).map(Some));
    for other in runners {
        let mut cells = vec![row(first, other).title.clone()];
        for phase in &case.phases {
            let best = other.is_some() && phase.best == other;
            cells.extend(cells_of(row(phase, other), best));
        }
        cells.push(runs(row(first, other)));
        table.add_row(cells);
    }
    align_numbers(&mut table, 1 + 4 * case.phases.len());
    table.to_string()
}

/// A row of a phase, or its subject.
fn row(phase: &PhaseResult, other: Option<usize>) -> &Row {
    other.map_or(&phase.subject, |i| &phase.others[i])
}

/// Rate, spread, share of the peak, and the ratio to it.
fn cells_of(row: &Row, best: bool) -> [String; 4] {
    let number = |value: Option<f64>, digits| {
        value.map_or(UNKNOWN.to_owned(), |v: f64| format!("{v:.digits$}"))
    };
    let share = row.of_peak_pct.map(|pct| format!("{pct:.0} %"));
    let mark = if best { BEST } else { "" };
    [
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
    ]
}

/// How many repetitions there are, and what is wrong with some.
fn runs(row: &Row) -> String {
    let mut text = row.values.len().to_string();
    let tainted = row.values.iter().filter(|v| v.tainted).count();
    if tainted > 0 {
        let _ = write!(text, "\n{tainted} disturbed");
    }
    if row.failures > 0 {
        let _ = write!(text, "\n{} failed", row.failures);
    }
    if let Some(error) = &row.error {
        let _ = write!(text, "\n{error}");
    }
    text
}

/// The verdict, and what explains it.
fn verdict(phase: &PhaseResult) -> String {
    let colour = match phase.judged.map(|judged| judged.verdict) {
        Some(Verdict::Improvement | Verdict::Pass) => AnsiColor::Green,
        Some(Verdict::Regression) => AnsiColor::Red,
        Some(Verdict::Inconclusive) | None => AnsiColor::Yellow,
    };
    let style = Style::new().fg_color(Some(colour.into())).bold();
    let mut text = format!("{style}{}{style:#}\n", phase.sentence);
    for reason in &phase.reasons {
        let _ = writeln!(text, "  {reason}");
    }
    text
}
