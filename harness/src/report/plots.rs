//! Plots as inline SVG: marks on linear axes, drawn by `plotters` once for wide and once for narrow pages.
//!
//! Colours are roles. Each is drawn in a colour of its own that no design would use, and then replaced by a CSS
//! variable, so that one drawing serves light, dark and paper. Exact values lie over the marks as SVG titles; the page's
//! script shows them below the plot, to the mouse, to a finger and to the arrow keys.

mod ceiling;
mod comparison;
mod file;
mod history;
mod latency;
mod overlay;
mod quality;
mod rates;
mod rows;
mod sparsity;
mod speculation;
mod stages;
mod sweep;

pub(super) use ceiling::{OTHERS, roofline, working_sets};
pub(super) use comparison::{by_round, ratios};
pub(super) use history::history;
pub(super) use latency::{distribution, latency};
pub(super) use quality::{
    KLD_MIN, over_bytes as quality_over_bytes, over_rate as quality_over_rate,
};
pub(super) use rates::{rounds, strips};
pub(super) use rows::{DRAFTS, SPARSITY, SpeedUp, beside_first, speed_ups};
pub(super) use sparsity::{active_by_layer, break_even, magnitudes};
pub(super) use speculation::{acceptance, kept, pass_costs, times};
pub(super) use stages::stages;
pub(super) use sweep::sweep;

use overlay::Overlay;

use anyhow::Context as _;
use engine::stage::Stage;
use maud::{Markup, PreEscaped, Render, html};
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::ops::Range;

/// Drawing units per CSS pixel: `plotters` rounds to whole units, and a pixel is too coarse for lines.
const SCALE: i32 = 4;
/// Width of a plot on wide pages, in pixels.
const WIDE_PX: u32 = 880;
/// Width of a plot on narrow pages, in pixels.
const NARROW_PX: u32 = 358;
/// Size of all text in plots, in pixels.
const TEXT_PX: i32 = 13;
/// Mean width of a character, as a share of the text size.
const CHARACTER_SHARE: f64 = 0.6;
/// Drawing units across a speck.
const SPECK: i32 = 5 * SCALE;
/// Height of one row in plots with rows, in pixels.
const ROW_PX: u32 = 56;
/// Most ticks of an axis.
const TICKS_MAX: usize = 20;
/// Most ticks of a vertical axis that is left to the drawing.
const Y_TICKS: usize = 5;
/// Colour of an element that marks the place of the specks, after the grid and before all else.
const SPECKS_PLACE: RGBColor = RGBColor(1, 2, 255);

/// What a colour stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Text,
    Muted,
    Grid,
    Surface,
    Accent,
    Band,
    /// An interval, where it lies on a band.
    Interval,
    Warn,
    Series(u8),
    Stage(Stage),
    Outside,
}

impl Role {
    /// Series that have a colour of their own.
    pub(super) const SERIES: u8 = 8;

    fn all() -> impl Iterator<Item = Role> {
        let plain = [
            Role::Text,
            Role::Muted,
            Role::Grid,
            Role::Surface,
            Role::Accent,
            Role::Band,
            Role::Interval,
            Role::Warn,
            Role::Outside,
        ];
        let series = (0..Role::SERIES).map(Role::Series);
        plain
            .into_iter()
            .chain(series)
            .chain(Stage::ALL.into_iter().map(Role::Stage))
    }

    /// Name of the CSS variable, without dashes.
    pub(super) fn name(self) -> String {
        match self {
            Role::Text => "text".to_owned(),
            Role::Muted => "muted".to_owned(),
            Role::Grid => "grid".to_owned(),
            Role::Surface => "surface".to_owned(),
            Role::Accent => "accent".to_owned(),
            Role::Band => "band".to_owned(),
            Role::Interval => "interval".to_owned(),
            Role::Warn => "warn".to_owned(),
            Role::Outside => "stage-outside".to_owned(),
            Role::Series(i) => format!("series-{}", i % Role::SERIES),
            Role::Stage(stage) => format!("stage-{}", stage.name()),
        }
    }

    /// The colour that is drawn, to be found and replaced.
    fn drawn(self) -> RGBColor {
        let index = Role::all()
            .position(|r| r.name() == self.name())
            .unwrap_or(0);
        RGBColor(1, 2, index as u8)
    }
}

/// Shape of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Dot,
    Square,
    /// Something is wrong with it.
    Triangle,
    /// It never counts.
    Cross,
}

