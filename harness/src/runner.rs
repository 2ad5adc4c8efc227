//! Runs one repetition of a case in a fresh process and reads its answer.
//!
//! The worker gets a [`Job`] as JSON on stdin and answers with one [`Answer`] per line on stdout. It times itself and
//! says what it wrote, so that a fast wrong result cannot pass; the process around it is watched from outside.

mod child;
mod disturbance;
pub mod engine;
pub mod quality;
mod shown;
mod slices;
mod tied;
mod valgrind;

pub use child::Program;
pub use shown::shown;
pub use slices::{Ran, Slices};
pub use tied::{become_tied, launch_through, repeatable};
pub(crate) use valgrind::{DECODE, OTHER, PREFILL};

use crate::counter::{self, ProcessUse};
use crate::record::{Counters, FailureKind, ModelFacts, PassStats, Taint, Usage};
use ::engine::quality::Figures;
use ::engine::sample::SamplerOptions;
use ::engine::speculate::Telemetry;
use child::{Ended, Ending};
use disturbance::Disturbance;
use serde::{Deserialize, Serialize};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// Version of [`Job`] and [`Answer`].
pub const PROTOCOL_VERSION: u32 = 1;
/// Most characters of a child's last words that an error shows.
const WORDS_CHARS_MAX: usize = 300;
/// How long a worker may take to refuse what is no job.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Share of the child's life that the hypervisor may take before the repetition is marked.
const STEAL_SHARE_MAX: f64 = 0.01;
/// Involuntary switches per second of timed work before the repetition is marked.
const INVOLUNTARY_PER_S_MAX: f64 = 20.0;
/// Involuntary switches that never mark a repetition.
const INVOLUNTARY_FREE: u64 = 5;

/// One repetition, as the worker is told about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// The model file.
    pub model: PathBuf,
    /// What the model reads.
    pub prompt: JobPrompt,
    /// Tokens to generate.
    pub n_gen: u32,
    /// Whether an end-of-text token is never chosen.
    pub ignore_eos: bool,
    /// Options of the engine.
    pub engine: ::engine::Options,
    /// How the next token is chosen.
    pub sampler: SamplerOptions,
    /// Process that must live for the worker to go on; the worker ends with it.
    #[serde(default)]
    pub parent: Option<i32>,
    /// Waits busily after each token, so that it takes this much longer: to try whether a slower engine is noticed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub slow_down_percent: f64,
    /// How the work is simulated, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated: Option<Simulated>,
    /// What is counted.
    #[serde(default)]
    pub counters: counter::Request,
}

/// How work under valgrind's callgrind is shortened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simulated {
    /// Tokens of the prompt that are read at most.
    pub prompt_tokens_max: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// What the model reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobPrompt {
    /// A text, with the special tokens around it that the model's file asks for.
    Text(String),
    /// Seeded token ids.
    Random {
        /// How many.
        tokens: u32,
        /// Seed.
        seed: u64,
    },
}

/// One line of the worker's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Answer {
    /// The job was understood.
    Started {
        /// [`PROTOCOL_VERSION`] of the worker.
        protocol: u32,
    },
    /// The model is in memory.
    Loaded {
        /// Time to open, repack and place it.
        load_ms: f64,
    },
    /// The tokens are written.
    Done(Box<Outcome>),
    /// The predictions of a base are in their file.
    BaseMade {},
    /// The text is predicted.
    Predicted(Figures),
    /// It cannot be done.
    Error {
        /// What happened and what to do.
        message: String,
    },
}

/// What a repetition gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Tokens of the prompt.
    pub n_prompt: u32,
    /// Time to open, repack and place the model.
    pub load_ms: Option<f64>,
    /// Arrival of each token in nanoseconds since the prompt was handed over.
    pub arrival_ns: Vec<u64>,
    /// Where these times lie on the machine's clock.
    #[serde(default)]
    pub clock: Option<ClockSpan>,
    /// The passes over the prompt.
    pub prefill: Option<PassStats>,
    /// The passes that generated tokens 2..N.
    pub decode: Option<PassStats>,
    /// What was drafted and kept, where the job asks for speculation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculation: Option<Telemetry>,
    /// What took part at every site while tokens were generated, where the job asks for sparsity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<::engine::sparsity::Telemetry>,
    /// Threads that worked.
    pub threads: Option<u32>,
    /// CPUs they were pinned to; empty if not pinned.
    pub cpus: Vec<u32>,
    /// Instruction set of the kernels.
    pub isa: Option<String>,
    /// What the model is.
    pub model: ModelFacts,
    /// Bytes the KV cache can hold.
    pub kv_capacity_bytes: Option<u64>,
    /// How the weights came into memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<::engine::model::Placed>,
    /// What the model holds a second time, by channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_channels: Option<::engine::model::ByChannels>,
    /// Memory on huge pages.
    pub huge_pages_bytes: Option<u64>,
    /// Page faults and switches during the timed part.
    pub timed: ProcessUse,
    /// What was counted in it.
    #[serde(default)]
    pub counters: Option<Counters>,
    /// Generated token ids.
    pub output_ids: Vec<u32>,
    /// Generated text.
    pub output_text: String,
}

