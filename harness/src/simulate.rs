//! Instructions and cache misses of a case where no counter can be read: the same worker for a few tokens under valgrind's
//! callgrind, with caches shaped like the machine's. Counts only: a simulation says nothing about time.
//!
//! How it works:
//! 1. The worker loads the model unobserved, which takes a fraction of the time. Then it has callgrind simulate, reads one
//!    token and one more, so that the caches hold what they would, and has the counts zeroed.
//! 2. At every boundary between stages ([`engine::stage::Listener`]) it has the counts written and zeroed. A part of the
//!    output thus belongs to one stage; two parts with names of their own end the phases.
//! 3. Of each part only the sum is read. Nothing depends on symbols, line tables or inlining.
//!
//! Counts repeat: one thread, no environment, addresses that are not randomised, no clock inside the passes.

mod profile;
mod words;

pub use words::{PerToken, Row, rows, sentence};

use crate::clock;
use crate::host::{self, Cache, binary_bytes};
use crate::interrupt;
use crate::measure::End;
use crate::record::{
    CacheShape, CaseRecord, FailureKind, Run, RunFolder, SCHEMA_VERSION, Simulated, SimulatedPhase,
    SimulatedRecord, Simulation,
};
use crate::runner::{self, Job, Program, Trouble};
use ::engine::options::{Affinity, AffinityPolicy, Isa};
use std::ffi::OsString;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tokens of a prompt that are read at most.
const PROMPT_TOKENS_MAX: u32 = 16;
/// Tokens that are generated after the first one.
const DECODE_TOKENS: u32 = 4;
/// Time that loading and those tokens take for 1e9 bytes of weights, in seconds; measured on one Zen 3 core at 2.4 GHz.
const SECONDS_PER_GB: f64 = 280.0;
/// Time valgrind takes for any model, in seconds.
const SECONDS_MIN: f64 = 2.0;
/// Ways of a set where the machine does not tell: as most first-level and last-level caches have.
const WAYS: (u32, u32) = (8, 16);
/// Sets are halved, and ways doubled, until less than one line in so many is lost.
const LOST_MAX: u64 = 16;
/// Bytes of a line where the machine does not tell.
const LINE_BYTES: u32 = 64;

/// What is simulated, and how long it may take.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The work of each case, by the index of the case.
    pub jobs: &'a [(u32, Job)],
    /// The program that works.
    pub worker: &'a Program,
    /// Where valgrind is; `None` if it is not installed.
    pub valgrind: Option<PathBuf>,
    /// Time one case may take.
    pub limit: Duration,
}

