//! The figures of the report: what each puts on its axes.

use super::super::data::{Estimate, Group, TokenTime};
use super::super::format::{number, percent};
use super::{Axes, Mark, Plot, Role, tick_number, tick_whole};
use crate::record::Sample;
use crate::stats;
use hdrhistogram::Histogram;

/// Bins of the distribution.
const BINS: u64 = 60;
/// Significant digits of the distribution; fewer would show as a comb.
const HISTOGRAM_DIGITS: u8 = 4;
/// Gaps above this multiple of the 90th percentile are drawn at the upper edge.
const GAP_CLIP: f64 = 1.6;
/// The distribution ends this many times the distance from the median to the 90th percentile above the latter.
const DISTRIBUTION_CLIP: f64 = 4.0;
/// Height of one row in plots with rows, in pixels.
const ROW_PX: u32 = 56;
/// Resolution of the distribution, in nanoseconds.
const GAP_RESOLUTION_NS: f64 = 100.0;

/// Decode rate of each repetition in the order in which they ran, warm-ups hollow, tainted ones as triangles. Gives
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
        x: 0.4..last + 0.6,
        y: padded(rates.iter().map(|(_, _, r)| *r), estimate.median),
        x_unit: "repetition, in the order they ran".to_owned(),
        y_unit: "tok/s".to_owned(),
        x_tick: tick_whole,
        y_ticks: true,
        height: 270,
    };
    let label = format!(
        "Decode rate of {} repetitions in tokens a second; median {}",
        rates.len(),
        number(estimate.median)
    );
    let plot = Plot::draw(&label, &axes, &marks)?;
    Ok(Some((plot, axes.y.start)))
}

/// One repetition as a point at `x`, or in row `row` of a plot with rows.
fn repetition_mark(
    group: &Group<'_>,
    sample: &Sample,
    x: f64,
    rate: f64,
    row: Option<f64>,
) -> Mark {
    let hollow = !group.counted.iter().any(|s| std::ptr::eq(*s, sample));
    let mut title = match sample.is_measured() {
        true => format!("round {}: {} tok/s", sample.round + 1, number(rate)),
        false => format!("warm-up {}: {} tok/s", sample.round + 1, number(rate)),
    };
    if hollow && sample.is_measured() {
        title += ", replaced by a re-run";
    }
    for taint in &sample.taint {
        title += &format!(", {taint}");
    }
    let (x, y) = match row {
        Some(row) => (rate, row),
        None => (x, rate),
    };
    match sample.taint.is_empty() {
        true => Mark::Dot {
            x,
            y,
            role: Role::Accent,
            hollow,
            title,
        },
        false => Mark::Triangle {
            x,
            y,
            role: Role::Warn,
            hollow,
            title,
        },
    }
}

