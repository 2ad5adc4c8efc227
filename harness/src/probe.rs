//! What this machine gives: probes run in children of their own, alone or in the rounds of a run.

use crate::clock;
use crate::host::HostFacts;
use crate::record::{FailureKind, Phase, ProbeRecord, SCHEMA_VERSION};
use crate::runner::{self, Program, Trouble};
use ::engine::pool::Pool;
use ::engine::probe::{self, Point, Reading, What};
use ::engine::{Options, simd};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Caches that a buffer must exceed so many times to count as memory.
const CACHE_TIMES: u64 = 4;
/// Smallest buffer that counts as memory, in bytes.
const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Largest buffer of a probe in a round, in bytes.
const ROUND_BYTES_MAX: u64 = 512 << 20;
/// Time for the bandwidth in a round, in seconds.
const ROUND_READ_S: f64 = 0.2;
/// Time for each arithmetic peak in a round, in seconds.
const ROUND_ARITHMETIC_S: f64 = 0.03;
/// Time one child may take beyond what it measures.
const CHILD_SPARE: Duration = Duration::from_secs(60);

/// What a child measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Threads, CPUs, pages and instruction set.
    pub engine: Options,
    /// What, in this order.
    pub points: Vec<Point>,
}

/// What a child found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Threads that worked.
    pub threads: usize,
    /// CPUs they were pinned to; empty if not pinned.
    pub cpus: Vec<u32>,
    /// Instruction set.
    pub isa: String,
    /// One for each point.
    pub readings: Vec<Reading>,
}

/// Version of a stored probe.
const STORED_VERSION: u32 = 1;
/// Folder of stored probes below the results.
const STORED_FOLDER: &str = "probes";

/// A probe of a machine, as it is kept below the results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Version of the writer.
    schema_version: u32,
    /// When it was taken, RFC 3339, UTC.
    pub created_at: String,
    /// Fingerprint of the machine.
    pub fingerprint: String,
    /// The machine.
    pub host: HostFacts,
    /// What was measured, one entry for each number of threads and kind of pages.
    pub configurations: Vec<Configuration>,
}

/// What was measured with one number of threads and kind of pages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// Whether huge pages were asked for.
    pub huge_pages: bool,
    /// The child's answer.
    #[serde(flatten)]
    pub answer: Answer,
}

impl Stored {
    /// A probe taken now.
    pub fn new(host: HostFacts, configurations: Vec<Configuration>) -> Stored {
        Stored {
            schema_version: STORED_VERSION,
            created_at: clock::timestamp(),
            fingerprint: host.fingerprint(),
            host,
            configurations,
        }
    }

    /// Its file below the results.
    pub fn path(results: &Path, fingerprint: &str) -> PathBuf {
        results
            .join(STORED_FOLDER)
            .join(format!("{fingerprint}.json"))
    }

    /// The probe kept of a machine; `None` if there is none that this version can read.
    pub fn read(results: &Path, fingerprint: &str) -> Option<Stored> {
        let text = std::fs::read(Stored::path(results, fingerprint)).ok()?;
        let stored: Stored = serde_json::from_slice(&text).ok()?;
        (stored.schema_version == STORED_VERSION).then_some(stored)
    }
}

impl Configuration {
    /// The reading of the largest buffer, or of what needs none.
    pub fn ceiling(&self, what: What) -> Option<Reading> {
        let found = self.answer.readings.iter().filter(|r| r.what == what);
        found.copied().max_by_key(|r| r.bytes)
    }

    /// Read bandwidth over the size of the buffer: bytes and 1e9 bytes a second.
    pub fn reads(&self) -> Vec<(f64, f64)> {
        let reads = self.answer.readings.iter().filter(|r| r.what == What::Read);
        reads.map(|r| (r.bytes as f64, r.median)).collect()
    }

    /// Threads and pages in words.
    pub fn name(&self) -> String {
        let pages = if self.huge_pages { "huge" } else { "small" };
        format!(
            "{}, {pages} pages",
            crate::host::plural(self.answer.threads, "thread")
        )
    }
}

/// Measures in this process.
///
/// # Errors
/// When the threads, CPUs, instruction set or memory asked for are not there.
pub fn work(job: &Job) -> engine::Result<Answer> {
    let options = &job.engine;
    let pool = Pool::new(options)?;
    let isa = simd::choose(options.isa)?;
    let readings = job.points.iter().map(|point| {
        let huge_pages = options.huge_pages;
        probe::measure(&pool, isa, huge_pages, *point)
    });
    Ok(Answer {
        threads: pool.threads(),
        cpus: pool.cpus().iter().flatten().map(|&c| c as u32).collect(),
        isa: isa.to_string(),
        readings: readings.collect::<engine::Result<_>>()?,
    })
}

/// Measures in a child.
///
/// # Errors
/// When the child fails, or the harness was asked to stop.
pub fn child(program: &Path, job: &Job) -> Result<Answer, Trouble> {
    let protocol = |e: serde_json::Error| Trouble::Failed {
        kind: FailureKind::Protocol,
        message: format!("the probe's answer could not be understood: {e}"),
        stderr: String::new(),
    };
    let text = serde_json::to_string(job).map_err(protocol)?;
    let program = Program {
        path: program.to_owned(),
        args: vec!["probe".into(), "--job".into(), text.into()],
    };
    let seconds: f64 = job.points.iter().map(|p| p.seconds).sum();
    // A slice may take longer than the time asked for.
    let limit = Duration::from_secs_f64(seconds * 3.0) + CHILD_SPARE;
    let output = runner::tool(&program, limit)?;
    serde_json::from_slice(&output.stdout).map_err(protocol)
}

/// Bytes of a buffer that no cache holds, as far as the memory allows.
pub fn memory_bytes(host: &HostFacts) -> u64 {
    let cache = host.caches.iter().map(|c| c.bytes).max().unwrap_or(0);
    let caches = cache * host.l3_domains.max(1) as u64;
    let enough = (CACHE_TIMES * caches).max(MEMORY_BYTES_MIN);
    enough.min(
        host.memory_available_bytes
            .map_or(u64::MAX, |free| free / 4),
    )
}

/// What a probe in a round measures.
pub fn round_points(host: &HostFacts) -> Vec<Point> {
    let bytes = memory_bytes(host).min(ROUND_BYTES_MAX) as usize;
    let point = |what, seconds| Point {
        what,
        bytes,
        seconds,
    };
    vec![
        point(What::Read, ROUND_READ_S),
        point(What::Int8, ROUND_ARITHMETIC_S),
        point(What::F32, ROUND_ARITHMETIC_S),
    ]
}

/// Takes the peaks of a round.
///
/// # Errors
/// As [`child`].
pub fn round(program: &Path, job: &Job, phase: Phase, round: u32) -> Result<ProbeRecord, Trouble> {
    let started_at = clock::timestamp();
    let answer = child(program, job)?;
    Ok(ProbeRecord {
        schema_version: SCHEMA_VERSION,
        phase,
        round,
        started_at,
        engine: job.engine.clone(),
        cpus: answer.cpus,
        isa: answer.isa,
        readings: answer.readings,
    })
}

/// This program's own file, which probes run in.
///
/// # Errors
/// When the system does not say.
pub fn program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own file")
}