/// Simulates what `done` has no counts of. `tell` hears what is being done, and what cannot be.
///
/// # Errors
/// When a record cannot be written. A simulation that fails is a record, not an error.
pub fn run(
    plan: &Plan<'_>,
    folder: &mut RunFolder,
    done: &mut Run,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<End> {
    let manifest = done.manifest.clone();
    let mut made: Vec<(Job, Simulation)> = Vec::new();
    for (index, job) in plan.jobs {
        let Some(case) = manifest.cases.get(*index as usize) else {
            continue;
        };
        if done.simulated(*index).is_some() {
            continue;
        }
        if interrupt::requested() {
            return Ok(End::Interrupted);
        }
        let started_at = clock::timestamp();
        let job = shortened(job);
        let known = made.iter().find(|(other, _)| *other == job);
        let result = match known {
            Some((_, result)) => result.clone(),
            None => {
                let bytes = manifest.models.get(case.model).map_or(0, |m| m.file_bytes);
                match simulation(plan, case, &job, bytes, &manifest.host.caches, tell) {
                    Some(result) => result,
                    None => return Ok(End::Interrupted),
                }
            }
        };
        made.push((job, result.clone()));
        let record = SimulatedRecord {
            schema_version: SCHEMA_VERSION,
            case: case.name.clone(),
            case_index: *index,
            started_at,
            result,
        };
        folder.add_simulated(&record)?;
        done.simulated.push(record);
    }
    Ok(End::Complete)
}

/// One case; `None` if the harness was asked to stop.
fn simulation(
    plan: &Plan<'_>,
    case: &CaseRecord,
    job: &Job,
    weight_bytes: u64,
    caches: &[Cache],
    tell: &mut dyn FnMut(&str),
) -> Option<Simulation> {
    let seconds = SECONDS_MIN + SECONDS_PER_GB * weight_bytes as f64 / 1e9;
    let limit_s = plan.limit.as_secs();
    let result = match &plan.valgrind {
        None => Err(Trouble::Failed {
            kind: FailureKind::Spawn,
            message: "valgrind is not installed, so cache misses are not simulated: `harness doctor` says how to get it".into(),
            stderr: String::new(),
        }),
        Some(_) if seconds > limit_s as f64 => Err(Trouble::Failed {
            kind: FailureKind::Timeout,
            message: format!(
                "not simulated: that takes about {seconds:.0} s, and run.simulate_s allows {limit_s} s"
            ),
            stderr: String::new(),
        }),
        Some(valgrind) => {
            tell(&format!(
                "{}: simulating the caches for a few tokens, about {seconds:.0} s",
                case.name
            ));
            counted(plan, valgrind, job, caches)
        }
    };
    match result {
        Ok(counts) => Some(Simulation::Counted(Box::new(counts))),
        Err(Trouble::Interrupted) => None,
        Err(Trouble::Failed { message, .. }) => {
            tell(&format!("{}: {message}", case.name));
            Some(Simulation::Missing(message))
        }
    }
}

/// The work of a case as it is simulated: a few tokens, on one thread, with instructions that the simulator knows.
fn shortened(job: &Job) -> Job {
    let mut job = job.clone();
    job.simulated = Some(runner::Simulated {
        prompt_tokens_max: PROMPT_TOKENS_MAX,
    });
    job.n_gen = job.n_gen.min(1 + DECODE_TOKENS);
    job.ignore_eos = true;
    job.engine.threads = 1;
    job.engine.affinity = Affinity::Policy(AffinityPolicy::None);
    job.engine.stage_clock = false;
    job.counters.enabled = false;
    if job.engine.isa == Isa::Avx512 {
        // Valgrind stops at AVX2.
        job.engine.isa = Isa::Auto;
    }
    job
}

/// Runs the worker under callgrind and reads what it counted.
fn counted(
    plan: &Plan<'_>,
    valgrind: &Path,
    job: &Job,
    caches: &[Cache],
) -> Result<Simulated, Trouble> {
    let failed = |kind, message| Trouble::Failed {
        kind,
        message,
        stderr: String::new(),
    };
    let folder = tempfile::tempdir().map_err(|e| {
        let message = format!("no folder for the simulator's output: {e}");
        failed(FailureKind::Spawn, message)
    })?;
    let output = folder.path().join("callgrind.out");
    let geometry = geometry(caches);
    let program = command(valgrind, &output, &geometry.flags, plan.worker);
    let finished = runner::repetition(&runner::repeatable(&program), job, plan.limit, None);
    let finished = finished.map_err(|trouble| match trouble {
        Trouble::Failed {
            kind: kind @ FailureKind::Timeout,
            ..
        } => failed(
            kind,
            format!(
                "not simulated within {} s: raise run.simulate_s",
                plan.limit.as_secs()
            ),
        ),
        Trouble::Failed { kind, message, .. } => {
            failed(kind, format!("the simulation failed: {message}"))
        }
        Trouble::Interrupted => Trouble::Interrupted,
    })?;
    let profile = File::open(&output)
        .map_err(anyhow::Error::from)
        .and_then(|file| profile::read(BufReader::new(file)));
    let mut profile = profile.map_err(|e| {
        let message = format!("the simulator's output could not be understood: {e:#}");
        failed(FailureKind::Protocol, message)
    })?;
    let outcome = finished.outcome;
    let decoded = outcome.output_ids.len().saturating_sub(1) as u32;
    let decode = profile.phases.remove(runner::DECODE);
    let prefill = profile.phases.remove(runner::PREFILL).ok_or_else(|| {
        let message = "the simulator wrote no counts of the prompt".to_owned();
        failed(FailureKind::Protocol, message)
    })?;
    Ok(Simulated {
        tool: profile.tool,
        l1i: profile.l1i,
        l1d: profile.l1d,
        ll: profile.ll,
        adjusted: geometry.adjusted,
        isa: outcome.isa,
        threads: outcome.threads,
        prefill: SimulatedPhase {
            tokens: outcome.n_prompt,
            stages: prefill,
        },
        decode: decode.filter(|_| decoded > 0).map(|stages| SimulatedPhase {
            tokens: decoded,
            stages,
        }),
    })
}

/// The command line. What a user has set for valgrind elsewhere does not count.
fn command(valgrind: &Path, output: &Path, caches: &[String], worker: &Program) -> Program {
    // Valgrind replaces what follows a percent sign.
    let output = output.display().to_string().replace('%', "%%");
    let flags = [
        "-q",
        "--command-line-only=yes",
        "--vgdb=no",
        "--tool=callgrind",
        "--cache-sim=yes",
        "--instr-atstart=no",
        "--combine-dumps=yes",
        "--dump-line=no",
    ];
    let mut args: Vec<OsString> = flags.map(Into::into).into();
    args.push(format!("--callgrind-out-file={output}").into());
    args.extend(caches.iter().map(Into::into));
    args.push(worker.path.clone().into());
    args.extend(worker.args.iter().cloned());
    Program {
        path: valgrind.to_owned(),
        args,
    }
}

/// Caches on valgrind's command line.
#[derive(Debug, Default)]
struct Geometry {
    flags: Vec<String>,
    /// What differs from the machine's own.
    adjusted: Vec<String>,
}

/// The caches nearest to the machine's that valgrind can simulate: first level and last level.
fn geometry(caches: &[Cache]) -> Geometry {
    let first = |kind: &str| {
        let mut of_kind = caches.iter().filter(|c| c.level == 1);
        of_kind.find(|c| c.kind == kind || c.kind == "Unified")
    };
    let last = caches
        .iter()
        .filter(|c| c.level > 1 && c.kind != "Instruction");
    let rows = [
        ("I1", "L1 instruction cache", first("Instruction"), WAYS.0),
        ("D1", "L1 data cache", first("Data"), WAYS.0),
        (
            "LL",
            "last-level cache",
            last.max_by_key(|c| c.level),
            WAYS.1,
        ),
    ];
    let mut geometry = Geometry::default();
    for (flag, name, cache, ways) in rows {
        let Some(cache) = cache else {
            let text = format!("the machine does not tell its {name}: the simulator's own choice");
            geometry.adjusted.push(text);
            continue;
        };
        let (shape, adjusted) = shape(cache, ways);
        geometry
            .adjusted
            .extend(adjusted.map(|what| format!("{name}: {what}")));
        let CacheShape {
            bytes,
            ways,
            line_bytes,
        } = shape;
        geometry
            .flags
            .push(format!("--{flag}={bytes},{ways},{line_bytes}"));
    }
    geometry
}

/// The nearest shape with a power of two of sets, and what was changed.
fn shape(cache: &Cache, ways_usual: u32) -> (CacheShape, Option<String>) {
    let line = cache.line_bytes.filter(|n| n.is_power_of_two() && *n >= 16);
    let line_bytes = u64::from(line.unwrap_or(LINE_BYTES));
    let known = cache.ways.filter(|&n| n > 0);
    let lines = (cache.bytes / line_bytes).max(2);
    let ways = u64::from(known.unwrap_or(ways_usual)).min(lines);
    let mut sets = power_of_two_near(lines / ways);
    while sets * (lines / sets) * LOST_MAX < lines * (LOST_MAX - 1) {
        sets /= 2;
    }
    let shape = CacheShape {
        bytes: sets * (lines / sets) * line_bytes,
        ways: lines / sets,
        line_bytes,
    };
    let own = known.map_or("ways unknown".to_owned(), |n| format!("{n} ways"));
    let same = shape.bytes == cache.bytes && known.map(u64::from) == Some(shape.ways);
    let adjusted = (!same).then(|| {
        let (has, used) = (binary_bytes(cache.bytes), binary_bytes(shape.bytes));
        format!("{has}, {own}, simulated as {used}, {} ways", shape.ways)
    });
    (shape, adjusted)
}

/// The power of two nearest to a number above 0, as ratios go.
fn power_of_two_near(n: u64) -> u64 {
    let below = 1_u64 << n.max(1).ilog2();
    match n as f64 / below as f64 > std::f64::consts::SQRT_2 {
        true => below * 2,
        false => below,
    }
}

/// Where valgrind is.
pub fn valgrind() -> Option<PathBuf> {
    host::program("valgrind")
}

#[cfg(test)]
mod tests;
