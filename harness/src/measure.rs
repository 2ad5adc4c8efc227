//! Runs the repetitions of a scenario, in rounds, and writes each into the run folder the moment it ends.

mod schedule;

pub use crate::record::ENGINE;
pub use schedule::{Slot, gathered, mirrored, schedule};

use crate::clock;
use crate::compare;
use crate::interrupt;
use crate::probe;
use crate::record::{
    CaseRecord, Failure, FailureKind, Manifest, ModelFacts, Phase, ProbeRecord, ReferencePlan, Run,
    RunFolder, SCHEMA_VERSION, Sample, tokens_sha256,
};
use crate::reference;
use crate::runner::{self, Finished, Job, Program, Slices, Trouble};
use engine::options::{Affinity, AffinityPolicy};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

/// A task that failed so often in a row is given up for this run.
const FAILURES_IN_A_ROW_MAX: u32 = 2;
/// Attempts one repetition may take, re-runs of disturbed ones included.
const ATTEMPTS_MAX: u32 = 3;

/// What is repeated: one case by one runner.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Index of the case.
    pub case: u32,
    /// Name of the runner in records.
    pub runner: String,
    /// Time one repetition may take.
    pub limit: Duration,
    /// The worker that does it, if it is not that of the plan.
    pub worker: Option<Program>,
    /// How a repetition is done.
    pub work: Work,
}

/// How a repetition is done.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// By the worker, with this job.
    Worker(Box<Job>),
    /// By another program.
    Reference(Box<ReferencePlan>),
}

impl Task {
    /// Whether it can be stopped and let go on.
    fn takes_turns(&self) -> bool {
        match &self.work {
            Work::Worker(job) => job.engine.affinity != Affinity::Policy(AffinityPolicy::None),
            Work::Reference(_) => false,
        }
    }
}

/// What a run needs.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What was promised.
    pub manifest: &'a Manifest,
    /// What is repeated.
    pub tasks: &'a [Task],
    /// The program that works.
    pub worker: &'a Program,
    /// The repetitions, in order.
    pub slots: &'a [Slot],
    /// How long a slice is, where the worker's repetitions of a round take turns; `None` where each has the machine to itself.
    pub slice: Option<Duration>,
    /// Disturbed repetitions that may be run again.
    pub reruns: u32,
    /// The program that takes peaks, and what it takes before the first repetition of every round.
    pub probes: (&'a Path, &'a [probe::Job]),
}

impl Plan<'_> {
    /// Repetitions that are done at the same time: the worker's of a round that follow each other, or one. Threads that are
    /// not pinned have the machine to themselves: let go on after a stop, they would be placed anew every time.
    pub fn groups(&self) -> impl Iterator<Item = &[Slot]> {
        let works = |slot: &Slot| self.tasks[slot.task as usize].takes_turns();
        self.slots.chunk_by(move |a, b| {
            let same = (a.phase, a.round) == (b.phase, b.round);
            self.slice.is_some() && same && works(a) && works(b)
        })
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Everything was tried.
    Complete,
    /// A signal stopped it.
    Interrupted,
}

