//! How well the cases predict, beside their size and speed.

use super::super::data::Group;
use super::super::format::percent;
use super::super::quality::Point;
use super::{Cell, Table, table};
use crate::record::MatrixFacts;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

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
        "formats, by bytes",
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
            Cell::text(formats(p.group)),
        ]
    });
    let caption = "Divergence in nats. Rows that stand out: no case with as few bytes a token, or none as fast by the medians, diverges less";
    table(caption, &columns, rows.collect())
}

/// The formats of a case's matrices, the one with most bytes first, with their shares.
fn formats(group: &Group<'_>) -> String {
    let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
    for m in matrices(group) {
        *bytes.entry(&m.format).or_default() += m.bytes;
    }
    let all = bytes.values().sum::<u64>() as f64;
    let mut formats: Vec<(&str, u64)> = bytes.into_iter().collect();
    formats.sort_by_key(|&(_, bytes)| Reverse(bytes));
    let shares = formats.iter().map(|&(format, bytes)| match formats.len() {
        1 => format.to_owned(),
        _ => format!("{format} {:.0} %", 100.0 * bytes as f64 / all),
    });
    shares.collect::<Vec<_>>().join(", ")
}

fn matrices<'a>(group: &Group<'a>) -> &'a [MatrixFacts] {
    group.all.first().map_or(&[], |s| &s.model.matrices)
}

/// What the bits of `mixed` were spent on: a row for each kind of matrices, a column for each such case. `None` without one.
pub(in super::super) fn mixed(groups: &[&Group<'_>]) -> Option<Table> {
    let mixed: Vec<&&Group<'_>> = groups
        .iter()
        .filter(|g| g.case.engine.is_mixed() && !matrices(g).is_empty())
        .collect();
    let kinds = mixed.iter().flat_map(|g| matrices(g)).map(|m| &m.kind);
    let kinds: BTreeSet<&String> = kinds.collect();
    let names = mixed.iter().map(|g| g.short.as_str());
    let columns: Vec<&str> = std::iter::once("matrices").chain(names).collect();
    let cell = |group: &Group<'_>, kind: &str| {
        let of_kind: Vec<_> = matrices(group).iter().filter(|m| m.kind == kind).collect();
        let formats = of_kind.iter().map(|m| match of_kind.len() {
            1 => m.format.clone(),
            _ => format!("{} in {}", m.count, m.format),
        });
        Cell::text(formats.collect::<Vec<_>>().join(", "))
    };
    let rows = kinds.iter().map(|kind| {
        let cells = mixed.iter().map(|g| cell(g, kind));
        std::iter::once(Cell::text(kind.as_str()))
            .chain(cells)
            .collect()
    });
    let caption = "Formats that plans chose, by kind of matrix; where a kind has several, how many matrices have which";
    (!mixed.is_empty()).then(|| table(caption, &columns, rows.collect()))
}

/// A divergence; below a millionth it is rounding.
pub(super) fn nats(x: f64) -> Cell {
    Cell::shown(format!("{x:.6}"), Some(x))
}
