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
        "ratio",
        "interval of the ratio",
        "MAD of tok/s",
        achieved,
        "% of peak",
        "N",
    ];
    let subject = std::iter::once((&result.subject, false));
    let others = result.others.iter().enumerate();
    let others = others.map(|(i, row)| (row, result.best == Some(i)));
    let all: Vec<(&Row, bool)> = subject.chain(others).collect();
    let failed = all
        .iter()
        .any(|(row, _)| row.failures > 0 || row.error.is_some());
    let rows = all
        .iter()
        .map(|(row, decides)| runner(row, *decides, failed));
    let columns: Vec<&str> = columns
        .into_iter()
        .chain(["failed", "note"].into_iter().filter(|_| failed))
        .collect();
    let caption = format!(
        "{} by runner; ratio: rate of {} over it, paired by round; the one against which it looks worst decides; MAD: median absolute deviation",
        result.rate.name(),
        result.subject.title
    );
    table(&caption, &columns, rows.collect())
}

fn runner(row: &Row, decides: bool, failed: bool) -> Vec<Cell> {
    let name = match decides {
        true => Cell::text(format!("{}{DECIDES}", row.title)).standing_out(),
        false => Cell::text(&row.title),
    };
    let ratio_of_it = row.change.map(|c| c.ratio);
    let interval = row.change.map(|c| c.interval);
    let mut cells = vec![
        name,
        Cell::number(row.median),
        Cell::shown(ratio(ratio_of_it), ratio_of_it),
        Cell::shown(ratio_interval(interval), interval.map(|i| i.low)),
        Cell::number(row.mad),
        Cell::number(row.achieved),
        Cell::share(row.of_peak_pct),
        Cell::count(Some(row.values.len() as u64)),
    ];
    if failed {
        cells.push(Cell::count(Some(row.failures as u64)));
        cells.push(Cell::text(
            row.error.clone().unwrap_or_else(|| MISSING.to_owned()),
        ));
    }
    cells
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
            Cell::text(if setting.equal { "equal" } else { "differs" }),
            Cell::text(&setting.engine),
            Cell::text(&setting.reference),
        ]
    });
    let columns = ["setting", "both sides", "engine", "reference"];
    let caption = "Settings of both sides; what differs could not be made equal";
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
