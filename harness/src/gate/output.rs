//! A gate's result as CI systems show it: markdown for a job's summary or a comment, annotations of a workflow, and JUnit.

use super::{Gate, Row, State};
use crate::metric::Metric;
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use std::fmt::Write as _;

/// Shown for what nobody measured.
const UNKNOWN: &str = "unknown";

impl Row {
    /// Baseline and found value, with their unit's digits.
    pub fn values(&self) -> (String, String) {
        let digits = Metric::by_name(&self.metric).map_or(0, |m| m.digits);
        let text = |v: Option<f64>| v.map_or(UNKNOWN.into(), |v| format!("{v:.digits$}"));
        (text(self.baseline), text(self.found))
    }

    /// The change in percent: `-5.1 %`.
    pub fn change(&self) -> String {
        let ratio = match (&self.judged, self.baseline.zip(self.found)) {
            (Some(judged), _) => judged.change.ratio,
            (None, Some((before, after))) if before > 0.0 => after / before,
            _ => return UNKNOWN.into(),
        };
        percent(ratio)
    }

    /// The interval of the change: `-6.0 .. -4.2 %`; empty for counts.
    pub fn interval(&self) -> String {
        self.judged.map_or(String::new(), |judged| {
            let interval = judged.change.interval;
            let number = |ratio: f64| format!("{:+.1}", (ratio - 1.0) * 100.0);
            format!("{} .. {} %", number(interval.low), number(interval.high))
        })
    }

    /// What counts as a change: `5.0 %`; empty for counts.
    pub fn threshold(&self) -> String {
        self.judged
            .map_or(String::new(), |j| format!("{:.1} %", j.threshold * 100.0))
    }

    /// The row in one line.
    fn line(&self) -> String {
        let mut line = format!("{}: {}", self.case, self.state.name());
        if !self.metric.is_empty() {
            let (before, after) = self.values();
            let (metric, unit) = (&self.metric, &self.unit);
            line = format!(
                "{line}, {metric} {before} -> {after} {unit}, {}",
                self.change()
            );
            let interval = self.interval();
            if !interval.is_empty() {
                let _ = write!(line, " ({interval}; {} counts)", self.threshold());
            }
        }
        if let Some(reason) = &self.reason {
            let _ = write!(line, ": {reason}");
        }
        line
    }
}

/// A ratio as a change in percent.
fn percent(ratio: f64) -> String {
    format!("{:+.1} %", (ratio - 1.0) * 100.0)
}

/// For the summary of a job, or a comment on a change.
pub fn markdown(gate: &Gate) -> String {
    let mut out = format!("### {}\n\n", gate.sentence());
    let _ = writeln!(out, "`{}` against `{}`\n", gate.run, gate.baseline);
    out.push_str("| case | metric | baseline | run | change | interval | counts from | state |\n");
    out.push_str("|---|---|--:|--:|--:|--:|--:|---|\n");
    for row in &gate.rows {
        let (before, after) = row.values();
        let reason = row.reason.as_ref().map(|r| format!(": {r}"));
        let cells = [
            row.case.clone(),
            format!("{} {}", row.metric, row.unit),
            before,
            after,
            row.change(),
            row.interval(),
            row.threshold(),
            format!("**{}**{}", row.state.name(), reason.unwrap_or_default()),
        ];
        let cells = cells.map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    for note in &gate.notes {
        let _ = writeln!(out, "\n> {note}");
    }
    out
}

/// Lines that workflow runners show beside a change: an error for a regression, a warning for what could not be told.
pub fn annotations(gate: &Gate) -> String {
    let mut out = String::new();
    for row in &gate.rows {
        let level = match row.state {
            State::Regression => "error",
            State::Inconclusive | State::Incomparable => "warning",
            State::Improvement => "notice",
            State::Pass => continue,
        };
        let message = row.line();
        // A line break would end the message, and a percent sign begins an escape.
        let message = message
            .replace('%', "%25")
            .replace('\r', "%0D")
            .replace('\n', "%0A");
        let _ = writeln!(out, "::{level} title=harness gate::{message}");
    }
    out
}

/// JUnit XML: a test a row; a regression fails, what could not be told is skipped.
///
/// # Errors
/// When a text cannot be put into XML.
pub fn junit(gate: &Gate) -> anyhow::Result<String> {
    let mut suite = TestSuite::new(format!("harness gate {}", gate.baseline));
    for row in &gate.rows {
        let status = match row.state {
            State::Pass | State::Improvement => TestCaseStatus::success(),
            State::Regression => {
                let mut failed = TestCaseStatus::non_success(NonSuccessKind::Failure);
                failed.set_message(row.line());
                failed
            }
            State::Inconclusive | State::Incomparable => {
                let mut skipped = TestCaseStatus::skipped();
                skipped.set_message(row.line());
                skipped
            }
        };
        let mut test = TestCase::new(row.metric.clone(), status);
        test.set_classname(row.case.clone());
        test.set_system_out(row.line());
        suite.add_test_case(test);
    }
    let mut report = quick_junit::Report::new("harness");
    report.add_test_suite(suite);
    Ok(report.to_string()?)
}

impl Gate {
    /// The result in a sentence.
    pub fn sentence(&self) -> String {
        let count = |state| self.rows.iter().filter(|row| row.state == state).count();
        let parts: Vec<String> = [
            State::Regression,
            State::Incomparable,
            State::Inconclusive,
            State::Improvement,
            State::Pass,
        ]
        .into_iter()
        .filter(|state| count(*state) > 0)
        .map(|state| format!("{} {}", count(state), state.name()))
        .collect();
        match parts.is_empty() {
            true => "incomparable: nothing to compare".into(),
            false => format!("{}: {}", self.state.name(), parts.join(", ")),
        }
    }
}
