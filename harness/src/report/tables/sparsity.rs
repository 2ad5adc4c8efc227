//! What was left out.

use super::super::format::percent;
use super::super::sparsity::Thinned;
use super::{Cell, RATIO_INTERVAL, Table, table};
use crate::record::{active_share, by_site};
use engine::sparsity::Site;

/// One row a case: the share of the channels that took part at each site, the bytes, and what came of it.
pub(in super::super) fn sparsity(all: &[Thinned<'_>]) -> Table {
    let mut columns = vec!["case".to_owned()];
    columns.extend(Site::ALL.map(|site| format!("{} active", site.name())));
    columns.extend(
        [
            "weights read a token",
            "weights left out",
            "speed-up by bytes",
            "speed-up measured",
            RATIO_INTERVAL,
        ]
        .map(str::to_owned),
    );
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let rows = all.iter().map(|one| {
        let sites = by_site(&one.telemetry);
        let mut row = vec![Cell::text(&one.group.short)];
        row.extend(
            Site::ALL.map(|site| match sites.get(&site).and_then(active_share) {
                Some(share) => Cell::shown(percent(share), Some(share)),
                None => Cell::number(None),
            }),
        );
        row.extend([
            Cell::bytes(Some(one.read as u64)),
            Cell::bytes(Some(one.skipped as u64)),
            Cell::number(one.by_bytes),
            Cell::number(one.measured.as_ref().map(|m| m.ratio)),
            Cell::between(one.measured.as_ref().and_then(|m| m.interval)),
        ]);
        row
    });
    let caption = "Channels that took part, over all layers, while tokens were generated. By bytes: weights and KV cache of the dense case over those of this one";
    table(caption, &columns, rows.collect())
}