/// One thing on a plot, in the plot's own units.
#[derive(Debug, Clone)]
pub(super) enum Mark {
    /// A point that tells its exact value; hollow for what does not count, or counts with a doubt.
    Point {
        x: f64,
        y: f64,
        shape: Shape,
        role: Role,
        hollow: bool,
        title: String,
    },
    /// Many small translucent points, below all other marks.
    Specks { points: Vec<(f64, f64)>, role: Role },
    /// A part of the horizontal axis that shows a text when pointed at.
    Column { x: Range<f64>, title: String },
    /// A line through points.
    Line {
        points: Vec<(f64, f64)>,
        role: Role,
        width: u32,
    },
    /// A filled rectangle, with a text inside where it fits.
    Bar {
        x: Range<f64>,
        y: Range<f64>,
        role: Role,
        label: String,
        title: String,
    },
    /// A text above or below a point, that starts there.
    Label {
        x: f64,
        y: f64,
        text: String,
        below: bool,
    },
    /// The name of a point, beside it where no other point and no other text lies; left out where there is no room.
    Name { x: f64, y: f64, text: String },
    /// A text above and left of a point; right of it where there is no room.
    Flag { x: f64, y: f64, text: String },
}

/// Axes of a plot.
pub(super) struct Axes {
    pub x: Range<f64>,
    pub y: Range<f64>,
    /// Text at the right end of the horizontal axis.
    pub x_unit: String,
    /// Text above the vertical axis.
    pub y_unit: String,
    /// Text of a tick; empty for none.
    pub x_tick: fn(f64) -> String,
    /// Text of a tick of the vertical axis.
    pub y_tick: fn(f64) -> String,
    /// Where the horizontal axis has ticks; empty to leave it to the drawing.
    pub x_at: Vec<f64>,
    /// The same for the vertical axis.
    pub y_at: Vec<f64>,
    /// Whether the vertical axis has ticks and horizontal lines; else the horizontal one has vertical lines.
    pub y_ticks: bool,
    /// Height in pixels.
    pub height: u32,
}

impl Axes {
    /// Axes over these ranges, with numbers at ticks that the drawing chooses, and horizontal lines.
    pub(super) fn over(x: Range<f64>, y: Range<f64>) -> Axes {
        Axes {
            x,
            y,
            x_unit: String::new(),
            y_unit: String::new(),
            x_tick: tick_number,
            y_tick: tick_number,
            x_at: vec![],
            y_at: vec![],
            y_ticks: true,
            height: 270,
        }
    }
}

/// A plot in both widths, with what it shows in words.
pub(super) struct Plot {
    wide: String,
    narrow: String,
    label: String,
    /// What the marks of a colour are; empty where that goes without saying.
    pub legend: Vec<Key>,
}

/// An entry of a legend: marks as they are drawn, and what they are.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub role: Role,
    pub shape: Shape,
    pub hollow: bool,
    pub name: String,
}

impl Key {
    /// The fields of series, in the order of their names; none for a single one.
    pub(super) fn series<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Key> {
        let keys = names.enumerate().map(|(i, name)| Key {
            role: Role::Series(i as u8),
            shape: Shape::Square,
            hollow: false,
            name: name.to_owned(),
        });
        let keys: Vec<Key> = keys.collect();
        if keys.len() > 1 { keys } else { vec![] }
    }

    /// The mark alone, in a field of 14 pixels, as SVG elements.
    pub(super) fn drawn(&self) -> String {
        let colour = format!("var(--{})", self.role.name());
        let style = match self.hollow {
            false => format!("fill=\"{colour}\""),
            true => format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\""),
        };
        match self.shape {
            Shape::Dot => format!("<circle cx=\"7\" cy=\"7\" r=\"5\" {style}/>"),
            Shape::Square => {
                format!("<rect x=\"1\" y=\"1\" width=\"12\" height=\"12\" rx=\"2\" {style}/>")
            }
            Shape::Cross => {
                format!("<path d=\"M3 3 11 11M11 3 3 11\" stroke=\"{colour}\" stroke-width=\"2\"/>")
            }
            Shape::Triangle => format!("<path d=\"M7 2 12.5 12h-11z\" {style}/>"),
        }
    }
}

impl Plot {
    /// Draws the marks at both widths.
    pub(super) fn draw(label: &str, axes: &Axes, marks: &[Mark]) -> anyhow::Result<Plot> {
        Ok(Plot {
            wide: svg(axes, marks, WIDE_PX)?,
            narrow: svg(axes, marks, NARROW_PX)?,
            label: label.to_owned(),
            legend: vec![],
        })
    }
}

