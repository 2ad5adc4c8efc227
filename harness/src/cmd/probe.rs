//! `harness probe`: what this machine gives.

use crate::cmd::run::new_table;
use crate::cmd::session::Others;
use crate::exit::{Exit, Fail};
use crate::host::{self, HostFacts, binary_bytes};
use crate::interrupt;
use crate::probe::{self, Configuration, Job, Stored};
use crate::record::write_whole;
use crate::report;
use crate::runner::Trouble;
use anyhow::Context as _;
use comfy_table::CellAlignment;
use engine::Options;
use engine::check;
use engine::options::Affinity;
use engine::probe::{Point, What};
use engine::simd;
use indicatif::ProgressBar;
use std::io::Write as _;
use std::path::PathBuf;

/// Smallest buffer per thread, in bytes.
const BYTES_MIN: u64 = 16 << 10;
/// Difference between the two ways of reading memory that is pointed out.
const METHODS_APART: f64 = 0.10;

/// Measures what this machine gives: bandwidth from the first cache to memory, latency, barriers, arithmetic.
///
/// The numbers are the ceilings that decoding and reading prompts are held against. They are kept below results/, by
/// machine, with a plot. Every run takes its own peaks again, in its own rounds.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Numbers of threads [default: 1 and one for each physical core].
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    threads: Vec<usize>,
    /// Where threads are pinned, as engine.affinity: a policy or a list of CPUs.
    #[arg(long, default_value = "physical", value_parser = affinity)]
    affinity: Affinity,
    /// Pages: small, huge or both.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        default_value = "small,huge"
    )]
    pages: Vec<Pages>,
    /// Memory and arithmetic alone, briefly.
    #[arg(long)]
    quick: bool,
    /// Folder of the results.
    #[arg(long, value_name = "DIR", default_value = "results")]
    results_dir: PathBuf,
    #[command(flatten)]
    others: Others,
    /// Prints everything as JSON, and no table.
    #[arg(long)]
    json: bool,
    /// What a child measures, as JSON.
    #[arg(long, hide = true, value_name = "JSON")]
    job: Option<String>,
}

/// Pages of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Pages {
    /// The CPU's smallest.
    Small,
    /// Transparent huge ones, as far as the system gives them.
    Huge,
}

fn affinity(text: &str) -> Result<Affinity, String> {
    let value = toml::from_str::<toml::Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()));
    value
        .try_into()
        .map_err(|e: toml::de::Error| e.message().to_owned())
}

/// Measures, or does the part of a child.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    if let Some(job) = &args.job {
        let job: Job = serde_json::from_str(job).context("--job")?;
        let answer = probe::work(&job)?;
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&answer)?)?;
        return Ok(Exit::Ok);
    }
    interrupt::defer();
    let mut facts = HostFacts::read();
    let jobs = jobs(args, &facts)?;
    let claim = args.others.claim(&args.results_dir)?;
    facts.findings.extend(claim.finding());
    let configurations = measure(jobs)?;
    let stored = Stored::new(facts, configurations);
    let json = Stored::path(&args.results_dir, &stored.fingerprint);
    if let Some(folder) = json.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot write \"{}\"", folder.display()))?;
    }
    write_whole(&json, &serde_json::to_vec_pretty(&stored)?)?;
    let mut out = anstream::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&stored)?)?;
        return Ok(Exit::Ok);
    }
    writeln!(out, "{}", stored.host.summary())?;
    writeln!(out, "{}", table(&stored))?;
    for line in remarks(&stored) {
        writeln!(out, "{line}")?;
    }
    let page = json.with_extension("html");
    write_whole(&page, report::bandwidth_page(&stored)?.as_bytes())?;
    writeln!(out, "\n{}\n{}", json.display(), page.display())?;
    Ok(Exit::Ok)
}

/// What is measured: every number of threads on every kind of pages.
fn jobs(args: &Args, facts: &HostFacts) -> anyhow::Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for threads in thread_counts(args, facts) {
        for pages in &args.pages {
            let engine = Options {
                threads,
                affinity: match &args.affinity {
                    // A list names one CPU for each thread of the largest number.
                    Affinity::Cpus(all) => {
                        Affinity::Cpus(all.iter().copied().take(threads).collect())
                    }
                    policy => policy.clone(),
                },
                huge_pages: *pages == Pages::Huge,
                ..Options::default()
            };
            check::machine(&engine).map_err(|e| Fail::usage(e.to_string()))?;
            let points = points(args.quick, threads, *pages == args.pages[0], facts);
            jobs.push(Job { engine, points });
        }
    }
    Ok(jobs)
}

