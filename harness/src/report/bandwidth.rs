//! The page of a probe: read bandwidth over the size of the buffer.

use super::html::head;
use super::plots::{Axes, Mark, Plot, Role, Shape, tick_number};
use crate::host::{HostFacts, binary_bytes};
use maud::{DOCTYPE, html};

/// Read bandwidth of one configuration over the size of the buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct BandwidthLine {
    /// What it is of: `2 threads, huge pages`.
    pub name: String,
    /// Bytes of the buffer and 1e9 bytes a second.
    pub points: Vec<(f64, f64)>,
}

/// The page, in one file that fetches nothing.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn bandwidth_page(
    host: &HostFacts,
    created_at: &str,
    lines: &[BandwidthLine],
) -> anyhow::Result<String> {
    let plot = plot(host, lines)?;
    let sizes = lines.iter().max_by_key(|line| line.points.len());
    let sizes: Vec<f64> = sizes.map_or(vec![], |line| line.points.iter().map(|p| p.0).collect());
    let at = |line: &BandwidthLine, size: f64| {
        let found = line.points.iter().find(|p| p.0 == size);
        found.map_or("-".to_owned(), |p| format!("{:.1}", p.1))
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            (head("What this machine gives"))
            body {
                header {
                    p.kind { "Tokenlab probe · " time datetime=(created_at) { (created_at) } }
                    h1 { "What this machine gives" }
                    p.summary { (host.summary()) }
                }
                main {
                    section {
                        h2 { "Read bandwidth over the size of the buffer" }
                        p.quiet {
                            "Medians, GB/s, all threads together; the size is that of all threads' parts. "
                            "Vertical lines: caches of one core, and of all cores where they are shared."
                        }
                        @if let Some(plot) = &plot { (plot) } @else { p { "A quick probe measures memory alone." } }
                        ul.legend {
                            @for (i, line) in lines.iter().enumerate() {
                                li { span.swatch style={ "background:var(--series-" (i % usize::from(Role::SERIES)) ")" } {} (line.name) }
                            }
                        }
                        details open[plot.is_none()] {
                            summary { "The numbers" }
                            div.scroll { table {
                                thead { tr { th { "buffer" } @for line in lines { th.number { (line.name) } } } }
                                tbody {
                                    @for size in &sizes {
                                        tr { td { (binary_bytes(*size as u64)) } @for line in lines { td.number { (at(line, *size)) } } }
                                    }
                                }
                            } }
                        }
                    }
                }
            }
        }
    };
    Ok(page.into_string())
}

/// The plot, if there is more than one size.
fn plot(host: &HostFacts, lines: &[BandwidthLine]) -> anyhow::Result<Option<Plot>> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let low = all().map(|p| p.0.log2()).fold(f64::INFINITY, f64::min);
    let high = all().map(|p| p.0.log2()).fold(f64::NEG_INFINITY, f64::max);
    let most = all().map(|p| p.1).fold(0.0, f64::max) * 1.08;
    if high <= low {
        return Ok(None);
    }
    let mut marks = Vec::new();
    for cache in host.caches.iter().filter(|c| c.kind != "Instruction") {
        let x = (cache.bytes as f64).log2();
        if (low..high).contains(&x) {
            marks.push(Mark::Line {
                points: vec![(x, 0.0), (x, most)],
                role: Role::Grid,
                width: 2,
            });
            marks.push(Mark::Label {
                x,
                y: most * 0.94,
                text: format!(" L{}", cache.level),
                below: false,
            });
        }
    }
    for (i, line) in lines.iter().enumerate() {
        let role = Role::Series(i as u8 % Role::SERIES);
        let points: Vec<(f64, f64)> = line.points.iter().map(|p| (p.0.log2(), p.1)).collect();
        for (point, given) in points.iter().zip(&line.points) {
            let size = binary_bytes(given.0 as u64);
            marks.push(Mark::Point {
                x: point.0,
                y: point.1,
                shape: Shape::Dot,
                role,
                hollow: false,
                title: format!("{}: {size}: {:.1} GB/s", line.name, given.1),
            });
        }
        marks.push(Mark::Line {
            points,
            role,
            width: 2,
        });
    }
    let axes = Axes {
        x: low - 0.2..high + 0.2,
        y: 0.0..most,
        x_unit: "size of the buffer".to_owned(),
        y_unit: "GB/s".to_owned(),
        x_tick: size_tick,
        y_tick: tick_number,
        x_at: vec![],
        y_at: vec![],
        y_ticks: true,
        height: 360,
    };
    let label = format!(
        "Read bandwidth of {} configurations over the size of the buffer",
        lines.len()
    );
    Plot::draw(&label, &axes, &marks).map(Some)
}

/// Every fourth power of two.
fn size_tick(x: f64) -> String {
    let power = x.round();
    match (x - power).abs() < 1e-6 && power.rem_euclid(2.0) == 0.0 {
        true => binary_bytes(power.exp2() as u64),
        false => String::new(),
    }
}
