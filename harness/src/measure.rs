//! Runs the repetitions of a scenario, in rounds, and writes each into the run folder the moment it ends.

pub use crate::record::ENGINE;

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
use crate::scenario::Order;
use crate::stats::SplitMix64;
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

/// One repetition to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Whether it counts.
    pub phase: Phase,
    /// Round, from 0; warm-up rounds count on their own.
    pub round: u32,
    /// Place in the round, from 0.
    pub position: u32,
    /// Index of the task.
    pub task: u32,
}

/// All repetitions, in order: each round holds each task once. In a rotated order the tasks are shuffled once and move on
/// by one place every round, so that drift of the machine and the place in the round meet all tasks alike.
pub fn schedule(tasks: u32, warmup: u32, rounds: u32, order: Order, seed: u64) -> Vec<Slot> {
    let base = shuffled((0..tasks).collect(), order, &mut SplitMix64::new(seed));
    let mut slots = Vec::new();
    for (phase, round, turn) in turns(warmup, rounds) {
        slots.extend(places(phase, round, turned(&base, turn, order)));
    }
    slots
}

/// The same repetitions with those of a round that take turns one after the other, so that nothing comes between them: what
/// takes none stands before them in every other round, and behind them in the rest.
pub fn gathered(slots: Vec<Slot>, tasks: &[Task]) -> Vec<Slot> {
    let rounds = slots.chunk_by(|a, b| (a.phase, a.round) == (b.phase, b.round));
    let rounds = rounds.flat_map(|round| {
        let first = round[0];
        let mut order: Vec<u32> = round.iter().map(|slot| slot.task).collect();
        order.sort_by_key(|&task| tasks[task as usize].takes_turns() == (first.round % 2 == 0));
        places(first.phase, first.round, order)
    });
    rounds.collect()
}

/// All repetitions of a comparison, in order. Tasks of a block are compared with each other: a measured round takes block
/// after block, each forwards and then backwards (A B B A), so that a drift within the round meets all tasks of a block
/// alike. In a rotated order blocks, and tasks within each, move on by one place every round. Warm-up rounds hold each task
/// once; `once` are tasks done a single time, with the warm-up.
pub fn mirrored(
    blocks: &[Vec<u32>],
    once: &[u32],
    (warmup, rounds): (u32, u32),
    order: Order,
    seed: u64,
) -> Vec<Slot> {
    let mut random = SplitMix64::new(seed);
    let blocks = blocks.iter().cloned();
    let blocks: Vec<Vec<u32>> = blocks.map(|b| shuffled(b, order, &mut random)).collect();
    let mut warm: Vec<u32> = blocks.concat();
    warm.extend(once);
    // Places after those of the warm-up, whether there is one or not.
    let mut slots = places(Phase::Warmup, 0, warm);
    slots.rotate_right(once.len());
    slots.retain(|slot| warmup > 0 || once.contains(&slot.task));
    for (phase, round, turn) in turns(warmup, rounds).skip(usize::from(warmup > 0)) {
        let mut tasks = Vec::new();
        for block in turned(&blocks, turn, order) {
            let block = turned(&block, turn, order);
            tasks.extend(&block);
            if phase == Phase::Measured {
                tasks.extend(block.iter().rev());
            }
        }
        slots.extend(places(phase, round, tasks));
    }
    slots
}

/// Phase and number of each round, and how often the order has moved on before it.
fn turns(warmup: u32, rounds: u32) -> impl Iterator<Item = (Phase, u32, u32)> {
    let warm = (0..warmup).map(|round| (Phase::Warmup, round, round));
    warm.chain((0..rounds).map(move |round| (Phase::Measured, round, warmup + round)))
}

fn shuffled(mut tasks: Vec<u32>, order: Order, random: &mut SplitMix64) -> Vec<u32> {
    if order == Order::Rotated {
        for i in (1..tasks.len()).rev() {
            tasks.swap(i, random.below(i + 1));
        }
    }
    tasks
}

/// A list moved on by `turn` places, in a rotated order.
fn turned<T: Clone>(list: &[T], turn: u32, order: Order) -> Vec<T> {
    let mut list = list.to_vec();
    if order == Order::Rotated && !list.is_empty() {
        let places = turn as usize % list.len();
        list.rotate_left(places);
    }
    list
}

