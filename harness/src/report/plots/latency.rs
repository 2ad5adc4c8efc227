//! Latency of each token.

use super::super::data::Group;
use super::super::format::number;
use super::{Axes, Mark, Plot, Role, Shape, tick_whole};
use crate::stats;
use hdrhistogram::Histogram;

/// Bins of the distribution.
const BINS: u64 = 60;
/// Significant digits of the distribution; fewer would show as a comb.
const HISTOGRAM_DIGITS: u8 = 4;
/// The timeline ends at this multiple of the 90th percentile, or of the median where that is more.
const EDGE_P90_TIMES: f64 = 1.6;
/// See [`EDGE_P90_TIMES`]; above what makes a stall, so that what lies above the edge is one where there are any.
const EDGE_MEDIAN_TIMES: f64 = 2.4;
/// The distribution ends this many times the distance from the median to the 90th percentile above the latter.
const DISTRIBUTION_CLIP: f64 = 4.0;
/// Resolution of the distribution, in nanoseconds.
const GAP_RESOLUTION_NS: f64 = 100.0;

/// Time of each token after the first, by position: all repetitions, the median as a line, stalls as triangles. Gives the
/// number of stalls drawn at the upper edge and the edge too.
pub(in super::super) fn latency(group: &Group<'_>) -> anyhow::Result<Option<(Plot, usize, f64)>> {
    let gaps = &group.gaps;
    let pooled = gaps.concat();
    let (Some(p50), Some(p90), Some(most)) = (
        stats::median(&pooled),
        stats::quantile(&pooled, 0.9),
        pooled.iter().copied().max_by(f64::total_cmp),
    ) else {
        return Ok(None);
    };
    let edge = most.min((p90 * EDGE_P90_TIMES).max(p50 * EDGE_MEDIAN_TIMES));
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
        let limit = group.stall_ms(gaps).unwrap_or(f64::INFINITY);
        let placed = gaps.iter().enumerate().map(|(i, ms)| ((i + 2) as f64, *ms));
        let (plain, stalls): (Vec<_>, Vec<_>) = placed.partition(|(_, ms)| *ms <= limit);
        marks.push(Mark::Specks {
            points: plain.into_iter().map(|(x, ms)| (x, ms.min(edge))).collect(),
            role: Role::Accent,
        });
        clipped += stalls.iter().filter(|(_, ms)| *ms > edge).count();
        marks.extend(stalls.into_iter().map(|(x, ms)| Mark::Point {
            x,
            y: ms.min(edge * 1.03),
            shape: Shape::Triangle,
            role: Role::Warn,
            hollow: false,
            title: format!("stall: token {x} took {} ms", number(ms)),
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
        x_unit: "token".to_owned(),
        y_unit: "ms per token".to_owned(),
        x_tick: tick_whole,
        height: 290,
        ..Axes::over(1.0..(longest + 2) as f64, 0.0..edge * 1.08)
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
        x_unit: "ms per token".to_owned(),
        y_unit: "tokens".to_owned(),
        ..Axes::over(
            to_ms(low.saturating_sub(step))..to_ms(end + 3 * step),
            0.0..most as f64 * 1.6,
        )
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