/// The timed part on the system's monotonic clock, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockSpan {
    /// When the prompt was handed over.
    pub start_ns: u64,
    /// From when to when the clock of the timed part stood still, after the first token.
    pub pause_ns: (u64, u64),
}

/// A repetition that gave a result.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The worker's answer.
    pub outcome: Outcome,
    /// What the operating system says.
    pub usage: Usage,
    /// What disturbed it.
    pub taint: Vec<Taint>,
    /// Slices of time it had, if it shared the machine in turns.
    pub slices: Option<u32>,
}

/// A repetition that gave none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The harness was asked to stop.
    Interrupted,
    /// It failed.
    Failed {
        /// How.
        kind: FailureKind,
        /// What happened and what to do.
        message: String,
        /// The end of the child's standard error.
        stderr: String,
    },
}

/// Runs one repetition in a fresh process, which takes turns with others if there are `slices`.
///
/// # Errors
/// When it gave no result, or the harness was asked to stop.
pub fn repetition(
    worker: &Program,
    job: &Job,
    limit: Duration,
    slices: Option<&Slices>,
) -> Result<Finished, Trouble> {
    let failed = |kind, message: String, stderr: &str| Trouble::Failed {
        kind,
        message,
        stderr: stderr.to_owned(),
    };
    let mut input = serde_json::to_vec(job).map_err(|e| {
        failed(
            FailureKind::Spawn,
            format!("job cannot be written: {e}"),
            "",
        )
    })?;
    input.push(b'\n');
    let before = Disturbance::read();
    let ended = child::run(worker, input, limit, slices).map_err(|e| {
        let message = format!("cannot start \"{}\": {e}", worker.path.display());
        failed(FailureKind::Spawn, message, "")
    })?;
    let outside = Disturbance::read().since(&before);
    let mut outcome = outcome(&ended, job, limit).map_err(|trouble| match trouble {
        None => Trouble::Interrupted,
        Some((kind, message)) => failed(kind, message, &ended.stderr),
    })?;
    let mut usage = usage(&ended, outcome.timed, &outside);
    usage.huge_pages_bytes = outcome.huge_pages_bytes;
    let timed_s = outcome.arrival_ns.last().map_or(0.0, |&ns| ns as f64 / 1e9);
    let slices = ended.ran.as_ref().map(Ran::slices);
    let taint = taint(&usage, timed_s, !outcome.cpus.is_empty(), slices);
    if let Some(ran) = &ended.ran {
        let own = ran.own_time(&mut outcome);
        own.map_err(|message| failed(FailureKind::Protocol, message, &ended.stderr))?;
    }
    Ok(Finished {
        outcome,
        usage,
        taint,
        slices,
    })
}

/// Whether a program answers as a worker does: to something that is no job, with a reason in one line of JSON.
pub fn is_worker(program: &Program) -> bool {
    let ended = child::run(program, b"{}\n".to_vec(), ANSWERS_WITHIN, None);
    let answers = ended.is_ok_and(|ended| {
        let last = answer(&ended.stdout);
        ended.ending == Ending::Exited && matches!(last, Ok(Some(_)))
    });
    answers && !crate::interrupt::requested()
}

/// What a program that is no worker left behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// All it wrote to stdout.
    pub stdout: Vec<u8>,
    /// The end of what it wrote to stderr.
    pub stderr: String,
    /// What the operating system says, over the program's whole life.
    pub usage: Usage,
    /// What disturbed it.
    pub taint: Vec<Taint>,
}