/// The tasks of a round, in order.
fn places(phase: Phase, round: u32, tasks: Vec<u32>) -> Vec<Slot> {
    let slots = tasks.into_iter().zip(0..).map(|(task, position)| Slot {
        phase,
        round,
        position,
        task,
    });
    slots.collect()
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
        let slices = Slices::new(length);
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
                    let limit = task(slot).limit.saturating_mul(slots.len() as u32);
                    let worker = task(slot).worker.as_ref().unwrap_or(plan.worker);
                    let finished = runner::repetition(worker, job, limit, Some(slices));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_holds_every_task_once() {
        let slots = schedule(5, 2, 3, Order::Rotated, 7);
        assert_eq!(slots.len(), 5 * 5);
        for (i, round) in slots.chunks(5).enumerate() {
            let mut tasks: Vec<u32> = round.iter().map(|s| s.task).collect();
            tasks.sort_unstable();
            assert_eq!(tasks, [0, 1, 2, 3, 4]);
            let warmup = i < 2;
            let expect = if warmup {
                (Phase::Warmup, i as u32)
            } else {
                (Phase::Measured, i as u32 - 2)
            };
            assert!(round.iter().all(|s| (s.phase, s.round) == expect));
            assert!(round.iter().map(|s| s.position).eq(0..5));
        }
    }

    #[test]
    fn a_rotated_order_meets_every_place_once() {
        let slots = schedule(4, 0, 4, Order::Rotated, 3);
        for task in 0..4 {
            let places = slots.iter().filter(|s| s.task == task);
            let mut places: Vec<u32> = places.map(|s| s.position).collect();
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2, 3], "task {task}");
        }
        assert_eq!(slots, schedule(4, 0, 4, Order::Rotated, 3));
        let orders: std::collections::HashSet<Vec<u32>> = (0..20)
            .map(|seed| schedule(4, 0, 1, Order::Rotated, seed))
            .map(|slots| slots.iter().map(|s| s.task).collect())
            .collect();
        assert!(orders.len() > 3, "the seed decides the order");
        let listed = schedule(3, 0, 2, Order::Listed, 3);
        assert!(listed.iter().map(|s| s.task).eq([0, 1, 2, 0, 1, 2]));
    }

    #[test]
    fn what_takes_turns_is_not_torn_apart() {
        let task = |affinity| {
            let job = Job {
                engine: engine::options::Options {
                    affinity: Affinity::Policy(affinity),
                    ..Default::default()
                },
                ..crate::runner::tests::job()
            };
            Task {
                case: 0,
                runner: ENGINE.into(),
                limit: Duration::from_secs(1),
                worker: None,
                work: Work::Worker(Box::new(job)),
            }
        };
        let [pinned, free] = [AffinityPolicy::Physical, AffinityPolicy::None].map(task);
        let tasks = [pinned.clone(), free.clone(), pinned, free];
        let slots = gathered(schedule(4, 1, 4, Order::Rotated, 3), &tasks);
        assert_eq!(slots.len(), 5 * 4);
        for round in slots.chunks(4) {
            let turns: Vec<bool> = round.iter().map(|s| s.task % 2 == 0).collect();
            let expect = match round[0].round % 2 {
                0 => [false, false, true, true],
                _ => [true, true, false, false],
            };
            assert_eq!(turns, expect, "{round:?}");
            assert!(round.iter().map(|s| s.position).eq(0..4));
            let mut all: Vec<u32> = round.iter().map(|s| s.task).collect();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3]);
        }
    }

    /// Tasks of each measured round, in order.
    fn rounds(slots: &[Slot]) -> Vec<Vec<u32>> {
        let measured: Vec<&Slot> = slots
            .iter()
            .filter(|s| s.phase == Phase::Measured)
            .collect();
        let rounds = measured.chunk_by(|a, b| a.round == b.round);
        rounds
            .map(|round| round.iter().map(|s| s.task).collect())
            .collect()
    }

    #[test]
    fn a_comparison_goes_forwards_and_back() {
        let blocks = [vec![0, 1], vec![2, 3, 4]];
        let listed = mirrored(&blocks, &[], (0, 2), Order::Listed, 1);
        assert_eq!(rounds(&listed), vec![vec![0, 1, 1, 0, 2, 3, 4, 4, 3, 2]; 2]);

        let slots = mirrored(&blocks, &[5, 6], (2, 6), Order::Rotated, 1);
        let rounds = rounds(&slots);
        assert_eq!(rounds.len(), 6);
        let mut first = std::collections::HashSet::new();
        for round in &rounds {
            // Blocks stay together, in either order.
            let at = if round[0] < 2 { 4 } else { 6 };
            let (a, b) = round.split_at(at);
            for block in [a, b] {
                assert!(block.iter().eq(block.iter().rev()), "{round:?}");
                first.insert(block[0]);
            }
            assert!(round.iter().filter(|t| **t < 2).count() == 4);
        }
        assert_eq!(
            first.len(),
            5,
            "every task has the outer places: {rounds:?}"
        );
        // Each place of a round is taken once; what is done once comes first, and no place is taken twice.
        assert_eq!([slots[0].task, slots[1].task], [5, 6]);
        let places: std::collections::HashSet<_> = slots
            .iter()
            .map(|s| (s.phase, s.round, s.position))
            .collect();
        assert_eq!(places.len(), slots.len());
        assert_eq!(slots.len(), 2 + 2 * 5 + 6 * 10);
        let cold = mirrored(&blocks, &[5], (0, 1), Order::Rotated, 1);
        assert_eq!((cold.len(), cold[0].phase), (1 + 10, Phase::Warmup));
        assert_eq!(cold[0].position, 5);
    }
}