impl Render for Plot {
    fn render(&self) -> Markup {
        html! {
            div.plot role="img" aria-label=(self.label) {
                div.wide aria-hidden="true" { (PreEscaped(&self.wide)) }
                div.narrow aria-hidden="true" { (PreEscaped(&self.narrow)) }
            }
            output.readout aria-live="polite" {}
        }
    }
}

/// Draws the marks as one SVG element of `width` pixels.
fn svg(axes: &Axes, marks: &[Mark], width: u32) -> anyhow::Result<String> {
    let size = (width * SCALE as u32, axes.height * SCALE as u32);
    let mut drawn = String::new();
    // The narrow drawing takes the texts of its targets from the wide one: they stand in the same order.
    let mut overlay = Overlay::new(width == WIDE_PX, size.0 as i32 - 14 * SCALE);
    {
        let area = SVGBackend::with_string(&mut drawn, size).into_drawing_area();
        let left = if axes.y_ticks { 56 } else { 8 };
        let mut chart = ChartBuilder::on(&area)
            .margin_top(
                if axes.y_unit.is_empty() {
                    2
                } else {
                    TEXT_PX + 12
                } * SCALE,
            )
            .margin_right(14 * SCALE)
            .margin_left(2 * SCALE)
            .x_label_area_size((TEXT_PX * 2 + 20) * SCALE)
            .y_label_area_size(left * SCALE)
            .build_cartesian_2d(
                Ticked::new(&axes.x, &axes.x_at, if width == WIDE_PX { 10 } else { 5 }),
                Ticked::new(&axes.y, &axes.y_at, Y_TICKS),
            )?;
        draw_mesh(&mut chart, axes)?;
        let place = Pixel::new((axes.x.start, axes.y.start), SPECKS_PLACE.filled());
        chart.plotting_area().draw(&place)?;
        for mark in marks {
            draw_mark(&mut chart, mark)?;
            overlay.add(mark, axes, |x, y| chart.backend_coord(&(x, y)));
        }
        let (left, bottom) = chart.backend_coord(&(axes.x.start, axes.y.start));
        overlay.names(left, bottom);
        overlay.units(axes, size);
        area.present()?;
    }
    let (Some(start), Some(end)) = (drawn.find('>'), drawn.rfind("</svg>")) else {
        anyhow::bail!("the plot was not drawn");
    };
    let body = drawn[start + 1..end]
        .replace("font-family=\"sans-serif\" ", "")
        .replace('\n', "");
    let mut body = insert_specks(body, &overlay.specks)?;
    for role in Role::all() {
        let RGBColor(r, g, b) = role.drawn();
        body = body.replace(
            &format!("#{r:02X}{g:02X}{b:02X}"),
            &format!("var(--{})", role.name()),
        );
    }
    let (w, h) = size;
    Ok(format!(
        "<svg viewBox=\"0 0 {w} {h}\">{body}{}</svg>",
        overlay.svg
    ))
}

/// Puts the specks where the marking element was drawn.
fn insert_specks(mut body: String, specks: &str) -> anyhow::Result<String> {
    let RGBColor(r, g, b) = SPECKS_PLACE;
    let place = body.find(&format!("#{r:02X}{g:02X}{b:02X}"));
    let around =
        place.and_then(|at| Some((body[..at].rfind('<')?, at + body[at..].find("/>")? + 2)));
    let (start, end) = around.context("the plot was not drawn")?;
    body.replace_range(start..end, specks);
    Ok(body)
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Ticked, Ticked>>;

/// A linear axis with ticks where it is told.
struct Ticked {
    range: RangedCoordf64,
    at: Vec<f64>,
}

impl Ticked {
    /// With ticks at these places; where there are none, at up to `most` round numbers.
    fn new(range: &Range<f64>, at: &[f64], most: usize) -> Ticked {
        let range = RangedCoordf64::from(range.clone());
        let at = match at.is_empty() {
            true => range.key_points(most),
            false => at.to_vec(),
        };
        Ticked { range, at }
    }
}

impl Ranged for Ticked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.range.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => vec![],
            false => self.at.clone(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.range.range()
    }
}

