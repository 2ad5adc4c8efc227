//! What a run leaves on disk: the wire types of a run folder, and the one place where rates and latencies are
//! derived from them.
//!
//! A run folder holds `manifest.json` ([`Manifest`], written once, before the first child starts),
//! `samples.jsonl` ([`Sample`], one line per finished repetition) and `failures.jsonl` ([`Failure`], one line per
//! repetition that gave no result). A number that nobody measured is `None`, never 0.

mod comparison;
mod counters;
mod folder;
mod probe;
mod quality;
mod rates;
mod simulated;
mod sparsity;
mod speculation;

pub(crate) use comparison::marked;
pub use comparison::{
    ComparisonPlan, ENGINE_AGAIN, Figure, Figures, OtherBuild, ReferenceCommand, ReferenceKind,
    ReferencePlan, Refused, Reported, SecondEngine, Setting,
};
pub use counters::{Absent, Count, Counters, Part, Source};
pub(crate) use folder::{KEPT, unfinished, write_whole};
pub use folder::{Run, RunFolder};
pub use probe::{ProbeRecord, above_peak, probed};
pub use quality::{Quality, QualityBase, QualityPlan, QualityRecord};
pub use simulated::{
    CacheShape, Counts, Simulated, SimulatedPhase, SimulatedRecord, Simulation, StageCounts,
};
pub use sparsity::{active_share, by_layer, by_site};
pub use speculation::{Terms, acceptance_by_position, pass_costs, plain_pass_ns};

use crate::host::HostFacts;
use engine::sparsity::Thresholds;
use engine::speculate::Telemetry;
use engine::stage::{Ledger, StageTimes};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;

/// Name of this project's engine as a runner in records.
pub const ENGINE: &str = "engine";
/// Version of every file in a run folder. A reader refuses other versions.
pub const SCHEMA_VERSION: u32 = 1;

/// Swept keys and their values, in the order of the scenario's `[matrix]`: `engine.threads` -> `2`.
pub type Swept = serde_json::Map<String, serde_json::Value>;

/// What was run, with what, on what machine. Written once; a resumed run must match it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Start of the run, RFC 3339, UTC.
    pub created_at: String,
    /// The scenario as it was read.
    pub scenario: ScenarioRecord,
    /// The programs that measured.
    pub binary: BinaryRecord,
    /// The model files used, one per distinct model of the cases.
    pub models: Vec<ModelRecord>,
    /// The machine, as far as it tells.
    pub host: HostFacts,
    /// Measured rounds per case.
    pub rounds: u32,
    /// Warm-up rounds per case, recorded but not counted.
    pub warmup: u32,
    /// Seed of the order of the cases within a round.
    pub order_seed: u64,
    /// The expanded cases, in the order of their index.
    pub cases: Vec<CaseRecord>,
    /// SHA-256, hex, of the files that the cases' options name: plans, importance matrices, thresholds, models that draft.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// What those of them hold that cases leave channels out by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub thresholds: BTreeMap<String, Thresholds>,
    /// What the engine is compared with, if the run is a comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<ComparisonPlan>,
    /// What quality is measured on, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityPlan>,
}

/// The scenario of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScenarioRecord {
    /// Name, also the first part of the run folder's name.
    pub name: String,
    /// What the scenario is for.
    pub description: String,
    /// File it was read from, as an absolute path.
    pub path: String,
    /// The whole text of the file.
    pub text: String,
    /// SHA-256 of the text, hex.
    pub sha256: String,
    /// `--set` overrides, as given: `engine.threads=1`.
    pub overrides: Vec<String>,
}

/// The binary that measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinaryRecord {
    /// Version of the `harness` package.
    pub version: String,
    /// SHA-256 of the executable, hex.
    pub sha256: String,
    /// Commit of the source tree at build time, with `-dirty` if it had changes.
    pub git_commit: Option<String>,
    /// `rustc --version` at build time.
    pub compiler: Option<String>,
    /// `release` or `debug`.
    pub profile: String,
}

/// A model file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Name in the catalogue, the synthetic model's name, or the file name.
    pub name: String,
    /// Where the file was.
    pub path: String,
    /// Size of the file in bytes, of a split model that of all its files.
    pub file_bytes: u64,
    /// SHA-256 of the file, hex; of a split model, of the hashes of its files, one behind the other.
    pub sha256: String,
    /// Licence, where the catalogue knows it.
    pub licence: Option<String>,
}

