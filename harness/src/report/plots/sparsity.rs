//! What took part, layer by layer.

use super::super::data::short_words;
use super::super::format::{number, percent};
use super::super::sparsity::{Magnitudes, Thinned};
use super::speculation::draw;
use super::{Axes, Plot, Role, tick_power, tick_whole};
use crate::record::by_layer;
use std::ops::Range;

/// Octaves below the largest magnitude that a plot of magnitudes shows.
const OCTAVES_MAX: f64 = 12.0;
/// What the keys that set the share begin with.
const THRESHOLD: &str = "engine.sparsity.threshold";

/// One line for each way: the speed-up, on an axis of logarithms, over the share of the channels left out; `None` where none has two
/// shares.
pub(in super::super) fn break_even(all: &[Thinned<'_>]) -> anyhow::Result<Option<Plot>> {
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for one in all {
        let Some(speed_up) = one.measured.as_ref().map(|m| m.ratio) else {
            continue;
        };
        let name = short_words(one.group.case, |key| !key.starts_with(THRESHOLD));
        let point = (1.0 - one.active(), speed_up.log2());
        match lines.iter_mut().find(|(n, _)| *n == name) {
            Some((_, points)) => points.push(point),
            None => lines.push((name, vec![point])),
        }
    }
    if lines.iter().all(|(_, points)| points.len() < 2) {
        return Ok(None);
    }
    let ys = || lines.iter().flat_map(|l| &l.1).map(|p| p.1);
    let y = ys().fold(-1.0, f64::min) - 0.1..ys().fold(1.0, f64::max) + 0.1;
    for (_, points) in &mut lines {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let (names, mut lines): (Vec<String>, Vec<_>) = lines.into_iter().unzip();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.push("as fast as dense");
    lines.push(vec![(0.0, 0.0), (1.0, 0.0)]);
    let axes = |_| Axes {
        x_unit: "share of the channels left out".to_owned(),
        y_unit: "times as fast as dense".to_owned(),
        y_tick: tick_power,
        y_at: whole_numbers(&y),
        height: 300,
        ..Axes::over(0.0..1.0, y.clone())
    };
    draw(
        "Speed-up over the share left out",
        &names,
        lines,
        axes,
        |x, y| format!("{} left out: {} times", percent(x), number(y.exp2())),
    )
    .map(Some)
}

/// One line a case: the share of the channels that took part over the layer, from 0; `None` without cases, or with
/// more than colours.
pub(in super::super) fn active_by_layer(all: &[Thinned<'_>]) -> anyhow::Result<Option<Plot>> {
    if !(1..=usize::from(Role::SERIES)).contains(&all.len()) {
        return Ok(None);
    }
    let names: Vec<&str> = all.iter().map(|one| one.group.short.as_str()).collect();
    let line = |one: &Thinned<'_>| {
        let shares = by_layer(&one.telemetry).into_iter();
        shares.map(|(l, share)| (l as f64, share)).collect()
    };
    let axes = |last: f64| Axes {
        x_unit: "layer".to_owned(),
        y_unit: "share of the channels that take part".to_owned(),
        x_tick: tick_whole,
        height: 260,
        ..Axes::over(-0.5..last + 0.5, 0.0..1.1)
    };
    draw(
        "Channels that take part, by layer",
        &names,
        all.iter().map(line).collect(),
        axes,
        |x, y| format!("layer {x}: {}", percent(y)),
    )
    .map(Some)
}

/// One line for each share of the values at a site: the magnitude that it lies below, on an axis of logarithms, over the layer, from
/// 0; magnitudes that are far below the largest are left out. `None` where the file tells none.
pub(in super::super) fn magnitudes(one: &Magnitudes<'_>) -> anyhow::Result<Option<Plot>> {
    let below = one.below();
    let most = below.iter().flat_map(|(_, layers)| layers);
    let most = f64::from(most.fold(0.0, |most: f32, m| most.max(*m)));
    if most == 0.0 {
        return Ok(None);
    }
    let names: Vec<String> = below.iter().map(|(share, _)| percent(*share)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lowest = most.log2() - OCTAVES_MAX;
    let line = |(_, layers): &(f64, Vec<f32>)| {
        let points = layers.iter().enumerate();
        let points = points.map(|(l, &m)| (l as f64, f64::from(m).log2()));
        points.filter(|(_, y)| *y >= lowest).collect()
    };
    let lines: Vec<Vec<(f64, f64)>> = below.iter().map(line).collect();
    let ys = lines.iter().flatten().map(|p| p.1);
    let y = ys.fold(most.log2(), f64::min) - 0.2..most.log2() + 0.2;
    let axes = |last: f64| Axes {
        x_unit: "layer".to_owned(),
        y_unit: "magnitude".to_owned(),
        x_tick: tick_whole,
        y_tick: tick_two_digits,
        y_at: whole_numbers(&y),
        height: 300,
        ..Axes::over(-0.5..last + 0.5, y.clone())
    };
    let site = one.site.name();
    draw(
        &format!("Magnitudes at {site} below which shares of them lie, by layer"),
        &names,
        lines,
        axes,
        |x, y| format!("layer {x}: below {}", number(y.exp2())),
    )
    .map(Some)
}

/// A tick with two digits, on an axis of binary logarithms.
fn tick_two_digits(y: f64) -> String {
    let magnitude = y.exp2();
    let digits = (1.0 - magnitude.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{magnitude:.digits$}")
}

/// Whole numbers within a range, at most about six of them; its middle where there is none.
fn whole_numbers(range: &Range<f64>) -> Vec<f64> {
    let step = ((range.end - range.start) / 6.0).ceil().max(1.0);
    let first = (range.start / step).ceil() as i32;
    let last = (range.end / step).floor() as i32;
    match first > last {
        true => vec![(range.start + range.end) / 2.0],
        false => (first..=last).map(|i| f64::from(i) * step).collect(),
    }
}
