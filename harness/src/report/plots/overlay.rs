//! What `plotters` does not draw: specks below the marks; texts that follow the page's font, and targets that tell exact
//! values, above them.

use super::{Axes, Mark, Role, SCALE, SPECK, TEXT_PX, escape, fitted, text_px};
use std::fmt::Write as _;

/// Places along a piece of a line that names keep off; less than a text's height apart.
const LINE_STEPS: i32 = 96;

/// SVG text below and above the marks.
pub(super) struct Overlay {
    pub(super) specks: String,
    pub(super) svg: String,
    /// Whether targets carry their texts.
    titles: bool,
    /// Where texts have to end, in drawing units.
    right: i32,
    /// Where texts and points lie: left, top, right, bottom.
    taken: Vec<[i32; 4]>,
    /// Points whose names have to find a place.
    names: Vec<(i32, i32, String)>,
}

impl Overlay {
    pub(super) fn new(titles: bool, right: i32) -> Overlay {
        Overlay {
            specks: String::new(),
            svg: String::new(),
            titles,
            right,
            taken: Vec::new(),
            names: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, mark: &Mark, axes: &Axes, at: impl Fn(f64, f64) -> (i32, i32)) {
        match mark {
            Mark::Point { x, y, title, .. } => {
                let (x, y) = at(*x, *y);
                let half = 7 * SCALE;
                self.taken.push([x - half, y - half, x + half, y + half]);
                self.target((x, y), title);
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
            Mark::Label { x, y, text, below } => {
                let (left, (mut x, y)) = (at(axes.x.start, axes.y.start).0, at(*x, *y));
                // A text that would leave the plot begins further left.
                let latest = self.right - width(text);
                if latest >= left {
                    x = x.min(latest);
                }
                let room = f64::from(self.right - x) / f64::from(SCALE);
                let down = if *below { TEXT_PX + 5 } else { -6 };
                self.over((x, y + down * SCALE), "start", &fitted(text, room));
            }
            Mark::Name { x, y, text } => {
                let (x, y) = at(*x, *y);
                self.names.push((x, y, text.clone()));
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
                self.over((x, y), anchor, text);
            }
            Mark::Line { points, .. } => {
                for pair in points.windows(2) {
                    let (from, to) = (at(pair[0].0, pair[0].1), at(pair[1].0, pair[1].1));
                    let on = |a: i32, b: i32, i: i32| a + (b - a) * i / LINE_STEPS;
                    self.taken.extend((0..=LINE_STEPS).map(|i| {
                        let (x, y) = (on(from.0, to.0, i), on(from.1, to.1, i));
                        [x, y, x + 1, y + 1]
                    }));
                }
            }
        }
    }

    /// A circle to point at.
    fn target(&mut self, (x, y): (i32, i32), title: &str) {
        let r = 11 * SCALE;
        let place = format!(r#"<circle class="hit" cx="{x}" cy="{y}" r="{r}""#);
        self.with_title(&place, "circle", title);
    }

    /// A rectangle to point at.
    fn rect(&mut self, class: &str, (x0, y0): (i32, i32), (x1, y1): (i32, i32), title: &str) {
        let (w, h) = (x1 - x0, y1 - y0);
        let place = format!(r#"<rect class="{class}" x="{x0}" y="{y0}" width="{w}" height="{h}""#);
        self.with_title(&place, "rect", title);
    }

    fn with_title(&mut self, place: &str, element: &str, title: &str) {
        self.svg += place;
        match self.titles {
            true => {
                let _ = write!(self.svg, "><title>{}</title></{element}>", escape(title));
            }
            false => self.svg += "/>",
        }
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

    /// Writes the names of points, each where it is free, right of `left` and above `bottom`.
    pub(super) fn names(&mut self, left: i32, bottom: i32) {
        for (x, y, text) in std::mem::take(&mut self.names) {
            let (gap, up) = (10 * SCALE, TEXT_PX * SCALE * 35 / 100);
            let step = (TEXT_PX - 2) * SCALE;
            let beside = [0, -step, step].map(|down| {
                let y = y + up + down;
                [((x + gap, y), "start"), ((x - gap, y), "end")]
            });
            let around = [
                ((x, y - gap), "middle"),
                ((x, y + gap + TEXT_PX * SCALE * 3 / 4), "middle"),
            ];
            let mut places = beside.into_iter().flatten().chain(around);
            let free = places.find(|(at, anchor)| {
                let [x0, y0, x1, y1] = extent(*at, anchor, &text);
                let inside = x0 >= left && x1 <= self.right && y0 >= 0 && y1 <= bottom;
                let own = |b: &[i32; 4]| (b[0] + b[2], b[1] + b[3]) == (2 * x, 2 * y);
                inside
                    && self
                        .taken
                        .iter()
                        .all(|b| own(b) || x1 <= b[0] || b[2] <= x0 || y1 <= b[1] || b[3] <= y0)
            });
            if let Some((at, anchor)) = free {
                self.over(at, anchor, &text);
            }
        }
    }

    pub(super) fn units(&mut self, axes: &Axes, (w, h): (u32, u32)) {
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
            &fitted(&axes.y_unit, f64::from(w) / f64::from(SCALE) - 8.0),
        );
    }

    /// A text over the marks, with a rim that keeps lines off it.
    fn over(&mut self, at: (i32, i32), anchor: &str, text: &str) {
        self.taken.push(extent(at, anchor, text));
        self.svg += "<g class=\"over\">";
        self.text(at, anchor, "text", text);
        self.svg += "</g>";
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

/// Width of a text, in drawing units.
fn width(text: &str) -> i32 {
    (text_px(text) * f64::from(SCALE)).ceil() as i32
}

/// Where a text lies: left, top, right, bottom.
fn extent((x, y): (i32, i32), anchor: &str, text: &str) -> [i32; 4] {
    let width = width(text);
    let left = match anchor {
        "end" => x - width,
        "middle" => x - width / 2,
        _ => x,
    };
    [left, y - TEXT_PX * SCALE, left + width, y + 3 * SCALE]
}
