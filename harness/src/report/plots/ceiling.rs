//! What was reached under the machine's roofs.

use super::super::ceiling::{Other, Place, Roof, WorkingSets};
use super::super::format::{decimal_bytes, interval, number};
use super::{Axes, Mark, Plot, Role, Shape, tick_power};
use crate::host::{binary_bytes, plural};
use crate::record::above_peak;
use std::ops::Range;

/// Colour of other programs.
pub(in super::super) const OTHERS: Role = Role::Series(1);
/// Peaks of arithmetic that lie nearer than this ratio share one text.
const PEAKS_NEAR: f64 = 1.4;

/// Most points of the engine that are named on the plot.
const NAMED_MAX: usize = 8;

/// The roofline: both axes in binary logarithms. `None` without a roof or a place.
pub(in super::super) fn roofline(
    roofs: &[Roof],
    places: &[Place],
    others: &[Other],
) -> anyhow::Result<Option<Plot>> {
    let fastest = roofs
        .iter()
        .max_by(|a, b| a.read_gb_s.total_cmp(&b.read_gb_s));
    let Some(top) = fastest.filter(|_| !places.is_empty()) else {
        return Ok(None);
    };
    let ridges = roofs
        .iter()
        .flat_map(|r| peaks(r).map(|(_, peak)| peak / r.read_gb_s));
    let x = places.iter().map(|p| p.ops_per_byte).chain(ridges);
    let (x_low, x_high) = around(x, 1.2);
    let y = places.iter().map(|p| p.gops);
    let y = y.chain(others.iter().map(|o| o.gops));
    let y = y.chain(roofs.iter().flat_map(peaks).map(|(_, peak)| peak));
    let (y_low, y_high) = around(y, 1.0);
    let mut marks = Vec::new();
    for roof in roofs {
        let role = if roof == top { Role::Text } else { Role::Muted };
        roof_lines(roof, x_low..x_high, y_low, role, &mut marks);
    }
    roof_texts(
        top,
        x_low.max(y_low - top.read_gb_s.log2()),
        x_high,
        &mut marks,
    );
    let alone = places.iter().all(|p| p.label == places[0].label);
    for place in places {
        marks.push(place_mark(place));
        if places.len() <= NAMED_MAX {
            marks.push(Mark::Name {
                x: place.ops_per_byte.log2(),
                y: place.gops.log2(),
                text: place_name(place, alone, !others.is_empty()),
            });
        }
    }
    for other in others {
        other_marks(other, &mut marks);
    }
    let whole = |low: f64, high: f64| {
        // The unit stands at the end.
        let powers = low.ceil() as i32..=(high - 0.3) as i32;
        powers.map(f64::from).collect::<Vec<f64>>()
    };
    let axes = Axes {
        x_unit: "operations for each byte of weights and KV cache".to_owned(),
        y_unit: "GOP/s".to_owned(),
        x_tick: tick_power,
        y_tick: tick_power,
        x_at: whole(x_low, x_high),
        y_at: whole(y_low, y_high),
        height: 360,
        ..Axes::over(x_low..x_high, y_low..y_high)
    };
    let label = format!(
        "Roofline: {} under the read bandwidth and the arithmetic peaks of the same rounds",
        plural(places.len(), "measured phase")
    );
    Plot::draw(&label, &axes, &marks).map(Some)
}

/// The arithmetic peaks that are known, highest first.
fn peaks(roof: &Roof) -> impl Iterator<Item = (&'static str, f64)> {
    let named = [("int8", roof.int8_gops), ("f32", roof.f32_gops)];
    let known = named
        .into_iter()
        .filter_map(|(name, peak)| Some((name, peak?)));
    let mut known: Vec<_> = known.collect();
    known.sort_by(|a, b| b.1.total_cmp(&a.1));
    known.into_iter()
}

/// The slope of the bandwidth up to the highest peak, and the peaks from where it meets them.
fn roof_lines(roof: &Roof, x: Range<f64>, y_low: f64, role: Role, marks: &mut Vec<Mark>) {
    let slope = |x: f64| x + roof.read_gb_s.log2();
    let mut line = |points| {
        marks.push(Mark::Line {
            points,
            role,
            width: 2,
        });
    };
    for (_, peak) in peaks(roof) {
        let y = peak.log2();
        line(vec![(slope_end(y, roof), y), (x.end, y)]);
    }
    let highest = peaks(roof).next();
    let end = highest.map_or(x.end, |(_, peak)| slope_end(peak.log2(), roof));
    let start = x.start.max(y_low - roof.read_gb_s.log2());
    line(vec![(start, slope(start)), (end, slope(end))]);
}

/// Where a peak meets the bandwidth, as a binary logarithm.
fn slope_end(peak_log2: f64, roof: &Roof) -> f64 {
    peak_log2 - roof.read_gb_s.log2()
}

/// What the roofs of the fastest configuration are: peaks where they begin, the highest above its line and others below
/// theirs, the bandwidth left of its slope, which begins at `start`.
fn roof_texts(roof: &Roof, start: f64, x_high: f64, marks: &mut Vec<Mark>) {
    let named: Vec<(&str, f64)> = peaks(roof).collect();
    let near = named.len() == 2 && named[0].1 / named[1].1 < PEAKS_NEAR;
    let texts = named
        .iter()
        .map(|(name, peak)| format!("{name} {} GOP/s", number(*peak)));
    let texts: Vec<String> = match near {
        true => vec![texts.collect::<Vec<_>>().join(", ")],
        false => texts.collect(),
    };
    for (i, (text, (_, peak))) in texts.into_iter().zip(&named).enumerate() {
        marks.push(Mark::Label {
            x: slope_end(peak.log2(), roof),
            y: peak.log2(),
            text,
            below: i > 0,
        });
    }
    let highest = named.first();
    let end = highest.map_or(x_high, |(_, peak)| slope_end(peak.log2(), roof));
    let x = start + (end - start) * 0.92;
    marks.push(Mark::Flag {
        x,
        y: x + roof.read_gb_s.log2(),
        text: format!("{} GB/s", number(roof.read_gb_s)),
    });
}

