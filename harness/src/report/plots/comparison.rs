//! Ratios of a comparison.

use super::{Axes, Mark, Plot, Role, Shape, tick_whole};
use crate::compare::{PhaseResult, Round, Row};
use crate::verdict::Change;
use std::ops::Range;

/// Ratios that may stand at an axis.
const TICKS: [f64; 25] = [
    0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3,
    1.5, 1.75, 2.0, 3.0, 5.0, 10.0, 20.0,
];
/// Least distance of two ticks, as a share of the axis.
const TICK_SHARE: f64 = 0.12;
/// The axis reaches at least this far from 1, as a logarithm.
const REACH_MIN: f64 = 0.07;
/// Height of a row, in pixels.
const ROW_PX: f64 = 52.0;
/// Where the text and the interval of a row stand, in pixels below its top.
const TEXT_PX: f64 = 20.0;
const INTERVAL_PX: f64 = 34.0;
/// Most rounds that have a tick each.
const ROUND_TICKS_MAX: usize = 12;
/// Colour of what decides.
const DECIDES: Role = Role::Series(1);

/// The ratio of every round to the one that decides, with the estimate, its interval and the floor; and what the engine
/// shows against itself. `None` without a ratio.
pub(in super::super) fn by_round(result: &PhaseResult) -> anyhow::Result<Option<Plot>> {
    let against = result.best.map(|i| &result.others[i]);
    let (Some(judged), Some(against), Some(last)) = (result.judged, against, result.rounds.last())
    else {
        return Ok(None);
    };
    let change = judged.change;
    let ratios = result.rounds.iter();
    let ratios = ratios.flat_map(|r| [Some(r.ratio), r.itself]).flatten();
    let (low, high) = reach(ratios.chain([change.interval.low, change.interval.high]));
    let x = 0.4..f64::from(last.round) + 1.6;
    let mut marks = bands(judged.floor, &change, x.clone(), low..high);
    for y in [0.0, change.ratio.ln()] {
        marks.push(Mark::Line {
            points: vec![(x.start, y), (x.end, y)],
            role: if y == 0.0 { Role::Text } else { DECIDES },
            width: if y == 0.0 { 1 } else { 2 },
        });
    }
    for round in &result.rounds {
        marks.extend(
            round
                .itself
                .map(|ratio| point(round, ratio, "the engine over itself: ", Role::Muted)),
        );
        marks.push(point(round, round.ratio, "", DECIDES));
    }
    marks.push(Mark::Flag {
        x: x.end,
        y: change.ratio.ln() + (high - low) * 0.02,
        text: format!("{:.2}×", change.ratio),
    });
    let every = (last.round as usize + 1).div_ceil(ROUND_TICKS_MAX);
    let axes = Axes {
        x_unit: "round".to_owned(),
        y_unit: format!("times the rate of {}", against.title),
        x_tick: tick_whole,
        y_tick: ratio_tick,
        x_at: (0..=last.round)
            .step_by(every)
            .map(|round| f64::from(round) + 1.0)
            .collect(),
        y_at: ticks(low, high),
        height: 300,
        ..Axes::over(x, low..high)
    };
    let label = format!(
        "{} rate of {} over that of {}, by round",
        result.rate.name(),
        result.subject.title,
        against.title
    );
    Plot::draw(&label, &axes, &marks).map(Some)
}

/// The floor around 1 and the interval, the wider one below.
fn bands(floor: Option<f64>, change: &Change, x: Range<f64>, y: Range<f64>) -> Vec<Mark> {
    let interval = change.interval.low.ln()..change.interval.high.ln();
    let floor = floor.map(|floor| (-floor.ln_1p()..floor.ln_1p(), Role::Band));
    let mut all: Vec<(Range<f64>, Role)> = floor.into_iter().collect();
    all.push((interval, Role::Interval));
    all.sort_by(|(a, _), (b, _)| (b.end - b.start).total_cmp(&(a.end - a.start)));
    let bands = all.into_iter().map(|(band, role)| Mark::Bar {
        x: x.clone(),
        y: y.start.max(band.start)..y.end.min(band.end),
        role,
        label: String::new(),
        title: String::new(),
    });
    bands.collect()
}

