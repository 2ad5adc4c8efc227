//! The scenario file as it is written: one struct per section, unknown keys refused.
//!
//! The names of keys and values come from here and from [`engine::Options`] through serde; nothing lists them again.

use crate::counter;
use crate::record::{Figure, ReferenceKind};
use engine::sample::SamplerOptions;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A whole scenario file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    /// What it is called and what it is for.
    pub scenario: Header,
    /// The model: exactly one key.
    pub model: Model,
    /// The prompt: exactly one key.
    pub prompt: Prompt,
    /// How often, how long, in which order.
    #[serde(default)]
    pub run: Run,
    /// Options of the engine.
    #[serde(default)]
    pub engine: engine::Options,
    /// How the next token is chosen.
    #[serde(default)]
    pub sampler: SamplerOptions,
    /// What is counted while it runs.
    #[serde(default)]
    pub counters: counter::Request,
    /// What must come out.
    #[serde(default)]
    pub expect: Expect,
    /// How well the cases predict a text.
    pub quality: Option<Quality>,
    /// Other programs that `harness compare` measures beside the engine.
    #[serde(default)]
    pub reference: Vec<Reference>,
    /// Dotted keys and the values each of them takes: `engine.threads = [1, 2]`.
    #[serde(default)]
    pub matrix: toml::Table,
    /// Points of the matrix that are left out: all keys of an entry must match.
    #[serde(default)]
    pub exclude: Vec<toml::Table>,
}

/// `[scenario]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    /// Name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What it is for, in a sentence.
    pub description: String,
    /// Free space the scenario needs for models, in 1e9 bytes; checked before anything starts.
    #[serde(default)]
    pub min_disk_gb: f64,
    /// Whether the keys of the matrix leave their first values one at a time instead of being combined.
    #[serde(default)]
    pub one_at_a_time: bool,
}

/// `[model]`: where the weights come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    /// A name of the catalogue.
    pub name: Option<String>,
    /// A GGUF file, relative to the scenario's folder.
    pub path: Option<PathBuf>,
    /// A model of a given shape with seeded random weights.
    pub synth: Option<Synth>,
}

/// `[model.synth]`: a model of a given shape with seeded random weights.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Synth {
    /// A shape the engine knows, or a shape file relative to the scenario's folder.
    pub shape: String,
    /// Weight format: `Q4_0`.
    pub quant: String,
    /// Seed of the weights.
    #[serde(default)]
    pub seed: u64,
}

/// `[prompt]`: what the model reads before it writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prompt {
    /// The text itself.
    pub text: Option<String>,
    /// A UTF-8 text file, relative to the scenario's folder.
    pub file: Option<PathBuf>,
    /// So many seeded token ids instead of a text.
    pub tokens: Option<u32>,
}

/// `[run]`: how often, how long, in which order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Measured rounds; every case runs once in each.
    pub rounds: u32,
    /// Rounds before them, recorded but not counted.
    pub warmup: u32,
    /// Tokens to generate.
    pub n_gen: u32,
    /// Goes on after an end-of-text token, so that every repetition writes `n_gen` tokens.
    pub ignore_eos: bool,
    /// Order of the cases within a round.
    pub order: Order,
    /// Time one repetition may take, model loading included, in seconds.
    pub timeout_s: u64,
    /// Seed of the order and of synthetic prompts.
    pub seed: u64,
    /// Where above 0, the repetitions of a round run at the same time, each a slice of so many milliseconds in turn, and
    /// their times are those of their own slices: drift that lasts longer meets all alike. All of them must fit into memory.
    pub slice_ms: u32,
    /// Disturbed repetitions that may be run again, over the whole run; those in slices are not.
    pub reruns: u32,
    /// Takes the machine's peaks in every round, to hold the cases against.
    pub probe: bool,
    /// Time that simulating the caches for a case may take, after the measured rounds, in seconds; 0 for no simulation.
    pub simulate_s: u64,
}

impl Default for Run {
    fn default() -> Run {
        Run {
            rounds: 5,
            warmup: 1,
            n_gen: 128,
            ignore_eos: true,
            order: Order::Rotated,
            timeout_s: 600,
            seed: 1,
            slice_ms: 0,
            reruns: 0,
            probe: true,
            simulate_s: 0,
        }
    }
}

/// Order of the cases within a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// A seeded order, moved on by one place every round.
    Rotated,
    /// As the matrix lists them, every round.
    Listed,
}

/// `[[reference]]`: another program that does the same work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reference {
    /// Name in tables and records.
    pub name: String,
    /// Which adapter it takes.
    pub kind: ReferenceKind,
    /// Folder of llama.cpp's programs, relative to the scenario's folder.
    pub dir: Option<PathBuf>,
    /// Whether llama.cpp repacks weights for the instruction set.
    pub repack: Option<bool>,
    /// llama.cpp's flash attention.
    pub flash_attn: Option<FlashAttn>,
    /// Threads, if not as many as the engine's.
    pub threads: Option<usize>,
    /// The command of kind `command`, with {model}, {threads}, {cpu_mask}, {n_prompt}, {n_gen} and {prompt_file}.
    #[serde(default)]
    pub command: Vec<String>,
    /// Where such a command's prompt rate stands.
    pub prefill_tok_s: Option<Figure>,
    /// Where such a command's decode rate stands.
    pub decode_tok_s: Option<Figure>,
}

/// llama.cpp's flash attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlashAttn {
    /// Always.
    On,
    /// Never.
    Off,
    /// As it thinks best.
    Auto,
}

impl FlashAttn {
    /// The value on a command line; `number` for old builds of llama-bench, which know no `auto`.
    pub fn word(self, number: bool) -> &'static str {
        match (self, number) {
            (FlashAttn::On, false) => "on",
            (FlashAttn::Off, false) => "off",
            (FlashAttn::Auto, false) => "auto",
            (FlashAttn::On, true) => "1",
            (FlashAttn::Off | FlashAttn::Auto, true) => "0",
        }
    }
}

/// `[expect]`: what must come out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Expect {
    /// SHA-256 of the generated token ids as little-endian 32-bit numbers, hex.
    pub output_sha256: Option<String>,
}

/// `[quality]`: how well the cases predict a text, and how far their predictions lie from those of a base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quality {
    /// A UTF-8 text file, relative to the scenario's folder.
    pub corpus: PathBuf,
    /// Tokens of a window, whose second half counts.
    #[serde(default = "window_tokens")]
    pub ctx: u32,
    /// Windows that are read at most, spread over the text; all that it fills when not given.
    pub windows: Option<u32>,
    /// Whose predictions are the base: the model itself in a format, or a GGUF file relative to the scenario's folder.
    #[serde(default = "decoded")]
    pub base: String,
    /// Time that predicting the text may take, in seconds.
    #[serde(default = "quality_s")]
    pub timeout_s: u64,
}

fn window_tokens() -> u32 {
    512
}

fn decoded() -> String {
    "F32".into()
}

fn quality_s() -> u64 {
    3600
}