/// Runs a program that is no worker to its end. It ends with this one, and gets nothing to read.
///
/// # Errors
/// When it fails, or the harness was asked to stop.
pub fn tool(program: &Program, limit: Duration) -> Result<Output, Trouble> {
    let failed = |kind, message: String, stderr: String| Trouble::Failed {
        kind,
        message,
        stderr,
    };
    let (before, switched) = (Disturbance::read(), ProcessUse::of_children());
    let ended = child::run(&tied::tie(program), Vec::new(), limit, None).map_err(|e| {
        let message = format!("cannot start \"{}\": {e}", program.path.display());
        failed(FailureKind::Spawn, message, String::new())
    })?;
    let (kind, message) = match ended.ending {
        Ending::Interrupted => return Err(Trouble::Interrupted),
        Ending::Exited if ended.status.success() => {
            let outside = Disturbance::read().since(&before);
            return Ok(tool_output(
                ended,
                &outside,
                ProcessUse::of_children().since(&switched),
            ));
        }
        Ending::Exited => match ended.status.signal() {
            Some(_) => {
                let message = format!("killed by {}", child::status_text(ended.status));
                (FailureKind::Signal, message)
            }
            None => {
                let last = ended.stderr.lines().rfind(|line| !line.trim().is_empty());
                let last = shown(last.unwrap_or("no message"), WORDS_CHARS_MAX);
                let message = format!("{}: {last}", child::status_text(ended.status));
                (FailureKind::Error, message)
            }
        },
        Ending::TimedOut => {
            let message = format!("not done within {} s, killed", limit.as_secs_f64());
            (FailureKind::Timeout, message)
        }
        Ending::Flooded => {
            let message = "wrote without end, killed".to_owned();
            (FailureKind::Protocol, message)
        }
    };
    Err(failed(kind, message, ended.stderr))
}

fn tool_output(ended: Ended, outside: &Disturbance, timed: ProcessUse) -> Output {
    let usage = usage(&ended, timed, outside);
    Output {
        taint: taint(&usage, ended.wall_ms / 1e3, false, None),
        usage,
        stdout: ended.stdout,
        stderr: ended.stderr,
    }
}

/// The outcome a child reported, or how it failed; `None` if the harness was asked to stop.
fn outcome(
    ended: &Ended,
    job: &Job,
    limit: Duration,
) -> Result<Outcome, Option<(FailureKind, String)>> {
    let protocol = |message: String| Some((FailureKind::Protocol, message));
    match last_answer(ended, limit, "run.timeout_s")? {
        Some(Answer::Done(outcome)) => {
            check(&outcome, job).map_err(protocol)?;
            Ok(*outcome)
        }
        _ => Err(protocol("ended without a result".into())),
    }
}

/// The last answer of a child that did not fail, or how it did; `None` if the harness was asked to stop. `limited_by` is the
/// key that gives it its time.
fn last_answer(
    ended: &Ended,
    limit: Duration,
    limited_by: &str,
) -> Result<Option<Answer>, Option<(FailureKind, String)>> {
    match ended.ending {
        Ending::Interrupted => return Err(None),
        Ending::TimedOut => {
            let limit_s = limit.as_secs_f64();
            let message = format!(
                "no result within {limit_s} s, killed: raise {limited_by}, or see what it waits for in its standard error"
            );
            return Err(Some((FailureKind::Timeout, message)));
        }
        Ending::Flooded => {
            let message = "wrote more than any answer needs, killed".to_owned();
            return Err(Some((FailureKind::Protocol, message)));
        }
        Ending::Exited => {}
    }
    let answer = answer(&ended.stdout);
    if let Ok(Some(Answer::Error { message })) = answer {
        return Err(Some((FailureKind::Error, message)));
    }
    if let Some(signal) = ended.status.signal() {
        let hint = match signal {
            9 => ": was it out of memory?",
            _ => "",
        };
        let message = format!("killed by {}{hint}", child::status_text(ended.status));
        return Err(Some((FailureKind::Signal, message)));
    }
    if !ended.status.success() {
        let last = ended.stderr.lines().last().unwrap_or("no message");
        let last = shown(last, WORDS_CHARS_MAX);
        let message = format!("{}: {last}", child::status_text(ended.status));
        return Err(Some((FailureKind::Error, message)));
    }
    answer.map_err(|message| Some((FailureKind::Protocol, message)))
}

