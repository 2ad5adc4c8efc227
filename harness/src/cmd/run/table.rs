//! What a run says in the terminal: one row a case.

use crate::counter;
use crate::quality;
use crate::record::{CaseRecord, ENGINE, RepeatCommand, Run, Sample, Terms, above_peak};
use crate::report;
use crate::simulate;
use crate::stats;
use crate::summary::{self, Beside, Summary, summaries};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table};
use engine::quality::Figures;
use std::fmt::Write as _;

/// Shown for what nobody measured.
const UNKNOWN: &str = "unknown";
/// Widest table and sentence, in columns.
const COLUMNS_MAX: u16 = 110;
/// Digits of a hash that are shown.
const HASH_CHARS: usize = 12;

/// The table of results. Quantities are medians over the repetitions that count.
pub(in crate::cmd) fn results(run: &Run) -> String {
    let mut table = new_table();
    table.set_header([
        "case",
        "decode tok/s\n± MAD\nmin..max",
        "prefill\ntok/s\nTTFT ms",
        "TPOT ms\np50\np90",
        "decode GB/s\nof peak",
        "peak\nMB",
        "output\nSHA-256",
        "runs",
    ]);
    for summary in summaries(run) {
        table.add_row(row(run, &summary));
    }
    align_numbers(&mut table, 6);
    table.to_string()
}

fn row(run: &Run, summary: &Summary<'_>) -> [String; 8] {
    let rates = summary.values(Sample::decode_tok_s);
    let tpot = summary.values(Sample::tpot_ms);
    let low_high = stats::quantile(&rates, 0.0).zip(stats::quantile(&rates, 1.0));
    let spread = low_high
        .zip(stats::mad(&rates))
        .map_or(UNKNOWN.to_owned(), |((low, high), mad)| {
            format!("± {mad:.2}\n{low:.1}..{high:.1}")
        });
    let median =
        |quantity: fn(&Sample) -> Option<f64>, digits| number(summary.median(quantity), digits);
    [
        short_lines(
            summary.case,
            run.manifest.shown_name(summary.case, summary.runner),
        ),
        format!("{}\n{spread}", number(stats::median(&rates), 2)),
        format!(
            "{}\n{}",
            median(Sample::prefill_tok_s, 1),
            median(Sample::ttft_ms, 1)
        ),
        format!(
            "{}\n{}",
            number(stats::quantile(&tpot, 0.5), 2),
            number(stats::quantile(&tpot, 0.9), 2)
        ),
        format!(
            "{}\n{}",
            median(Sample::decode_gb_s, 2),
            of_peak(run, summary)
        ),
        median(|s| s.usage.peak_rss_bytes.map(|b| b as f64 / 1e6), 0),
        hash(summary),
        runs(summary),
    ]
}

/// What was counted, in a line, or one for each case where they differ.
pub(super) fn counters(run: &Run) -> String {
    let summaries = summaries(run);
    let all = summaries.iter().filter(|s| s.runner == ENGINE);
    let said = all.map(|s| (&s.case.name, counter::sentence(&s.counted)));
    let said: Vec<(&String, String)> = said.collect();
    match said.first() {
        None => String::new(),
        Some((_, first)) if said.iter().all(|(_, text)| text == first) => {
            wrapped(&format!("counters: {first}"), "") + "\n"
        }
        Some(_) => {
            let lines = said
                .iter()
                .map(|(case, text)| wrapped(&format!("counters, {case}: {text}"), "") + "\n");
            lines.collect()
        }
    }
}

/// A name of a case with each swept key on a line of its own.
fn lines(case: &CaseRecord, mut name: String) -> String {
    for key in case.swept.keys() {
        name = name.replacen(&format!(" {key}="), &format!("\n{key}="), 1);
    }
    name.replace(" (lossy)", "\n(lossy)")
}

/// The same with keys as short as tells them apart.
fn short_lines(case: &CaseRecord, name: String) -> String {
    report::shortened(case, &lines(case, name))
}

/// The share of the read bandwidth of the same rounds, and that bandwidth.
fn of_peak(run: &Run, summary: &Summary<'_>) -> String {
    let share = summary.median(|s| run.bw_pct(s));
    let peak = summary.median(|s| run.peak_gb_s(s));
    match share.zip(peak) {
        Some((share, peak)) => format!("{share:.0} % of {peak:.2}{}", above_peak(share)),
        None => UNKNOWN.into(),
    }
}

/// The output hash, or that there is not one.
fn hash(summary: &Summary<'_>) -> String {
    let expected = summary.case.expect_sha256.is_some();
    match (summary.output_sha256(), summary.mismatches) {
        (Some(hash), 0) => {
            let short: String = hash.chars().take(HASH_CHARS).collect();
            let verdict = if expected { "as expected" } else { "all agree" };
            format!("{short}\n{verdict}")
        }
        (None, 0) => UNKNOWN.into(),
        (_, wrong) => format!("WRONG\n{wrong} differ"),
    }
}

