//! Decode rate over a swept number.

use super::super::format::number;
use super::super::sweep::{Sweep, THREADS};
use super::{Axes, Mark, Plot, Role, Shape, tick_number, tick_whole};

/// One line for each setting of the other keys, with all repetitions. Over threads: the ceiling of memory, what a
/// proportional rate would be, and the knees.
pub(in super::super) fn sweep(sweep: &Sweep) -> anyhow::Result<Plot> {
    let key = &sweep.key;
    let scaling = key == THREADS;
    let points = || sweep.lines.iter().flat_map(|line| &line.points);
    let rates = points().flat_map(|p| p.rate.values.iter().copied());
    let most = rates.fold(0.0, f64::max) * 1.15;
    let (low, high) = points().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p.x), h.max(p.x)));
    let mut marks = Vec::new();
    if scaling && let Some(first) = sweep.lines.iter().find_map(|line| line.points.first()) {
        let rate = |x: f64| first.rate.median * x / first.x;
        let end = high.min(first.x * most / first.rate.median);
        marks.push(Mark::Line {
            points: vec![(first.x, rate(first.x)), (end, rate(end))],
            role: Role::Grid,
            width: 2,
        });
    }
    for (i, line) in sweep.lines.iter().enumerate() {
        let role = Role::Series(i as u8);
        let ceilings = line.points.iter().filter_map(|p| Some((p.x, p.ceiling?)));
        let below: Vec<(f64, f64)> = ceilings.filter(|(_, y)| *y < most).collect();
        if scaling && below.len() > 1 {
            marks.push(Mark::Line {
                points: below,
                role,
                width: 1,
            });
        }
        marks.push(Mark::Line {
            points: line.points.iter().map(|p| (p.x, p.rate.median)).collect(),
            role,
            width: 2,
        });
        for point in &line.points {
            marks.push(Mark::Specks {
                points: point
                    .rate
                    .values
                    .iter()
                    .map(|rate| (point.x, *rate))
                    .collect(),
                role,
            });
            let mut title = format!("{key} = {}", point.x);
            if !line.name.is_empty() {
                title += &format!(", {}", line.name);
            }
            title += &format!(": median {} tok/s", number(point.rate.median));
            if let Some(ceiling) = point.ceiling {
                title += &format!("; read bandwidth would allow {}", number(ceiling));
            }
            marks.push(Mark::Point {
                x: point.x,
                y: point.rate.median,
                shape: Shape::Dot,
                role,
                hollow: point.tainted,
                title,
            });
        }
    }
    let pad = (high - low) * 0.06;
    let mut at: Vec<f64> = points().map(|p| p.x).collect();
    at.sort_by(f64::total_cmp);
    at.dedup();
    let axes = Axes {
        x_unit: key.to_owned(),
        y_unit: "tok/s".to_owned(),
        x_tick: if scaling { tick_whole } else { tick_number },
        x_at: if at.len() <= 8 { at } else { vec![] },
        height: 300,
        ..Axes::over(low - pad..high + pad, 0.0..most)
    };
    let label = format!("Decode rate in tokens a second over {key}");
    Plot::draw(&label, &axes, &marks)
}
