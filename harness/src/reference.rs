//! Other programs that do the same work: where they are, how they are told what to do, and how their figures are read.
//!
//! Each program has one adapter: [`Adapter::commands`] composes what is started in every repetition, and
//! [`Adapter::read`] takes the figures from what it wrote.

mod command;
mod find;
mod install;
mod llama_bench;
mod llama_cli;
mod llama_completion;

pub use find::{Installation, Place, Places, Tool, find, missing};
pub use install::{PACKAGE, install};

use crate::record::{
    FailureKind, ReferenceCommand, ReferenceKind, ReferencePlan, Reported, Taint, Usage,
};
use crate::repeat::{Facts, Variant};
use crate::runner::{self, Program, Trouble};
use crate::scenario::{Case, ReferenceSpec};
use std::path::Path;
use std::time::Duration;

/// Most characters of a program's output that an error shows.
const SHOWN_CHARS_MAX: usize = 80;

/// What is to be done.
#[derive(Debug)]
pub struct Workload<'a> {
    /// The case.
    pub case: &'a Case,
    /// Model, CPUs, number of prompt tokens.
    pub facts: Facts<'a>,
    /// The program.
    pub program: &'a Path,
    /// What the program says under `--help`; empty where nobody asked.
    pub help: &'a str,
    /// How it is run.
    pub variant: Variant,
    /// What the scenario says about it.
    pub spec: Option<&'a ReferenceSpec>,
    /// A file with the prompt's text.
    pub prompt_file: Option<&'a Path>,
}

/// What a repetition gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Rates that it reported.
    pub reported: Reported,
    /// Time to load the model, where it says so.
    pub load_ms: Option<f64>,
    /// Threads that it says it used.
    pub threads: Option<u32>,
    /// Generated text, where it writes one.
    pub text: String,
    /// What the operating system says, over all its commands.
    pub usage: Usage,
    /// What disturbed it.
    pub taint: Vec<Taint>,
}

/// What one command wrote.
#[derive(Debug)]
struct Written<'a> {
    stdout: &'a str,
    stderr: &'a str,
}

/// One kind of program.
trait Adapter: Sync {
    /// What is started in every repetition. An error says what it cannot be told.
    fn commands(&self, work: &Workload<'_>) -> Result<Vec<ReferenceCommand>, String>;

    /// Adds what one command wrote to a reading. An error says what was expected and found.
    fn read(
        &self,
        plan: &ReferencePlan,
        command: &ReferenceCommand,
        written: &Written<'_>,
        reading: &mut Reading,
    ) -> Result<(), String>;
}

fn adapter(kind: ReferenceKind) -> &'static dyn Adapter {
    match kind {
        ReferenceKind::LlamaBench => &llama_bench::LlamaBench,
        ReferenceKind::LlamaCompletion => &llama_completion::LlamaCompletion,
        ReferenceKind::LlamaCli => &llama_cli::LlamaCli,
        ReferenceKind::Command => &command::Command,
    }
}

/// What a kind of program is started with to do the work.
///
/// # Errors
/// What it cannot be told.
pub fn commands(kind: ReferenceKind, work: &Workload<'_>) -> Result<Vec<ReferenceCommand>, String> {
    if kind != ReferenceKind::Command && !work.case.engine.is_native() {
        return Err(
            "it runs the formats of the file, not those of engine.quant: write such a file with \"engine quantize\", and compare that"
                .into(),
        );
    }
    if work.case.engine.lossy_sparsity().is_some() {
        return Err(
            "it runs the whole model, which engine.sparsity does not: compare the engine with itself, or leave sparsity out"
                .into(),
        );
    }
    adapter(kind).commands(work)
}

/// One repetition by another program. `limit` holds for each of its commands.
///
/// # Errors
/// When it fails, writes what cannot be read, or the harness was asked to stop.
pub fn repetition(plan: &ReferencePlan, limit: Duration) -> Result<Reading, Trouble> {
    let mut reading = Reading::default();
    for command in &plan.commands {
        let program = Program {
            path: command.argv.first().cloned().unwrap_or_default().into(),
            args: command.argv.iter().skip(1).map(Into::into).collect(),
        };
        let output = runner::tool(&program, limit)?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let written = Written {
            stdout: &stdout,
            stderr: &output.stderr,
        };
        let read = adapter(plan.kind).read(plan, command, &written, &mut reading);
        read.map_err(|message| Trouble::Failed {
            kind: FailureKind::Protocol,
            message,
            stderr: output.stderr.clone(),
        })?;
        add(&mut reading.usage, &output.usage);
        Taint::merge(&mut reading.taint, output.taint);
    }
    Ok(reading)
}

/// Adds the use of one more command: sums, and the larger peak.
fn add(sum: &mut Usage, more: &Usage) {
    fn plus<T: std::ops::Add<Output = T>>(a: Option<T>, b: Option<T>) -> Option<T> {
        match (a, b) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        }
    }
    *sum = Usage {
        peak_rss_bytes: sum.peak_rss_bytes.max(more.peak_rss_bytes),
        huge_pages_bytes: None,
        minor_faults: plus(sum.minor_faults, more.minor_faults),
        major_faults: plus(sum.major_faults, more.major_faults),
        voluntary_switches: plus(sum.voluntary_switches, more.voluntary_switches),
        involuntary_switches: plus(sum.involuntary_switches, more.involuntary_switches),
        migrations: None,
        user_ms: plus(sum.user_ms, more.user_ms),
        system_ms: plus(sum.system_ms, more.system_ms),
        wall_ms: plus(sum.wall_ms, more.wall_ms),
        steal_ms: plus(sum.steal_ms, more.steal_ms),
        throttled_ms: plus(sum.throttled_ms, more.throttled_ms),
    };
}

/// The start of what was found instead of something.
fn shown(text: &str) -> String {
    let start = runner::shown(text, SHOWN_CHARS_MAX);
    match start.is_empty() {
        true => "nothing".into(),
        false => format!("\"{start}\""),
    }
}

#[cfg(test)]
mod tests;
