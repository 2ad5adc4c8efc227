//! The tables of a comparison.

use super::format::MISSING;
use super::tables::{Cell, Table, table};
use crate::compare::{Comparison, PhaseResult, Row};
use crate::stats::Interval;

/// What stands behind the name of the row that decides.
const DECIDES: &str = " (decides)";

/// One row for each runner of a case and phase, the subject first.
pub(super) fn runners(result: &PhaseResult) -> Table {
    let achieved = result.rate.achieved_unit();
    let columns = [
        "runner",
        "tok/s",
        "MAD",
        "ratio",
        "interval of the ratio",
        achieved,
        "% of peak",
        "N",
        "failed",
        "note",
    ];
    let subject = std::iter::once((&result.subject, false));
    let others = result.others.iter().enumerate();
    let others = others.map(|(i, row)| (row, result.best == Some(i)));
    let rows = subject
        .chain(others)
        .map(|(row, decides)| runner(row, decides));
    let caption = format!(
        "{} by runner; ratio: rate of {} over it, paired by round; the one against which it looks worst decides",
        result.rate.name(),
        result.subject.title
    );
    table(&caption, &columns, rows.collect())
}

fn runner(row: &Row, decides: bool) -> Vec<Cell> {
    let name = match decides {
        true => Cell::text(format!("{}{DECIDES}", row.title)).standing_out(),
        false => Cell::text(&row.title),
    };
    vec![
        name,
        Cell::number(row.median),
        Cell::number(row.mad),
        Cell::shown(
            ratio(row.change.map(|c| c.ratio)),
            row.change.map(|c| c.ratio),
        ),
        Cell::shown(
            ratio_interval(row.change.map(|c| c.interval)),
            row.change.map(|c| c.interval.low),
        ),
        Cell::number(row.achieved),
        Cell::number(row.of_peak_pct),
        Cell::count(Some(row.values.len() as u64)),
        Cell::count(Some(row.failures as u64)),
        Cell::text(row.error.clone().unwrap_or_else(|| MISSING.to_owned())),
    ]
}

/// Every round of a case and phase.
pub(super) fn rounds(result: &PhaseResult) -> Table {
    let rows = result.rounds.iter().map(|round| {
        vec![
            Cell::shown(
                format!("round {}", round.round + 1),
                Some(f64::from(round.round)),
            ),
            Cell::shown(ratio(Some(round.ratio)), Some(round.ratio)),
            Cell::shown(ratio(round.itself), round.itself),
            Cell::text(if round.tainted { "yes" } else { "no" }),
        ]
    });
    let columns = ["round", "ratio", "the engine over itself", "disturbed"];
    table("Every paired round", &columns, rows.collect())
}

/// What was made equal, and what could not be; `None` if the engine was compared with itself.
pub(super) fn settings(comparison: &Comparison) -> Option<Table> {
    let rows = comparison.settings.iter().map(|setting| {
        vec![
            Cell::text(&setting.name),
            Cell::text(&setting.engine),
            Cell::text(&setting.reference),
            Cell::text(if setting.equal { "equal" } else { "differs" }),
        ]
    });
    let columns = ["setting", "engine", "reference", ""];
    let caption = "What was made equal, and what could not be";
    (!comparison.settings.is_empty()).then(|| table(caption, &columns, rows.collect()))
}

/// Three digits after the point, or a dash.
fn ratio(x: Option<f64>) -> String {
    x.map_or_else(|| MISSING.to_owned(), |x| format!("{x:.3}"))
}

fn ratio_interval(interval: Option<Interval>) -> String {
    interval.map_or_else(
        || MISSING.to_owned(),
        |i| format!("{:.3} to {:.3}", i.low, i.high),
    )
}
