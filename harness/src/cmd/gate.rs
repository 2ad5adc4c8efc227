//! `harness gate`: whether a run is as good as a baseline, for a CI system.

use crate::baseline;
use crate::cmd::run::new_table;
use crate::cmd::run::table::wrapped;
use crate::exit::{Exit, Fail};
use crate::gate::{self, Gate, State};
use crate::metric::{self, Kind, Metric};
use crate::record::{Run, write_whole};
use crate::report;
use crate::verdict::Rule;
use anstyle::{AnsiColor, Style};
use comfy_table::CellAlignment;
use std::io::Write as _;
use std::path::PathBuf;

/// Holds a run against a baseline: pass, regression, improvement, inconclusive or incomparable, for each case and metric.
///
/// A timed metric changes only if the interval of the change excludes none and the change is larger than --change-min and
/// twice what the baseline's own runs show. Counts change from 1 % on.
///
/// Exit codes: 0 no regression, or no baseline yet under the scenario's name; 3 regression; 4 nothing could be compared,
/// or with --strict no baseline, or anything that could not be told.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Folder of the run.
    run_dir: PathBuf,
    /// What to hold it against: a run folder, a file in one, or a name of `harness baseline` [default: the scenario's name].
    #[arg(long, value_name = "RUN|FILE|NAME")]
    baseline: Option<String>,
    /// Folder of runs and baselines.
    #[arg(long, value_name = "DIR", default_value = "results")]
    results_dir: PathBuf,
    /// Metrics to look at, instead of the usual ones.
    #[arg(long, value_name = "METRIC", value_delimiter = ',', value_parser = metric_name)]
    metric: Vec<&'static str>,
    /// Looks at counts alone: the same on any machine.
    #[arg(long, conflicts_with = "metric")]
    counts: bool,
    /// Smallest change of a timed metric that counts, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = Rule::default().change_min * 100.0)]
    change_min: f64,
    /// What could not be told, or has no baseline, ends with exit code 4.
    #[arg(long)]
    strict: bool,
    /// Writes the result as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the result as markdown, for a job's summary or a comment.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Writes the result as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Prints annotations that a workflow shows beside the change.
    #[arg(long)]
    annotations: bool,
}

fn metric_name(name: &str) -> Result<&'static str, String> {
    let names: Vec<&str> = metric::ALL.iter().map(|m| m.name).collect();
    let known = Metric::by_name(name).map(|m| m.name);
    known.ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

/// Judges the run.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    if !(args.change_min.is_finite() && args.change_min >= 0.0) {
        return Err(Fail::usage("--change-min is a percentage from 0 on"));
    }
    let run = Run::read(&args.run_dir)?;
    let what = args.baseline.clone();
    let what = what.unwrap_or_else(|| run.manifest.scenario.name.clone());
    let fingerprint = run.manifest.host.fingerprint();
    let Some(baseline) = baseline::find(&args.results_dir, &fingerprint, &what)? else {
        let run_dir = args.run_dir.display();
        let hint = format!(
            "no baseline \"{what}\" for {} {fingerprint}: make one with harness baseline save {run_dir}",
            gate::MACHINE
        );
        return match args.baseline.is_some() {
            true => Err(Fail::usage(format!(
                "{hint}; `harness baseline list` shows those there are"
            ))),
            false => {
                eprintln!("{hint}");
                write_no_baseline(args, &hint)?;
                Ok(if args.strict {
                    Exit::Inconclusive
                } else {
                    Exit::Ok
                })
            }
        };
    };
    let rule = Rule {
        change_min: args.change_min / 100.0,
        ..Rule::default()
    };
    let mut gate = gate::gate(&run, &baseline, &metrics(args), &rule);
    gate.run = args.run_dir.display().to_string();
    gate.baseline = what;
    write(args, &gate)?;
    print(&gate)?;
    if let Err(error) = keep(args, &gate) {
        eprintln!("the verdict is not kept with the run: {error:#}");
    }
    if args.annotations {
        anstream::stdout().write_all(gate::annotations(&gate).as_bytes())?;
    }
    Ok(match gate.state {
        State::Regression => Exit::Regression,
        State::Incomparable => Exit::Inconclusive,
        State::Inconclusive if args.strict => Exit::Inconclusive,
        _ => Exit::Ok,
    })
}

fn metrics(args: &Args) -> Vec<&'static Metric> {
    let all = metric::ALL.iter();
    let chosen = all.filter(|m| match args.metric.is_empty() {
        false => args.metric.contains(&m.name),
        true => m.gated && (!args.counts || m.kind != Kind::Timed),
    });
    chosen.collect()
}

/// Writes the files asked for.
fn write(args: &Args, gate: &Gate) -> anyhow::Result<()> {
    if let Some(path) = &args.json {
        write_whole(path, &serde_json::to_vec_pretty(gate)?)?;
    }
    if let Some(path) = &args.markdown {
        write_whole(path, gate::markdown(gate).as_bytes())?;
    }
    if let Some(path) = &args.junit {
        write_whole(path, gate::junit(gate)?.as_bytes())?;
    }
    Ok(())
}

/// Leaves the verdict with the run, and in its report if it has one.
fn keep(args: &Args, gate: &Gate) -> anyhow::Result<()> {
    gate.store(&args.run_dir)?;
    if args.run_dir.join("report.html").is_file() {
        report::write(&args.run_dir)?;
    }
    Ok(())
}

/// The first run has nothing to be held against: a state of its own.
fn write_no_baseline(args: &Args, hint: &str) -> anyhow::Result<()> {
    if let Some(path) = &args.json {
        let json = serde_json::json!({ "schema_version": gate::SCHEMA_VERSION, "state": "no_baseline", "rows": [], "notes": [hint] });
        write_whole(path, &serde_json::to_vec_pretty(&json)?)?;
    }
    if let Some(path) = &args.markdown {
        write_whole(path, format!("### no baseline\n\n{hint}\n").as_bytes())?;
    }
    Ok(())
}

/// The table on stdout.
fn print(gate: &Gate) -> anyhow::Result<()> {
    let mut table = new_table();
    table.set_header([
        "case",
        "metric",
        "baseline",
        "run",
        "change",
        "interval",
        "counts\nfrom",
        "state",
    ]);
    for row in &gate.rows {
        let (before, after) = row.values();
        table.add_row([
            row.case.replace(' ', "\n"),
            format!("{}\n{}", row.metric, row.unit),
            before,
            after,
            row.change(),
            row.interval(),
            row.threshold(),
            match &row.reason {
                Some(reason) => format!("{}\n{reason}", row.state.name()),
                None => row.state.name().into(),
            },
        ]);
    }
    for column in 2..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let colour = match gate.state {
        State::Pass | State::Improvement => AnsiColor::Green,
        State::Regression => AnsiColor::Red,
        State::Inconclusive | State::Incomparable => AnsiColor::Yellow,
    };
    let style = Style::new().fg_color(Some(colour.into())).bold();
    let mut out = anstream::stdout();
    writeln!(out, "{table}")?;
    for note in &gate.notes {
        writeln!(out, "{}", wrapped(note, ""))?;
    }
    writeln!(out, "{style}{}{style:#}", wrapped(&gate.sentence(), ""))?;
    Ok(())
}
