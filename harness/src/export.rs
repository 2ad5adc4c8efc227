//! `results.csv` and `tokens.csv`: the records as flat tables. An unknown number is an empty field, never 0.

use crate::counter::{self, Row};
use crate::record::{Counts, ENGINE, Run, SCHEMA_VERSION, Sample};
use crate::stats;
use crate::summary::{Summary, summaries};
use anyhow::Context as _;
use std::fmt::Display;

/// One row a case. Where a column means what it means in `llama-bench -o csv`, it has its name there; `avg_ts` and
/// `stddev_ts` are the decode rate. Engine options follow as `engine.<option>`, swept keys as `case` has them. Last come
/// counters as `counter.<part>.<event or metric>`, events per token, and in `counter_sources` where each is from.
///
/// # Errors
/// When a record cannot be put into a row.
pub fn results_csv(run: &Run) -> anyhow::Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    let rows = summaries(run);
    let counted: Vec<Vec<Row>> = rows.iter().map(|s| counter::table(&s.counted)).collect();
    let mut columns: Vec<String> = Vec::new();
    for row in counted.iter().flatten().filter(|row| row.value.is_some()) {
        let column = counter_column(row);
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    let rows = rows.iter().zip(&counted).map(|(summary, counted)| {
        let mut row = result_row(run, summary)?;
        row.extend(counter_cells(&columns, counted));
        anyhow::Ok(row)
    });
    let rows: Vec<Vec<(String, String)>> = rows.collect::<anyhow::Result<_>>()?;
    if let Some(first) = rows.first() {
        csv.write_record(first.iter().map(|(name, _)| name))?;
    }
    for row in &rows {
        csv.write_record(row.iter().map(|(_, value)| value))?;
    }
    csv.into_inner().context("results.csv")
}

