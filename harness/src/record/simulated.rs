//! Counts of a case under a simulation of the machine's caches. They never say anything about time.

use super::Run;
use engine::stage::Stage;
use serde::{Deserialize, Serialize};

/// One attempt to simulate a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimulatedRecord {
    /// [`super::SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Name of the case.
    pub case: String,
    /// Index of the case in the manifest.
    pub case_index: u32,
    /// Start of the simulation, RFC 3339, UTC.
    pub started_at: String,
    /// What it gave.
    pub result: Simulation,
}

/// What a simulation gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Simulation {
    /// Counts.
    Counted(Box<Simulated>),
    /// None, for this reason; with what to do about it.
    Missing(String),
}

/// The counts of a case, and how they came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Simulated {
    /// The simulator and its version: `callgrind-3.19.0`.
    pub tool: String,
    /// First-level instruction cache that was simulated.
    pub l1i: CacheShape,
    /// First-level data cache.
    pub l1d: CacheShape,
    /// Last-level cache.
    pub ll: CacheShape,
    /// Where these are not the machine's own: what was changed, since the simulator takes only powers of two.
    pub adjusted: Vec<String>,
    /// Instruction set of the kernels under the simulator, which may know fewer than the processor.
    pub isa: Option<String>,
    /// Threads; one, so that counts repeat.
    pub threads: Option<u32>,
    /// Reading the prompt, or the first part of it, and choosing the first token.
    pub prefill: SimulatedPhase,
    /// Generating tokens 2..N.
    pub decode: Option<SimulatedPhase>,
}

/// A cache as it was simulated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheShape {
    /// Size in bytes.
    pub bytes: u64,
    /// Ways of a set.
    pub ways: u64,
    /// Bytes of a line.
    pub line_bytes: u64,
}

/// The counts of one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimulatedPhase {
    /// Tokens that went through the model.
    pub tokens: u32,
    /// Counts of each stage that ran, summed over the tokens, in the order of a pass.
    pub stages: Vec<StageCounts>,
}

/// The counts of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageCounts {
    /// The stage; `None` for what belongs to no stage.
    pub stage: Option<Stage>,
    /// Its counts.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What a simulator counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Instructions executed.
    pub instructions: u64,
    /// Data reads.
    pub reads: u64,
    /// Data writes.
    pub writes: u64,
    /// Instruction fetches that missed the first level.
    pub l1_fetch_misses: u64,
    /// Data reads that missed the first level.
    pub l1_read_misses: u64,
    /// Data writes that missed the first level.
    pub l1_write_misses: u64,
    /// Instruction fetches that missed the last level.
    pub ll_fetch_misses: u64,
    /// Data reads that missed the last level.
    pub ll_read_misses: u64,
    /// Data writes that missed the last level.
    pub ll_write_misses: u64,
}

impl Counts {
    /// Element-wise sum.
    pub fn add(&mut self, other: &Counts) {
        self.instructions += other.instructions;
        self.reads += other.reads;
        self.writes += other.writes;
        self.l1_fetch_misses += other.l1_fetch_misses;
        self.l1_read_misses += other.l1_read_misses;
        self.l1_write_misses += other.l1_write_misses;
        self.ll_fetch_misses += other.ll_fetch_misses;
        self.ll_read_misses += other.ll_read_misses;
        self.ll_write_misses += other.ll_write_misses;
    }

    /// All misses of the first level.
    pub fn l1_misses(&self) -> u64 {
        self.l1_fetch_misses + self.l1_read_misses + self.l1_write_misses
    }

    /// All misses of the last level.
    pub fn ll_misses(&self) -> u64 {
        self.ll_fetch_misses + self.ll_read_misses + self.ll_write_misses
    }
}

impl SimulatedPhase {
    /// The counts of the whole phase.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.stages.iter().for_each(|s| total.add(&s.counts));
        total
    }

    /// A count of the whole phase for each token.
    pub fn per_token(&self, count: impl Fn(&Counts) -> u64) -> f64 {
        count(&self.total()) as f64 / f64::from(self.tokens.max(1))
    }
}

impl Simulated {
    /// Bytes of the lines that missed the last level in a phase, for each token.
    pub fn ll_bytes_per_token(&self, phase: &SimulatedPhase) -> f64 {
        phase.per_token(Counts::ll_misses) * self.ll.line_bytes as f64
    }
}

impl SimulatedRecord {
    /// The counts, if there are any.
    pub fn counts(&self) -> Option<&Simulated> {
        match &self.result {
            Simulation::Counted(counts) => Some(counts),
            Simulation::Missing(_) => None,
        }
    }
}

impl Run {
    /// The last attempt to simulate a case.
    pub fn simulation(&self, case_index: u32) -> Option<&SimulatedRecord> {
        let mut records = self.simulated.iter();
        records.rfind(|record| record.case_index == case_index)
    }

    /// The counts of a case under simulation.
    pub fn simulated(&self, case_index: u32) -> Option<&Simulated> {
        self.simulation(case_index)?.counts()
    }
}
