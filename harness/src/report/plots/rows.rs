//! One row a case: points on a common axis, with the case's name and value above them.

use super::super::data::short_name;
use super::super::format::{interval, number};
use super::{Axes, Key, Mark, Plot, ROW_PX, Role, Shape};
use crate::summary::{Beside, BesideFirst};
use std::ops::Range;

/// A row.
pub(super) struct Row {
    /// What stands above it.
    pub text: String,
    /// Where its middle is marked by a line.
    pub line: Option<f64>,
    /// Where small points lie.
    pub specks: Vec<f64>,
    /// Points: place, look, and what they tell; the last lies on top, and specks have its colour.
    pub points: Vec<(f64, Shape, Role, bool, String)>,
}

/// All rows from the first at the top on an axis with a unit; `at` is where a line goes through all of them.
pub(super) fn draw(
    label: &str,
    (x, x_unit): (Range<f64>, &str),
    at: Option<f64>,
    rows: Vec<Row>,
) -> anyhow::Result<Plot> {
    let lowest = -(rows.len() as f64) + 0.4;
    let mut marks: Vec<Mark> = at
        .map(|at| Mark::Line {
            points: vec![(at, lowest), (at, 0.6)],
            role: Role::Muted,
            width: 2,
        })
        .into_iter()
        .collect();
    let axes = Axes {
        x_unit: x_unit.to_owned(),
        y_ticks: false,
        height: ROW_PX * rows.len() as u32 + 70,
        ..Axes::over(x.clone(), lowest..0.6)
    };
    for (i, row) in rows.into_iter().enumerate() {
        let y = -(i as f64);
        if let Some(at) = row.line {
            marks.push(Mark::Line {
                points: vec![(at, y - 0.34), (at, y + 0.14)],
                role: Role::Text,
                width: 2,
            });
        }
        if let Some((_, _, role, ..)) = row.points.last() {
            marks.push(Mark::Specks {
                points: row.specks.iter().map(|&x| (x, y - 0.1)).collect(),
                role: *role,
            });
        }
        let points = row.points.into_iter();
        marks.extend(points.map(|(x, shape, role, hollow, title)| Mark::Point {
            x,
            y: y - 0.1,
            shape,
            role,
            hollow,
            title,
        }));
        marks.push(Mark::Label {
            x: x.start,
            y: y + 0.14,
            text: row.text,
            below: false,
        });
    }
    Plot::draw(label, &axes, &marks)
}

/// What speed-ups are over, and what is expected of them.
pub(in super::super) struct Scale {
    /// Unit of the axis.
    unit: &'static str,
    /// By what something is expected.
    expected: &'static str,
}

/// Drafts, and what the formula expects.
pub(in super::super) const DRAFTS: Scale = Scale {
    unit: "times as fast as without",
    expected: "by the formula",
};
/// Sparsity, and what it should give in proportion to the bytes that are read.
pub(in super::super) const SPARSITY: Scale = Scale {
    unit: "times as fast as without",
    expected: "by the bytes read",
};
/// How many times as fast a case is.
pub(in super::super) struct SpeedUp<'a> {
    /// The case.
    pub name: &'a str,
    /// Paired by round.
    pub measured: &'a Beside,
    /// What was to be expected.
    pub expected: Option<f64>,
}

/// Measured and expected speed-ups, one row a case. `None` without any.
pub(in super::super) fn speed_ups(
    all: &[SpeedUp<'_>],
    scale: &Scale,
) -> anyhow::Result<Option<Plot>> {
    let values = || {
        let each = all.iter().map(|s| (s.measured, s.expected));
        each.flat_map(|(m, expected)| {
            let ends = m.interval.into_iter().flat_map(|i| [i.low, i.high]);
            let one = std::iter::once(m.ratio).chain(expected);
            ends.chain(one).chain(m.rounds.iter().copied())
        })
    };
    if all.is_empty() {
        return Ok(None);
    }
    let (low, high) = values().fold((1.0, 1.0), |(l, h): (f64, f64), x| (l.min(x), h.max(x)));
    let pad = (high - low) * 0.06 + 0.02;
    let x = ((low - pad).max(0.0)..high + pad, scale.unit);
    let rows = all.iter().map(|one| speed_up(one, scale)).collect();
    let mut plot = draw("Speed-up of each case", x, Some(1.0), rows)?;
    let key = |role, shape, hollow, name: &str| Key {
        role,
        shape,
        hollow,
        name: name.to_owned(),
    };
    plot.legend = vec![key(
        Role::Series(0),
        Shape::Dot,
        false,
        "measured, paired by round",
    )];
    if all.iter().any(|s| s.measured.rounds.len() > 1) {
        plot.legend[0].name += "; specks: rounds";
    }
    if all.iter().any(|s| s.expected.is_some()) {
        plot.legend
            .push(key(Role::Series(1), Shape::Square, true, scale.expected));
    }
    Ok(Some(plot))
}

/// Cases beside the first, one row each. `None` without any.
pub(in super::super) fn beside_first(all: &[BesideFirst<'_>]) -> anyhow::Result<Option<Plot>> {
    let rows = all.iter().filter_map(|row| {
        let name = short_name(row.case);
        Some((name, row.decode.as_ref()?))
    });
    let rows: Vec<_> = rows.collect();
    let speed_ups = rows.iter().map(|(name, measured)| SpeedUp {
        name,
        measured,
        expected: None,
    });
    let settings = Scale {
        unit: "times as fast as the first case",
        expected: "",
    };
    self::speed_ups(&Vec::from_iter(speed_ups), &settings)
}

/// One case of [`speed_ups`].
fn speed_up(one: &SpeedUp<'_>, scale: &Scale) -> Row {
    let mut points = Vec::new();
    let mut text = format!("{}: {} times", one.name, number(one.measured.ratio));
    if one.measured.interval.is_some() {
        text += &format!(" ({})", interval(one.measured.interval));
    }
    let title = text.clone();
    if let Some(by) = one.expected {
        text += &format!(", {} {}", scale.expected, number(by));
        let title = format!("{}: {} {} times", one.name, scale.expected, number(by));
        points.push((by, Shape::Square, Role::Series(1), true, title));
    }
    points.push((
        one.measured.ratio,
        Shape::Dot,
        Role::Series(0),
        false,
        title,
    ));
    Row {
        text,
        line: None,
        specks: one.measured.rounds.clone(),
        points,
    }
}
