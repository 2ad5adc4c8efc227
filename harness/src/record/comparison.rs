//! What a comparison promised to compare, as the manifest keeps it.

use super::{CaseRecord, ENGINE, Manifest};
use serde::{Deserialize, Serialize};

/// Name of the second of two engines as a runner in records.
pub const ENGINE_AGAIN: &str = "engine again";

/// What the engine is compared with, and how alike the work is. A resumed run starts exactly these commands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparisonPlan {
    /// Other programs.
    pub references: Vec<ReferencePlan>,
    /// Programs that cannot be told to do the work of a case.
    #[serde(default)]
    pub refused: Vec<Refused>,
    /// What sets the second of two engines apart, where the engine is compared with itself.
    #[serde(default)]
    pub second: SecondEngine,
    /// What was made equal, and what could not be.
    pub settings: Vec<Setting>,
    /// Writes the text that is compared with the engine's; not timed. One per case that has such a program.
    pub texts: Vec<ReferencePlan>,
}

impl Manifest {
    /// The name of a case as `runner` did it, marked where it says something else than the whole model would.
    pub fn shown_name(&self, case: &CaseRecord, runner: &str) -> String {
        match &self.comparison {
            Some(plan) if runner == ENGINE_AGAIN => {
                marked(&case.name, plan.second.lossy.contains(&case.index))
            }
            _ => case.shown_name(),
        }
    }
}

impl ComparisonPlan {
    /// Whether the engine is compared with itself.
    pub fn itself(&self) -> bool {
        self.references.is_empty() && self.refused.is_empty()
    }

    /// The runner that is judged: the engine, or the second of two engines.
    pub fn subject(&self) -> &'static str {
        match self.itself() {
            true => ENGINE_AGAIN,
            false => ENGINE,
        }
    }
}

/// `name`, marked where it is `lossy`: where it says something else than the whole model would.
pub(crate) fn marked(name: &str, lossy: bool) -> String {
    match lossy {
        true => format!("{name} (lossy)"),
        false => name.to_owned(),
    }
}

/// What sets the second of two engines apart from the first; nothing at all if it is the same once more.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecondEngine {
    /// Another build of this program.
    pub build: Option<OtherBuild>,
    /// Overrides of engine options: `engine.kv=q8_0`.
    pub set: Vec<String>,
    /// How much slower it is made on purpose, in per cent.
    pub slow_down_percent: f64,
    /// Indices of the cases in which it says something else than the whole model would.
    pub lossy: Vec<u32>,
}

/// Another build of this program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherBuild {
    /// Its file.
    pub path: String,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

impl SecondEngine {
    /// What it is in the case of this index, in the place of a name.
    pub fn title(&self, case: u32) -> String {
        let differences = self.differences();
        let title = match differences.is_empty() {
            true => "the engine again".into(),
            false => format!("the engine {}", differences.join(", ")),
        };
        marked(&title, self.lossy.contains(&case))
    }

    /// What sets it apart, in words.
    pub fn differences(&self) -> Vec<String> {
        let build = self.build.iter().map(|b| format!("of {}", b.path));
        let set = self.set.iter().map(|set| format!("with {set}"));
        let slow = self.slow_down_percent;
        let slow = (slow > 0.0).then(|| format!("slowed by {slow} %"));
        build.chain(set).chain(slow).collect()
    }
}

/// A program that cannot be told to do the work of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Index of the case.
    pub case: u32,
    /// Name of the runner.
    pub runner: String,
    /// What it is, with its version.
    pub title: String,
    /// What it cannot be told.
    pub reason: String,
}

/// One other program, or one way to run it, on one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferencePlan {
    /// Index of the case.
    pub case: u32,
    /// Name of the runner in records: `llama.cpp repack on, fa off`.
    pub runner: String,
    /// What it is, with its version: `llama.cpp b11434 (repack on, flash attention off)`.
    pub title: String,
    /// Which adapter reads its figures.
    pub kind: ReferenceKind,
    /// Started one after the other in every repetition.
    pub commands: Vec<ReferenceCommand>,
    /// Tokens of the prompt that it reads.
    pub n_prompt: u32,
    /// Tokens that it writes.
    pub n_gen: u32,
    /// SHA-256 of the program, hex; `None` where it is looked for by its name at every start.
    #[serde(default)]
    pub sha256: Option<String>,
}

/// Programs that there is an adapter for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReferenceKind {
    /// llama.cpp's own benchmark.
    LlamaBench,
    /// llama.cpp's one-shot generation.
    LlamaCompletion,
    /// llama.cpp's chat front end, or in old builds its one-shot generation.
    LlamaCli,
    /// Any program, its figures found by a pattern.
    Command,
}

/// One start of another program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceCommand {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Where its figures stand, for programs that no adapter knows.
    #[serde(default, skip_serializing_if = "Figures::is_empty")]
    pub figures: Figures,
}

/// Where the rates stand in what a program writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Prompt tokens a second.
    pub prefill_tok_s: Option<Figure>,
    /// Generated tokens a second.
    pub decode_tok_s: Option<Figure>,
}

impl Figures {
    fn is_empty(&self) -> bool {
        *self == Figures::default()
    }
}

/// Where one number stands: exactly one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// A regular expression over stdout and stderr; the last match counts, its first group is the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// A JSON pointer into stdout; lines of JSON are taken as an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_pointer: Option<String>,
}

/// One setting on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// What it is.
    pub name: String,
    /// What the engine does.
    pub engine: String,
    /// What the reference does.
    pub reference: String,
    /// Whether both are the same in effect.
    pub equal: bool,
}

/// Rates that a program measured itself, where arrival times of tokens are not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// Prompt tokens a second.
    pub prefill_tok_s: Option<f64>,
    /// Generated tokens a second.
    pub decode_tok_s: Option<f64>,
}