/// One round; a triangle where something disturbed it.
fn point(round: &Round, ratio: f64, what: &str, role: Role) -> Mark {
    Mark::Point {
        x: f64::from(round.round) + 1.0,
        y: ratio.ln(),
        shape: match round.tainted && what.is_empty() {
            true => Shape::Triangle,
            false => Shape::Dot,
        },
        role,
        hollow: false,
        title: format!(
            "round {}: {what}{ratio:.3} times the rate{}",
            round.round + 1,
            if round.tainted { ", disturbed" } else { "" }
        ),
    }
}

/// The estimate and its interval.
fn interval_words(change: &Change) -> String {
    format!(
        "{:.3}, {:.0} % interval {:.3} to {:.3}, {} rounds",
        change.ratio,
        100.0 * change.interval.confidence,
        change.interval.low,
        change.interval.high,
        change.rounds
    )
}

/// One row for each runner that the subject is held against: the estimate of the ratio and its interval. The floor is
/// shaded around 1. `None` below two ratios.
pub(in super::super) fn ratios(result: &PhaseResult) -> anyhow::Result<Option<Plot>> {
    let compared = result.others.iter().enumerate();
    let compared = compared.filter_map(|(i, row)| Some((i, row, row.change?)));
    let compared: Vec<(usize, &Row, Change)> = compared.collect();
    let Some(judged) = result.judged.filter(|_| compared.len() > 1) else {
        return Ok(None);
    };
    let intervals = compared.iter().map(|(_, _, change)| change.interval);
    let (low, high) = reach(intervals.flat_map(|i| [i.low, i.high]));
    let bottom = -ROW_PX * compared.len() as f64;
    let mut marks = background(judged.floor, low..high, bottom);
    for (i, (index, row, change)) in compared.iter().enumerate() {
        let (top, decides) = (ROW_PX * i as f64, result.best == Some(*index));
        let role = if decides { DECIDES } else { Role::Accent };
        estimate(change, top + INTERVAL_PX, role, &row.title, &mut marks);
        let which = if decides { ", decides" } else { "" };
        marks.push(Mark::Label {
            x: low,
            y: -top - TEXT_PX,
            text: format!("over {}: {:.2}×{which}", row.runner, change.ratio),
            below: false,
        });
    }
    let axes = Axes {
        x_unit: format!(
            "times the rate; right of 1 {} is faster",
            result.subject.title
        ),
        x_tick: ratio_tick,
        x_at: ticks(low, high),
        y_ticks: false,
        height: -bottom as u32 + 48,
        ..Axes::over(low..high, bottom..0.0)
    };
    let label = format!(
        "{} rate of {} over that of each other program, with intervals",
        result.rate.name(),
        result.subject.title
    );
    Plot::draw(&label, &axes, &marks).map(Some)
}

/// A ratio at an axis of logarithms.
fn ratio_tick(x: f64) -> String {
    let ratio = (x.exp() * 100.0).round() / 100.0;
    format!("{}×", super::tick_number(ratio))
}

/// The floor, shaded, and a line at 1.
fn background(floor: Option<f64>, x: Range<f64>, bottom: f64) -> Vec<Mark> {
    let mut marks = Vec::new();
    if let Some(floor) = floor {
        let reach = floor.ln_1p();
        marks.push(Mark::Bar {
            x: x.start.max(-reach)..x.end.min(reach),
            y: bottom..0.0,
            role: Role::Band,
            label: String::new(),
            title: String::new(),
        });
    }
    marks.push(Mark::Line {
        points: vec![(0.0, bottom), (0.0, 0.0)],
        role: Role::Text,
        width: 1,
    });
    marks
}

/// Bounds of the axis for these ratios, as logarithms.
fn reach(ratios: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = ratios
        .map(f64::ln)
        .fold((-REACH_MIN, REACH_MIN), |(l, h), x| (l.min(x), h.max(x)));
    let pad = (high - low) * 0.06;
    (low - pad, high + pad)
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
        title: format!("over {title}: {}", interval_words(change)),
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