/// One case of the scenario: one point of its matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseRecord {
    /// Position in the expansion of the matrix.
    pub index: u32,
    /// `engine.threads=2 prompt.tokens=64`, or the scenario's name if nothing is swept.
    pub name: String,
    /// The swept keys and their values.
    pub swept: Swept,
    /// Index into [`Manifest::models`].
    pub model: usize,
    /// The engine options asked for, all of them.
    pub engine: engine::Options,
    /// Tokens to generate.
    pub n_gen: u32,
    /// The prompt's text; `None` for synthetic token ids.
    pub prompt: Option<String>,
    /// Number of synthetic prompt tokens, if the prompt is synthetic.
    pub prompt_tokens: Option<u32>,
    /// Temperature that tokens are drawn with, 0 for the likeliest each time; nothing in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temp: Option<f32>,
    /// Output hash the scenario expects, hex.
    pub expect_sha256: Option<String>,
    /// Command lines that repeat the same work with other programs.
    pub repeat: Vec<RepeatCommand>,
}

impl CaseRecord {
    /// The name, marked where the case says something else than the whole model would.
    pub fn shown_name(&self) -> String {
        marked(&self.name, self.engine.lossy_sparsity().is_some())
    }
}

/// A command line that repeats a case 1:1 with another program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepeatCommand {
    /// The program: `llama-completion`, `llama-bench`.
    pub tool: String,
    /// The whole line, quoted for a POSIX shell.
    pub line: String,
    /// What it cannot repeat, if anything.
    pub note: Option<String>,
}

/// Whether a repetition counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Recorded, not counted.
    Warmup,
    /// Counted.
    Measured,
}

/// One repetition of one case by one runner, each in a fresh process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Name of the case.
    pub case: String,
    /// Index of the case in the manifest.
    pub case_index: u32,
    /// The swept keys and their values.
    pub swept: Swept,
    /// Round, from 0; warm-up rounds count on their own.
    pub round: u32,
    /// Position of this repetition within its round, from 0.
    pub position: u32,
    /// Whether this repetition counts.
    pub phase: Phase,
    /// 0, or the number of the re-run that replaced a tainted repetition.
    pub attempt: u32,
    /// What ran: `engine`.
    pub runner: String,
    /// Start of the child, RFC 3339, UTC.
    pub started_at: String,
    /// Tokens of the prompt.
    pub n_prompt: u32,
    /// Tokens asked for.
    pub n_gen: u32,
    /// Time to open, repack and place the model.
    pub load_ms: Option<f64>,
    /// Arrival of each generated token, in nanoseconds since the prompt was handed over; the first is the time to
    /// first token.
    pub arrival_ns: Vec<u64>,
    /// Rates that the program measured itself; used where there are no arrival times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
    /// The pass or passes over the prompt.
    pub prefill: Option<PassStats>,
    /// The passes that generated tokens 2..N.
    pub decode: Option<PassStats>,
    /// What was drafted and kept in these, where the scenario asks for speculation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculation: Option<Telemetry>,
    /// What took part at every site in these, where the scenario asks for sparsity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<engine::sparsity::Telemetry>,
    /// Threads that worked.
    pub threads: Option<u32>,
    /// CPUs the threads were pinned to, in thread order; empty if not pinned.
    pub cpus: Vec<u32>,
    /// Instruction set the kernels used.
    pub isa: Option<String>,
    /// What the model is.
    pub model: ModelFacts,
    /// Bytes the KV cache can hold.
    pub kv_capacity_bytes: Option<u64>,
    /// How the weights came into memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<engine::model::Placed>,
    /// What the model held a second time, by channels, and encoded anew for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_channels: Option<engine::model::ByChannels>,
    /// What the operating system says about the child.
    pub usage: Usage,
    /// Generated token ids.
    pub output_ids: Vec<u32>,
    /// [`tokens_sha256`] of the ids.
    pub output_sha256: String,
    /// Generated text.
    pub output_text: String,
    /// What disturbed this repetition; kept, but marked.
    pub taint: Vec<Taint>,
    /// What was counted while it worked; `None` if nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// Slices of time it had, if it took turns with others; its times are those of its slices alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slices: Option<u32>,
}

