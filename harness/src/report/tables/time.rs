//! Tables over tokens and over runs.

use super::super::data::{Group, STALL_TIMES};
use super::super::format::{decimal_bytes, percent};
use super::super::words;
use super::{Cell, Table, table};
use crate::counter;
use crate::history::Series;
use crate::metric::Metric;
use crate::simulate;

/// Latency and stalls, one row a case.
pub(in super::super) fn stalls(groups: &[&Group<'_>]) -> Table {
    let rows = groups.iter().map(|group| {
        let stalls = group.stalls();
        let lost = stalls.map(|s| s.lost_share);
        vec![
            Cell::text(&group.short),
            Cell::number(group.quantiles[0].ms),
            Cell::number(group.quantiles[1].ms),
            Cell::number(group.quantiles[2].ms),
            Cell::count(stalls.map(|s| s.count as u64)),
            Cell::count(stalls.map(|s| s.gaps as u64)),
            Cell::shown(
                lost.map_or_else(|| super::MISSING.to_owned(), percent),
                lost,
            ),
        ]
    });
    let columns = [
        "case",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "stalls",
        "of gaps",
        "time lost",
    ];
    let caption = format!(
        "Time per token; a stall is a gap longer than {STALL_TIMES} medians of its repetition"
    );
    table(&caption, &columns, rows.collect())
}

/// Simulated counts, one row for each phase and stage.
pub(in super::super) fn simulated(rows: &[simulate::Row]) -> Table {
    let rows = rows.iter().map(|row| {
        let name = match row.stage {
            None => Cell::text(row.phase).standing_out(),
            Some(stage) => Cell::text(format!("{} · {stage}", row.phase)),
        };
        let token = &row.per_token;
        let share = |of: f64| Cell::shown(percent(of), Some(of));
        vec![
            name,
            Cell::number(Some(token.instructions)),
            share(row.instructions_share),
            Cell::number(Some(token.l1_misses)),
            Cell::number(Some(token.ll_misses)),
            share(row.ll_misses_share),
            Cell::shown(decimal_bytes(token.ll_bytes), Some(token.ll_bytes)),
        ]
    });
    let columns = [
        "phase and stage",
        "instructions",
        "share",
        "L1 misses",
        "last-level misses",
        "share",
        "bytes missed",
    ];
    table("Simulated, for each token", &columns, rows.collect())
}

/// Counters of a case with their sources; those that are not available are left out.
pub(in super::super) fn counters(rows: &[counter::Row]) -> Table {
    let present = rows.iter().filter(|row| row.absent.is_none());
    let rows = present.map(|row| {
        let per_token = if row.per_token { " per token" } else { "" };
        vec![
            Cell::text(&row.title),
            Cell::number(row.value),
            Cell::text(format!("{}{per_token}", row.unit)),
            Cell::text(row.part.map_or("at the end", |part| part.name())),
            Cell::number(row.mad),
            Cell::text(row.source_words()),
            Cell::text(row.meaning),
        ]
    });
    let columns = [
        "event",
        "median",
        super::UNIT,
        "phase",
        "MAD",
        "source",
        "what it is",
    ];
    table(
        "Medians over the repetitions that count",
        &columns,
        rows.collect(),
    )
}

/// A metric by run.
pub(in super::super) fn history(series: &Series, metric: &Metric) -> Table {
    let rows = series.points.iter().enumerate().map(|(i, point)| {
        let change = series.changes.iter().find(|c| c.at == i);
        let change = change.map(|c| 100.0 * (c.change.ratio - 1.0));
        let commit = point.git_commit.as_deref().unwrap_or("unknown");
        vec![
            Cell::shown(words::instant(&point.created_at), Some(i as f64)),
            Cell::text(commit.chars().take(9).collect::<String>()),
            Cell::number(Some(point.median)),
            Cell::number(Some(point.mad)),
            Cell::count(Some(point.repetitions as u64)),
            Cell::count(Some(point.tainted as u64)),
            Cell::shown(
                change.map_or_else(|| super::MISSING.to_owned(), |c| format!("{c:+.1} %")),
                change,
            ),
        ]
    });
    let columns = [
        "run",
        "commit",
        metric.unit,
        "MAD",
        "N",
        "disturbed",
        "change",
    ];
    table(
        &format!("{} by run", metric.title),
        &columns,
        rows.collect(),
    )
}
