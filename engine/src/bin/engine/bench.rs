//! `engine bench`: prefill and decode rates in one process, with llama-bench's tests, columns and field names.

use crate::open;
use clap::{Args, ValueEnum};
use engine::model::Model;
use engine::options::KvType;
use engine::pool::Pool;
use engine::session::{Session, Stats};
use engine::stage::{Stage, Tick};
use engine::{Error, Options, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most tests in one call.
const TESTS_MAX: usize = 1000;

/// Columns of the markdown table.
const MARKDOWN_HEADER: &str = "| model | size | params | backend | threads | test | t/s |\n|---|---:|---:|---|---:|---:|---:|\n";

/// Arguments of `engine bench`; lists are separated by commas.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Model file.
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// Prompt lengths; 0 for no prefill test.
    #[arg(short = 'p', long, default_value = "512", value_delimiter = ',')]
    n_prompt: Vec<usize>,
    /// Numbers of generated tokens; 0 for no decode test.
    #[arg(short = 'n', long, default_value = "128", value_delimiter = ',')]
    n_gen: Vec<usize>,
    /// Tokens in the cache before a test begins.
    #[arg(short = 'd', long, default_value = "0", value_delimiter = ',')]
    n_depth: Vec<usize>,
    /// Thread counts; 0 for one per physical core.
    #[arg(short, long, default_value = "0", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Measured repetitions of each test, after one warm-up.
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repetitions: u32,
    /// Form of the results.
    #[arg(short, long, default_value = "md")]
    output: Output,
    #[command(flatten)]
    tuning: open::TuningArgs,
}

/// Forms of the results.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Output {
    /// A table in markdown.
    Md,
    /// One row a test, without the samples.
    Csv,
    /// One object a test, with the samples.
    Jsonl,
}

/// One test: `n_prompt` tokens read at once, or `n_gen` tokens one after the other.
#[derive(Debug, Clone, Copy)]
struct Test {
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
}

/// A result under llama-bench's field names.
#[derive(Debug, Serialize)]
struct Record {
    cpu_info: String,
    backends: &'static str,
    isa: String,
    model_filename: String,
    model_type: String,
    model_size: u64,
    model_n_params: u64,
    n_batch: usize,
    n_threads: usize,
    type_k: KvType,
    type_v: KvType,
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    test_time: String,
    avg_ns: u64,
    stddev_ns: u64,
    avg_ts: f64,
    stddev_ts: f64,
}

/// A record with its samples.
#[derive(Debug, Serialize)]
struct FullRecord<'a> {
    #[serde(flatten)]
    record: &'a Record,
    samples_ns: &'a [u64],
    samples_ts: &'a [f64],
    /// Nanoseconds of all repetitions by stage, averaged over the threads.
    stages_ns: BTreeMap<&'static str, u64>,
    /// Weight bytes read in all repetitions.
    weight_bytes: u64,
}

/// Runs all tests and prints each result as soon as it is there.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let tests = tests(args)?;
    let longest = tests
        .iter()
        .map(|t| t.n_depth.saturating_add(t.n_prompt.max(t.n_gen)))
        .max()
        .unwrap_or(0);
    let mut first = true;
    for &threads in &args.threads {
        let options = args.tuning.options(threads, longest)?;
        open::refuse_drafts(&options)?;
        let pool = Pool::new(&options)?;
        let model = open::load(&args.model, &pool, &options)?;
        let mut session = Session::new(&model, &pool, &options)?;
        let mut filled = 0;
        for test in &tests {
            let test_time = jiff::Timestamp::now().to_string();
            time(&mut session, &model, *test, &mut filled)?;
            let mut samples = Samples {
                test: *test,
                test_time,
                ns: Vec::new(),
                stats: Vec::new(),
            };
            for _ in 0..args.repetitions {
                let ns = time(&mut session, &model, *test, &mut filled)?;
                samples.ns.push(ns);
                samples.stats.push(session.take_stats());
            }
            let record = samples.record(&args.model, &model, pool.threads(), &options);
            print(args.output, &record, &samples, first)?;
            first = false;
        }
    }
    Ok(())
}

/// The tests asked for: at each depth, all prefill tests and then all decode tests.
fn tests(args: &BenchArgs) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for &n_depth in &args.n_depth {
        let prompts = args.n_prompt.iter().map(|&n_prompt| Test {
            n_prompt,
            n_gen: 0,
            n_depth,
        });
        let gens = args.n_gen.iter().map(|&n_gen| Test {
            n_prompt: 0,
            n_gen,
            n_depth,
        });
        tests.extend(prompts.chain(gens).filter(|t| t.n_prompt + t.n_gen > 0));
    }
    match tests.len() * args.threads.len() {
        0 => Err(Error::Input(
            "nothing to test: give -p or -n a number above 0".into(),
        )),
        n if n > TESTS_MAX => Err(Error::Input(format!(
            "{n} tests, more than {TESTS_MAX}: shorten the lists"
        ))),
        _ => Ok(tests),
    }
}