/// What the model is, as the runner read it from the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Architecture, size and format in words: `llama 135M Q4_1`.
    pub description: String,
    /// Number of weights.
    pub n_params: Option<u64>,
    /// Bytes of all weights in the formats they were loaded in.
    pub weight_bytes: Option<u64>,
    /// Weights in the layers' matrices that are multiplied once for every token: of experts those of the ones it goes through.
    #[serde(default)]
    pub layer_params: Option<u64>,
    /// Of these the ones behind the last layer's attention, which of a prompt only the last token is multiplied with.
    #[serde(default)]
    pub last_params: Option<u64>,
    /// Weights of the output head, multiplied once for every token that is chosen.
    #[serde(default)]
    pub head_params: Option<u64>,
    /// Whether most weights are floats, so that arithmetic is in single precision.
    #[serde(default)]
    pub float_weights: Option<bool>,
    /// The matrices that every token is multiplied with, by kind and format.
    #[serde(default)]
    pub matrices: Vec<MatrixFacts>,
}

/// Matrices of one kind that have the same format in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatrixFacts {
    /// `ffn_down`, `output`.
    pub kind: String,
    /// Name of the format.
    pub format: String,
    /// How many they are.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Stage times and bytes of one phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassStats {
    /// Passes through the model.
    pub passes: u64,
    /// Time per stage, averaged over threads and summed over passes; `{"norm": 1200, ...}` in nanoseconds.
    #[serde(with = "stage_map")]
    pub stages: StageTimes,
    /// Bytes read and written, summed over threads and passes.
    pub ledger: Ledger,
    /// Multiplications of weights with activations, summed over passes; 0 where nobody counted them.
    #[serde(default)]
    pub products: u64,
}

/// What the operating system says about a finished child, from `wait4` and `/proc`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Largest resident set in bytes.
    pub peak_rss_bytes: Option<u64>,
    /// Memory on huge pages at the end of the run, in bytes.
    pub huge_pages_bytes: Option<u64>,
    /// Page faults served without I/O.
    pub minor_faults: Option<u64>,
    /// Page faults that waited for I/O.
    pub major_faults: Option<u64>,
    /// Times a thread gave up its CPU.
    pub voluntary_switches: Option<u64>,
    /// Times a thread was made to give up its CPU.
    pub involuntary_switches: Option<u64>,
    /// Times a thread moved to another CPU.
    pub migrations: Option<u64>,
    /// CPU time in user mode.
    pub user_ms: Option<f64>,
    /// CPU time in the kernel.
    pub system_ms: Option<f64>,
    /// Life of the child, start to end.
    pub wall_ms: Option<f64>,
    /// Time the hypervisor took from this machine during the child's life, summed over CPUs.
    pub steal_ms: Option<f64>,
    /// Time the cgroup held the child back.
    pub throttled_ms: Option<f64>,
}

/// Something that disturbed a repetition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Taint {
    /// The hypervisor gave the CPUs to others.
    Steal {
        /// CPU time taken, over all CPUs.
        ms: f64,
    },
    /// The cgroup's CPU quota held the child back.
    Throttled {
        /// Time held back.
        ms: f64,
    },
    /// Threads were made to give up their CPU often.
    InvoluntarySwitches {
        /// How often.
        count: u64,
    },
    /// Pages were read from disk or swap.
    MajorFaults {
        /// How many.
        count: u64,
    },
    /// Pinned threads moved between CPUs.
    Migrations {
        /// How often.
        count: u64,
    },
}

