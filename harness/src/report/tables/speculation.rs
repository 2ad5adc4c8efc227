//! What drafts came to.

use super::super::format::percent;
use super::super::speculation::Drafted;
use super::{Cell, RATIO_INTERVAL, Table, table};

/// One row a case that may draft: what was drafted and kept, the formula's terms and what it expects, and what was measured.
pub(in super::super) fn speculation(all: &[Drafted<'_>]) -> Table {
    let columns = [
        "case",
        "drafted",
        "kept",
        "tokens a pass",
        "acceptance a",
        "draft length k",
        "cost of a drafted token c",
        "cost of a pass v(k+1)",
        "time drafting",
        "time rolling back",
        "pays from a",
        "speed-up expected",
        "speed-up measured",
        RATIO_INTERVAL,
    ];
    let rows = all.iter().map(|one| {
        let t = &one.telemetry;
        let term = |of: fn(&crate::record::Terms) -> f64| Cell::number(one.terms.as_ref().map(of));
        let (seen, kept_of_these) = one.looked_at();
        let kept = (t.drafted > 0).then(|| t.accepted as f64 / t.drafted as f64);
        let [drafting, rolling_back] = one.time_shares();
        let from = match one.terms.as_ref().map(|terms| terms.break_even()) {
            Some(None) => Cell::text("never"),
            from => Cell::number(from.flatten()),
        };
        vec![
            Cell::text(&one.group.short),
            Cell::count(Some(t.drafted)),
            kept.map_or_else(
                || Cell::number(None),
                |kept| Cell::shown(percent(kept), Some(kept)),
            ),
            Cell::number(one.tokens_per_pass()),
            Cell::number((seen > 0).then(|| kept_of_these as f64 / seen as f64)),
            term(|t| t.k),
            term(|t| t.c),
            term(|t| t.v),
            Cell::shown(percent(drafting), Some(drafting)),
            Cell::shown(percent(rolling_back), Some(rolling_back)),
            from,
            term(|t| t.speed_up()),
            Cell::number(one.measured.as_ref().map(|m| m.ratio)),
            Cell::between(one.measured.as_ref().and_then(|m| m.interval)),
        ]
    });
    let caption = "Over all repetitions that count; costs in passes of the model over one token. Expected: (1 - a^(k+1)) / (1 - a) tokens in k c + v(k+1), and one in one where there was no draft";
    table(caption, &columns, rows.collect())
}