/// Runs what `done` lacks. `tell` hears of every repetition before it starts, and at the end of each.
///
/// # Errors
/// When a record cannot be written. A repetition that fails is a record, not an error.
pub fn run(
    plan: &Plan<'_>,
    folder: &mut RunFolder,
    done: &mut Run,
    tell: &mut dyn FnMut(Told<'_>),
) -> anyhow::Result<End> {
    let mut measuring = Measuring {
        outputs: first_outputs(&done.samples),
        failed: HashMap::new(),
        reruns_left: plan.reruns.saturating_sub(reruns_used(&done.samples)),
        no_peak: HashSet::new(),
        left_aside: vec![],
        plan,
        folder,
        done,
        tell,
    };
    let mut round = None;
    for group in plan.groups() {
        let this = group.first().map(|slot| (slot.phase, slot.round));
        if this != round {
            round = this;
            measuring.left_aside = compare::left_aside(measuring.done);
        }
        let mut open = Vec::new();
        for &slot in group {
            match measuring.is_done(slot) || measuring.given_up(slot) {
                true => (measuring.tell)(Told::Skipped),
                false => open.push(slot),
            }
        }
        let Some(&first) = open.first() else {
            continue;
        };
        if interrupt::requested() || measuring.probes(first)? == End::Interrupted {
            return Ok(End::Interrupted);
        }
        let end = match (open.len(), plan.slice) {
            (2.., Some(length)) => measuring.in_turns(&open, length)?,
            _ => measuring.slot(first)?,
        };
        if end == End::Interrupted {
            return Ok(End::Interrupted);
        }
    }
    Ok(End::Complete)
}

/// What happens during a run.
#[derive(Debug)]
pub enum Told<'a> {
    /// A repetition of this case by this runner begins.
    Begins(&'a CaseRecord, &'a str),
    /// A repetition gave a result.
    Result(&'a Sample),
    /// A repetition gave none, or a wrong one.
    Failed(&'a Failure),
    /// A peak could not be taken, for this reason; shares of it are unknown.
    NoPeak(&'a str),
    /// The repetition is over, whatever it gave.
    Over,
    /// The repetition was done before, or its case is given up.
    Skipped,
}

/// Output of the first repetition of each case by each runner.
fn first_outputs(samples: &[Sample]) -> HashMap<(u32, String), String> {
    let mut outputs = HashMap::new();
    for sample in samples {
        let first = outputs.entry((sample.case_index, sample.runner.clone()));
        first.or_insert_with(|| sample.output_sha256.clone());
    }
    outputs
}

/// Re-runs that an interrupted run has used.
fn reruns_used(samples: &[Sample]) -> u32 {
    samples.iter().filter(|s| s.attempt > 0).count() as u32
}

/// What became of a repetition.
enum Taken {
    /// It is written down.
    Kept,
    /// It is written down, and something disturbed it.
    Disturbed,
    /// A signal stopped it.
    Interrupted,
}

/// A run in progress.
struct Measuring<'a, 'p> {
    plan: &'a Plan<'p>,
    folder: &'a mut RunFolder,
    done: &'a mut Run,
    tell: &'a mut dyn FnMut(Told<'_>),
    /// Output hash of the first repetition of each case by each runner.
    outputs: HashMap<(u32, String), String>,
    /// Failures in a row of each task.
    failed: HashMap<u32, u32>,
    reruns_left: u32,
    /// Peaks that could not be taken, as indices of the plan's.
    no_peak: HashSet<usize>,
    /// Runners, with their case, that need no more rounds.
    left_aside: Vec<(u32, String)>,
}

impl Measuring<'_, '_> {
    fn task(&self, slot: Slot) -> &Task {
        &self.plan.tasks[slot.task as usize]
    }

    fn case(&self, slot: Slot) -> &CaseRecord {
        &self.plan.manifest.cases[self.task(slot).case as usize]
    }

    fn is_done(&self, slot: Slot) -> bool {
        let task = self.task(slot);
        self.done.samples.iter().any(|s| {
            (s.case_index, s.runner.as_str()) == (task.case, task.runner.as_str())
                && (s.phase, s.round, s.position) == (slot.phase, slot.round, slot.position)
        })
    }

    fn given_up(&self, slot: Slot) -> bool {
        let task = self.task(slot);
        let mut aside = self.left_aside.iter();
        let is_aside = aside.any(|(case, runner)| (*case, runner) == (task.case, &task.runner));
        let failed = self.failed.get(&slot.task);
        is_aside || failed.is_some_and(|&n| n >= FAILURES_IN_A_ROW_MAX)
    }

    /// Takes the peaks of a slot's round, unless they are taken.
    fn probes(&mut self, slot: Slot) -> anyhow::Result<End> {
        let (program, jobs) = self.plan.probes;
        for (i, job) in jobs.iter().enumerate() {
            let same = |p: &ProbeRecord| (p.phase, p.round) == (slot.phase, slot.round);
            let taken = self.done.probes.iter();
            if taken.clone().any(|p| same(p) && p.engine == job.engine) || self.no_peak.contains(&i)
            {
                continue;
            }
            match probe::round(program, job, slot.phase, slot.round) {
                Ok(record) => {
                    self.folder.add_probe(&record)?;
                    self.done.probes.push(record);
                }
                Err(Trouble::Interrupted) => return Ok(End::Interrupted),
                Err(Trouble::Failed { message, .. }) => {
                    // Said once: what fails once fails in every round.
                    self.no_peak.insert(i);
                    (self.tell)(Told::NoPeak(&message));
                }
            }
        }
        Ok(End::Complete)
    }

    /// One repetition, and re-runs of it while it is disturbed and there is a budget.
    fn slot(&mut self, slot: Slot) -> anyhow::Result<End> {
        let plan = self.plan;
        let task = &plan.tasks[slot.task as usize];
        let case = &plan.manifest.cases[task.case as usize];
        (self.tell)(Told::Begins(case, &task.runner));
        for attempt in 0..ATTEMPTS_MAX {
            let started_at = clock::timestamp();
            let result = self.attempt(slot, attempt, started_at.clone());
            match self.take(slot, started_at, result)? {
                Taken::Interrupted => return Ok(End::Interrupted),
                Taken::Disturbed if self.reruns_left > 0 && attempt + 1 < ATTEMPTS_MAX => {
                    self.reruns_left -= 1;
                }
                Taken::Kept | Taken::Disturbed => break,
            }
        }
        (self.tell)(Told::Over);
        Ok(End::Complete)
    }

    /// Repetitions by the worker, all at the same time and in turns.
    fn in_turns(&mut self, slots: &[Slot], length: Duration) -> anyhow::Result<End> {
        let plan = self.plan;
        let task = |slot: Slot| &plan.tasks[slot.task as usize];
        for &slot in slots {
            let case = &plan.manifest.cases[task(slot).case as usize];
            (self.tell)(Told::Begins(case, &task(slot).runner));
        }
        // Half of their time at most goes to waiting for those that load.
        let limit = |slot: Slot| task(slot).limit.saturating_mul(slots.len() as u32);
        let patience = slots
            .iter()
            .map(|&slot| limit(slot))
            .min()
            .unwrap_or_default()
            / 2;
        let slices = Slices::new(length, slots.len(), patience);
        let started_at = clock::timestamp();
        let (ended, inbox) = std::sync::mpsc::channel();
        let mut end = Ok(End::Complete);
        std::thread::scope(|scope| {
            scope.spawn(|| slices.give_turns());
            for &slot in slots {
                let (slices, ended) = (&slices, ended.clone());
                scope.spawn(move || {
                    let Work::Worker(job) = &task(slot).work else {
                        unreachable!("groups hold the worker's repetitions");
                    };
                    let worker = task(slot).worker.as_ref().unwrap_or(plan.worker);
                    let finished = runner::repetition(worker, job, limit(slot), Some(slices));
                    // The other end waits for all of them.
                    let _ = ended.send((slot, finished));
                });
            }
            drop(ended);
            // Each is written down as it ends, so that nothing is lost with those that go on.
            for (slot, finished) in inbox {
                let result = finished.map(|f| self.sample(slot, 0, started_at.clone(), f));
                match self.take(slot, started_at.clone(), result) {
                    Ok(Taken::Interrupted) if end.is_ok() => end = Ok(End::Interrupted),
                    Err(e) if end.is_ok() => end = Err(e),
                    _ => {}
                }
                (self.tell)(Told::Over);
            }
            slices.close();
        });
        end
    }

    /// Writes down what a repetition gave.
    fn take(
        &mut self,
        slot: Slot,
        started_at: String,
        result: Result<Sample, Trouble>,
    ) -> anyhow::Result<Taken> {
        match result {
            Err(Trouble::Interrupted) => Ok(Taken::Interrupted),
            Err(Trouble::Failed {
                kind,
                message,
                stderr,
            }) => {
                let failure = self.failure(slot, started_at, kind, message, stderr);
                *self.failed.entry(slot.task).or_default() += 1;
                self.keep_failure(failure)?;
                Ok(Taken::Kept)
            }
            Ok(sample) => {
                self.failed.remove(&slot.task);
                let again = slot.phase == Phase::Measured && !sample.taint.is_empty();
                self.keep(slot, sample)?;
                Ok(match again {
                    true => Taken::Disturbed,
                    false => Taken::Kept,
                })
            }
        }
    }

    /// One start of whatever does the task.
    fn attempt(&self, slot: Slot, attempt: u32, started_at: String) -> Result<Sample, Trouble> {
        let task = self.task(slot);
        match &task.work {
            Work::Worker(job) => {
                let worker = task.worker.as_ref().unwrap_or(self.plan.worker);
                let finished = runner::repetition(worker, job, task.limit, None)?;
                Ok(self.sample(slot, attempt, started_at, finished))
            }
            Work::Reference(plan) => {
                let reading = reference::repetition(plan, task.limit)?;
                Ok(self.reference_sample(slot, attempt, started_at, plan, reading))
            }
        }
    }

    /// Writes a result, and compares its output with what was expected and with the case's first one.
    fn keep(&mut self, slot: Slot, sample: Sample) -> anyhow::Result<()> {
        self.folder.add_sample(&sample)?;
        (self.tell)(Told::Result(&sample));
        let found = sample.output_sha256.clone();
        let output = (sample.case_index, sample.runner.clone());
        let first = self.outputs.entry(output).or_insert_with(|| found.clone());
        let first = first.clone();
        let wrong = match &self.case(slot).expect_sha256 {
            // A program that tells no token ids is not checked here.
            _ if sample.output_ids.is_empty() => None,
            Some(expect) if *expect != found => Some(format!(
                "output {found}, expected {expect}: is it the same model, and is the kernel right?"
            )),
            _ if first != found => Some(format!(
                "output {found}, but the first repetition gave {first}"
            )),
            _ => None,
        };
        if let Some(message) = wrong {
            let started_at = sample.started_at.clone();
            let text = sample.output_text.clone();
            let failure = self.failure(slot, started_at, FailureKind::Mismatch, message, text);
            self.keep_failure(failure)?;
        }
        self.done.samples.push(sample);
        Ok(())
    }

    fn keep_failure(&mut self, failure: Failure) -> anyhow::Result<()> {
        self.folder.add_failure(&failure)?;
        (self.tell)(Told::Failed(&failure));
        self.done.failures.push(failure);
        Ok(())
    }

    fn failure(
        &self,
        slot: Slot,
        started_at: String,
        kind: FailureKind,
        message: String,
        stderr: String,
    ) -> Failure {
        Failure {
            schema_version: SCHEMA_VERSION,
            case: self.case(slot).name.clone(),
            case_index: self.task(slot).case,
            round: slot.round,
            position: slot.position,
            phase: slot.phase,
            runner: self.task(slot).runner.clone(),
            started_at,
            kind,
            message,
            stderr,
        }
    }

    fn sample(&self, slot: Slot, attempt: u32, started_at: String, finished: Finished) -> Sample {
        let case = self.case(slot);
        let outcome = finished.outcome;
        Sample {
            schema_version: SCHEMA_VERSION,
            case: case.name.clone(),
            case_index: self.task(slot).case,
            swept: case.swept.clone(),
            round: slot.round,
            position: slot.position,
            phase: slot.phase,
            attempt,
            runner: self.task(slot).runner.clone(),
            started_at,
            n_prompt: outcome.n_prompt,
            n_gen: case.n_gen,
            load_ms: outcome.load_ms,
            arrival_ns: outcome.arrival_ns,
            reported: None,
            prefill: outcome.prefill,
            decode: outcome.decode,
            speculation: outcome.speculation,
            sparsity: outcome.sparsity,
            threads: outcome.threads,
            cpus: outcome.cpus,
            isa: outcome.isa,
            model: outcome.model,
            kv_capacity_bytes: outcome.kv_capacity_bytes,
            weights: outcome.weights,
            by_channels: outcome.by_channels,
            usage: finished.usage,
            output_sha256: tokens_sha256(&outcome.output_ids),
            output_ids: outcome.output_ids,
            output_text: outcome.output_text,
            taint: finished.taint,
            counters: outcome.counters,
            slices: finished.slices,
        }
    }

    fn reference_sample(
        &self,
        slot: Slot,
        attempt: u32,
        started_at: String,
        plan: &ReferencePlan,
        reading: reference::Reading,
    ) -> Sample {
        let case = self.case(slot);
        Sample {
            schema_version: SCHEMA_VERSION,
            case: case.name.clone(),
            case_index: self.task(slot).case,
            swept: case.swept.clone(),
            round: slot.round,
            position: slot.position,
            phase: slot.phase,
            attempt,
            runner: plan.runner.clone(),
            started_at,
            n_prompt: plan.n_prompt,
            n_gen: plan.n_gen,
            load_ms: reading.load_ms,
            arrival_ns: vec![],
            reported: Some(reading.reported),
            prefill: None,
            decode: None,
            speculation: None,
            sparsity: None,
            threads: reading.threads,
            cpus: vec![],
            isa: None,
            model: ModelFacts::default(),
            kv_capacity_bytes: None,
            weights: None,
            by_channels: None,
            usage: reading.usage,
            output_sha256: String::new(),
            output_ids: vec![],
            output_text: reading.text,
            taint: reading.taint,
            counters: None,
            slices: None,
        }
    }
}
