//! Tables of what was reached under what the machine gave.

use super::super::ceiling::{Place, Roof, WorkingSets};
use super::super::format::decimal_bytes;
use super::{Cell, Table, table};
use crate::host::binary_bytes;

/// One row for each phase of each case: what it reached, and of what.
pub(in super::super) fn shares(places: &[Place]) -> Table {
    let columns = [
        "case",
        "phase",
        "reached",
        super::UNIT,
        "peak of its rounds",
        "share %",
        "interval of the share",
        "operations a byte",
    ];
    let rows = places.iter().map(|place| {
        let share = place.share.as_ref();
        vec![
            Cell::text(&place.label),
            Cell::text(place.phase),
            Cell::number(Some(place.achieved.median)),
            Cell::text(place.unit),
            Cell::number(place.peak),
            Cell::share(share.map(|e| e.median)),
            Cell::between(share.and_then(|e| e.interval)),
            Cell::number(Some(place.ops_per_byte)),
        ]
    });
    let caption = "Decode against the read bandwidth, prefill against the arithmetic peak, by probes in the same rounds; medians";
    table(caption, &columns, rows.collect())
}

/// The roofs.
pub(in super::super) fn roofs(roofs: &[Roof]) -> Table {
    let rows = roofs.iter().map(|roof| {
        vec![
            Cell::count(Some(u64::from(roof.threads))),
            Cell::number(Some(roof.read_gb_s)),
            Cell::number(roof.int8_gops),
            Cell::number(roof.f32_gops),
        ]
    });
    let columns = ["threads", "read GB/s", "int8 GOP/s", "f32 GOP/s"];
    table(
        "Medians of the probes in the rounds that count",
        &columns,
        rows.collect(),
    )
}

/// A stored probe over the size of its buffer, and the cases on it.
pub(in super::super) fn working_sets(sets: &WorkingSets) -> Table {
    let row = |name: &str, size: String, bytes: f64, gb_s: f64| {
        vec![
            Cell::text(name),
            Cell::shown(size, Some(bytes)),
            Cell::number(Some(gb_s)),
        ]
    };
    let probed = sets.lines.iter().flat_map(|(name, points)| {
        let points = points.iter();
        points.map(move |(bytes, gb_s)| row(name, binary_bytes(*bytes as u64), *bytes, *gb_s))
    });
    let cases = sets.cases.iter();
    let cases = cases.map(|(name, bytes, gb_s)| row(name, decimal_bytes(*bytes), *bytes, *gb_s));
    let columns = ["what", "size", "GB/s"];
    table(
        "Read bandwidth by size",
        &columns,
        probed.chain(cases).collect(),
    )
}
