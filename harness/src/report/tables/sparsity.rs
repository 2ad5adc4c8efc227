//! What was left out.

use super::super::format::percent;
use super::super::sparsity::Thinned;
use super::quality::nats;
use super::{Cell, RATIO_INTERVAL, Table, table};
use crate::record::{active_share, by_site};
use engine::sparsity::Site;
use std::collections::BTreeSet;

/// How well a case predicts.
const QUALITY: [&str; 4] = [
    "perplexity",
    "perplexity densely",
    "KL divergence",
    "same first choice",
];

/// One row a case: the share of the channels that took part at each site, the bytes, and what came of it.
pub(in super::super) fn sparsity(all: &[Thinned<'_>]) -> Table {
    let mut columns = vec!["case".to_owned()];
    let seen: BTreeSet<Site> = all
        .iter()
        .flat_map(|one| by_site(&one.telemetry))
        .map(|(site, _)| site)
        .collect();
    columns.extend(seen.iter().map(|site| format!("{} active", site.name())));
    let has_quality = all.iter().any(|one| one.figures.is_some());
    let quality = QUALITY.into_iter().filter(|_| has_quality);
    let read = ["weights read a token", "weights left out"].into_iter();
    let came_to = ["speed-up by bytes", "speed-up measured", RATIO_INTERVAL];
    columns.extend(read.chain(quality).chain(came_to).map(str::to_owned));
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let rows = all.iter().map(|one| {
        let sites = by_site(&one.telemetry);
        let mut row = vec![Cell::text(&one.group.short)];
        row.extend(
            seen.iter()
                .map(|site| match sites.get(site).and_then(active_share) {
                    Some(share) => Cell::shown(percent(share), Some(share)),
                    None => Cell::number(None),
                }),
        );
        row.extend([
            Cell::bytes(Some(one.read as u64)),
            Cell::bytes(Some(one.skipped as u64)),
        ]);
        if has_quality {
            row.extend(figures(one));
        }
        row.extend([
            Cell::number(one.by_bytes),
            Cell::number(one.measured.as_ref().map(|m| m.ratio)),
            Cell::between(one.measured.as_ref().and_then(|m| m.interval)),
        ]);
        row
    });
    let caption = "Channels that took part, over all layers, while tokens were generated. By bytes: weights and KV cache of the dense case over those of this one";
    let divergence = if has_quality {
        "; divergence in nats"
    } else {
        ""
    };
    table(&format!("{caption}{divergence}"), &columns, rows.collect())
}

/// A cell for each of [`QUALITY`].
fn figures(one: &Thinned<'_>) -> [Cell; 4] {
    let known = one.figures;
    let choice = known.map(|f| f.top1_share);
    [
        Cell::number(known.map(|f| f.perplexity)),
        Cell::number(one.dense_figures.map(|f| f.perplexity)),
        known.map_or_else(|| Cell::number(None), |f| nats(f.kld_mean)),
        choice.map_or_else(
            || Cell::number(None),
            |share| Cell::shown(percent(share), Some(share)),
        ),
    ]
}