/// Measures, each job in a child of its own.
fn measure(jobs: Vec<Job>) -> anyhow::Result<Vec<Configuration>> {
    let program = probe::program()?;
    let bar = ProgressBar::new(jobs.len() as u64);
    let mut all = Vec::new();
    for job in jobs {
        let huge_pages = job.engine.huge_pages;
        let shown = host::plural(job.engine.threads, "thread");
        bar.set_message(shown);
        bar.tick();
        let answer = probe::child(&program, &job).map_err(|trouble| match trouble {
            Trouble::Interrupted => Fail::with(Exit::Interrupted, "interrupted"),
            Trouble::Failed { message, .. } => anyhow::anyhow!("{message}"),
        })?;
        all.push(Configuration { huge_pages, answer });
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(all)
}

fn thread_counts(args: &Args, facts: &HostFacts) -> Vec<usize> {
    if !args.threads.is_empty() {
        return args.threads.clone();
    }
    match facts.cores {
        0 | 1 => vec![1],
        cores => vec![1, cores],
    }
}

/// What is measured in one configuration; what does not depend on pages, on the first kind alone.
fn points(quick: bool, threads: usize, first: bool, facts: &HostFacts) -> Vec<Point> {
    let memory = probe::memory_bytes(facts);
    let point = |what, bytes: u64, seconds| Point {
        what,
        bytes: bytes as usize,
        seconds,
    };
    let mut points = Vec::new();
    if !quick {
        let mut bytes = BYTES_MIN * threads as u64;
        while bytes < memory {
            points.push(point(What::Read, bytes, 0.1));
            bytes *= 2;
        }
    }
    let long = if quick { 0.5 } else { 1.0 };
    for what in [What::Read, What::ReadPlain, What::Copy, What::Triad] {
        points.push(point(what, memory, long));
    }
    if !quick && threads == 1 {
        let l2 = facts
            .caches
            .iter()
            .filter(|c| c.level == 2)
            .map(|c| c.bytes);
        let sizes = [Some(BYTES_MIN), l2.max().map(|b| b / 2), Some(memory)];
        for bytes in sizes.into_iter().flatten() {
            points.push(point(What::Latency, bytes, 0.2));
        }
    }
    if first {
        points.extend([What::Int8, What::F32].map(|what| point(what, 0, 0.2)));
        if threads > 1 {
            points.push(point(What::Barrier, 0, 0.2));
        }
    }
    points
}

/// One row for each configuration.
fn table(stored: &Stored) -> String {
    let mut table = new_table();
    table.set_header([
        "threads",
        "pages",
        "read\nGB/s",
        "best",
        "plain\nread",
        "copy",
        "triad",
        "latency\nns",
        "barrier\nns",
        "int8\nGOP/s",
        "f32\nGFLOP/s",
    ]);
    for configuration in &stored.configurations {
        let text = |what, digits: usize| {
            let reading = configuration.ceiling(what);
            reading.map_or("-".into(), |r| format!("{:.digits$}", r.median))
        };
        let best = configuration.ceiling(What::Read);
        table.add_row([
            configuration.answer.threads.to_string(),
            pages(configuration),
            text(What::Read, 2),
            best.map_or("-".into(), |r| format!("{:.2}", r.best)),
            text(What::ReadPlain, 2),
            text(What::Copy, 2),
            text(What::Triad, 2),
            text(What::Latency, 1),
            text(What::Barrier, 0),
            text(What::Int8, 0),
            text(What::F32, 0),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// The kind of pages asked for, and how much of it was given.
fn pages(configuration: &Configuration) -> String {
    if !configuration.huge_pages {
        return "small".into();
    }
    let readings = configuration.answer.readings.iter();
    let largest = readings.max_by_key(|r| r.bytes).filter(|r| r.bytes > 0);
    match largest.and_then(|r| Some((r.huge_bytes?, r.bytes))) {
        Some((huge, bytes)) => format!("huge, {:.0} %", 100.0 * huge as f64 / bytes as f64),
        None => "huge, unknown".into(),
    }
}

/// What should be said about the numbers.
fn remarks(stored: &Stored) -> Vec<String> {
    let mut lines = Vec::new();
    let memory = binary_bytes(probe::memory_bytes(&stored.host));
    let isa = stored.configurations.first().map_or("", |c| &c.answer.isa);
    lines.push(format!(
        "memory: buffers of {memory}; medians over slices of 2 ms or more; vectors: {isa} of {}",
        simd::available()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    ));
    for configuration in &stored.configurations {
        let read = configuration.ceiling(What::Read);
        let plain = configuration.ceiling(What::ReadPlain);
        let Some((read, plain)) = read.zip(plain) else {
            continue;
        };
        let apart = plain.median / read.median - 1.0;
        if apart.abs() > METHODS_APART {
            lines.push(format!(
                "{}, {} pages: the plain loop reads {:+.0} % against the vector loop: trust neither before a second try on a quiet machine",
                host::plural(configuration.answer.threads, "thread"),
                pages(configuration),
                apart * 100.0
            ));
        }
    }
    lines
}
