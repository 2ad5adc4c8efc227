//! What was counted during a repetition, each number with its source, and what could not be counted, each with its reason.

use serde::{Deserialize, Serialize};

/// Where a number comes from: the rungs of the ladder, best first. Below the last one stands [`Absent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The CPU's own counter, all the time.
    Hardware,
    /// The CPU's own counter for a share of the time, scaled up to all of it.
    HardwareScaled,
    /// The CPU's own counter in user mode; the kernel's part is left out.
    UserOnly,
    /// The kernel's bookkeeping.
    Software,
    /// A simulation of the caches; never a time.
    Simulated,
}

impl Source {
    /// The source in words.
    pub fn name(self) -> &'static str {
        match self {
            Source::Hardware => "hardware",
            Source::HardwareScaled => "hardware, scaled",
            Source::UserOnly => "hardware, user mode only",
            Source::Software => "software",
            Source::Simulated => "simulated",
        }
    }
}

/// A timed part of a repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// From the prompt handed over to the first token.
    Prefill,
    /// From the first token to the last.
    Decode,
}

impl Part {
    /// Both, in the order of time.
    pub const ALL: [Part; 2] = [Part::Prefill, Part::Decode];

    /// The part's name as it stands in results.
    pub fn name(self) -> &'static str {
        match self {
            Part::Prefill => "prefill",
            Part::Decode => "decode",
        }
    }
}

/// Counters of one repetition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Counted from the prompt handed over to the first token.
    pub prefill: Vec<Count>,
    /// Counted from the first token to the last.
    pub decode: Vec<Count>,
    /// Found at the end: a state, not a sum over time.
    pub end: Vec<Count>,
    /// What was asked for and could not be counted.
    pub absent: Vec<Absent>,
}

/// One event, summed over the threads of the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// The event's name in its group, or as the scenario spells it.
    pub event: String,
    /// How many; scaled to the whole time if the counter ran for a part of it.
    pub value: f64,
    /// Where the number comes from.
    pub source: Source,
    /// Share of the time that the counter ran, from 0 to 1; `None` for what is not multiplexed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<f64>,
    /// Counted over the whole machine, other programs included.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub machine: bool,
}

/// An event that could not be counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Absent {
    /// The event's name in its group, or as the scenario spells it.
    pub event: String,
    /// The part it is missing in; both if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// Why.
    pub reason: String,
    /// A command, or a step, that would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Counters {
    /// What was counted in a part.
    pub fn part(&self, part: Part) -> &[Count] {
        match part {
            Part::Prefill => &self.prefill,
            Part::Decode => &self.decode,
        }
    }

    /// Everything counted, in no particular part.
    pub fn all(&self) -> impl Iterator<Item = &Count> {
        self.prefill.iter().chain(&self.decode).chain(&self.end)
    }
}