/// What stands beside a point: the case where there are several, the phase, the share of the peak.
fn place_name(place: &Place, alone: bool, compared: bool) -> String {
    let who = match (alone, compared) {
        (false, _) => format!("{}, ", place.label),
        (true, true) => "engine, ".to_owned(),
        (true, false) => String::new(),
    };
    let share = place.share.as_ref();
    let share = share.map_or_else(String::new, |s| {
        format!(": {:.0} %{}", s.median, above_peak(s.median))
    });
    format!("{who}{}{share}", place.phase)
}

fn place_mark(place: &Place) -> Mark {
    let share = match &place.share {
        Some(share) => format!(
            "{} % of the peak of its rounds ({} %){}",
            number(share.median),
            interval(share.interval),
            above_peak(share.median)
        ),
        None => "the peak is unknown".to_owned(),
    };
    Mark::Point {
        x: place.ops_per_byte.log2(),
        y: place.gops.log2(),
        shape: shape(place.phase),
        role: Role::Accent,
        hollow: place.tainted,
        title: format!(
            "{}, {}: {} {}, {share}; {} operations a byte",
            place.label,
            place.phase,
            number(place.achieved.median),
            place.unit,
            number(place.ops_per_byte)
        ),
    }
}

/// Another program's point; the one that decides has its name beside it.
fn other_marks(other: &Other, marks: &mut Vec<Mark>) {
    let (x, y) = (other.ops_per_byte.log2(), other.gops.log2());
    let share = other.of_peak_pct;
    marks.push(Mark::Point {
        x,
        y,
        shape: shape(other.phase),
        role: OTHERS,
        hollow: false,
        title: format!(
            "{}, {}: {} GOP/s{}",
            other.title,
            other.phase,
            number(other.gops),
            share.map_or_else(String::new, |pct| format!(
                ", {} % of the peak of its rounds{}",
                number(pct),
                above_peak(pct)
            ))
        ),
    });
    if other.decides {
        let program = other.title.split(" (").next().unwrap_or(&other.title);
        let share = share.map_or_else(String::new, |pct| {
            format!(": {pct:.0} %{}", above_peak(pct))
        });
        marks.push(Mark::Name {
            x,
            y,
            text: format!("{program}, {}{share}", other.phase),
        });
    }
}

fn shape(phase: &str) -> Shape {
    match phase {
        "decode" => Shape::Dot,
        _ => Shape::Square,
    }
}

/// Bounds of values as binary logarithms, with so much room on both sides.
fn around(values: impl Iterator<Item = f64>, room: f64) -> (f64, f64) {
    let logs = values.map(f64::log2);
    let (low, high) = logs.fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x), h.max(x)));
    (low - room, high + room)
}

/// Read bandwidth over the size of the buffer, with the bytes of a token of each case on it.
pub(in super::super) fn working_sets(
    sets: &WorkingSets,
    caches: &[(u32, u64)],
) -> anyhow::Result<Plot> {
    let sizes = sets
        .lines
        .iter()
        .flat_map(|(_, points)| points.iter().map(|p| p.0));
    let (low, high) = around(sizes.chain(sets.cases.iter().map(|c| c.1)), 0.3);
    let speeds = sets
        .lines
        .iter()
        .flat_map(|(_, points)| points.iter().map(|p| p.1));
    let most = speeds
        .chain(sets.cases.iter().map(|c| c.2))
        .fold(0.0, f64::max)
        * 1.1;
    let mut marks = Vec::new();
    for (level, bytes) in caches {
        let x = (*bytes as f64).log2();
        if (low..high).contains(&x) {
            marks.push(Mark::Line {
                points: vec![(x, 0.0), (x, most)],
                role: Role::Grid,
                width: 2,
            });
            marks.push(Mark::Label {
                x,
                y: most * 0.92,
                text: format!(" L{level}"),
                below: false,
            });
        }
    }
    for (i, (name, points)) in sets.lines.iter().enumerate() {
        let role = Role::Series(i as u8 + 1);
        marks.push(Mark::Line {
            points: points.iter().map(|p| (p.0.log2(), p.1)).collect(),
            role,
            width: 2,
        });
        marks.extend(points.iter().map(|(bytes, gb_s)| Mark::Point {
            x: bytes.log2(),
            y: *gb_s,
            shape: Shape::Dot,
            role,
            hollow: false,
            title: format!(
                "{name}: {} GB/s over {}",
                number(*gb_s),
                binary_bytes(*bytes as u64)
            ),
        }));
    }
    for (name, bytes, gb_s) in &sets.cases {
        marks.push(Mark::Point {
            x: bytes.log2(),
            y: *gb_s,
            shape: Shape::Square,
            role: Role::Accent,
            hollow: false,
            title: format!(
                "decode of {name}: {} GB/s, {} a token",
                number(*gb_s),
                decimal_bytes(*bytes)
            ),
        });
    }
    let axes = Axes {
        x_unit: "size of what is read".to_owned(),
        y_unit: "GB/s".to_owned(),
        x_tick: |x| binary_bytes(x.exp2().round() as u64),
        x_at: (low.ceil() as i32..=high as i32)
            .filter(|power| power % 4 == 0)
            .map(f64::from)
            .collect(),
        height: 320,
        ..Axes::over(low..high, 0.0..most)
    };
    Plot::draw(
        "Read bandwidth over the size of what is read",
        &axes,
        &marks,
    )
}
