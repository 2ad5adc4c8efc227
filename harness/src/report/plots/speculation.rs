//! What drafts came to: acceptance by position, and the cost of passes over several tokens.

use super::super::format::{number, percent};
use super::super::speculation::Drafted;
use super::{Axes, Mark, Plot, Role, Shape, tick_whole};

/// One line a case: acceptance over the position in a draft, from 1.
pub(in super::super) fn acceptance(all: &[Drafted<'_>]) -> anyhow::Result<Plot> {
    let lines = all.iter().map(|one| {
        let points = one.by_position.iter().enumerate();
        points.map(|(i, &a)| ((i + 1) as f64, a)).collect()
    });
    let axes = |last: f64| Axes {
        x_unit: "position".to_owned(),
        y_unit: "share kept".to_owned(),
        x_tick: tick_whole,
        height: 260,
        ..Axes::over(0.5..last + 0.5, 0.0..1.1)
    };
    draw(
        "Acceptance by position in a draft",
        &names(all),
        lines.collect(),
        axes,
        |x, y| format!("position {x}: {} kept", percent(y)),
    )
}

/// One line a case: the time of a pass over the number of tokens; `None` where it is unknown.
pub(in super::super) fn pass_costs(all: &[Drafted<'_>]) -> anyhow::Result<Option<Plot>> {
    let lines: Vec<Vec<(f64, f64)>> = all
        .iter()
        .map(|one| one.pass_costs.iter().map(|&(n, v)| (n as f64, v)).collect())
        .collect();
    let most = lines.iter().flatten().map(|p| p.1).fold(0.0, f64::max);
    if most == 0.0 {
        return Ok(None);
    }
    let axes = |last: f64| Axes {
        x_unit: "tokens".to_owned(),
        y_unit: "passes of one".to_owned(),
        x_tick: tick_whole,
        height: 260,
        ..Axes::over(0.5..last + 0.5, 0.0..most * 1.1)
    };
    draw(
        "Cost of a pass over several tokens",
        &names(all),
        lines,
        axes,
        |x, y| format!("{x} tokens: {} passes of one", number(y)),
    )
    .map(Some)
}

fn names<'a>(all: &'a [Drafted<'_>]) -> Vec<&'a str> {
    all.iter().map(|one| one.group.short.as_str()).collect()
}

/// One line with dots for each of `names`.
pub(super) fn draw(
    label: &str,
    names: &[&str],
    lines: Vec<Vec<(f64, f64)>>,
    axes: impl Fn(f64) -> Axes,
    say: impl Fn(f64, f64) -> String,
) -> anyhow::Result<Plot> {
    let last = lines.iter().flatten().map(|p| p.0).fold(1.0, f64::max);
    let mut marks = Vec::new();
    for (i, (line, name)) in lines.into_iter().zip(names).enumerate() {
        let role = Role::Series(i as u8);
        let points = line.iter().map(|&(x, y)| Mark::Point {
            x,
            y,
            shape: Shape::Dot,
            role,
            hollow: false,
            title: format!("{name}, {}", say(x, y)),
        });
        let points: Vec<Mark> = points.collect();
        marks.push(Mark::Line {
            points: line,
            role,
            width: 2,
        });
        marks.extend(points);
    }
    Plot::draw(label, &axes(last), &marks)
}