impl Taint {
    /// What it is, without how much.
    pub fn name(&self) -> &'static str {
        match self {
            Taint::Steal { .. } => "steal",
            Taint::Throttled { .. } => "throttling",
            Taint::InvoluntarySwitches { .. } => "involuntary switches",
            Taint::MajorFaults { .. } => "major faults",
            Taint::Migrations { .. } => "migrations",
        }
    }

    /// Who or what it was, as the end of a sentence about disturbed repetitions.
    pub fn cause(&self) -> &'static str {
        match self {
            Taint::Steal { .. } => "by the hypervisor (steal)",
            Taint::Throttled { .. } => "by the cgroup's CPU quota (throttling)",
            Taint::InvoluntarySwitches { .. } => {
                "by other programs on these CPUs (forced switches)"
            }
            Taint::MajorFaults { .. } => "by pages read from disk (major faults)",
            Taint::Migrations { .. } => "by threads moved to other CPUs (migrations)",
        }
    }

    /// Adds what disturbed a later part of one repetition: of each kind one entry with the sum.
    pub fn merge(all: &mut Vec<Taint>, more: Vec<Taint>) {
        for taint in more {
            let same = all.iter_mut().find(|known| known.name() == taint.name());
            match (same, taint) {
                (Some(Taint::Steal { ms }), Taint::Steal { ms: more })
                | (Some(Taint::Throttled { ms }), Taint::Throttled { ms: more }) => *ms += more,
                (
                    Some(Taint::InvoluntarySwitches { count }),
                    Taint::InvoluntarySwitches { count: more },
                )
                | (Some(Taint::MajorFaults { count }), Taint::MajorFaults { count: more })
                | (Some(Taint::Migrations { count }), Taint::Migrations { count: more }) => {
                    *count += more;
                }
                (_, taint) => all.push(taint),
            }
        }
    }
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Taint::Steal { ms } => write!(f, "steal {ms:.0} ms"),
            Taint::Throttled { ms } => write!(f, "throttled {ms:.0} ms"),
            Taint::InvoluntarySwitches { count } => write!(f, "{count} involuntary switches"),
            Taint::MajorFaults { count } => write!(f, "{count} major faults"),
            Taint::Migrations { count } => write!(f, "{count} migrations"),
        }
    }
}

/// One repetition that gave no result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Name of the case.
    pub case: String,
    /// Index of the case in the manifest.
    pub case_index: u32,
    /// Round, from 0.
    pub round: u32,
    /// Position within the round, from 0.
    pub position: u32,
    /// Whether the repetition would have counted.
    pub phase: Phase,
    /// What ran.
    pub runner: String,
    /// Start of the child, RFC 3339, UTC.
    pub started_at: String,
    /// What kind of failure.
    pub kind: FailureKind,
    /// One line: what happened and what to do.
    pub message: String,
    /// The end of the child's standard error.
    pub stderr: String,
}

/// How a repetition failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The child could not be started.
    Spawn,
    /// The child ran over its time limit and was killed.
    Timeout,
    /// The child ended by a signal.
    Signal,
    /// The child ended with an error of its own.
    Error,
    /// The child's answer could not be understood.
    Protocol,
    /// The output differs from what was expected, or from the other repetitions.
    Mismatch,
}

impl FailureKind {
    /// The kind in words, as tables show it.
    pub fn name(self) -> &'static str {
        match self {
            FailureKind::Spawn => "not started",
            FailureKind::Timeout => "timeout",
            FailureKind::Signal => "killed",
            FailureKind::Error => "error",
            FailureKind::Protocol => "bad answer",
            FailureKind::Mismatch => "wrong output",
        }
    }
}

