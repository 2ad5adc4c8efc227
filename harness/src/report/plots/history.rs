//! A metric over all runs.

use super::super::format::number;
use super::{Axes, Mark, Plot, Role, Shape, tick_whole};
use crate::history::Series;
use crate::metric::Metric;
use crate::stats;

/// One point a run, oldest first, with the median of each level between change points; the run that
/// started at `this` as a square. `None` below two runs.
pub(in super::super) fn history(
    series: &Series,
    metric: &Metric,
    this: &str,
) -> anyhow::Result<Option<Plot>> {
    let points = &series.points;
    if points.len() < 2 {
        return Ok(None);
    }
    let medians: Vec<f64> = points.iter().map(|p| p.median).collect();
    let mut marks = Vec::new();
    let starts = std::iter::once(0).chain(series.changes.iter().map(|c| c.at));
    let ends = series.changes.iter().map(|c| c.at).chain([points.len()]);
    for (start, end) in starts.zip(ends) {
        let level = stats::median(&medians[start..end]).unwrap_or(0.0);
        marks.push(Mark::Line {
            points: vec![(start as f64 + 0.6, level), (end as f64 + 0.4, level)],
            role: Role::Accent,
            width: 2,
        });
    }
    let last = points.len();
    for (i, point) in points.iter().enumerate() {
        let x = (i + 1) as f64;
        marks.push(Mark::Line {
            points: vec![
                (x, (point.median - point.mad).max(0.0)),
                (x, point.median + point.mad),
            ],
            role: Role::Muted,
            width: 1,
        });
        let commit = point
            .git_commit
            .as_deref()
            .map_or("commit unknown", |c| c.get(..9).unwrap_or(c));
        marks.push(Mark::Point {
            x,
            y: point.median,
            shape: if point.created_at == this {
                Shape::Square
            } else {
                Shape::Dot
            },
            role: Role::Accent,
            hollow: point.tainted > 0,
            title: format!(
                "{}, {commit}: median {} {}, {} of {} repetitions disturbed",
                super::super::words::instant(&point.created_at),
                number(point.median),
                metric.unit,
                point.tainted,
                point.repetitions
            ),
        });
    }
    let ends = points.iter().map(|p| p.median + p.mad);
    let y = 0.0..1.08 * ends.fold(0.0, f64::max);
    for found in &series.changes {
        let x = found.at as f64 + 0.5;
        marks.push(Mark::Line {
            points: vec![(x, y.start), (x, y.end)],
            role: Role::Warn,
            width: 2,
        });
        marks.push(Mark::Label {
            x,
            y: y.end - (y.end - y.start) * 0.1,
            text: format!("\u{a0}{:+.1} %", 100.0 * (found.change.ratio - 1.0)),
            below: false,
        });
    }
    let axes = Axes {
        x_unit: "run, oldest first".to_owned(),
        y_unit: metric.unit.to_owned(),
        x_tick: tick_whole,
        height: 220,
        ..Axes::over(0.4..last as f64 + 0.6, y)
    };
    let label = format!("{} of {} runs in {}", metric.title, last, metric.unit);
    Plot::draw(&label, &axes, &marks).map(Some)
}
