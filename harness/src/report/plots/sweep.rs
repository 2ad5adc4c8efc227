//! Rates over swept keys.

use super::super::data::Group;
use super::super::format::number;
use super::{Axes, Mark, Plot, Role, Shape, tick_number};

/// Decode rate over a swept number; one line for each setting of the other keys. Gives the names of the lines too.
pub(in super::super) fn sweep(
    groups: &[Group<'_>],
    key: &str,
) -> anyhow::Result<Option<(Plot, Vec<String>)>> {
    let mut series: Vec<Series> = Vec::new();
    let mut marks = Vec::new();
    for group in groups {
        let (Some(x), Some(estimate)) = (
            group.case.swept.get(key).and_then(|v| v.as_f64()),
            group.decode(),
        ) else {
            continue;
        };
        let name = other_keys(group, key);
        let index = series
            .iter()
            .position(|(n, _)| *n == name)
            .unwrap_or_else(|| {
                series.push((name, Vec::new()));
                series.len() - 1
            });
        series[index].1.push((x, estimate.median));
        marks.push(Mark::Specks {
            points: estimate.values.iter().map(|rate| (x, *rate)).collect(),
            role: Role::Series(index as u8),
        });
    }
    let all: Vec<(f64, f64)> = series
        .iter()
        .flat_map(|(_, points)| points.clone())
        .collect();
    let Some(most) = all.iter().map(|p| p.1).max_by(f64::total_cmp) else {
        return Ok(None);
    };
    sweep_lines(key, &mut series, &mut marks);
    let (low, high) = all
        .iter()
        .fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p.0), h.max(p.0)));
    let pad = (high - low) * 0.06;
    let axes = Axes {
        x: low - pad..high + pad,
        y: 0.0..most * 1.12,
        x_unit: key.to_owned(),
        y_unit: "tok/s".to_owned(),
        x_tick: tick_number,
        y_tick: tick_number,
        y_ticks: true,
        height: 300,
    };
    let names = series.into_iter().map(|(name, _)| name).collect();
    let label = format!("Decode rate in tokens a second over {key}");
    Ok(Some((Plot::draw(&label, &axes, &marks)?, names)))
}

/// Lines and points of a sweep: a name, and places with their medians.
type Series = (String, Vec<(f64, f64)>);

/// Medians of each series as points on a line below all else.
fn sweep_lines(key: &str, series: &mut [Series], marks: &mut Vec<Mark>) {
    for (i, (name, points)) in series.iter_mut().enumerate() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let role = Role::Series(i as u8);
        marks.insert(
            0,
            Mark::Line {
                points: points.clone(),
                role,
                width: 2,
            },
        );
        for &(x, y) in points.iter() {
            let title = format!("{key} = {x} {name}: median {} tok/s", number(y));
            marks.push(Mark::Point {
                x,
                y,
                shape: Shape::Dot,
                role,
                hollow: false,
                title,
            });
        }
    }
}

/// The swept keys but one, as text.
fn other_keys(group: &Group<'_>, key: &str) -> String {
    let others = group.case.swept.iter().filter(|(k, _)| *k != key);
    let words: Vec<String> = others
        .map(|(k, v)| match v {
            serde_json::Value::String(text) => format!("{k}={text}"),
            other => format!("{k}={other}"),
        })
        .collect();
    words.join(" ")
}