/// The last line of an answer; every line must be one.
fn answer(stdout: &[u8]) -> Result<Option<Answer>, String> {
    let mut last = None;
    for line in stdout.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
        let read = serde_json::from_slice::<Answer>(line);
        last = Some(read.map_err(|e| {
            let found = shown(&String::from_utf8_lossy(line), WORDS_CHARS_MAX);
            format!("expected a line of JSON, found \"{found}\": {e}")
        })?);
        if let Some(Answer::Started { protocol }) = last
            && protocol != PROTOCOL_VERSION
        {
            return Err(format!(
                "the worker speaks protocol {protocol}, expected {PROTOCOL_VERSION}: is it another version's?"
            ));
        }
    }
    Ok(last)
}

/// Whether an outcome can be true.
fn check(outcome: &Outcome, job: &Job) -> Result<(), String> {
    let (times, ids) = (outcome.arrival_ns.len(), outcome.output_ids.len());
    if times != ids {
        return Err(format!("{times} arrival times for {ids} tokens"));
    }
    if ids == 0 || ids > job.n_gen as usize || (job.ignore_eos && ids != job.n_gen as usize) {
        return Err(format!("{ids} tokens where {} were asked for", job.n_gen));
    }
    if outcome.n_prompt == 0 {
        return Err("a prompt without tokens".into());
    }
    match outcome.arrival_ns.is_sorted() && outcome.arrival_ns[0] > 0 {
        true => Ok(()),
        false => Err("arrival times that do not rise".into()),
    }
}

/// What the operating system says about a child, from outside and from inside.
fn usage(ended: &Ended, timed: ProcessUse, outside: &Disturbance) -> Usage {
    Usage {
        peak_rss_bytes: Some(ended.peak_rss_bytes),
        huge_pages_bytes: None,
        minor_faults: timed.minor_faults,
        major_faults: timed.major_faults,
        voluntary_switches: timed.voluntary_switches,
        involuntary_switches: timed.involuntary_switches,
        migrations: timed.migrations,
        user_ms: Some(ended.user_ms),
        system_ms: Some(ended.system_ms),
        wall_ms: Some(ended.wall_ms),
        steal_ms: outside.steal_ms,
        throttled_ms: outside.throttled_ms,
    }
}

/// What disturbed a repetition enough to be marked; `timed_s` is the time in which switches were counted. Whoever stops a
/// slice has to wake up for it, and that takes the CPU from a thread.
fn taint(usage: &Usage, timed_s: f64, pinned: bool, slices: Option<u32>) -> Vec<Taint> {
    let mut taint = Vec::new();
    let wall_ms = usage.wall_ms.unwrap_or(f64::INFINITY);
    if let Some(ms) = usage.steal_ms.filter(|&ms| ms > wall_ms * STEAL_SHARE_MAX) {
        taint.push(Taint::Steal { ms });
    }
    if let Some(ms) = usage.throttled_ms.filter(|&ms| ms > 0.0) {
        taint.push(Taint::Throttled { ms });
    }
    let switches_max = INVOLUNTARY_FREE
        + (timed_s * INVOLUNTARY_PER_S_MAX) as u64
        + u64::from(slices.unwrap_or(0));
    if let Some(count) = usage.involuntary_switches.filter(|&n| n > switches_max) {
        taint.push(Taint::InvoluntarySwitches { count });
    }
    if let Some(count) = usage.major_faults.filter(|&n| n > 0) {
        taint.push(Taint::MajorFaults { count });
    }
    if let Some(count) = usage.migrations.filter(|&n| n > 0 && pinned) {
        taint.push(Taint::Migrations { count });
    }
    taint
}

/// When a repetition is marked as disturbed, one rule a line, as [`taint`] has them.
pub fn thresholds() -> [String; 5] {
    let percent = STEAL_SHARE_MAX * 100.0;
    [
        format!("the hypervisor took more than {percent} % of its time (steal)"),
        "the CPU quota of its cgroup held it back (throttling)".into(),
        format!(
            "other programs took its CPUs from it more than {INVOLUNTARY_FREE} times and {INVOLUNTARY_PER_S_MAX} times a second of timed work (forced switches)"
        ),
        "a page came from disk while it was timed (major faults)".into(),
        "a pinned thread moved to another CPU (migrations)".into(),
    ]
}

#[cfg(test)]
pub(crate) mod tests;