/// SHA-256 of the little-endian `u32` token ids, hex: the output hash of scenarios and results.
pub fn tokens_sha256(ids: &[u32]) -> String {
    let mut sha = Sha256::new();
    for id in ids {
        sha.update(id.to_le_bytes());
    }
    hex(&sha.finalize())
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Rates and latencies of one repetition. Everything that shows one takes it from here.
/// Stage times as `{"embed": ns, ...}`, so that files stay readable when stages are added.
mod stage_map {
    use engine::stage::{Stage, StageTimes};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub(super) fn serialize<S: Serializer>(times: &StageTimes, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(
            Stage::ALL
                .iter()
                .map(|&stage| (stage.name(), times.get(stage))),
        )
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<StageTimes, D::Error> {
        let map = BTreeMap::<String, u64>::deserialize(from)?;
        let mut times = StageTimes::default();
        for (name, ns) in map {
            let stage = Stage::ALL.into_iter().find(|stage| stage.name() == name);
            let stage =
                stage.ok_or_else(|| D::Error::custom(format!("unknown stage \"{name}\"")))?;
            times.ns[stage as usize] = ns;
        }
        Ok(times)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use engine::stage::Stage;

    /// A manifest of one case.
    pub(crate) fn manifest() -> Manifest {
        Manifest {
            schema_version: SCHEMA_VERSION,
            created_at: "2026-01-31T12:00:00.000Z".into(),
            scenario: ScenarioRecord {
                name: "trial".into(),
                description: "a trial".into(),
                path: "trial.toml".into(),
                text: "[scenario]".into(),
                sha256: "00".into(),
                overrides: vec![],
            },
            binary: BinaryRecord {
                version: "0.1.0".into(),
                sha256: "11".into(),
                git_commit: None,
                compiler: None,
                profile: "debug".into(),
            },
            models: vec![ModelRecord {
                name: "tiny".into(),
                path: "tiny.gguf".into(),
                file_bytes: 1000,
                sha256: "22".into(),
                licence: None,
            }],
            host: HostFacts::default(),
            rounds: 5,
            warmup: 1,
            order_seed: 1,
            cases: vec![CaseRecord {
                index: 0,
                name: "trial".into(),
                swept: Swept::new(),
                model: 0,
                engine: engine::Options::default(),
                n_gen: 4,
                prompt: Some("Hello".into()),
                prompt_tokens: None,
                temp: Some(0.0),
                expect_sha256: None,
                repeat: vec![],
            }],
            comparison: None,
            quality: None,
            files: BTreeMap::new(),
            thresholds: BTreeMap::new(),
        }
    }

    /// A repetition of that case: 10 prompt tokens in 20 ms, then 3 more tokens in 10, 20 and 30 ms.
    pub(crate) fn sample() -> Sample {
        let decode = PassStats {
            passes: 3,
            ledger: Ledger {
                weight_bytes: 3_000_000,
                lookup_bytes: 0,
                skipped_bytes: 0,
                kv_read_bytes: 600,
                kv_write_bytes: 300,
                activation_bytes: 99,
            },
            ..PassStats::default()
        };
        let output_ids = vec![5, 6, 7, 8];
        Sample {
            schema_version: SCHEMA_VERSION,
            case: "trial".into(),
            case_index: 0,
            swept: Swept::new(),
            round: 0,
            position: 0,
            phase: Phase::Measured,
            attempt: 0,
            runner: "engine".into(),
            started_at: "2026-01-31T12:00:01.000Z".into(),
            n_prompt: 10,
            n_gen: 4,
            load_ms: Some(5.0),
            arrival_ns: vec![20_000_000, 30_000_000, 50_000_000, 80_000_000],
            reported: None,
            prefill: Some(PassStats::default()),
            decode: Some(decode),
            speculation: None,
            sparsity: None,
            threads: Some(2),
            cpus: vec![0, 1],
            isa: Some("avx2".into()),
            model: ModelFacts::default(),
            kv_capacity_bytes: None,
            weights: None,
            by_channels: None,
            usage: Usage::default(),
            output_sha256: tokens_sha256(&output_ids),
            output_ids,
            output_text: "text".into(),
            taint: vec![],
            counters: None,
            slices: None,
        }
    }

    #[test]
    fn operations_of_a_prompt_leave_out_what_only_its_last_token_goes_through() {
        let mut sample = sample();
        sample.model.layer_params = Some(900);
        sample.model.head_params = Some(50);
        assert_eq!(sample.prefill_gops(), Some(2.0 * 9050.0 / 0.02 / 1e9));
        sample.model.last_params = Some(100);
        assert_eq!(sample.prefill_gops(), Some(2.0 * 8150.0 / 0.02 / 1e9));
        assert_eq!(sample.decode_operations_per_token(), Some(2.0 * 950.0));
    }

    #[test]
    fn operations_that_were_counted_come_before_those_of_the_model() {
        let mut sample = sample();
        let counted = |products| {
            Some(PassStats {
                products,
                ..PassStats::default()
            })
        };
        (sample.prefill, sample.decode) = (counted(700), counted(600));
        assert_eq!(sample.prefill_gops(), Some(2.0 * 700.0 / 0.02 / 1e9));
        assert_eq!(sample.decode_operations_per_token(), Some(2.0 * 200.0));
    }

    #[test]
    fn stages_survive_the_wire_by_name() {
        let mut stats = PassStats {
            passes: 3,
            ..PassStats::default()
        };
        stats.stages.ns[Stage::Wait as usize] = 42;
        let text = serde_json::to_string(&stats).expect("serializes");
        assert!(text.contains(r#""wait":42"#), "{text}");
        assert_eq!(
            serde_json::from_str::<PassStats>(&text).expect("reads"),
            stats
        );
        let unknown = text.replace("wait", "nap");
        assert!(serde_json::from_str::<PassStats>(&unknown).is_err());
    }

    #[test]
    fn token_hash_is_over_little_endian_u32() {
        // printf '\1\0\0\0\0\1\0\0' | sha256sum
        let expect = "242045e2f1bb37769b514f182fd91b3d215324cb57f187cced1e9c62921dbac3";
        assert_eq!(tokens_sha256(&[1, 256]), expect);
    }
}