/// How many repetitions there are, and what is wrong with some.
fn runs(summary: &Summary<'_>) -> String {
    let mut text = summary.counted.len().to_string();
    for (count, word) in [
        (summary.failures, "failed"),
        (summary.tainted(), "disturbed"),
    ] {
        if count > 0 {
            let _ = write!(text, "\n{count} {word}");
        }
    }
    text
}

/// The cases beside the first, the largest difference in decoding first; nothing for one case.
pub(super) fn beside_first(run: &Run) -> String {
    let all = summary::beside_first(run);
    let (Some(first), false) = (run.manifest.cases.first(), all.is_empty()) else {
        return String::new();
    };
    let mut table = new_table();
    table.set_header(["case", "decode\nratio", "prefill\nratio", "decodes"]);
    for row in &all {
        table.add_row([
            short_lines(row.case, row.case.shown_name()),
            beside(row.decode.as_ref()),
            beside(row.prefill.as_ref()),
            row.word().unwrap_or(UNKNOWN).into(),
        ]);
    }
    align_numbers(&mut table, 3);
    let intervals = all.iter().filter_map(|row| row.decode.as_ref()?.interval);
    let confidence = intervals.map(|i| i.confidence).reduce(f64::min);
    let confidence = confidence.map_or(String::new(), |c| {
        format!(", with intervals of {:.0} %", 100.0 * c)
    });
    let said = format!(
        "rates over those of the first case ({}), paired by round{confidence}:",
        first.name
    );
    format!("\n{}\n{table}\n", wrapped(&said, ""))
}

/// How well the cases predict the scenario's text; nothing where that was not asked for.
pub(super) fn quality(run: &Run) -> String {
    let Some(promised) = &run.manifest.quality else {
        return String::new();
    };
    let mut table = new_table();
    table.set_header([
        "case",
        "KL divergence\nmean ± error",
        "p99",
        "same first\nchoice",
        "perplexity\n± error",
    ]);
    let mut reasons = String::new();
    for case in &run.manifest.cases {
        let Some(record) = run.quality_record(case.index) else {
            continue;
        };
        if let Some(reason) = record.missing() {
            reasons += &(wrapped(&format!("{}: no quality: {reason}", case.name), "") + "\n");
        }
        let figures = record.figures();
        let figure = |of: fn(&Figures) -> String| figures.map_or(UNKNOWN.into(), of);
        table.add_row([
            short_lines(case, case.shown_name()),
            figure(|f| format!("{:.5} ± {:.5}", f.kld_mean, f.kld_mean_error)),
            figure(|f| format!("{:.5}", f.kld_p99)),
            figure(|f| format!("{:.2} %", 100.0 * f.top1_share)),
            figure(|f| format!("{:.4} ± {:.4}", f.perplexity, f.perplexity_error)),
        ]);
    }
    align_numbers(&mut table, 5);
    let said = wrapped(&format!("quality: {}", quality::sentence(promised)), "");
    format!("\n{said}\n{table}\n{reasons}")
}

/// What drafting came to; nothing where nothing could be drafted.
pub(super) fn speculation(run: &Run) -> String {
    let groups = report::groups(run);
    let own = report::own(&groups);
    let all = report::drafted(&own);
    if all.is_empty() {
        return String::new();
    }
    let mut table = new_table();
    table.set_header([
        "case",
        "drafted\nlooked at",
        "kept of\nthese",
        "pays\nfrom",
        "cost c\nof a token",
        "v(k+1)\nof a pass",
        "speed-up\nexpected",
        "speed-up\nmeasured",
    ]);
    for one in &all {
        let (seen, kept) = one.looked_at();
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let term = |of: fn(&Terms) -> f64| number(one.terms.as_ref().map(of), 3);
        let from = match one.terms.as_ref().map(Terms::break_even) {
            Some(None) => "never".to_owned(),
            from => from.flatten().map_or(UNKNOWN.into(), percent),
        };
        let measured = one.measured.as_ref();
        table.add_row([
            short_lines(one.case(), one.case().shown_name()),
            format!("{}\n{seen}", one.telemetry.drafted),
            match seen {
                0 => UNKNOWN.into(),
                _ => percent(kept as f64 / seen as f64),
            },
            from,
            term(|t| t.c),
            term(|t| t.v),
            term(|t| t.speed_up()),
            beside(measured),
        ]);
    }
    align_numbers(&mut table, 8);
    keep_numbers(&mut table);
    let said = format!(
        "{} Speed-ups are over the case without drafts and with the same settings otherwise; costs are in passes over one token:",
        report::outputs(&all)
    );
    format!("\n{}\n{table}\n", wrapped(&said, ""))
}

/// A ratio above its interval.
fn beside(measured: Option<&Beside>) -> String {
    let interval = measured.and_then(|m| m.interval);
    let between = interval.map_or(String::new(), |i| format!("{:.3} to {:.3}", i.low, i.high));
    format!("{}\n{between}", number(measured.map(|m| m.ratio), 3))
}