fn draw_mesh(chart: &mut Chart<'_, '_>, axes: &Axes) -> anyhow::Result<()> {
    // `plotters` takes the size as a line's height and writes a font of 1 / 1.24 of it.
    let text = ("sans-serif", f64::from(TEXT_PX * SCALE) * 1.24)
        .into_font()
        .color(&Role::Muted.drawn());
    let line = Role::Grid.drawn().stroke_width(SCALE as u32);
    let y_tick = |y: &f64| (axes.y_tick)(*y);
    let x_tick = |x: &f64| (axes.x_tick)(*x);
    let mut mesh = chart.configure_mesh();
    mesh.max_light_lines(0)
        .bold_line_style(line)
        .axis_style(line)
        .label_style(text)
        .set_all_tick_mark_size(4 * SCALE)
        .x_labels(TICKS_MAX)
        .y_labels(TICKS_MAX)
        .x_label_formatter(&x_tick)
        .y_label_formatter(&y_tick);
    match axes.y_ticks {
        true => mesh.disable_x_mesh(),
        false => mesh.disable_y_mesh().disable_y_axis(),
    };
    mesh.draw()?;
    Ok(())
}

/// A tick's number without trailing zeros.
pub(super) fn tick_number(x: f64) -> String {
    let text = format!("{x:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".to_owned()
    } else {
        text.to_owned()
    }
}

/// A tick at every whole power of two, on an axis of binary logarithms.
pub(super) fn tick_power(x: f64) -> String {
    match (x - x.round()).abs() < 1e-6 {
        true => tick_number(x.round().exp2()),
        false => String::new(),
    }
}

/// A tick only where the number is whole.
pub(super) fn tick_whole(x: f64) -> String {
    if (x - x.round()).abs() < 1e-6 {
        tick_number(x.round())
    } else {
        String::new()
    }
}

fn draw_mark(chart: &mut Chart<'_, '_>, mark: &Mark) -> anyhow::Result<()> {
    let area = chart.plotting_area();
    match mark {
        Mark::Point {
            x,
            y,
            shape,
            role,
            hollow,
            ..
        } => draw_point(chart, (*x, *y), *shape, *role, *hollow)?,
        Mark::Line {
            points,
            role,
            width,
        } => {
            area.draw(&PathElement::new(
                points.clone(),
                role.drawn().stroke_width(*width * SCALE as u32),
            ))?;
        }
        Mark::Bar { x, y, role, .. } => {
            area.draw(&Rectangle::new(
                [(x.start, y.start), (x.end, y.end)],
                role.drawn().filled(),
            ))?;
        }
        Mark::Label { .. }
        | Mark::Flag { .. }
        | Mark::Name { .. }
        | Mark::Specks { .. }
        | Mark::Column { .. } => {}
    }
    Ok(())
}

/// A point on a rim of the surface's colour, so that it stands apart from lines and other points.
fn draw_point(
    chart: &mut Chart<'_, '_>,
    at: (f64, f64),
    shape: Shape,
    role: Role,
    hollow: bool,
) -> anyhow::Result<()> {
    let area = chart.plotting_area();
    let (colour, surface) = (role.drawn().filled(), Role::Surface.drawn().filled());
    let square = |half: i32, style: ShapeStyle| {
        let half = half * SCALE;
        EmptyElement::at(at) + Rectangle::new([(-half, -half), (half, half)], style)
    };
    match shape {
        Shape::Dot => {
            area.draw(&Circle::new(at, 6 * SCALE, surface))?;
            area.draw(&Circle::new(at, 5 * SCALE, colour))?;
            if hollow {
                area.draw(&Circle::new(at, 3 * SCALE, surface))?;
            }
        }
        Shape::Square => {
            area.draw(&square(6, surface))?;
            area.draw(&square(5, colour))?;
            if hollow {
                area.draw(&square(3, surface))?;
            }
        }
        Shape::Cross => {
            let style = role.drawn().stroke_width(2 * SCALE as u32);
            area.draw(&Cross::new(at, 4 * SCALE, style))?;
        }
        Shape::Triangle => {
            area.draw(&TriangleMarker::new(at, 7 * SCALE, colour))?;
            if hollow {
                area.draw(&TriangleMarker::new(at, 4 * SCALE, surface))?;
            }
        }
    }
    Ok(())
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

/// Width of a text, about, in pixels.
pub(super) fn text_px(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER_SHARE * f64::from(TEXT_PX)
}

/// The text, shortened in the middle where it would be wider than `room` pixels.
fn fitted(text: &str, room: f64) -> String {
    if text_px(text) <= room {
        return text.to_owned();
    }
    let characters: Vec<char> = text.chars().collect();
    let kept = (characters.len() as f64 * room / text_px(text)) as usize;
    let head = kept.saturating_sub(1) / 2;
    let tail = kept.saturating_sub(1) - head;
    let start: String = characters[..head].iter().collect();
    let end: String = characters[characters.len() - tail..].iter().collect();
    format!("{start}…{end}")
}

/// Text made safe inside SVG.
fn escape(text: &str) -> String {
    html! { (text) }.into_string()
}

#[cfg(test)]
mod tests;
