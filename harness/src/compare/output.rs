//! `comparison.csv`.

use super::{Comparison, PhaseResult, Row, SCHEMA_VERSION};
use anyhow::Context as _;

/// The columns.
const COLUMNS: [&str; 23] = [
    "schema_version",
    "case",
    "phase",
    "runner",
    "title",
    "repetitions",
    "tok_s_median",
    "tok_s_mad",
    "achieved",
    "achieved_unit",
    "of_peak_pct",
    "failures",
    "error",
    "best",
    "ratio",
    "ratio_low",
    "ratio_high",
    "confidence",
    "rounds",
    "floor",
    "detectable",
    "verdict",
    "rounds_advised",
];

/// One row a case, phase and runner; ratios are those of the judged runner over this one. An unknown number is an empty
/// field.
///
/// # Errors
/// When a row cannot be written.
pub fn csv(comparison: &Comparison) -> anyhow::Result<Vec<u8>> {
    let mut csv = ::csv::Writer::from_writer(Vec::new());
    csv.write_record(COLUMNS)?;
    for case in &comparison.cases {
        for phase in &case.phases {
            csv.write_record(record(&case.case, phase, &phase.subject, None))?;
            for (i, row) in phase.others.iter().enumerate() {
                let best = Some(phase.best == Some(i));
                csv.write_record(record(&case.case, phase, row, best))?;
            }
        }
    }
    csv.into_inner().context("comparison.csv")
}

/// The fields of a row; `best` is whether the verdict is about it, `None` for the judged runner.
fn record(case: &str, phase: &PhaseResult, row: &Row, best: Option<bool>) -> [String; 23] {
    fn text(value: Option<impl ToString>) -> String {
        value.map(|v| v.to_string()).unwrap_or_default()
    }
    let change = row.change;
    let judged = phase.judged.filter(|_| best == Some(true));
    [
        SCHEMA_VERSION.to_string(),
        case.to_owned(),
        phase.rate.name().to_owned(),
        row.runner.clone(),
        row.title.clone(),
        row.values.len().to_string(),
        text(row.median),
        text(row.mad),
        text(row.achieved),
        phase.rate.achieved_unit().to_owned(),
        text(row.of_peak_pct),
        row.failures.to_string(),
        text(row.error.as_ref()),
        text(best),
        text(change.map(|c| c.ratio)),
        text(change.map(|c| c.interval.low)),
        text(change.map(|c| c.interval.high)),
        text(change.map(|c| c.interval.confidence)),
        text(change.map(|c| c.rounds)),
        text(judged.and_then(|j| j.floor)),
        text(judged.map(|j| j.detectable)),
        text(judged.map(|_| phase.verdict)),
        text(judged.and_then(|j| j.rounds_advised)),
    ]
}
