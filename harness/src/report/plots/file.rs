//! A plot as a file of its own: with title, legend and a light ground, so that it can be read wherever it is shown.

use super::super::html::{MARKS, STYLE};
use super::{Plot, SCALE, TEXT_PX, WIDE_PX, escape, fitted, text_px};
use anyhow::Context as _;
use std::fmt::Write as _;

/// Room around everything, in pixels.
const MARGIN_PX: f64 = 14.0;
/// Height of the title, and of a line of the legend, in pixels.
const LINE_PX: f64 = 22.0;

impl Plot {
    /// The plot as an SVG document.
    ///
    /// # Errors
    /// When a colour has no value.
    pub(in super::super) fn file(&self) -> anyhow::Result<String> {
        let width = f64::from(WIDE_PX);
        let drawn = (self.wide.strip_prefix("<svg viewBox=\"0 0 "))
            .and_then(|rest| rest.split_once("\">"))
            .and_then(|(size, body)| Some((size.split_once(' ')?.1.parse::<f64>().ok()?, body)));
        let (height, body) = drawn.context("the plot was not drawn")?;
        let scale = f64::from(SCALE);
        let (legend, lines) = self.legend();
        let top = MARGIN_PX + LINE_PX * (1 + lines) as f64 + 6.0;
        let (w, h) = (width + 2.0 * MARGIN_PX, top + height / scale + MARGIN_PX);
        let title = fitted(&self.label, width);
        let title = escape(&title);
        let size = TEXT_PX + 3;
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
             font-family=\"system-ui, 'Segoe UI', Roboto, 'Noto Sans', sans-serif\">\n\
             <title>{title}</title>\n<style>\n{MARKS}</style>\n\
             <rect width=\"{w}\" height=\"{h}\" rx=\"6\" fill=\"var(--surface)\"/>\n\
             <text x=\"{MARGIN_PX}\" y=\"{}\" font-size=\"{size}\" font-weight=\"600\" fill=\"var(--text)\">{title}</text>\n\
             {legend}\
             <g transform=\"translate({MARGIN_PX} {top}) scale({})\">{}</g>\n</svg>\n",
            MARGIN_PX + f64::from(size),
            1.0 / scale,
            body.trim_end_matches("</svg>"),
        );
        light(&svg)
    }

    /// The legend below the title, in as many lines as it takes.
    fn legend(&self) -> (String, usize) {
        let mut drawn = String::new();
        let (mut x, mut line) = (MARGIN_PX, 1);
        for key in &self.legend {
            let name = fitted(&key.name, f64::from(WIDE_PX) - 40.0);
            let width = 20.0 + text_px(&name) + 18.0;
            if x > MARGIN_PX && x + width > f64::from(WIDE_PX) + MARGIN_PX {
                (x, line) = (MARGIN_PX, line + 1);
            }
            let y = MARGIN_PX + LINE_PX * f64::from(line) + 4.0;
            let _ = writeln!(
                drawn,
                "<g transform=\"translate({x} {y})\">{}<text x=\"20\" y=\"12\" font-size=\"{TEXT_PX}\" fill=\"var(--muted)\">{}</text></g>",
                key.drawn(),
                escape(&name)
            );
            x += width;
        }
        let lines = if self.legend.is_empty() { 0 } else { line };
        (drawn, lines as usize)
    }
}

/// A text with the values that the page's variables have in light pages.
fn light(text: &str) -> anyhow::Result<String> {
    let mut parts = text.split("var(--");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(')').context("a variable has an end")?;
        let value = STYLE
            .split_once(&format!("--{name}: "))
            .and_then(|(_, after)| Some(after.split_once(';')?.0));
        out += value.with_context(|| format!("the colour \"{name}\" has no value"))?;
        out += rest;
    }
    Ok(out)
}
