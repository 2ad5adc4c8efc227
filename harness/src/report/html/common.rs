//! Parts that all sections are made of.

use super::super::format::MISSING;
use super::super::plots::{Key, Plot, Role, Shape, text_px};
use super::super::tables::{Cell, Table, UNIT};
use maud::{Markup, PreEscaped, html};

/// A plot with its caption, and the tables behind it.
pub(super) fn figure(plot: &Plot, caption: Markup, data: &[Table]) -> Markup {
    html! {
        figure {
            (maud::Render::render(plot))
            figcaption {
                (caption)
                @if !plot.legend.is_empty() { " " (legend(&plot.legend)) }
            }
            @for table_behind in data {
                details { summary { "Data" } (table(table_behind)) }
            }
        }
    }
}

/// A field of a role's colour.
pub(super) fn swatch(role: Role) -> Markup {
    key(role, Shape::Square, false)
}

/// A point as plots draw it.
pub(super) fn key(role: Role, shape: Shape, hollow: bool) -> Markup {
    drawn(&Key {
        role,
        shape,
        hollow,
        name: String::new(),
    })
}

fn drawn(key: &Key) -> Markup {
    html! { (PreEscaped(format!("<svg viewBox=\"0 0 14 14\" aria-hidden=\"true\">{}</svg>", key.drawn()))) }
}

fn legend(keys: &[Key]) -> Markup {
    html! {
        span.legend {
            @for key in keys { span { (drawn(key)) (key.name) } }
        }
    }
}

/// Characters from which on a cell's text breaks into lines.
const LONG: usize = 40;
/// Least width of such a cell, in pixels.
const LONG_PX: f64 = 190.0;
/// Width that a phone has for a table, in pixels.
const NARROW_TABLE_PX: f64 = 310.0;
/// Padding of a cell, both sides together, in pixels.
const CELL_PADDING_PX: f64 = 20.0;

/// A table, sortable where there is something to sort. On a phone one that would be too wide shows each row as a block
/// of its own, with the names of the columns above its values.
pub(super) fn table(table: &Table) -> Markup {
    let numeric: Vec<bool> = (0..table.columns.len())
        .map(|i| table.rows.iter().any(|r| r[i].sort.is_some()))
        .collect();
    html! {
        p.caption { (table.caption) }
        div.scroll tabindex="0" role="region" aria-label=(table.caption) {
            table.sortable[table.rows.len() > 1].many[table.columns.len() > 8].stacks[stacks(table)] aria-label=(table.caption) {
                thead {
                    tr {
                        @for (i, column) in table.columns.iter().enumerate() {
                            th scope="col" title=[explained(column)] .left[!numeric[i]] { (column) }
                        }
                    }
                }
                tbody {
                    @for row in &table.rows {
                        tr.best[row[0].marked] {
                            @for (i, cell) in row.iter().enumerate() {
                                @let long = cell.text.len() > LONG;
                                @if i == 0 {
                                    th scope="row" data-sort=[cell.sort] .words[long] { (cell.text) }
                                } @else {
                                    td data-sort=[cell.sort] data-label=(table.columns[i]) data-unit=[unit(table, row, i)] .none[cell.text == MISSING] .left[!numeric[i]] .words[long] { (cell.text) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What a head means that is not a plain word.
fn explained(column: &str) -> Option<&'static str> {
    match column {
        "MAD" | "MAD of tok/s" => {
            Some("median absolute deviation: half of the values lie nearer to the median")
        }
        "N" => Some("repetitions that count"),
        "interval" => Some("where the median lies, with the confidence that the caption gives"),
        "interval of the ratio" => Some("where the ratio lies, by the signed ranks of its rounds"),
        "% of peak" | "share %" => {
            Some("of what a probe of the same round reached on this machine")
        }
        "p99 ms" => Some("99 of 100 tokens took less"),
        _ => None,
    }
}

/// The unit of a cell whose next one says it: a block of values shows both as one.
fn unit<'a>(table: &Table, row: &'a [Cell], i: usize) -> Option<&'a str> {
    let named = table.columns.get(i + 1).is_some_and(|name| name == UNIT);
    named.then(|| row[i + 1].text.as_str())
}

/// Whether a table is too wide for a phone.
fn stacks(table: &Table) -> bool {
    let column = |i: usize| {
        let words = table.columns[i].split(' ').map(text_px);
        let cells = table.rows.iter().map(|row| match row[i].text.len() > LONG {
            true => LONG_PX,
            false => text_px(&row[i].text),
        });
        words.chain(cells).fold(0.0, f64::max) + CELL_PADDING_PX
    };
    (0..table.columns.len()).map(column).sum::<f64>() > NARROW_TABLE_PX
}

/// With a capital letter.
pub(super) fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(characters).collect()
    })
}
