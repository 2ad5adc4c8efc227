//! Plots as inline SVG: marks on linear axes, drawn by `plotters` once for wide and once for narrow pages.
//!
//! Colours are roles. Each is drawn in a colour of its own that no design would use, and then replaced by a CSS
//! variable, so that one drawing serves light, dark and paper. Exact values lie over the marks as SVG titles.

mod figures;

pub(super) use figures::{distribution, latency, rounds, stages, strips, sweep};

use anyhow::Context as _;
use engine::stage::Stage;
use maud::{Markup, PreEscaped, Render, html};
use plotters::prelude::*;
use std::fmt::Write as _;
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
const CHARACTER_SHARE: f64 = 0.56;
/// Drawing units across a speck.
const SPECK: i32 = 5 * SCALE;
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
    Warn,
    Series(u8),
    Stage(Stage),
    Outside,
}

impl Role {
    /// Series that have a colour of their own.
    pub(super) const SERIES: u8 = 6;

    fn all() -> impl Iterator<Item = Role> {
        let plain = [
            Role::Text,
            Role::Muted,
            Role::Grid,
            Role::Surface,
            Role::Accent,
            Role::Band,
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

/// One thing on a plot, in the plot's own units.
#[derive(Debug, Clone)]
pub(super) enum Mark {
    /// A point; hollow for what does not count.
    Dot {
        x: f64,
        y: f64,
        role: Role,
        hollow: bool,
        title: String,
    },
    /// A point that something is wrong with, as a triangle.
    Triangle {
        x: f64,
        y: f64,
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
    /// A text above a point, that starts there.
    Label { x: f64, y: f64, text: String },
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
    /// Whether the vertical axis has ticks and horizontal lines; else the horizontal one has vertical lines.
    pub y_ticks: bool,
    /// Height in pixels.
    pub height: u32,
}

/// A plot in both widths, with what it shows in words.
pub(super) struct Plot {
    wide: String,
    narrow: String,
    label: String,
}

impl Plot {
    /// Draws the marks at both widths.
    pub(super) fn draw(label: &str, axes: &Axes, marks: &[Mark]) -> anyhow::Result<Plot> {
        Ok(Plot {
            wide: svg(axes, marks, WIDE_PX)?,
            narrow: svg(axes, marks, NARROW_PX)?,
            label: label.to_owned(),
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
        }
    }
}

/// Draws the marks as one SVG element of `width` pixels.
fn svg(axes: &Axes, marks: &[Mark], width: u32) -> anyhow::Result<String> {
    let size = (width * SCALE as u32, axes.height * SCALE as u32);
    let mut drawn = String::new();
    // Exact values appear where something points at them: not on narrow pages, which are touched.
    let mut overlay = Overlay {
        titles: width == WIDE_PX,
        right: size.0 as i32 - 14 * SCALE,
        ..Overlay::default()
    };
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
            .build_cartesian_2d(axes.x.clone(), axes.y.clone())?;
        draw_mesh(&mut chart, axes, width)?;
        let place = Pixel::new((axes.x.start, axes.y.start), SPECKS_PLACE.filled());
        chart.plotting_area().draw(&place)?;
        for mark in marks {
            draw_mark(&mut chart, mark)?;
            overlay.add(mark, axes, |x, y| chart.backend_coord(&(x, y)));
        }
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

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn draw_mesh(chart: &mut Chart<'_, '_>, axes: &Axes, width: u32) -> anyhow::Result<()> {
    // `plotters` takes the size as a line's height and writes a font of 1 / 1.24 of it.
    let text = ("sans-serif", f64::from(TEXT_PX * SCALE) * 1.24)
        .into_font()
        .color(&Role::Muted.drawn());
    let line = Role::Grid.drawn().stroke_width(SCALE as u32);
    let y_tick = |y: &f64| tick_number(*y);
    let x_tick = |x: &f64| (axes.x_tick)(*x);
    let mut mesh = chart.configure_mesh();
    mesh.max_light_lines(0)
        .bold_line_style(line)
        .axis_style(line)
        .label_style(text)
        .set_all_tick_mark_size(4 * SCALE)
        .x_labels(if width == WIDE_PX { 10 } else { 5 })
        .y_labels(5)
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

/// A tick only where the number is whole.
pub(super) fn tick_whole(x: f64) -> String {
    if (x - x.round()).abs() < 1e-6 {
        format!("{}", x.round())
    } else {
        String::new()
    }
}

fn draw_mark(chart: &mut Chart<'_, '_>, mark: &Mark) -> anyhow::Result<()> {
    let area = chart.plotting_area();
    match mark {
        Mark::Dot {
            x, y, role, hollow, ..
        } => {
            let colour = role.drawn();
            area.draw(&Circle::new(
                (*x, *y),
                5 * SCALE,
                Role::Surface.drawn().filled(),
            ))?;
            match hollow {
                false => area.draw(&Circle::new((*x, *y), 5 * SCALE, colour.filled()))?,
                true => area.draw(&Circle::new(
                    (*x, *y),
                    4 * SCALE,
                    colour.stroke_width(2 * SCALE as u32),
                ))?,
            }
        }
        Mark::Triangle {
            x, y, role, hollow, ..
        } => {
            let colour = role.drawn();
            area.draw(&TriangleMarker::new((*x, *y), 7 * SCALE, colour.filled()))?;
            if *hollow {
                area.draw(&TriangleMarker::new(
                    (*x, *y),
                    4 * SCALE,
                    Role::Surface.drawn().filled(),
                ))?;
            }
        }
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
        Mark::Label { .. } | Mark::Flag { .. } | Mark::Specks { .. } | Mark::Column { .. } => {}
    }
    Ok(())
}

/// What `plotters` does not draw: specks below the marks; texts that follow the page's font, and targets that show
/// exact values, above them.
#[derive(Default)]
struct Overlay {
    specks: String,
    svg: String,
    /// Whether there are targets.
    titles: bool,
    /// Where texts have to end, in drawing units.
    right: i32,
}

impl Overlay {
    fn add(&mut self, mark: &Mark, axes: &Axes, at: impl Fn(f64, f64) -> (i32, i32)) {
        match mark {
            Mark::Dot { x, y, title, .. } | Mark::Triangle { x, y, title, .. } => {
                self.target(at(*x, *y), title);
            }
            Mark::Specks { points, role } => {
                let _ = write!(
                    self.specks,
                    r#"<path class="specks" stroke="var(--{})" stroke-width="{SPECK}" d=""#,
                    role.name()
                );
                for &(x, y) in points {
                    let (x, y) = at(x, y);
                    let _ = write!(self.specks, "M{x} {y}h0");
                }
                self.specks += r#""/>"#;
            }
            Mark::Column { x, title } => {
                let (from, to) = (at(x.start, axes.y.end), at(x.end, axes.y.start));
                self.rect("hit column", from, to, title);
            }
            Mark::Bar {
                x,
                y,
                role,
                label,
                title,
            } => {
                let (from, to) = (at(x.start, y.end), at(x.end, y.start));
                if !title.is_empty() {
                    self.rect("hit seam", from, to, title);
                }
                self.label_inside(from, to, *role, label);
            }
            Mark::Label { x, y, text } => {
                let (x, y) = at(*x, *y);
                let room = f64::from(self.right - x) / f64::from(SCALE);
                self.text((x, y - 6 * SCALE), "start", "text", &fitted(text, room));
            }
            Mark::Flag { x, y, text } => {
                let (left, (x, y)) = (at(axes.x.start, axes.y.start).0, at(*x, *y));
                let gap = 4 * SCALE;
                let fits = f64::from(x - left - 2 * gap) > text_px(text) * f64::from(SCALE);
                let (x, anchor) = if fits {
                    (x - gap, "end")
                } else {
                    (x + gap, "start")
                };
                self.text((x, y), anchor, "text", text);
            }
            Mark::Line { .. } => {}
        }
    }

    fn target(&mut self, (x, y): (i32, i32), title: &str) {
        if self.titles {
            let r = 11 * SCALE;
            let _ = write!(
                self.svg,
                r#"<circle class="hit" cx="{x}" cy="{y}" r="{r}"><title>{}</title></circle>"#,
                escape(title)
            );
        }
    }

    fn rect(&mut self, class: &str, (x0, y0): (i32, i32), (x1, y1): (i32, i32), title: &str) {
        let (w, h) = (x1 - x0, y1 - y0);
        let place = format!(r#"<rect class="{class}" x="{x0}" y="{y0}" width="{w}" height="{h}""#);
        self.svg += &match self.titles {
            true => format!("{place}><title>{}</title></rect>", escape(title)),
            false => format!("{place}/>"),
        };
    }

    /// A text in the middle of a rectangle, if it fits.
    fn label_inside(
        &mut self,
        (x0, y0): (i32, i32),
        (x1, y1): (i32, i32),
        role: Role,
        label: &str,
    ) {
        let room = f64::from(x1 - x0) / f64::from(SCALE) - 8.0;
        if !label.is_empty() && text_px(label) <= room {
            let middle = ((x0 + x1) / 2, (y0 + y1) / 2 + TEXT_PX * SCALE * 35 / 100);
            self.text(middle, "middle", &format!("on-{}", role.name()), label);
        }
    }

    fn units(&mut self, axes: &Axes, (w, h): (u32, u32)) {
        let (w, h) = (w as i32, h as i32);
        self.text(
            (w - 14 * SCALE, h - 6 * SCALE),
            "end",
            "muted",
            &axes.x_unit,
        );
        self.text(
            (4 * SCALE, (TEXT_PX + 1) * SCALE),
            "start",
            "muted",
            &axes.y_unit,
        );
    }

    fn text(&mut self, (x, y): (i32, i32), anchor: &str, colour: &str, text: &str) {
        let size = TEXT_PX * SCALE;
        let _ = write!(
            self.svg,
            r#"<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="var(--{colour})">{}</text>"#,
            escape(text)
        );
    }
}

/// Width of a text, about, in pixels.
fn text_px(text: &str) -> f64 {
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
