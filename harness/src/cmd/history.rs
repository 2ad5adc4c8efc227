//! `harness history`: a metric over all runs of a scenario on this machine.

use crate::cmd::run::new_table;
use crate::cmd::run::table::wrapped;
use crate::exit::{Exit, Fail};
use crate::history::{self, Series, sparkline};
use crate::host::{HostFacts, plural};
use crate::metric::{self, Metric};
use crate::scenario;
use comfy_table::CellAlignment;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Shows a metric over all runs of a scenario on this machine, and where it changed.
///
/// Runs of one case are joined where model, prompt, length and engine options are the same; others are shown apart.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Scenario: its file or its name.
    scenario: String,
    /// The metric.
    #[arg(long, default_value = "decode_tok_s")]
    metric: String,
    /// Folder of the runs.
    #[arg(long, value_name = "DIR", default_value = "results")]
    results_dir: PathBuf,
    /// Prints everything as JSON.
    #[arg(long)]
    json: bool,
    /// Runs that are listed, the latest; the line shows all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    last: usize,
}

/// Prints the history to stdout.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let Some(metric) = Metric::by_name(&args.metric) else {
        let names: Vec<&str> = metric::ALL.iter().map(|m| m.name).collect();
        let text = format!(
            "metric \"{}\" is unknown: expected one of {}",
            args.metric,
            names.join(", ")
        );
        return Err(Fail::usage(text));
    };
    let path = Path::new(&args.scenario);
    let name = match path.is_file() {
        true => scenario::load(path, &[])?.name,
        false => args.scenario.clone(),
    };
    let fingerprint = HostFacts::read().fingerprint();
    let all = history::history(&args.results_dir, &name, &fingerprint, &[metric])?;
    let mut out = anstream::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(Exit::Ok);
    }
    if all.is_empty() {
        let place = args.results_dir.display();
        eprintln!(
            "no run of \"{name}\" on this machine in \"{place}\" knows its {}",
            metric.title
        );
        return Ok(Exit::Error);
    }
    for series in &all {
        writeln!(out, "{}", text(series, metric, args.last))?;
    }
    Ok(Exit::Ok)
}

/// One case: a line over all runs, a table of the latest, and the changes in words.
fn text(series: &Series, metric: &Metric, last: usize) -> String {
    let medians: Vec<f64> = series.points.iter().map(|p| p.median).collect();
    let runs = plural(medians.len(), "run");
    let digits = metric.digits;
    let mut lines = vec![format!(
        "{}: {} in {}, {runs}",
        series.case, metric.title, metric.unit
    )];
    if !series.apart.is_empty() {
        lines.push(wrapped(&format!("with {}", series.apart), "  "));
    }
    lines.push(format!("  {}", sparkline(&medians)));
    let mut table = new_table();
    table.set_header(["started", "commit", "median", "± MAD", "n", "disturbed", ""]);
    for (i, point) in series.points.iter().enumerate() {
        if i + last < series.points.len() {
            continue;
        }
        let change = series.changes.iter().find(|change| change.at == i);
        table.add_row([
            point.created_at.clone(),
            point
                .git_commit
                .as_deref()
                .map_or("unknown".into(), |c| c.chars().take(9).collect()),
            format!("{:.digits$}", point.median),
            format!("{:.digits$}", point.mad),
            point.repetitions.to_string(),
            point.tainted.to_string(),
            change.map_or(String::new(), |c| {
                format!("{:+.1} %", (c.change.ratio - 1.0) * 100.0)
            }),
        ]);
    }
    for column in 2..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    lines.push(table.to_string());
    for found in &series.changes {
        let (point, change) = (&series.points[found.at], &found.change);
        let percent = |ratio: f64| (ratio - 1.0) * 100.0;
        lines.push(format!(
            "changed at {}: {:+.1} % ({:+.1} to {:+.1} %)",
            point.created_at,
            percent(change.ratio),
            percent(change.interval.low),
            percent(change.interval.high)
        ));
    }
    lines.join("\n")
}
