//! The tables of the report, shared by its HTML and its markdown.

mod ceiling;
mod quality;
mod sparsity;
mod speculation;
mod time;

pub(super) use ceiling::{roofs, shares, working_sets};
pub(super) use quality::{mixed, quality};
pub(super) use sparsity::sparsity;
pub(super) use speculation::speculation;
pub(super) use time::{counters, history, simulated, stalls};

use super::data::{Group, TokenTime, short_name};
use super::format::{self, MISSING, count, decimal_bytes, maybe, median, percent};
use crate::host::binary_bytes;
use crate::record::{CaseRecord, Phase, Run, Sample, Taint, above_peak};
use crate::stats::Interval;
use crate::summary::{Beside, BesideFirst};
use std::collections::BTreeSet;

/// Head of a column that holds the units of the one before.
pub(super) const UNIT: &str = "unit";

/// Head of a column that holds the interval of a ratio of cases.
pub(super) const RATIO_INTERVAL: &str = "interval of the ratio";

/// A table; the first column names the row.
pub(super) struct Table {
    pub caption: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

/// A cell's text, and the number it sorts by.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    pub text: String,
    pub sort: Option<f64>,
    /// Whether the row of this cell, its first, stands out.
    pub marked: bool,
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Cell {
        Cell {
            text: text.into(),
            sort: None,
            marked: false,
        }
    }

    pub(super) fn number(x: Option<f64>) -> Cell {
        Cell {
            text: maybe(x),
            sort: x,
            marked: false,
        }
    }

    /// A share of a peak, in percent.
    pub(super) fn share(percent: Option<f64>) -> Cell {
        let beside = percent.map_or("", above_peak);
        Cell {
            text: maybe(percent) + beside,
            sort: percent,
            marked: false,
        }
    }

    pub(super) fn shown(text: String, x: Option<f64>) -> Cell {
        Cell {
            text,
            sort: x,
            marked: false,
        }
    }

    pub(super) fn between(interval: Option<Interval>) -> Cell {
        Cell {
            text: format::interval(interval),
            sort: interval.map(|i| i.low),
            marked: false,
        }
    }

    pub(super) fn count(n: Option<u64>) -> Cell {
        Cell {
            text: n.map_or_else(|| MISSING.to_owned(), count),
            sort: n.map(|n| n as f64),
            marked: false,
        }
    }

    pub(super) fn bytes(n: Option<u64>) -> Cell {
        Cell {
            text: n.map_or_else(|| MISSING.to_owned(), binary_bytes),
            sort: n.map(|n| n as f64),
            marked: false,
        }
    }
}

impl Cell {
    /// The same, in a row that stands out.
    pub(super) fn standing_out(self) -> Cell {
        Cell {
            marked: true,
            ..self
        }
    }
}

/// A table from its parts.
pub(super) fn table(caption: &str, columns: &[&str], rows: Vec<Vec<Cell>>) -> Table {
    Table {
        caption: caption.to_owned(),
        columns: columns.iter().map(|c| (*c).to_owned()).collect(),
        rows,
    }
}

