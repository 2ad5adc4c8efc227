//! Decode rates: every repetition, sweeps, grids.

use super::super::data::{Group, short_name};
use super::super::format::{number, percent};
use super::super::plots::{self, Role};
use super::super::sweep::{self, Grid, Line, Sweep, THREADS};
use super::super::tables::{self, Cell, Table};
use super::Page;
use super::common::{figure, swatch, table};
use crate::host::plural;
use crate::record::Run;
use crate::summary::beside_first;
use maud::{Markup, html};

/// Steps of colour in a grid.
const HEAT_STEPS: f64 = 6.0;

pub(super) fn section(page: &Page<'_>) -> anyhow::Result<Markup> {
    if let [group] = page.own.as_slice() {
        return one(page, group);
    }
    Ok(html! {
        @if let Some(sweep) = sweep::sweep(page.run, &page.own) { (over(&sweep)?) }
        @for grid in sweep::grids(&page.own) { (heat(&grid)) }
        @if let Some(plot) = plots::strips(&page.own)? {
            h3 { "Every repetition" }
            (figure(&plot, html! { "Line: median; band: its interval. " }, &[]))
        }
        (table(&tables::cases(page.run, &page.own)))
        (beside(page.run)?)
        @for group in &page.own {
            details.case { summary { (group.short) } (one(page, group)?) }
        }
    })
}

/// All cases beside the first.
fn beside(run: &Run) -> anyhow::Result<Markup> {
    let all = beside_first(run);
    let (Some(first), false) = (run.manifest.cases.first(), all.is_empty()) else {
        return Ok(html! {});
    };
    let plot = plots::beside_first(&all)?;
    Ok(html! {
        h3 { "Beside the first case" }
        @if let Some(plot) = &plot {
            (figure(plot, html! { "How many times as fast as " (short_name(first)) " each case decodes, the largest difference first." }, &[]))
        }
        (table(&tables::beside_first(first, &all)))
    })
}

fn one(page: &Page<'_>, group: &Group<'_>) -> anyhow::Result<Markup> {
    let plot = plots::rounds(group)?;
    Ok(html! {
        @if let Some((plot, start)) = plot {
            (figure(&plot, html! {
                "Line: median; band: its interval. "
                @if start > 0.0 { "The axis does not start at 0. " }
            }, &[tables::repetitions(group)]))
        } @else {
            p { "No repetition that counts gave a decode rate." }
        }
        (table(&tables::results(page.run, group)))
    })
}

/// A sweep over a number; over threads, what each of them adds.
fn over(sweep: &Sweep) -> anyhow::Result<Markup> {
    let scaling = sweep.key == THREADS;
    let plot = plots::sweep(sweep)?;
    let named = sweep.lines.iter().enumerate();
    Ok(html! {
        h3 { "Over " code { (sweep.key) } }
        @if sweep.lines.len() > 1 {
            ul.legend {
                @for (i, line) in named { li { (swatch(Role::Series(i as u8))) (line.name) } }
            }
        }
        @if scaling { ul { @for line in &sweep.lines { li { (knee(line)) } } } }
        (figure(&plot, html! {
            "Points and lines: medians; specks: repetitions; hollow: some were disturbed. "
            @if scaling {
                "Grey: in proportion to the first point. Thin: what the read bandwidth of the same rounds allows."
            }
        }, &[points(sweep)]))
    })
}

/// The knee of one line in words.
fn knee(line: &Line) -> String {
    let of = match line.name.as_str() {
        "" => String::new(),
        name => format!("{name}: "),
    };
    let Some(last) = line.points.last().filter(|_| line.points.len() > 1) else {
        return format!("{of}measured at one number of threads.");
    };
    match line.knee() {
        Some(x) => format!(
            "{of}the knee is at {}: the next step brings less than half of its share.",
            plural(x as usize, "thread")
        ),
        None => format!("{of}no knee up to {}.", plural(last.x as usize, "thread")),
    }
}

/// The numbers behind a sweep.
fn points(sweep: &Sweep) -> Table {
    let mut rows = Vec::new();
    for line in &sweep.lines {
        let Some(first) = line.points.first() else {
            continue;
        };
        for point in &line.points {
            let gain = point.rate.median / first.rate.median;
            let efficiency = gain / (point.x / first.x);
            rows.push(vec![
                Cell::text(if line.name.is_empty() {
                    &sweep.key
                } else {
                    &line.name
                }),
                Cell::shown(point.x.to_string(), Some(point.x)),
                Cell::number(Some(point.rate.median)),
                Cell::between(point.rate.interval),
                Cell::shown(format!("{gain:.2}"), Some(gain)),
                Cell::shown(percent(efficiency), Some(efficiency)),
                Cell::number(point.ceiling),
            ]);
        }
    }
    let columns = [
        "line",
        &sweep.key,
        "tok/s",
        "interval",
        "times the first",
        "of proportional",
        "read bandwidth allows",
    ];
    tables::table("Decode rate of each point", &columns, rows)
}

/// Two swept keys as a table whose cells are coloured by their rate.
fn heat(grid: &Grid) -> Markup {
    let all = || grid.cells.iter().flatten().copied().flatten();
    let low = all().fold(f64::INFINITY, f64::min);
    let high = all().fold(0.0, f64::max);
    let step = |rate: f64| match high > low {
        true => ((rate - low) / (high - low) * HEAT_STEPS).round(),
        false => HEAT_STEPS,
    };
    let (rows, columns) = (&grid.rows, &grid.columns);
    let caption = format!("Decode rate in tok/s by {} and {}", rows.0, columns.0);
    html! {
        h3 { code { (rows.0) } " by " code { (columns.0) } @if !grid.name.is_empty() { ", " (grid.name) } }
        p.caption { (caption) "; darker in light mode, lighter in dark mode: faster" }
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table.heat aria-label=(caption) {
                thead { tr { th scope="col" { (rows.0) } @for value in &columns.1 { th scope="col" { (value) } } } }
                tbody {
                    @for (value, cells) in rows.1.iter().zip(&grid.cells) {
                        tr {
                            th scope="row" { (value) }
                            @for cell in cells {
                                @match cell {
                                    Some(rate) => td class={ "heat-" (step(*rate)) } { (number(*rate)) },
                                    None => td { "not measured" },
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
