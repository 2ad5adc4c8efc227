//! Plots as inline SVG: marks on linear axes, drawn by `plotters` once for wide and once for narrow pages.
//!
//! Colours are roles. Each is drawn in a colour of its own that no design would use, and then replaced by a CSS
//! variable, so that one drawing serves light, dark and paper. Exact values lie over the marks as SVG titles.

mod figures;

pub(super) use figures::{distribution, latency, rounds, stages, strips, sweep};

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
/// Most marks of a plot that carry their exact value; the table behind the plot has them all.
const TITLES_MAX: usize = 4000;

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
    /// A small translucent point, one of many.
    Speck {
        x: f64,
        y: f64,
        role: Role,
        title: String,
    },
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
    /// A text that starts at a point, above it.
    Label { x: f64, y: f64, text: String },
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
    let mut overlay = Overlay::default();
    {
        let area = SVGBackend::with_string(&mut drawn, size).into_drawing_area();
        let left = if axes.y_ticks { 56 } else { 8 };
        let mut chart = ChartBuilder::on(&area)
            .margin_top((TEXT_PX + 12) * SCALE)
            .margin_right(14 * SCALE)
            .margin_left(2 * SCALE)
            .x_label_area_size((TEXT_PX * 2 + 14) * SCALE)
            .y_label_area_size(left * SCALE)
            .build_cartesian_2d(axes.x.clone(), axes.y.clone())?;
        draw_mesh(&mut chart, axes, width)?;
        for mark in marks {
            draw_mark(&mut chart, mark)?;
            overlay.add(mark, |x, y| chart.backend_coord(&(x, y)));
        }
        overlay.units(axes, size);
        area.present()?;
    }
    let (Some(start), Some(end)) = (drawn.find('>'), drawn.rfind("</svg>")) else {
        anyhow::bail!("the plot was not drawn");
    };
    let mut body = drawn[start + 1..end]
        .replace("font-family=\"sans-serif\" ", "")
        .replace('\n', "");
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

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn draw_mesh(chart: &mut Chart<'_, '_>, axes: &Axes, width: u32) -> anyhow::Result<()> {
    let text = ("sans-serif", TEXT_PX * SCALE)
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
        .set_all_tick_mark_size(0)
        .x_labels(if width > 500 { 10 } else { 6 })
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
        Mark::Speck { x, y, role, .. } => {
            area.draw(&Circle::new(
                (*x, *y),
                2 * SCALE + SCALE / 2,
                role.drawn().mix(0.45).filled(),
            ))?;
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
        Mark::Label { .. } => {}
    }
    Ok(())
}

/// What lies over the drawing: texts that follow the page's font, and targets that show exact values.
#[derive(Default)]
struct Overlay {
    svg: String,
    titles: usize,
}

impl Overlay {
    fn add(&mut self, mark: &Mark, at: impl Fn(f64, f64) -> (i32, i32)) {
        match mark {
            Mark::Dot { x, y, title, .. } | Mark::Triangle { x, y, title, .. } => {
                self.target(at(*x, *y), 11, title)
            }
            Mark::Speck { x, y, title, .. } => self.target(at(*x, *y), 4, title),
            Mark::Bar {
                x,
                y,
                role,
                label,
                title,
            } => {
                let ((x0, y0), (x1, y1)) = (at(x.start, y.end), at(x.end, y.start));
                self.bar((x0, y0), (x1, y1), *role, label, title);
            }
            Mark::Label { x, y, text } => {
                let (x, y) = at(*x, *y);
                self.text((x, y - 6 * SCALE), "start", "text", text);
            }
            Mark::Line { .. } => {}
        }
    }

    fn target(&mut self, (x, y): (i32, i32), radius: i32, title: &str) {
        self.titles += 1;
        if self.titles <= TITLES_MAX && !title.is_empty() {
            let r = radius * SCALE;
            let _ = write!(
                self.svg,
                r#"<circle class="hit" cx="{x}" cy="{y}" r="{r}"><title>{}</title></circle>"#,
                escape(title)
            );
        }
    }

    fn bar(
        &mut self,
        (x0, y0): (i32, i32),
        (x1, y1): (i32, i32),
        role: Role,
        label: &str,
        title: &str,
    ) {
        let (w, h) = (x1 - x0, y1 - y0);
        if !title.is_empty() && w > 0 {
            let _ = write!(
                self.svg,
                r#"<rect class="hit seam" x="{x0}" y="{y0}" width="{w}" height="{h}"><title>{}</title></rect>"#,
                escape(title)
            );
        }
        let needed = label.chars().count() as f64 * CHARACTER_SHARE * f64::from(TEXT_PX) + 8.0;
        if !label.is_empty() && f64::from(w) > needed * f64::from(SCALE) {
            let middle = (x0 + w / 2, y0 + h / 2 + TEXT_PX * SCALE * 35 / 100);
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

/// Text made safe inside SVG.
fn escape(text: &str) -> String {
    html! { (text) }.into_string()
}

#[cfg(test)]
mod tests;