/// One row per case: the numbers that are compared.
pub(super) fn cases(run: &Run, groups: &[&Group<'_>]) -> Table {
    let columns = [
        "case",
        "decode tok/s",
        "interval",
        "MAD",
        "N",
        "prefill tok/s",
        "first token ms",
        "p99 ms",
        "GB/s",
        "% of peak",
        "peak memory",
        "disturbed",
        "failed",
    ];
    let rows = groups.iter().map(|group| {
        let decode = group.decode();
        let of =
            |e: Option<super::data::Estimate>| Cell::shown(median(e.as_ref()), e.map(|e| e.median));
        vec![
            Cell::text(&group.short),
            Cell::shown(median(decode.as_ref()), decode.as_ref().map(|e| e.median)),
            Cell::between(decode.as_ref().and_then(|e| e.interval)),
            Cell::number(decode.as_ref().map(|e| e.mad)),
            Cell::count(Some(group.counted.len() as u64)),
            of(group.prefill()),
            of(group.ttft()),
            Cell::number(group.quantiles[2].ms),
            of(group.bandwidth()),
            Cell::share(group.estimate(|s| run.bw_pct(s)).map(|e| e.median)),
            Cell::bytes(group.peak_rss_bytes()),
            Cell::count(Some(group.tainted() as u64)),
            Cell::count(Some(group.failures as u64)),
        ]
    });
    table(
        "Medians over repetitions, one row per case",
        &columns,
        rows.collect(),
    )
}

/// One row per case but the first: its rates over those of the first, the largest difference first.
pub(super) fn beside_first(first: &CaseRecord, all: &[BesideFirst<'_>]) -> Table {
    let columns = [
        "case",
        "decode ratio",
        RATIO_INTERVAL,
        "decodes",
        "prefill ratio",
        RATIO_INTERVAL,
        "N",
    ];
    let ratio = |beside: &Option<Beside>| {
        let beside = beside.as_ref();
        let interval = beside.and_then(|b| b.interval);
        [
            Cell::number(beside.map(|b| b.ratio)),
            Cell::between(interval),
        ]
    };
    let rows = all.iter().map(|row| {
        let rounds = row.decode.as_ref().map(|b| b.rounds.len() as u64);
        let [decode, decode_interval] = ratio(&row.decode);
        let [prefill, prefill_interval] = ratio(&row.prefill);
        vec![
            Cell::text(short_name(row.case)),
            decode,
            decode_interval,
            Cell::text(row.word().unwrap_or(MISSING)),
            prefill,
            prefill_interval,
            Cell::count(rounds),
        ]
    });
    let confidence = all.iter().filter_map(|row| row.decode.as_ref()?.interval);
    let confidence = confidence.map(|i| i.confidence).reduce(f64::min);
    let caption = format!(
        "Rates over those of {}, paired by round, the largest difference first{}",
        short_name(first),
        confidence.map_or_else(String::new, |c| format!(
            "; intervals of {:.0} %",
            c * 100.0
        ))
    );
    table(&caption, &columns, rows.collect())
}

/// Every repetition, in the order they ran.
pub(super) fn repetitions(group: &Group<'_>) -> Table {
    let columns = [
        "repetition",
        "decode tok/s",
        "prefill tok/s",
        "first token ms",
        "load ms",
        "involuntary switches",
        "steal ms",
        "disturbed by",
    ];
    let rows = group.all.iter().map(|sample| {
        vec![
            Cell::text(repetition_name(group, sample)),
            Cell::number(sample.decode_tok_s()),
            Cell::number(sample.prefill_tok_s()),
            Cell::number(sample.ttft_ms()),
            Cell::number(sample.load_ms),
            Cell::count(sample.usage.involuntary_switches),
            Cell::number(sample.usage.steal_ms),
            Cell::text(taints(sample)),
        ]
    });
    table(
        "Every repetition, in the order they ran",
        &columns,
        rows.collect(),
    )
}

fn repetition_name(group: &Group<'_>, sample: &Sample) -> String {
    let replaced = sample.is_measured() && !group.counted.iter().any(|s| std::ptr::eq(*s, sample));
    match (sample.phase, replaced) {
        (Phase::Warmup, _) => format!("warm-up {}", sample.round + 1),
        (Phase::Measured, true) => format!("round {}, replaced", sample.round + 1),
        (Phase::Measured, false) => format!("round {}", sample.round + 1),
    }
}

fn taints(sample: &Sample) -> String {
    let words: Vec<String> = merged(&sample.taint)
        .iter()
        .map(ToString::to_string)
        .collect();
    if words.is_empty() {
        MISSING.to_owned()
    } else {
        words.join(", ")
    }
}

/// Each kind once: a repetition of several processes names it for each of them.
fn merged(taints: &[Taint]) -> Vec<Taint> {
    use Taint::*;
    let mut all: Vec<Taint> = Vec::new();
    for taint in taints {
        let Some(known) = all.iter_mut().find(|t| t.name() == taint.name()) else {
            all.push(taint.clone());
            continue;
        };
        match (known, taint) {
            (Steal { ms: sum }, Steal { ms }) | (Throttled { ms: sum }, Throttled { ms }) => {
                *sum += ms;
            }
            (InvoluntarySwitches { count: sum }, InvoluntarySwitches { count })
            | (MajorFaults { count: sum }, MajorFaults { count })
            | (Migrations { count: sum }, Migrations { count }) => *sum += count,
            _ => {}
        }
    }
    all
}

/// Quantiles of the gaps between tokens.
pub(super) fn quantiles(group: &Group<'_>) -> Table {
    let gaps = group.gaps.concat();
    let mut rows: Vec<Vec<Cell>> = group
        .quantiles
        .iter()
        .map(|q| {
            vec![
                Cell::text(format!("p{:.0}", q.p * 100.0)),
                Cell::number(q.ms),
                Cell::between(q.interval),
            ]
        })
        .collect();
    let extreme = |of: fn(f64, f64) -> f64| gaps.iter().copied().reduce(of);
    rows.insert(
        0,
        vec![
            Cell::text("shortest"),
            Cell::number(extreme(f64::min)),
            Cell::between(None),
        ],
    );
    rows.push(vec![
        Cell::text("longest"),
        Cell::number(extreme(f64::max)),
        Cell::between(None),
    ]);
    let caption = format!(
        "Time per token over {} gaps; 95 % interval by bootstrap of repetitions",
        count(gaps.len() as u64)
    );
    table(&caption, &["quantile", "ms per token", "interval"], rows)
}

/// Median time of each token, by position.
pub(super) fn positions(group: &Group<'_>) -> Table {
    let gaps = &group.gaps;
    let rows = group
        .median_gap_by_position()
        .into_iter()
        .enumerate()
        .map(|(i, ms)| {
            let here = || gaps.iter().filter_map(|g| g.get(i).copied());
            vec![
                Cell::shown(format!("{}", i + 2), Some((i + 2) as f64)),
                Cell::number(Some(ms)),
                Cell::number(here().reduce(f64::min)),
                Cell::number(here().reduce(f64::max)),
            ]
        });
    table(
        "Time of each token over the repetitions",
        &["token", "median ms", "shortest ms", "longest ms"],
        rows.collect(),
    )
}

/// Stages of the phases: one row per stage for a single case, one row per phase for several.
pub(super) fn stages(phases: &[(String, TokenTime)]) -> Table {
    let parts = |time: &TokenTime| -> Vec<(&'static str, f64)> {
        let ends = [("outside", time.outside), ("all", time.total())];
        let stages = time.stages.iter().map(|(s, ms)| (s.name(), *ms));
        stages.chain(ends).collect()
    };
    let names: Vec<&str> = phases
        .first()
        .map(|(_, t)| parts(t).iter().map(|p| p.0).collect())
        .unwrap_or_default();
    let caption = "Milliseconds of a token by stage, mean over the repetitions that count";
    if phases.len() > 2 {
        let columns: Vec<&str> = ["phase"].into_iter().chain(names).collect();
        let rows = phases.iter().map(|(name, time)| {
            let cells = parts(time)
                .into_iter()
                .map(|(_, ms)| Cell::number(Some(ms)));
            [Cell::text(name)].into_iter().chain(cells).collect()
        });
        return table(caption, &columns, rows.collect());
    }
    let heads = phases
        .iter()
        .flat_map(|(name, _)| [format!("{name}, ms"), format!("{name}, share")]);
    Table {
        caption: caption.to_owned(),
        columns: ["stage".to_owned()].into_iter().chain(heads).collect(),
        rows: (0..names.len())
            .map(|i| {
                let cells = phases.iter().flat_map(|(_, time)| {
                    let ms = parts(time)[i].1;
                    let share = ms / time.total();
                    [
                        Cell::number(Some(ms)),
                        Cell::shown(percent(share), Some(share)),
                    ]
                });
                [Cell::text(names[i])].into_iter().chain(cells).collect()
            })
            .collect(),
    }
}

/// Bytes of a decoded token by where they lie, and the bandwidth that results.
pub(super) fn bytes(groups: &[&Group<'_>]) -> Table {
    let columns = [
        "case",
        "weights",
        "of these looked up",
        "KV read",
        "KV written",
        "weights + KV",
        "activations (cached)",
        "achieved GB/s",
    ];
    let rows = groups.iter().map(|group| {
        let token = group.decode_bytes();
        let of =
            |x: Option<f64>| Cell::shown(x.map_or_else(|| MISSING.to_owned(), decimal_bytes), x);
        let bandwidth = group.bandwidth();
        vec![
            Cell::text(&group.short),
            of(token.map(|t| t.weights)),
            of(token.map(|t| t.lookup)),
            of(token.map(|t| t.kv_read)),
            of(token.map(|t| t.kv_write)),
            of(token.map(|t| t.weights + t.kv_read + t.kv_write)),
            of(token.map(|t| t.activations)),
            Cell::shown(median(bandwidth.as_ref()), bandwidth.map(|e| e.median)),
        ]
    });
    table(
        "Bytes moved for one decoded token, as counted where they are read",
        &columns,
        rows.collect(),
    )
}

/// Memory and loading, worst over repetitions.
pub(super) fn memory(groups: &[&Group<'_>]) -> Table {
    let columns = [
        "case",
        "peak memory",
        "on huge pages",
        "weights in file",
        "KV cache room",
        "load ms",
        "weights were",
        "minor faults",
        "major faults",
    ];
    let rows = groups.iter().map(|group| {
        let most =
            |of: &dyn Fn(&Sample) -> Option<u64>| group.counted.iter().filter_map(|s| of(s)).max();
        let load = group.estimate(|s| s.load_ms);
        vec![
            Cell::text(&group.short),
            Cell::bytes(group.peak_rss_bytes()),
            Cell::bytes(most(&|s| s.usage.huge_pages_bytes)),
            Cell::bytes(most(&|s| s.model.weight_bytes)),
            Cell::bytes(most(&|s| s.kv_capacity_bytes)),
            Cell::shown(median(load.as_ref()), load.map(|e| e.median)),
            Cell::text(placed(&group.counted)),
            Cell::count(most(&|s| s.usage.minor_faults)),
            Cell::count(most(&|s| s.usage.major_faults)),
        ]
    });
    table(
        "Largest value over the repetitions that count; loading: median; faults: while it was timed",
        &columns,
        rows.collect(),
    )
}

/// How the weights came into memory, in all ways that they did.
fn placed(samples: &[&Sample]) -> String {
    let ways = samples.iter().filter_map(|s| s.weights.as_ref());
    let ways: BTreeSet<String> = ways.map(ToString::to_string).collect();
    match ways.is_empty() {
        true => MISSING.to_owned(),
        false => Vec::from_iter(ways).join("; "),
    }
}

/// Repetitions that something disturbed; `None` if none was.
pub(super) fn tainted(groups: &[Group<'_>]) -> Option<Table> {
    let mut rows = Vec::new();
    for group in groups {
        for sample in group.all.iter().filter(|s| !s.taint.is_empty()) {
            rows.push(vec![
                Cell::text(&group.short),
                Cell::text(repetition_name(group, sample)),
                Cell::text(taints(sample)),
                Cell::number(sample.decode_tok_s()),
            ]);
        }
    }
    let columns = ["case", "repetition", "disturbed by", "decode tok/s"];
    (!rows.is_empty()).then(|| table("Disturbed repetitions: kept, but marked", &columns, rows))
}

/// Repetitions that gave no result; `None` if all did.
pub(super) fn failures(run: &Run) -> Option<Table> {
    let rows: Vec<Vec<Cell>> = run
        .failures
        .iter()
        .map(|f| {
            let round = match f.phase {
                Phase::Warmup => format!("warm-up {}", f.round + 1),
                Phase::Measured => format!("round {}", f.round + 1),
            };
            let what = match f.stderr.trim() {
                "" => f.message.clone(),
                stderr => format!("{}\n{stderr}", f.message),
            };
            vec![
                Cell::text(&f.case),
                Cell::text(&f.runner),
                Cell::text(round),
                Cell::text(f.kind.name()),
                Cell::text(what),
            ]
        })
        .collect();
    let columns = ["case", "runner", "repetition", "failure", "what happened"];
    (!rows.is_empty()).then(|| table("Repetitions that gave no result", &columns, rows))
}

/// The quantities of one case with their intervals.
pub(super) fn results(run: &Run, group: &Group<'_>) -> Table {
    let row = |name: &str, unit: &str, estimate: Option<super::data::Estimate>| {
        let values = || estimate.iter().flat_map(|e| e.values.iter().copied());
        vec![
            Cell::text(name),
            Cell::number(estimate.as_ref().map(|e| e.median)),
            Cell::text(unit),
            Cell::between(estimate.as_ref().and_then(|e| e.interval)),
            Cell::number(estimate.as_ref().map(|e| e.mad)),
            Cell::number(values().reduce(f64::min)),
            Cell::number(values().reduce(f64::max)),
            Cell::count(estimate.as_ref().map(|e| e.values.len() as u64)),
        ]
    };
    let rows = vec![
        row("decode rate", "tok/s", group.decode()),
        row("prefill rate", "tok/s", group.prefill()),
        row("time to first token", "ms", group.ttft()),
        row(
            "time per output token",
            "ms",
            group.estimate(Sample::tpot_ms),
        ),
        row("end to end", "ms", group.estimate(Sample::e2e_ms)),
        row("bandwidth while decoding", "GB/s", group.bandwidth()),
        row(
            "share of the read bandwidth",
            "%",
            group.estimate(|s| run.bw_pct(s)),
        ),
        row(
            "arithmetic while reading the prompt",
            "GOP/s",
            group.estimate(Sample::prefill_gops),
        ),
        row(
            "share of the arithmetic peak",
            "%",
            group.estimate(|s| run.prefill_pct(s)),
        ),
        row("loading", "ms", group.estimate(|s| s.load_ms)),
    ];
    let kind = group.decode().map_or_else(
        || "nothing measured".to_owned(),
        |e| format::interval_kind(&e),
    );
    let columns = [
        "quantity", "median", UNIT, "interval", "MAD", "least", "most", "N",
    ];
    table(
        &format!("Over the repetitions that count; {kind}"),
        &columns,
        rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::sample;

    #[test]
    fn processes_of_a_repetition_are_disturbed_together() {
        let switches = |count| Taint::InvoluntarySwitches { count };
        let disturbed = Sample {
            taint: vec![
                switches(40),
                Taint::Steal { ms: 30.0 },
                switches(123),
                Taint::Steal { ms: 20.0 },
            ],
            ..sample()
        };
        assert_eq!(taints(&disturbed), "163 involuntary switches, steal 50 ms");
        assert_eq!(taints(&sample()), MISSING);
    }
}