/// Nanoseconds of one test, from its depth's cache to its last logits.
///
/// `filled` tokens of the sequence are those of a depth, which are the same for all tests; only missing ones are read.
fn time(session: &mut Session<'_>, model: &Model, test: Test, filled: &mut usize) -> Result<u64> {
    session.truncate(test.n_depth.min(*filled));
    let missing = &open::arbitrary_tokens(model, test.n_depth)[session.position()..];
    if !missing.is_empty() {
        session.prefill(missing)?;
    }
    *filled = test.n_depth;
    let tokens = open::arbitrary_tokens(model, test.n_prompt.max(test.n_gen));
    session.take_stats();
    let start = Tick::now();
    if test.n_prompt > 0 {
        session.prefill(&tokens)?;
    } else {
        for &token in &tokens {
            session.decode(token)?;
        }
    }
    Ok(Tick::now().ns_since(start))
}

/// The repetitions of one test.
struct Samples {
    test: Test,
    test_time: String,
    ns: Vec<u64>,
    stats: Vec<Stats>,
}

impl Samples {
    /// Nanoseconds of all repetitions in each stage.
    fn stages_ns(&self) -> BTreeMap<&'static str, u64> {
        let sum = |stage| self.stats.iter().map(|s| s.stages.get(stage)).sum();
        Stage::ALL.map(|stage| (stage.name(), sum(stage))).into()
    }

    fn record(&self, path: &Path, model: &Model, n_threads: usize, options: &Options) -> Record {
        let ns: Vec<f64> = self.ns.iter().map(|&ns| ns as f64).collect();
        let ts = self.rates();
        let tensors = model.tensors();
        Record {
            cpu_info: open::cpu_name(),
            backends: "CPU",
            isa: open::isa_name(model),
            model_filename: path.display().to_string(),
            model_type: model.description(),
            model_size: tensors.iter().map(|t| t.bytes).sum(),
            model_n_params: tensors.iter().map(|t| t.from.n_values()).sum(),
            n_batch: options.batch,
            n_threads,
            type_k: options.kv,
            type_v: options.kv,
            n_prompt: self.test.n_prompt,
            n_gen: self.test.n_gen,
            n_depth: self.test.n_depth,
            test_time: self.test_time.clone(),
            avg_ns: mean(&ns) as u64,
            stddev_ns: deviation(&ns) as u64,
            avg_ts: mean(&ts),
            stddev_ts: deviation(&ts),
        }
    }

    /// Tokens per second of each repetition.
    fn rates(&self) -> Vec<f64> {
        let n = (self.test.n_prompt + self.test.n_gen) as f64;
        self.ns
            .iter()
            .map(|&ns| n * 1e9 / ns.max(1) as f64)
            .collect()
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation of a sample; 0 for a single value.
fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    if values.len() < 2 {
        0.0
    } else {
        (squares / (values.len() - 1) as f64).sqrt()
    }
}

/// Prints one result in the form asked for; the `first` one may need a header.
fn print(output: Output, record: &Record, samples: &Samples, first: bool) -> Result<()> {
    let text = match output {
        Output::Md if first => format!("{MARKDOWN_HEADER}{}", markdown(record)),
        Output::Md => markdown(record),
        Output::Csv => csv_row(record, first)?,
        Output::Jsonl => {
            let full = FullRecord {
                record,
                samples_ns: &samples.ns,
                samples_ts: &samples.rates(),
                stages_ns: samples.stages_ns(),
                weight_bytes: samples.stats.iter().map(|s| s.ledger.weight_bytes).sum(),
            };
            serde_json::to_string(&full).map_err(|e| unwritable(e.into()))? + "\n"
        }
    };
    open::print(&text)
}

fn markdown(r: &Record) -> String {
    let kind = if r.n_prompt > 0 {
        format!("pp{}", r.n_prompt)
    } else {
        format!("tg{}", r.n_gen)
    };
    let depth = if r.n_depth > 0 {
        format!(" @ d{}", r.n_depth)
    } else {
        String::new()
    };
    format!(
        "| {} | {:.2} MiB | {:.2} M | {} {} | {} | {kind}{depth} | {:.2} ± {:.2} |\n",
        r.model_type,
        r.model_size as f64 / f64::from(1 << 20),
        r.model_n_params as f64 / 1e6,
        r.backends,
        r.isa,
        r.n_threads,
        r.avg_ts,
        r.stddev_ts
    )
}

fn csv_row(record: &Record, header: bool) -> Result<String> {
    let mut writer = csv::WriterBuilder::new()
        .has_headers(header)
        .from_writer(Vec::new());
    writer.serialize(record).map_err(|e| unwritable(e.into()))?;
    let bytes = writer
        .into_inner()
        .map_err(|e| unwritable(e.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unwritable(source: std::io::Error) -> Error {
    Error::Io {
        action: "format",
        path: "the results".into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_deviations() {
        let test = Test {
            n_prompt: 0,
            n_gen: 10,
            n_depth: 0,
        };
        let samples = Samples {
            test,
            test_time: String::new(),
            ns: vec![1_000_000_000, 2_000_000_000],
            stats: Vec::new(),
        };
        assert_eq!(samples.rates(), [10.0, 5.0]);
        assert!((deviation(&[10.0, 5.0]) - 3.535_533_9).abs() < 1e-6);
        assert_eq!(deviation(&[3.0]), 0.0);
    }
}
