//! Quality over what it costs: divergence from the base over bytes a token, and over the decode rate.

use super::super::format::{decimal_bytes, number};
use super::super::quality::Point;
use super::{Axes, Mark, Plot, Role, Shape, padded, tick_number};
use std::ops::Range;

/// Divergences below this are rounding: they stand on the lower edge.
pub(in super::super) const KLD_MIN: f64 = 1e-5;
/// Decades from which on only powers of ten have a tick.
const DECADES_MANY: f64 = 2.5;

/// Divergence over bytes a token, both axes logarithmic; `None` with fewer than two points.
pub(in super::super) fn over_bytes(points: &[Point<'_>]) -> anyhow::Result<Option<Plot>> {
    let at = |p: &Point<'_>| Some(p.bytes?.log10());
    let (low, high) = around(points.iter().filter_map(at), 0.06);
    draw(
        points,
        at,
        |p| p.best_of_size,
        |y| Axes {
            x_unit: "bytes a token".to_owned(),
            x_tick: tick_bytes,
            x_at: decade_ticks(low..high),
            ..axes(low..high, y)
        },
    )
}

/// Divergence, on a logarithmic axis, over the decode rate; `None` with fewer than two points.
pub(in super::super) fn over_rate(points: &[Point<'_>]) -> anyhow::Result<Option<Plot>> {
    let rates = points.iter().filter_map(|p| p.rate);
    let middle = rates.clone().sum::<f64>() / rates.clone().count().max(1) as f64;
    let x = padded(rates, middle);
    draw(
        points,
        |p| p.rate,
        |p| p.best_of_speed,
        |y| Axes {
            x_unit: "tok/s".to_owned(),
            x_tick: tick_number,
            ..axes(x.clone(), y)
        },
    )
}

fn axes(x: Range<f64>, y: Range<f64>) -> Axes {
    Axes {
        y_unit: "mean KL divergence in nats".to_owned(),
        y_tick: tick_decimal,
        y_at: decade_ticks(y.clone()),
        height: 380,
        ..Axes::over(x, y)
    }
}

/// Points with their names, those of the front in their colour and joined by steps.
fn draw<'a>(
    points: &[Point<'a>],
    x: impl Fn(&Point<'a>) -> Option<f64>,
    is_best: impl Fn(&Point<'a>) -> bool,
    axes: impl Fn(Range<f64>) -> Axes,
) -> anyhow::Result<Option<Plot>> {
    let shown: Vec<(f64, &Point<'_>)> = points.iter().filter_map(|p| Some((x(p)?, p))).collect();
    let above = shown.iter().map(|(_, p)| p.figures.kld_mean);
    let above = above.filter(|kld| *kld >= KLD_MIN).map(f64::log10);
    if shown.len() < 2 || above.clone().next().is_none() {
        return Ok(None);
    }
    let (low, high) = around(above, 0.12);
    let on_edge = shown.iter().any(|(_, p)| p.figures.kld_mean < KLD_MIN);
    let low = if on_edge { low - 0.3 } else { low };
    let y = |p: &Point<'_>| match p.figures.kld_mean {
        kld if kld < KLD_MIN => low,
        kld => kld.log10(),
    };
    let mut best: Vec<(f64, f64)> = shown
        .iter()
        .filter(|(_, p)| is_best(p))
        .map(|(x, p)| (*x, y(p)))
        .collect();
    best.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut marks = vec![Mark::Line {
        points: steps(&best),
        role: Role::Band,
        width: 2,
    }];
    for (x, p) in &shown {
        marks.push(Mark::Point {
            x: *x,
            y: y(p),
            shape: Shape::Dot,
            role: if is_best(p) {
                Role::Accent
            } else {
                Role::Muted
            },
            hollow: !is_best(p),
            title: title(p),
        });
    }
    // Where there is no room for all, those of the front are named.
    let (front, others): (Vec<_>, Vec<_>) = shown.into_iter().partition(|(_, p)| is_best(p));
    let count = front.len() + others.len();
    let named = front.into_iter().chain(others);
    marks.extend(named.map(|(x, p)| Mark::Name {
        x,
        y: y(p),
        text: p.name.clone(),
    }));
    let axes = axes(low..high);
    let label = format!("Divergence of {count} cases over {}", axes.x_unit);
    Plot::draw(&label, &axes, &marks).map(Some)
}

/// The line of what can be had: at each place the divergence of the best case that costs no more, or is no slower. `best` are
/// the points of a front in the order of their place.
fn steps(best: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let rises = best.first().map(|p| p.1) < best.last().map(|p| p.1);
    let mut line = Vec::new();
    for pair in best.windows(2) {
        let corner = match rises {
            true => (pair[0].0, pair[1].1),
            false => (pair[1].0, pair[0].1),
        };
        line.extend([pair[0], corner]);
    }
    line.extend(best.last());
    line
}

fn title(p: &Point<'_>) -> String {
    let f = p.figures;
    let bytes = p.bytes.map(|b| format!(", {} a token", decimal_bytes(b)));
    let rate = p.rate.map(|r| format!(", {} tok/s", number(r)));
    format!(
        "{}: KL divergence {} ± {}, perplexity {}{}{}",
        p.name,
        number(f.kld_mean),
        number(f.kld_mean_error),
        number(f.perplexity),
        bytes.unwrap_or_default(),
        rate.unwrap_or_default()
    )
}

/// Bounds of values with a share of their range, and a little, on both sides.
fn around(values: impl Iterator<Item = f64>, share: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x), h.max(x)));
    let room = (high - low) * share + 0.05;
    (low - room, high + room)
}

/// Ticks at powers of ten, and at 2 and 5 times each where there are few decades; of decimal logarithms.
fn decade_ticks(range: Range<f64>) -> Vec<f64> {
    let factors: &[f64] = match range.end - range.start {
        decades if decades > DECADES_MANY => &[1.0],
        _ => &[1.0, 2.0, 5.0],
    };
    let decades = range.start.floor() as i32..=range.end.ceil() as i32;
    let all = decades.flat_map(|n| factors.iter().map(move |f| f64::from(n) + f.log10()));
    all.filter(|x| range.contains(x)).collect()
}

/// A number from its decimal logarithm, with no more digits than it needs.
fn tick_decimal(x: f64) -> String {
    let digits = (-(x + 1e-9).floor()).max(0.0) as usize;
    format!("{:.digits$}", 10f64.powf(x))
}

/// Bytes from their decimal logarithm.
fn tick_bytes(x: f64) -> String {
    let (power, unit) = match x + 1e-9 {
        x if x >= 9.0 => (9.0, "GB"),
        x if x >= 6.0 => (6.0, "MB"),
        x if x >= 3.0 => (3.0, "kB"),
        _ => (0.0, "B"),
    };
    format!("{} {unit}", tick_decimal(x - power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_say_what_they_stand_for() {
        let texts: Vec<String> = decade_ticks(-2.1..-0.6)
            .into_iter()
            .map(tick_decimal)
            .collect();
        assert_eq!(texts, ["0.01", "0.02", "0.05", "0.1", "0.2"]);
        let texts: Vec<String> = decade_ticks(-4.5..-0.6)
            .into_iter()
            .map(tick_decimal)
            .collect();
        assert_eq!(texts, ["0.0001", "0.001", "0.01", "0.1"]);
        let texts: Vec<String> = decade_ticks(7.6..8.8).into_iter().map(tick_bytes).collect();
        assert_eq!(texts, ["50 MB", "100 MB", "200 MB", "500 MB"]);
        assert_eq!(tick_bytes(9.301_03), "2 GB");
    }

    #[test]
    fn a_front_steps_towards_what_is_beaten() {
        let falling = steps(&[(1.0, 5.0), (2.0, 3.0), (4.0, 1.0)]);
        assert_eq!(
            falling,
            [(1.0, 5.0), (2.0, 5.0), (2.0, 3.0), (4.0, 3.0), (4.0, 1.0)]
        );
        let rising = steps(&[(1.0, 1.0), (2.0, 3.0)]);
        assert_eq!(rising, [(1.0, 1.0), (1.0, 3.0), (2.0, 3.0)]);
        assert!(steps(&[]).is_empty());
    }
}
