//! How the run stands against a baseline.

use super::super::format::MISSING;
use super::super::tables::{self, Cell, Table};
use super::common::table;
use crate::gate::{Gate, Row, State};
use crate::host::plural;
use crate::metric::Metric;
use maud::{Markup, html};

/// The verdict in a line, for the head of the page.
pub(super) fn verdict(gate: &Gate) -> Markup {
    html! {
        p class={ "badge " (class(gate.state)) } {
            "Against the baseline \"" (gate.baseline) "\": " span { (gate.sentence()) } " (" a href="#gate" { "by metric" } ")"
        }
    }
}

fn class(state: State) -> &'static str {
    match state {
        State::Pass | State::Improvement => "good",
        State::Regression | State::Inconclusive | State::Incomparable => "warn",
    }
}

/// Every metric, and what a reader should know.
pub(super) fn section(gate: &Gate) -> Markup {
    html! {
        p { "The last " code { "harness gate" } " held this run against " (plural(gate.baseline_runs, "run")) " of the baseline \"" (gate.baseline) "\"." }
        (table(&rows(gate)))
        @if !gate.notes.is_empty() { ul { @for note in &gate.notes { li { (note) } } } }
    }
}

fn rows(gate: &Gate) -> Table {
    let columns = [
        "metric",
        "state, and why",
        "change",
        "interval of the change",
        "counts from",
        "baseline",
        "this run",
    ];
    let several = gate.rows.iter().any(|row| row.case != gate.rows[0].case);
    let or_missing = |text: String| match text.as_str() {
        "" | "unknown" => Cell::text(MISSING),
        _ => Cell::text(text),
    };
    let rows = gate.rows.iter().map(|row| {
        vec![
            Cell::text(name(row, several)),
            Cell::text(state(row)),
            or_missing(row.change()),
            or_missing(row.interval()),
            or_missing(row.threshold()),
            Cell::number(row.baseline),
            Cell::number(row.found),
        ]
    });
    let caption = "A timed change counts if its interval excludes none and it is larger than \"counts from\"; counts do not scatter";
    tables::table(caption, &columns, rows.collect())
}

/// The state, with the reason where there is one.
fn state(row: &Row) -> String {
    match &row.reason {
        Some(reason) => format!("{}: {reason}", row.state.name()),
        None => row.state.name().into(),
    }
}

/// What a row is of, with the unit.
fn name(row: &Row, several: bool) -> String {
    let title = match Metric::by_name(&row.metric) {
        Some(metric) => format!("{}, {}", metric.title, metric.unit),
        None if row.metric.is_empty() => "all metrics".to_owned(),
        None => row.metric.clone(),
    };
    match several {
        true => format!("{}: {title}", row.case),
        false => title,
    }
}
