//! What was reached under the machine's roofs.

use super::super::ceiling::{Place, Roof, WorkingSets};
use super::super::format::{decimal_bytes, interval, number};
use super::{Axes, Mark, Plot, Role, Shape, tick_power};
use crate::host::{binary_bytes, plural};

/// Peaks of arithmetic that lie nearer than this ratio share one text.
const PEAKS_NEAR: f64 = 1.4;

/// The roofline: both axes in binary logarithms. `None` without a roof or a place.
pub(in super::super) fn roofline(roofs: &[Roof], places: &[Place]) -> anyhow::Result<Option<Plot>> {
    let Some(top) = roofs
        .iter()
        .max_by(|a, b| a.read_gb_s.total_cmp(&b.read_gb_s))
    else {
        return Ok(None);
    };
    if places.is_empty() {
        return Ok(None);
    }
    let peaks = |roof: &Roof| [roof.int8_gops, roof.f32_gops].into_iter().flatten();
    let ridges = roofs
        .iter()
        .flat_map(|r| peaks(r).map(|peak| peak / r.read_gb_s));
    let x = places.iter().map(|p| p.ops_per_byte).chain(ridges);
    let (x_low, x_high) = around(x, 1.0);
    let y = places
        .iter()
        .map(|p| p.gops)
        .chain(roofs.iter().flat_map(peaks));
    let (y_low, y_high) = around(y, 1.0);
    let mut marks = Vec::new();
    for roof in roofs {
        let role = if roof == top { Role::Text } else { Role::Muted };
        let slope = |x: f64| x + roof.read_gb_s.log2();
        for peak in peaks(roof).map(f64::log2) {
            marks.push(Mark::Line {
                points: vec![(slope_end(peak, roof), peak), (x_high, peak)],
                role,
                width: 2,
            });
        }
        let highest = peaks(roof).fold(f64::NAN, f64::max).log2();
        let end = if highest.is_nan() {
            x_high
        } else {
            slope_end(highest, roof)
        };
        let start = x_low.max(y_low - roof.read_gb_s.log2());
        marks.push(Mark::Line {
            points: vec![(start, slope(start)), (end, slope(end))],
            role,
            width: 2,
        });
    }
    roof_texts(top, x_low, x_high, &mut marks);
    for place in places {
        marks.push(place_mark(place));
    }
    let axes = Axes {
        x: x_low..x_high,
        y: y_low..y_high,
        x_unit: "operations for each byte of weights and KV cache".to_owned(),
        y_unit: "GOP/s".to_owned(),
        x_tick: tick_power,
        y_tick: tick_power,
        x_at: (x_low.ceil() as i32..=x_high as i32)
            .map(f64::from)
            .collect(),
        y_ticks: true,
        height: 340,
    };
    let label = format!(
        "Roofline: {} under the read bandwidth and the arithmetic peaks of the same rounds",
        plural(places.len(), "measured phase")
    );
    Plot::draw(&label, &axes, &marks).map(Some)
}

/// Where a peak meets the bandwidth, as a binary logarithm.
fn slope_end(peak_log2: f64, roof: &Roof) -> f64 {
    peak_log2 - roof.read_gb_s.log2()
}

/// What the roofs of the fastest configuration are.
fn roof_texts(roof: &Roof, x_low: f64, x_high: f64, marks: &mut Vec<Mark>) {
    let named = [("int8", roof.int8_gops), ("f32", roof.f32_gops)];
    let mut named: Vec<(&str, f64)> = named
        .into_iter()
        .filter_map(|(n, p)| Some((n, p?)))
        .collect();
    named.sort_by(|a, b| b.1.total_cmp(&a.1));
    let near = named.len() == 2 && named[0].1 / named[1].1 < PEAKS_NEAR;
    let texts = named
        .iter()
        .map(|(name, peak)| format!("{name} {} GOP/s", number(*peak)));
    let texts: Vec<String> = match near {
        true => vec![texts.collect::<Vec<_>>().join(", ")],
        false => texts.collect(),
    };
    for (text, (_, peak)) in texts.into_iter().zip(&named) {
        marks.push(Mark::Flag {
            x: x_high,
            y: peak.log2() + 0.12,
            text,
        });
    }
    let end = named
        .first()
        .map_or(x_high, |(_, peak)| slope_end(peak.log2(), roof));
    let x = x_low + (end - x_low) * 0.92;
    marks.push(Mark::Flag {
        x,
        y: x + roof.read_gb_s.log2(),
        text: format!("read {} GB/s", number(roof.read_gb_s)),
    });
}

fn place_mark(place: &Place) -> Mark {
    let share = match &place.share {
        Some(share) => format!(
            "{} % of the peak of its rounds ({} %)",
            number(share.median),
            interval(share.interval)
        ),
        None => "the peak is unknown".to_owned(),
    };
    Mark::Point {
        x: place.ops_per_byte.log2(),
        y: place.gops.log2(),
        shape: match place.phase {
            "decode" => Shape::Dot,
            _ => Shape::Square,
        },
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
        x: low..high,
        y: 0.0..most,
        x_unit: "size of what is read".to_owned(),
        y_unit: "GB/s".to_owned(),
        x_tick: |x| binary_bytes(x.exp2().round() as u64),
        y_tick: super::tick_number,
        x_at: (low.ceil() as i32..=high as i32)
            .filter(|power| power % 4 == 0)
            .map(f64::from)
            .collect(),
        y_ticks: true,
        height: 320,
    };
    Plot::draw(
        "Read bandwidth over the size of what is read",
        &axes,
        &marks,
    )
}
