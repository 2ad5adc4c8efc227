//! How well the cases predict, beside their size and speed.

use super::super::format::percent;
use super::super::quality::Point;
use super::{Cell, Table, table};

/// One row a case whose quality is known; those that nothing beats stand out.
pub(in super::super) fn quality(points: &[Point<'_>]) -> Table {
    let columns = [
        "case",
        "KL divergence",
        "its error",
        "p99 of it",
        "same first choice",
        "perplexity",
        "error of perplexity",
        "bytes a token",
        "decode tok/s",
        "best of its",
    ];
    let rows = points.iter().map(|p| {
        let f = p.figures;
        let name = Cell::text(&p.group.short);
        let best = match (p.best_of_size, p.best_of_speed) {
            (true, true) => "size and speed",
            (true, false) => "size",
            (false, true) => "speed",
            (false, false) => "",
        };
        vec![
            match best.is_empty() {
                true => name,
                false => name.standing_out(),
            },
            nats(f.kld_mean),
            nats(f.kld_mean_error),
            nats(f.kld_p99),
            Cell::shown(percent(f.top1_share), Some(f.top1_share)),
            Cell::number(Some(f.perplexity)),
            Cell::number(Some(f.perplexity_error)),
            Cell::count(p.bytes.map(|b| b.round() as u64)),
            Cell::number(p.rate),
            Cell::text(best),
        ]
    });
    let caption = "Divergence in nats. Rows that stand out: no case with as few bytes a token, or none as fast, diverges less";
    table(caption, &columns, rows.collect())
}

/// A divergence; below a millionth it is rounding.
fn nats(x: f64) -> Cell {
    Cell::shown(format!("{x:.6}"), Some(x))
}
