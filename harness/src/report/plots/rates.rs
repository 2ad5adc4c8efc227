//! Decode rates of repetitions.

use super::super::data::{Estimate, Group};
use super::super::format::number;
use super::{Axes, Key, Mark, Plot, ROW_PX, Role, Shape, padded, tick_whole};
use crate::record::Sample;

/// Decode rate of each repetition in the order in which they ran, each marked by its kind. Gives
/// the lower end of the axis too.
pub(in super::super) fn rounds(group: &Group<'_>) -> anyhow::Result<Option<(Plot, f64)>> {
    let Some(estimate) = group.decode() else {
        return Ok(None);
    };
    let rates: Vec<(usize, &Sample, f64)> = group
        .all
        .iter()
        .enumerate()
        .filter_map(|(i, s)| Some((i, *s, s.decode_tok_s()?)))
        .collect();
    let last = group.all.len() as f64;
    let mut marks = Vec::new();
    if let Some(interval) = estimate.interval {
        marks.push(Mark::Bar {
            x: 0.4..last + 0.6,
            y: interval.low..interval.high,
            role: Role::Band,
            label: String::new(),
            title: String::new(),
        });
    }
    marks.push(Mark::Line {
        points: vec![(0.4, estimate.median), (last + 0.6, estimate.median)],
        role: Role::Accent,
        width: 2,
    });
    for (i, sample, rate) in &rates {
        marks.push(repetition_mark(group, sample, (*i + 1) as f64, *rate, None));
    }
    let axes = Axes {
        x_unit: "repetition, in the order they ran".to_owned(),
        y_unit: "tok/s".to_owned(),
        x_tick: tick_whole,
        ..Axes::over(
            0.4..last + 0.6,
            padded(rates.iter().map(|(_, _, r)| *r), estimate.median),
        )
    };
    let label = format!(
        "Decode rate of {} repetitions in tokens a second; median {}",
        rates.len(),
        number(estimate.median)
    );
    let mut plot = Plot::draw(&label, &axes, &marks)?;
    plot.legend = legend(&[group]);
    Ok(Some((plot, axes.y.start)))
}

/// What a repetition is, as far as its mark says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It counts, and nothing disturbed it.
    Counts,
    /// It counts, and something disturbed it.
    Disturbed,
    /// It was disturbed, and another one stands in for it.
    Replaced,
    /// It never counts, disturbed or not.
    WarmUp,
}

impl Kind {
    /// All kinds, in the order of legends.
    const ALL: [Kind; 4] = [Kind::Counts, Kind::Disturbed, Kind::Replaced, Kind::WarmUp];

    /// The kind of a repetition of `group`.
    fn of(group: &Group<'_>, sample: &Sample) -> Kind {
        let counts = group.counted.iter().any(|s| std::ptr::eq(*s, sample));
        match (sample.is_measured(), counts, sample.taint.is_empty()) {
            (false, _, _) => Kind::WarmUp,
            (true, false, _) => Kind::Replaced,
            (true, true, true) => Kind::Counts,
            (true, true, false) => Kind::Disturbed,
        }
    }

    /// Shape, colour and whether it is hollow.
    fn look(self) -> (Shape, Role, bool) {
        match self {
            Kind::Counts => (Shape::Dot, Role::Accent, false),
            Kind::Disturbed => (Shape::Triangle, Role::Warn, false),
            Kind::Replaced => (Shape::Triangle, Role::Warn, true),
            Kind::WarmUp => (Shape::Cross, Role::Muted, false),
        }
    }

    /// In words.
    fn name(self) -> &'static str {
        match self {
            Kind::Counts => "counts",
            Kind::Disturbed => "counts, though disturbed",
            Kind::Replaced => "disturbed, replaced by a re-run",
            Kind::WarmUp => "warm-up, does not count",
        }
    }
}

/// The marks that occur.
fn legend(groups: &[&Group<'_>]) -> Vec<Key> {
    let drawn = |kind: &Kind| {
        let mut all = groups
            .iter()
            .flat_map(|g| g.all.iter().map(|s| Kind::of(g, s)));
        all.any(|k| k == *kind)
    };
    let keys = Kind::ALL.into_iter().filter(drawn).map(|kind| {
        let (shape, role, hollow) = kind.look();
        Key {
            role,
            shape,
            hollow,
            name: kind.name().to_owned(),
        }
    });
    keys.collect()
}

/// One repetition as a point at `x`, or in row `row` of a plot with rows.
fn repetition_mark(
    group: &Group<'_>,
    sample: &Sample,
    x: f64,
    rate: f64,
    row: Option<f64>,
) -> Mark {
    let kind = Kind::of(group, sample);
    let name = match kind {
        Kind::WarmUp => "warm-up",
        _ => "round",
    };
    let mut title = format!("{name} {}: {} tok/s", sample.round + 1, number(rate));
    if kind == Kind::Replaced {
        title += ", replaced by a re-run";
    }
    for taint in &sample.taint {
        title += &format!(", {taint}");
    }
    let (x, y) = match row {
        Some(row) => (rate, row),
        None => (x, rate),
    };
    let (shape, role, hollow) = kind.look();
    Mark::Point {
        x,
        y,
        shape,
        role,
        hollow,
        title,
    }
}

/// One row of points per case, with the interval as a band and the median as a line.
pub(in super::super) fn strips(groups: &[&Group<'_>]) -> anyhow::Result<Option<Plot>> {
    let shown: Vec<(&Group<'_>, Estimate)> = groups
        .iter()
        .filter_map(|g| Some((*g, g.decode()?)))
        .collect();
    if shown.is_empty() {
        return Ok(None);
    }
    let mut marks = Vec::new();
    let mut most: f64 = 0.0;
    for (i, (group, estimate)) in shown.iter().enumerate() {
        let row = -(i as f64);
        if let Some(interval) = estimate.interval {
            marks.push(Mark::Bar {
                x: interval.low..interval.high,
                y: row - 0.3..row + 0.1,
                role: Role::Band,
                label: String::new(),
                title: String::new(),
            });
        }
        marks.push(Mark::Line {
            points: vec![(estimate.median, row - 0.34), (estimate.median, row + 0.14)],
            role: Role::Text,
            width: 2,
        });
        for sample in &group.all {
            if let Some(rate) = sample.decode_tok_s() {
                most = most.max(rate);
                marks.push(repetition_mark(group, sample, 0.0, rate, Some(row - 0.1)));
            }
        }
        marks.push(Mark::Label {
            x: 0.0,
            y: row + 0.14,
            text: format!("{}: {} tok/s", group.short, number(estimate.median)),
            below: false,
        });
    }
    let axes = Axes {
        x_unit: "tok/s".to_owned(),
        y_ticks: false,
        height: ROW_PX * shown.len() as u32 + 70,
        ..Axes::over(0.0..most * 1.04, -(shown.len() as f64) + 0.4..0.6)
    };
    let label = format!(
        "Decode rate of {} cases in tokens a second, one row each",
        shown.len()
    );
    let mut plot = Plot::draw(&label, &axes, &marks)?;
    plot.legend = legend(groups);
    Ok(Some(plot))
}