/// One row of points per case, with the interval as a band and the median as a line.
pub(in super::super) fn strips(groups: &[Group<'_>]) -> anyhow::Result<Option<Plot>> {
    let shown: Vec<(&Group<'_>, Estimate)> = groups
        .iter()
        .filter_map(|g| Some((g, g.decode()?)))
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
        });
    }
    let axes = Axes {
        x: 0.0..most * 1.04,
        y: -(shown.len() as f64) + 0.4..0.6,
        x_unit: "tok/s".to_owned(),
        y_unit: String::new(),
        x_tick: tick_number,
        y_ticks: false,
        height: ROW_PX * shown.len() as u32 + 70,
    };
    let label = format!(
        "Decode rate of {} cases in tokens a second, one row each",
        shown.len()
    );
    Plot::draw(&label, &axes, &marks).map(Some)
}

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
            marks.push(Mark::Dot {
                x,
                y,
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

/// Time of each token after the first, by position: all repetitions, and the median as a line. Gives the number of
/// gaps drawn at the upper edge and the edge too.
pub(in super::super) fn latency(group: &Group<'_>) -> anyhow::Result<Option<(Plot, usize, f64)>> {
    let gaps = &group.gaps;
    let pooled = gaps.concat();
    let (Some(p90), Some(most)) = (
        stats::quantile(&pooled, 0.9),
        pooled.iter().copied().max_by(f64::total_cmp),
    ) else {
        return Ok(None);
    };
    let edge = most.min(p90 * GAP_CLIP);
    let longest = gaps.iter().map(Vec::len).max().unwrap_or(0);
    let mut marks = Vec::new();
    let mut clipped = 0;
    for i in 0..longest {
        let here: Vec<f64> = gaps.iter().filter_map(|g| g.get(i).copied()).collect();
        let (x, (low, high)) = ((i + 2) as f64, extremes(&here));
        let median = number(stats::median(&here).unwrap_or(0.0));
        let title = format!(
            "token {}: median {median} ms, {} to {} ms",
            i + 2,
            number(low),
            number(high)
        );
        marks.push(Mark::Column {
            x: x - 0.5..x + 0.5,
            title,
        });
    }
    for gaps in gaps {
        let placed = gaps.iter().enumerate().map(|(i, ms)| ((i + 2) as f64, *ms));
        let (inside, outside): (Vec<_>, Vec<_>) = placed.partition(|(_, ms)| *ms <= edge);
        marks.push(Mark::Specks {
            points: inside,
            role: Role::Accent,
        });
        clipped += outside.len();
        marks.extend(outside.into_iter().map(|(x, ms)| Mark::Triangle {
            x,
            y: edge * 1.03,
            role: Role::Warn,
            hollow: false,
            title: format!("token {x}: {} ms", number(ms)),
        }));
    }
    let line = group.median_gap_by_position();
    marks.push(Mark::Line {
        points: line
            .iter()
            .enumerate()
            .map(|(i, ms)| ((i + 2) as f64, ms.min(edge)))
            .collect(),
        role: Role::Text,
        width: 2,
    });
    let axes = Axes {
        x: 1.0..(longest + 2) as f64,
        y: 0.0..edge * 1.08,
        x_unit: "token".to_owned(),
        y_unit: "ms per token".to_owned(),
        x_tick: tick_whole,
        y_ticks: true,
        height: 290,
    };
    let label = format!(
        "Time of each generated token over {} repetitions, in milliseconds",
        gaps.len()
    );
    Ok(Some((Plot::draw(&label, &axes, &marks)?, clipped, edge)))
}

/// How often each gap between tokens occurs; the longest ones together in a bar at the right. Gives the number of
/// these, and above how many milliseconds they lie, too.
pub(in super::super) fn distribution(
    group: &Group<'_>,
) -> anyhow::Result<Option<(Plot, u64, f64)>> {
    let pooled = group.gaps.concat();
    let (Some(p50), Some(p90)) = (stats::quantile(&pooled, 0.5), stats::quantile(&pooled, 0.9))
    else {
        return Ok(None);
    };
    let mut histogram = Histogram::<u64>::new(HISTOGRAM_DIGITS)?;
    let units = |ms: f64| ((ms * 1e6 / GAP_RESOLUTION_NS).round() as u64).max(1);
    for &ms in &pooled {
        histogram.record(units(ms))?;
    }
    let low = histogram.min();
    let high = histogram
        .max()
        .min(units(p90 + DISTRIBUTION_CLIP * (p90 - p50)))
        .max(low + 1);
    let step = (high - low).div_ceil(BINS).max(1);
    let to_ms = |units: u64| units as f64 * GAP_RESOLUTION_NS / 1e6;
    let bar = |from: u64, to: u64, n: u64, role, title| Mark::Bar {
        x: to_ms(from)..to_ms(to),
        y: 0.0..n as f64,
        role,
        label: String::new(),
        title,
    };
    let starts: Vec<u64> = (0..)
        .map(|i| low + i * step)
        .take_while(|s| *s <= high)
        .collect();
    let end = starts.last().map_or(low, |s| s + step);
    let mut marks = Vec::new();
    let mut most = 1;
    for from in starts {
        let n = histogram.count_between(from, from + step - 1);
        most = most.max(n);
        if n > 0 {
            let (a, b) = (number(to_ms(from)), number(to_ms(from + step)));
            let title = format!("{a} to {b} ms: {n} tokens");
            marks.push(bar(from, from + step, n, Role::Accent, title));
        }
    }
    let longer = histogram.count_between(end, u64::MAX);
    if longer > 0 {
        let title = format!("longer than {} ms: {longer} tokens", number(to_ms(end)));
        marks.push(bar(end + step, end + 2 * step, longer, Role::Warn, title));
    }
    quantile_marks(group, to_ms(end), most as f64, &mut marks);
    let axes = Axes {
        x: to_ms(low.saturating_sub(step))..to_ms(end + 3 * step),
        y: 0.0..most as f64 * 1.6,
        x_unit: "ms per token".to_owned(),
        y_unit: "tokens".to_owned(),
        x_tick: tick_number,
        y_ticks: true,
        height: 270,
    };
    let label = format!(
        "Distribution of the time of {} tokens in milliseconds",
        pooled.len()
    );
    Ok(Some((
        Plot::draw(&label, &axes, &marks)?,
        longer,
        to_ms(end),
    )))
}

/// Lines at the quantiles that lie left of `end`, each a step higher than the last so that their names stay apart.
fn quantile_marks(group: &Group<'_>, end: f64, most: f64, marks: &mut Vec<Mark>) {
    for (i, quantile) in group.quantiles.iter().enumerate() {
        if let Some(ms) = quantile.ms.filter(|ms| *ms <= end) {
            let top = most * (1.2 + 0.14 * i as f64);
            marks.push(Mark::Line {
                points: vec![(ms, 0.0), (ms, top)],
                role: Role::Text,
                width: 1,
            });
            marks.push(Mark::Flag {
                x: ms,
                y: top - most * 0.09,
                text: format!("p{:.0}: {}", quantile.p * 100.0, number(ms)),
            });
        }
    }
}

/// Least and greatest value; zeros without any.
fn extremes(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().reduce(f64::min).unwrap_or(0.0);
    (
        least,
        values.iter().copied().reduce(f64::max).unwrap_or(0.0),
    )
}

/// Where the time goes: one bar per row, its stages as shares.
pub(in super::super) fn stages(rows: &[(String, TokenTime)]) -> anyhow::Result<Option<Plot>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let mut marks = Vec::new();
    for (i, (name, time)) in rows.iter().enumerate() {
        let row = -(i as f64);
        let total = time.total();
        let mut x = 0.0;
        let outside = (Role::Outside, "outside", time.outside);
        for (role, stage, ms) in time
            .stages
            .iter()
            .map(|(s, ms)| (Role::Stage(*s), s.name(), *ms))
            .chain([outside])
        {
            let share = 100.0 * ms / total;
            if share > 0.0 {
                marks.push(Mark::Bar {
                    x: x..x + share,
                    y: row - 0.36..row + 0.12,
                    role,
                    label: format!("{stage} {share:.0} %"),
                    title: format!("{stage}: {} ms, {}", number(ms), percent(share / 100.0)),
                });
            }
            x += share;
        }
        marks.push(Mark::Label {
            x: 0.0,
            y: row + 0.12,
            text: format!("{name}: {} ms/token", number(total)),
        });
    }
    let axes = Axes {
        x: 0.0..100.0,
        y: -(rows.len() as f64) + 0.4..0.6,
        x_unit: "% of the time".to_owned(),
        y_unit: String::new(),
        x_tick: tick_whole,
        y_ticks: false,
        height: ROW_PX * rows.len() as u32 + 70,
    };
    Plot::draw("Share of each stage in the time of a token", &axes, &marks).map(Some)
}

/// A range around values that never makes less than 5 % of `middle` look like much.
fn padded(values: impl Iterator<Item = f64>, middle: f64) -> std::ops::Range<f64> {
    let (mut low, mut high) = (middle * 0.95, middle * 1.05);
    for value in values {
        low = low.min(value);
        high = high.max(value);
    }
    let pad = (high - low) * 0.08;
    (low - pad).max(0.0)..high + pad
}