/// What leaving channels out came to: speed beside quality, and what is encoded a second time for it; nothing where nothing was
/// left out.
pub(super) fn sparsity(run: &Run) -> String {
    let groups = report::groups(run);
    let all = report::thinned(run, &report::own(&groups));
    if all.is_empty() {
        return String::new();
    }
    let mut table = new_table();
    table.set_header([
        "case",
        "channels\nactive",
        "read\nMB a token",
        "speed-up\nby bytes",
        "speed-up\nmeasured",
        "perplexity\ndensely",
        "KL\ndivergence",
        "same first\nchoice",
    ]);
    for one in &all {
        let (figures, dense) = (one.figures, one.dense_figures);
        table.add_row([
            short_lines(one.case(), one.case().shown_name()),
            format!("{:.1} %", 100.0 * one.active()),
            format!("{:.1}", one.read / 1e6),
            number(one.by_bytes, 3),
            beside(one.measured.as_ref()),
            format!(
                "{}\n{}",
                number(figures.map(|f| f.perplexity), 4),
                number(dense.map(|f| f.perplexity), 4)
            ),
            number(figures.map(|f| f.kld_mean), 5),
            figures.map_or(UNKNOWN.into(), |f| format!("{:.2} %", 100.0 * f.top1_share)),
        ]);
    }
    align_numbers(&mut table, 8);
    keep_numbers(&mut table);
    let held = all.iter().filter_map(|one| one.held());
    let held: String = held
        .map(|held| wrapped(&format!("by channels, {held}"), "") + "\n")
        .collect();
    let said =
        "sparsity is lossy; speed-ups are over the dense case with the same settings otherwise:";
    format!("\n{}\n{table}\n{held}", wrapped(said, ""))
}

/// What the simulation of each case counted, or why it did not; a line each.
pub(super) fn simulated(run: &Run) -> String {
    let cases = run.manifest.cases.iter();
    let records = cases.filter_map(|case| run.simulation(case.index));
    let lines = records.map(|record| match run.manifest.cases.len() {
        1 => wrapped(&simulate::sentence(record), "") + "\n",
        _ => {
            wrapped(
                &format!("{}: {}", record.case, simulate::sentence(record)),
                "",
            ) + "\n"
        }
    });
    lines.collect()
}

/// The cases of a scenario.
pub(in crate::cmd) fn cases(cases: &[CaseRecord], models: &[String]) -> String {
    let mut table = new_table();
    table.set_header([
        "", "case", "model", "prompt", "n_gen", "threads", "affinity", "isa", "ctx",
    ]);
    for case in cases {
        let prompt = match (&case.prompt, case.prompt_tokens) {
            (Some(text), _) => format!("{} characters", text.chars().count()),
            (None, Some(tokens)) => format!("{tokens} random tokens"),
            (None, None) => UNKNOWN.into(),
        };
        let threads = case.engine.threads;
        table.add_row([
            case.index.to_string(),
            lines(case, case.name.clone()),
            models[case.index as usize].replace(" (", "\n("),
            prompt,
            case.n_gen.to_string(),
            if threads == 0 {
                "all cores".into()
            } else {
                threads.to_string()
            },
            word(&case.engine.affinity),
            word(&case.engine.isa),
            if case.engine.ctx == 0 {
                "the model's".into()
            } else {
                case.engine.ctx.to_string()
            },
        ]);
    }
    // Names stay whole, so that they can be copied.
    for column in table.column_iter_mut().skip(1).take(2) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table.to_string()
}

/// Command lines with what they cannot repeat.
pub(in crate::cmd) fn commands(commands: &[RepeatCommand]) -> String {
    let mut text = String::new();
    for command in commands {
        if let Some(note) = &command.note {
            let _ = writeln!(text, "  # {note}");
        }
        let _ = writeln!(text, "  {}", command.line);
    }
    text
}

/// A setting as the scenario spells it.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(value) => value.to_string(),
        Err(_) => UNKNOWN.into(),
    }
}

/// An empty table in the one style, no wider than the terminal.
pub(in crate::cmd) fn new_table() -> Table {
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic);
    let width = table.width().unwrap_or(COLUMNS_MAX);
    table.set_width(width.min(COLUMNS_MAX));
    table
}

/// A sentence in lines as long as tables are wide; all but the first begin with two spaces more than `indent`.
pub(in crate::cmd) fn wrapped(text: &str, indent: &str) -> String {
    let columns = new_table().width().unwrap_or(COLUMNS_MAX).into();
    let next = format!("{indent}  ");
    let options = textwrap::Options::new(columns)
        .initial_indent(indent)
        .subsequent_indent(&next)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::fill(text, options)
}

/// Keeps numbers whole, so that names of cases break where something must.
fn keep_numbers(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
}

pub(in crate::cmd) fn align_numbers(table: &mut Table, columns: usize) {
    for column in table.column_iter_mut().take(columns).skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or(UNKNOWN.into(), |v| format!("{v:.digits$}"))
}
