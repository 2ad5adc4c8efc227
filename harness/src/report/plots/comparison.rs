//! Ratios of a comparison.

use super::super::format::percent;
use super::{Axes, Mark, Plot, Role, Shape};
use crate::compare::{PhaseResult, Row};
use crate::verdict::Change;

/// Ratios that may stand at an axis.
const TICKS: [f64; 25] = [
    0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3,
    1.5, 1.75, 2.0, 3.0, 5.0, 10.0, 20.0,
];
/// Least distance of two ticks, as a share of the axis.
const TICK_SHARE: f64 = 0.12;
/// The axis reaches at least this far from 1, as a logarithm.
const REACH_MIN: f64 = 0.07;
/// Height of a row with rounds, in pixels.
const HIGH_ROW_PX: f64 = 92.0;
/// Height of a row without.
const LOW_ROW_PX: f64 = 52.0;
/// Where the text, the first round and the last one of a row stand, and the estimate below them, in pixels.
const TEXT_PX: f64 = 20.0;
const FIRST_ROUND_PX: f64 = 32.0;
const LAST_ROUND_PX: f64 = 64.0;
const BELOW_PX: f64 = 13.0;

/// One row for each runner that the subject is held against: the interval of the ratio, and for the one that decides
/// every round. The last row is the engine against itself. The floor is shaded around 1. `None` without a ratio.
pub(in super::super) fn ratios(result: &PhaseResult) -> anyhow::Result<Option<Plot>> {
    let compared: Vec<(usize, &Row, Change)> = result
        .others
        .iter()
        .enumerate()
        .filter_map(|(i, row)| Some((i, row, row.change?)))
        .collect();
    let (Some(judged), false) = (result.judged, compared.is_empty()) else {
        return Ok(None);
    };
    let (low, high) = reach(result, &compared);
    let mut rows = Vec::new();
    let mut down = 0.0;
    for (index, row, change) in &compared {
        let decides = result.best == Some(*index);
        let role = Role::Series(*index as u8 + 1);
        let mut estimate_at = down + FIRST_ROUND_PX;
        if decides {
            let rounds = result.rounds.iter().map(|r| (r.round, r.ratio, r.tainted));
            points(&rounds.collect::<Vec<_>>(), down, role, &mut rows);
            estimate_at = down + LAST_ROUND_PX + BELOW_PX;
        }
        estimate(change, estimate_at, role, &row.title, &mut rows);
        let which = if decides { ", decides" } else { "" };
        let text = format!("over {}: {:.3}{which}", row.runner, change.ratio);
        rows.push(label(low, down, text));
        down += if decides { HIGH_ROW_PX } else { LOW_ROW_PX };
    }
    let itself = result.rounds.iter();
    let itself: Vec<(u32, f64, bool)> = itself
        .filter_map(|r| Some((r.round, r.itself?, false)))
        .collect();
    if !itself.is_empty() {
        points(&itself, down, Role::Muted, &mut rows);
        rows.push(label(low, down, "the engine over itself".to_owned()));
        down += HIGH_ROW_PX;
    }
    let mut marks = background(judged.floor, low..high, -down);
    marks.append(&mut rows);
    let axes = Axes {
        x: low..high,
        y: -down..0.0,
        x_unit: "times the rate; right of 1 the subject is faster".to_owned(),
        y_unit: String::new(),
        x_tick: |x| {
            let ratio = (x.exp() * 100.0).round() / 100.0;
            format!("{}×", super::tick_number(ratio))
        },
        y_tick: super::tick_number,
        x_at: ticks(low, high),
        y_ticks: false,
        height: down as u32 + 48,
    };
    let label = format!(
        "{} rate of {} over that of each other program, as a ratio, with every round of the one that decides",
        result.rate.name(),
        result.subject.title
    );
    Plot::draw(&label, &axes, &marks).map(Some)
}