/// The columns of one case.
fn result_row(run: &Run, summary: &Summary<'_>) -> anyhow::Result<Vec<(String, String)>> {
    let case = summary.case;
    let model = &run.manifest.models.get(case.model);
    let first = summary.counted.first();
    let rates = summary.values(Sample::decode_tok_s);
    let gaps = summary.gaps_ms();
    let median = |quantity: fn(&Sample) -> Option<f64>| text(summary.median(quantity));
    let mut row: Vec<(String, String)> = [
        ("schema_version", SCHEMA_VERSION.to_string()),
        ("case", case.name.clone()),
        ("runner", summary.runner.to_owned()),
        ("test_time", text(first.map(|s| &s.started_at))),
        ("model_filename", text(model.map(|m| &m.path))),
        ("model_sha256", text(model.map(|m| &m.sha256))),
        ("model_type", text(first.map(|s| &s.model.description))),
        ("model_size", text(first.and_then(|s| s.model.weight_bytes))),
        ("model_n_params", text(first.and_then(|s| s.model.n_params))),
        ("n_prompt", text(first.map(|s| s.n_prompt))),
        ("n_gen", case.n_gen.to_string()),
        ("n_threads", text(first.and_then(|s| s.threads))),
        ("isa", text(first.and_then(|s| s.isa.as_ref()))),
        ("repetitions", summary.counted.len().to_string()),
        ("tainted", summary.tainted().to_string()),
        ("failures", summary.failures.to_string()),
        ("mismatches", summary.mismatches.to_string()),
        ("avg_ts", text(mean(&rates))),
        ("stddev_ts", text(standard_deviation(&rates))),
        ("decode_tok_s_median", text(stats::median(&rates))),
        ("decode_tok_s_mad", text(stats::mad(&rates))),
        ("decode_tok_s_min", text(stats::quantile(&rates, 0.0))),
        ("decode_tok_s_max", text(stats::quantile(&rates, 1.0))),
        ("prefill_tok_s_median", median(Sample::prefill_tok_s)),
        ("ttft_ms_median", median(Sample::ttft_ms)),
        ("tpot_ms_median", median(Sample::tpot_ms)),
        ("itl_ms_p50", text(stats::quantile(&gaps, 0.5))),
        ("itl_ms_p90", text(stats::quantile(&gaps, 0.9))),
        ("itl_ms_p99", text(stats::p99(&gaps))),
        ("e2e_ms_median", median(Sample::e2e_ms)),
        (
            "decode_bytes_per_token",
            median(Sample::decode_bytes_per_token),
        ),
        (
            "lookup_bytes_per_token",
            median(Sample::lookup_bytes_per_token),
        ),
        ("decode_gb_s_median", median(Sample::decode_gb_s)),
        (
            "peak_gb_s_median",
            text(summary.median(|s| run.peak_gb_s(s))),
        ),
        ("bw_pct_median", text(summary.median(|s| run.bw_pct(s)))),
        ("prefill_gops_median", median(Sample::prefill_gops)),
        (
            "prefill_peak_gops_median",
            text(summary.median(|s| run.peak_gops(s))),
        ),
        (
            "prefill_pct_median",
            text(summary.median(|s| run.prefill_pct(s))),
        ),
        ("acceptance_median", median(Sample::acceptance)),
        ("kept_share_median", median(Sample::kept_share)),
        ("tokens_per_pass_median", median(Sample::tokens_per_pass)),
        ("draft_ms_median", median(|s| Some(s.speculation_ms()?[0]))),
        ("verify_ms_median", median(|s| Some(s.speculation_ms()?[1]))),
        (
            "rollback_ms_median",
            median(|s| Some(s.speculation_ms()?[2])),
        ),
        ("active_share_median", median(Sample::active_share)),
        (
            "skipped_bytes_per_token",
            median(Sample::skipped_bytes_per_token),
        ),
        ("load_ms_median", median(|s| s.load_ms)),
        (
            "peak_rss_bytes_median",
            median(|s| s.usage.peak_rss_bytes.map(|b| b as f64)),
        ),
        ("output_sha256", text(summary.output_sha256())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    row.extend(quality_columns(run, summary));
    row.extend(simulated_columns(run, summary));
    // The names of the options come from serde, as everywhere.
    if let serde_json::Value::Object(options) = serde_json::to_value(&case.engine)? {
        for (name, value) in options {
            let plain = value.as_str().map(str::to_owned);
            row.push((
                format!("engine.{name}"),
                plain.unwrap_or_else(|| value.to_string()),
            ));
        }
    }
    Ok(row)
}

/// How well the case predicts the scenario's text.
fn quality_columns(run: &Run, summary: &Summary<'_>) -> Vec<(String, String)> {
    let of_engine = summary.runner == ENGINE;
    let record = run.quality_record(summary.case.index).filter(|_| of_engine);
    let figures = record.and_then(|record| record.figures());
    let columns = [
        ("perplexity", text(figures.map(|f| f.perplexity))),
        (
            "perplexity_error",
            text(figures.map(|f| f.perplexity_error)),
        ),
        ("kld_mean", text(figures.map(|f| f.kld_mean))),
        ("kld_mean_error", text(figures.map(|f| f.kld_mean_error))),
        ("kld_p99", text(figures.map(|f| f.kld_p99))),
        ("top1_share", text(figures.map(|f| f.top1_share))),
        (
            "quality_error",
            text(record.and_then(|record| record.missing())),
        ),
    ];
    columns.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Simulated counts of one token in each phase.
fn simulated_columns(run: &Run, summary: &Summary<'_>) -> Vec<(String, String)> {
    let of_engine = summary.runner == ENGINE;
    let simulated = run.simulated(summary.case.index).filter(|_| of_engine);
    let phases = [
        ("prefill", simulated.map(|s| &s.prefill)),
        ("decode", simulated.and_then(|s| s.decode.as_ref())),
    ];
    type Count = fn(&Counts) -> u64;
    let counts: [(&str, Count); 3] = [
        ("instructions", |c| c.instructions),
        ("l1_misses", Counts::l1_misses),
        ("ll_misses", Counts::ll_misses),
    ];
    let columns = phases.iter().flat_map(|(phase, of_phase)| {
        counts.map(|(name, count)| {
            let value = of_phase.map(|phase| phase.per_token(count));
            (format!("sim_{phase}_{name}"), text(value))
        })
    });
    columns.collect()
}

/// A counter's column: `counter.decode.cycles`.
fn counter_column(row: &Row) -> String {
    let part = row.part.map_or("end", |part| part.name());
    format!("counter.{part}.{}", row.name)
}

/// A case's cells in these columns, and where each number comes from.
fn counter_cells(columns: &[String], counted: &[Row]) -> Vec<(String, String)> {
    let known: Vec<(String, &Row)> = counted
        .iter()
        .filter(|row| row.value.is_some())
        .map(|row| (counter_column(row), row))
        .collect();
    let cell = |column: &String| {
        let found = known.iter().find(|(name, _)| name == column);
        (column.clone(), text(found.and_then(|(_, row)| row.value)))
    };
    let sources = known
        .iter()
        .map(|(name, row)| format!("{name}: {}", row.source_words()));
    let sources: Vec<String> = sources.collect();
    let mut cells: Vec<(String, String)> = columns.iter().map(cell).collect();
    cells.push(("counter_sources".to_owned(), sources.join("; ")));
    cells
}

/// One row a generated token.
///
/// # Errors
/// When a record cannot be put into a row.
pub fn tokens_csv(run: &Run) -> anyhow::Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record([
        "schema_version",
        "case",
        "runner",
        "phase",
        "round",
        "attempt",
        "token",
        "id",
        "arrival_ns",
        "gap_ns",
    ])?;
    for s in &run.samples {
        let phase = if s.is_measured() {
            "measured"
        } else {
            "warmup"
        };
        let mut before = None;
        for (i, (&arrival, id)) in s.arrival_ns.iter().zip(&s.output_ids).enumerate() {
            let gap = before.map(|ns| arrival.saturating_sub(ns));
            csv.write_record([
                &SCHEMA_VERSION.to_string(),
                &s.case,
                &s.runner,
                phase,
                &s.round.to_string(),
                &s.attempt.to_string(),
                &i.to_string(),
                &id.to_string(),
                &arrival.to_string(),
                &text(gap),
            ])?;
            before = Some(arrival);
        }
    }
    csv.into_inner().context("tokens.csv")
}

/// A value, or nothing if it is unknown.
fn text(value: Option<impl Display>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Of a sample, with n - 1, as llama-bench computes it; unknown below two values.
fn standard_deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{manifest, sample};
    use crate::record::{Count, Counters, Source};

    fn run() -> Run {
        let mut second = Sample {
            round: 1,
            ..sample()
        };
        second.arrival_ns = vec![20_000_000, 40_000_000, 60_000_000, 120_000_000];
        Run {
            samples: vec![sample(), second],
            ..Run::empty(manifest())
        }
    }

    /// Header and rows.
    fn rows(bytes: &[u8]) -> Vec<Vec<String>> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(bytes);
        let records = reader.records().map(|r| r.expect("csv"));
        records
            .map(|r| r.iter().map(str::to_owned).collect())
            .collect()
    }

    #[test]
    fn a_case_is_a_row() {
        let rows = rows(&results_csv(&run()).expect("csv"));
        assert_eq!(rows.len(), 2);
        let cell = |name: &str| {
            let at = rows[0]
                .iter()
                .position(|n| n == name)
                .unwrap_or_else(|| panic!("column {name}"));
            rows[1][at].as_str()
        };
        assert_eq!(rows[0][0], "schema_version");
        assert_eq!(
            (cell("n_prompt"), cell("n_gen"), cell("repetitions")),
            ("10", "4", "2")
        );
        // 50 and 30 tokens a second.
        assert_eq!((cell("avg_ts"), cell("decode_tok_s_max")), ("40", "50"));
        assert!(cell("stddev_ts").starts_with("14.142"));
        assert_eq!(cell("engine.affinity"), "physical");
        // Nobody measured these.
        assert_eq!(
            (
                cell("peak_rss_bytes_median"),
                cell("model_n_params"),
                cell("itl_ms_p99")
            ),
            ("", "", "")
        );
    }

    #[test]
    fn counters_are_columns_with_their_sources() {
        let mut run = run();
        for sample in &mut run.samples {
            sample.counters = Some(Counters {
                decode: vec![Count {
                    event: "task-clock".into(),
                    value: 6e7,
                    source: Source::Software,
                    running: None,
                    machine: false,
                }],
                ..Counters::default()
            });
        }
        let rows = rows(&results_csv(&run).expect("csv"));
        let cell = |name: &str| {
            let at = rows[0].iter().position(|n| n == name);
            rows[1][at.unwrap_or_else(|| panic!("column {name}"))].as_str()
        };
        // Three tokens after the first, in 60 and 100 ms.
        assert_eq!(cell("counter.decode.task-clock"), "20000000");
        assert_eq!(cell("counter.decode.cpus-used"), "0.8");
        let sources = cell("counter_sources");
        assert!(
            sources.starts_with("counter.decode.task-clock: software; "),
            "{sources}"
        );
    }

    #[test]
    fn a_token_is_a_row() {
        let rows = rows(&tokens_csv(&run()).expect("csv"));
        assert_eq!(rows.len(), 1 + 8);
        assert_eq!(rows[1][6..], ["0", "5", "20000000", ""]);
        assert_eq!(rows[2][6..], ["1", "6", "30000000", "10000000"]);
    }
}
