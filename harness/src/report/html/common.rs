//! Parts that all sections are made of.

use super::super::plots::{Plot, Role, Shape};
use super::super::tables::Table;
use maud::{Markup, PreEscaped, html};

/// A plot with its caption, and the tables behind it.
pub(super) fn figure(plot: &Plot, caption: Markup, data: &[Table]) -> Markup {
    html! {
        figure {
            (maud::Render::render(plot))
            figcaption { (caption) }
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
    let style = match hollow {
        false => format!("fill=\"var(--{})\"", role.name()),
        true => format!(
            "fill=\"none\" stroke=\"var(--{})\" stroke-width=\"2\"",
            role.name()
        ),
    };
    let drawn = match shape {
        Shape::Dot => format!("<circle cx=\"7\" cy=\"7\" r=\"5\" {style}/>"),
        Shape::Square => {
            format!("<rect x=\"1\" y=\"1\" width=\"12\" height=\"12\" rx=\"2\" {style}/>")
        }
        Shape::Triangle => format!("<path d=\"M7 2 12.5 12h-11z\" {style}/>"),
    };
    html! { (PreEscaped(format!("<svg viewBox=\"0 0 14 14\" aria-hidden=\"true\">{drawn}</svg>"))) }
}

/// A table in a box of its own that scrolls; sortable where there is something to sort.
pub(super) fn table(table: &Table) -> Markup {
    let numeric: Vec<bool> = (0..table.columns.len())
        .map(|i| table.rows.iter().any(|r| r[i].sort.is_some()))
        .collect();
    html! {
        p.caption { (table.caption) }
        div.scroll tabindex="0" role="region" aria-label=(table.caption) {
            table.sortable[table.rows.len() > 1].many[table.columns.len() > 8] aria-label=(table.caption) {
                thead {
                    tr {
                        @for (i, column) in table.columns.iter().enumerate() {
                            th scope="col" .left[!numeric[i]] { (column) }
                        }
                    }
                }
                tbody {
                    @for row in &table.rows {
                        tr.best[row[0].marked] {
                            @for (i, cell) in row.iter().enumerate() {
                                @let long = cell.text.len() > 40;
                                @if i == 0 {
                                    th scope="row" data-sort=[cell.sort] .words[long] { (cell.text) }
                                } @else {
                                    td data-sort=[cell.sort] .left[!numeric[i]] .words[long] { (cell.text) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// With a capital letter.
pub(super) fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(characters).collect()
    })
}