/// The floor, shaded, and a line at 1.
fn background(floor: Option<f64>, x: std::ops::Range<f64>, bottom: f64) -> Vec<Mark> {
    let mut marks = Vec::new();
    if let Some(floor) = floor {
        let reach = floor.ln_1p();
        marks.push(Mark::Bar {
            x: x.start.max(-reach)..x.end.min(reach),
            y: bottom..0.0,
            role: Role::Band,
            label: String::new(),
            title: format!("floor: the engine against itself, {}", percent(floor)),
        });
    }
    marks.push(Mark::Line {
        points: vec![(0.0, bottom), (0.0, 0.0)],
        role: Role::Text,
        width: 1,
    });
    marks
}

/// The text of a row that begins `down` pixels below the top.
fn label(x: f64, down: f64, text: String) -> Mark {
    Mark::Label {
        x,
        y: -down - TEXT_PX,
        text,
    }
}

/// Bounds of the axis, as logarithms.
fn reach(result: &PhaseResult, compared: &[(usize, &Row, Change)]) -> (f64, f64) {
    let rounds = result.rounds.iter();
    let rounds = rounds.flat_map(|r| [Some(r.ratio), r.itself]).flatten();
    let intervals = compared.iter().map(|(_, _, change)| change.interval);
    let all = rounds
        .chain(intervals.flat_map(|i| [i.low, i.high]))
        .map(f64::ln);
    let (low, high) = all.fold((-REACH_MIN, REACH_MIN), |(l, h), x| (l.min(x), h.max(x)));
    let pad = (high - low) * 0.04;
    (low - pad, high + pad)
}

/// The rounds of a row from top to bottom, so that a drift shows.
fn points(rounds: &[(u32, f64, bool)], down: f64, role: Role, marks: &mut Vec<Mark>) {
    let step = (LAST_ROUND_PX - FIRST_ROUND_PX) / (rounds.len().max(2) - 1) as f64;
    for (i, (round, ratio, tainted)) in rounds.iter().enumerate() {
        marks.push(Mark::Point {
            x: ratio.ln(),
            y: -(down + FIRST_ROUND_PX + step * i as f64),
            shape: Shape::Dot,
            role,
            hollow: *tainted,
            title: format!(
                "round {}: {ratio:.3} times the rate{}",
                round + 1,
                if *tainted { ", disturbed" } else { "" }
            ),
        });
    }
}

/// The interval as a bar with the estimate on it.
fn estimate(change: &Change, down: f64, role: Role, title: &str, marks: &mut Vec<Mark>) {
    let (low, high) = (change.interval.low.ln(), change.interval.high.ln());
    let y = -down;
    marks.push(Mark::Line {
        points: vec![(low, y), (high, y)],
        role,
        width: 5,
    });
    marks.push(Mark::Point {
        x: change.ratio.ln(),
        y,
        shape: Shape::Square,
        role,
        hollow: false,
        title: format!(
            "over {title}: {:.3}, {:.0} % interval {:.3} to {:.3}, {} rounds",
            change.ratio,
            100.0 * change.interval.confidence,
            change.interval.low,
            change.interval.high,
            change.rounds
        ),
    });
}

/// Ticks in the range, from 1 outwards, none too near to another.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let mut at: Vec<f64> = vec![];
    let mut candidates = TICKS.map(f64::ln);
    candidates.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    for x in candidates {
        let apart = at
            .iter()
            .all(|other| (x - other).abs() >= TICK_SHARE * (high - low));
        if (low..high).contains(&x) && apart {
            at.push(x);
        }
    }
    at.sort_by(f64::total_cmp);
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_hold_one_and_stay_apart() {
        for (low, high) in [(-0.08, 0.08), (-1.2, 0.1), (-0.1, 2.0)] {
            let at = ticks(low, high);
            assert!(
                at.contains(&0.0) && at.len() >= 2 && at.len() <= 9,
                "{at:?}"
            );
            assert!(
                at.windows(2)
                    .all(|w| w[1] - w[0] >= TICK_SHARE * (high - low))
            );
        }
    }
}
