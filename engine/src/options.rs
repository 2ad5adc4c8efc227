//! Every knob of the engine, one documented field each.
//!
//! A field here is at once a TOML key under `[engine]`, a sweep axis, a CSV column and a `--set engine.<field>=`:
//! the names come from serde, there is no second list.

pub mod sparsity;
pub mod speculation;

use crate::error::{Error, Result};
pub use kernels::options::{Isa, Kernel, KvType, SideBySide};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use sparsity::Sparsity;
use speculation::Speculation;
use std::fmt;
use std::path::PathBuf;

/// Largest batch of prompt tokens.
const BATCH_MAX: usize = 4096;

/// Most bytes that are fetched ahead: no core's own cache holds as many.
const PREFETCH_BYTES_MAX: usize = 16 << 20;

/// Most looks of a thread that waits, which take it a minute or so.
const BARRIER_SPINS_MAX: usize = 1_000_000_000;

/// Value of [`Options::quant`] for formats by a plan.
pub(crate) const MIXED: &str = "mixed";

/// Options of the engine. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Threads of the pool; `0` means one per physical core this process may use.
    pub threads: usize,
    /// Where the threads are pinned: a policy, or a list of CPU numbers, one per thread.
    pub affinity: Affinity,
    /// Permits more threads than CPUs this process may use.
    pub oversubscribe: bool,
    /// Instruction set of the kernels; `auto` takes the best this CPU has.
    pub isa: Isa,
    /// How the weights are multiplied in passes of up to four tokens: `dot`, or `lut`, by tables, where their codes have two to
    /// four bits and even steps.
    pub kernel: Kernel,
    /// Context capacity in tokens; `0` means the model's own, at most 4096.
    pub ctx: usize,
    /// Tokens of a prompt that go through the layers together.
    pub batch: usize,
    /// Storage type of the KV cache.
    pub kv: KvType,
    /// Format that the matrices take as the model is loaded: `native` for the file's own, one of
    /// [`crate::quant::FORMATS`] as `engine quantize` would write it, or `mixed@4.5` for those of a plan with so many bits a
    /// weight on average, over the matrices that every token is multiplied with; in any case.
    pub quant: String,
    /// With `mixed`, the plan that `engine plan` made.
    pub quant_plan: PathBuf,
    /// Importance matrix for formats other than the file's; empty for none.
    pub quant_imatrix: PathBuf,
    /// Asks the kernel for huge pages under the weights.
    pub huge_pages: bool,
    /// Folder in which the weights are kept as they were packed, to be mapped the next time the model is loaded so; empty for
    /// none. They take about as much room as the model's file, and as much again as `[engine.sparsity]` holds by channels.
    pub packed_cache: PathBuf,
    /// Whether four panels of weights are read in turn, a group of each, for one and two tokens and, without
    /// AVX-512, for five to eight; else one after the other. `auto`: not on Intel's CPUs, whose own prefetch keeps up with one.
    pub side_by_side: SideBySide,
    /// How far ahead of the weights being multiplied the next ones are fetched, in bytes, except where panels
    /// are read side by side; channels that take part in `[engine.sparsity]` are fetched a fixed number ahead. `0` leaves all to
    /// the CPU. At most 16777216.
    pub prefetch_bytes: usize,
    /// Bytes of the head of each of the next panels that are fetched while panels are read side by side, up to a line for
    /// every 32 columns. At most 16777216.
    pub head_prefetch_bytes: usize,
    /// Bytes of the next matrix that a thread fetches when it has reached a barrier. At most 16777216.
    pub wait_prefetch_bytes: usize,
    /// Share of each thread's rows that others may take when they are done before it, in percent.
    pub tail_percent: usize,
    /// How often a thread that waits for the others looks whether they have come, before it sleeps; `0` sleeps at once.
    /// At most 1000000000.
    pub barrier_spins: u32,
    /// Takes the time of every stage on every thread.
    pub stage_clock: bool,
    /// Speculative decoding; none without the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculation: Option<Speculation>,
    /// Activation sparsity, which changes what the model says; none without the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            threads: 0,
            affinity: Affinity::Policy(AffinityPolicy::Physical),
            oversubscribe: false,
            isa: Isa::Auto,
            kernel: Kernel::Dot,
            ctx: 0,
            batch: 512,
            kv: KvType::F16,
            quant: "native".into(),
            quant_plan: PathBuf::new(),
            quant_imatrix: PathBuf::new(),
            huge_pages: true,
            packed_cache: PathBuf::new(),
            side_by_side: SideBySide::Auto,
            prefetch_bytes: 2880,
            head_prefetch_bytes: 1024,
            wait_prefetch_bytes: 16 << 10,
            tail_percent: 12,
            barrier_spins: 20_000,
            stage_clock: true,
            speculation: None,
            sparsity: None,
        }
    }
}

impl Options {
    /// Whether the matrices stay in the formats of the file.
    pub fn is_native(&self) -> bool {
        self.quant.eq_ignore_ascii_case("native")
    }

    /// Whether the matrices take the formats of a plan.
    pub fn is_mixed(&self) -> bool {
        self.mixed_bits().is_some()
    }

    /// What stands for the bits a weight in `mixed@4.5`, empty if nothing does; `None` for other formats.
    pub(crate) fn mixed_bits(&self) -> Option<&str> {
        let (name, bits) = self.quant.split_once('@').unwrap_or((&self.quant, ""));
        name.eq_ignore_ascii_case(MIXED).then_some(bits)
    }

    /// The sparsity asked for, if it is one that changes what the model says: then its figures are not those of the whole model.
    pub fn lossy_sparsity(&self) -> Option<&Sparsity> {
        self.sparsity.as_ref().filter(|s| s.is_lossy())
    }

    /// The files that options name, as far as they name any.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let sparsity = self.sparsity.as_mut().map(|s| &mut s.thresholds);
        let draft = self.speculation.as_mut();
        let draft = draft.and_then(|s| s.draft_model.as_mut());
        let own = [&mut self.quant_plan, &mut self.quant_imatrix];
        let all = own.into_iter().chain(sparsity).chain(draft);
        all.filter(|path| !path.as_os_str().is_empty())
    }

    /// These options as far as they change what a model predicts, and the defaults for all others. Speculation does not: it
    /// loses nothing.
    pub fn predicting(&self) -> Options {
        // All of them, so that a new one cannot be forgotten.
        let Options {
            kv,
            quant,
            quant_plan,
            quant_imatrix,
            sparsity: _,
            threads: _,
            affinity: _,
            oversubscribe: _,
            isa: _,
            kernel: _,
            ctx: _,
            batch: _,
            huge_pages: _,
            packed_cache: _,
            side_by_side: _,
            prefetch_bytes: _,
            head_prefetch_bytes: _,
            wait_prefetch_bytes: _,
            tail_percent: _,
            barrier_spins: _,
            stage_clock: _,
            speculation: _,
        } = self.clone();
        let mut predicting = Options {
            kv,
            sparsity: self.lossy_sparsity().cloned(),
            ..Options::default()
        };
        if !self.is_native() {
            predicting.quant = quant.to_ascii_uppercase();
            predicting.quant_imatrix = quant_imatrix;
        }
        if self.is_mixed() {
            predicting.quant_plan = quant_plan;
        }
        predicting
    }

    /// Refuses what no machine and no model can do. The rest depends on the machine and the model: see [`crate::check`].
    ///
    /// # Errors
    /// [`Error::Option`] for a number outside its range.
    pub fn check(&self) -> Result<()> {
        let range = |option, value: usize, low, high| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(Error::Option {
                option,
                what: format!("{value} is not within {low} to {high}"),
            }),
        };
        range("batch", self.batch, 1, BATCH_MAX)?;
        for (option, bytes) in [
            ("prefetch_bytes", self.prefetch_bytes),
            ("head_prefetch_bytes", self.head_prefetch_bytes),
            ("wait_prefetch_bytes", self.wait_prefetch_bytes),
        ] {
            range(option, bytes, 0, PREFETCH_BYTES_MAX)?;
        }
        range("tail_percent", self.tail_percent, 0, 100)?;
        let spins = self.barrier_spins as usize;
        range("barrier_spins", spins, 0, BARRIER_SPINS_MAX)?;
        self.speculation
            .as_ref()
            .map_or(Ok(()), Speculation::check)?;
        self.sparsity.as_ref().map_or(Ok(()), Sparsity::check)
    }
}

/// Where threads are pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Affinity {
    /// A named policy.
    Policy(AffinityPolicy),
    /// CPU numbers, one per thread, in thread order.
    Cpus(Vec<usize>),
}

/// Unlike the derived form, a misspelt policy is refused with the policies there are.
impl<'de> Deserialize<'de> for Affinity {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Affinity, D::Error> {
        struct PolicyOrCpus;

        impl<'de> Visitor<'de> for PolicyOrCpus {
            type Value = Affinity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a policy or a list of CPU numbers")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> std::result::Result<Affinity, E> {
                AffinityPolicy::deserialize(name.into_deserializer()).map(Affinity::Policy)
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                seq: A,
            ) -> std::result::Result<Affinity, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Affinity::Cpus)
            }
        }

        from.deserialize_any(PolicyOrCpus)
    }
}

/// Named pinning policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AffinityPolicy {
    /// No pinning.
    None,
    /// One thread per physical core, cores in order of their number.
    Physical,
    /// Fill one core with all its hardware threads, then the next, cache domain by cache domain.
    Compact,
    /// Physical cores as far apart as possible: round-robin over cache domains, then over hardware threads.
    Scatter,
    /// All hardware threads, first one of each core, then their siblings.
    Smt,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_depend_on_formats_and_the_cache_alone() {
        let same = |options: Options| assert_eq!(options.predicting(), Options::default());
        same(Options {
            threads: 7,
            isa: Isa::Scalar,
            kernel: Kernel::Lut,
            batch: 3,
            packed_cache: "folder".into(),
            stage_clock: false,
            quant: "Native".into(),
            quant_plan: "plan.toml".into(),
            quant_imatrix: "matrix.gguf".into(),
            ..Options::default()
        });
        let other = Options {
            kv: KvType::Q8_0,
            quant: "q4_k".into(),
            quant_imatrix: "matrix.gguf".into(),
            ..Options::default()
        };
        let expect = Options {
            quant: "Q4_K".into(),
            ..other.clone()
        };
        assert_eq!(other.predicting(), expect);
        let mixed = Options {
            quant: "MIXED@3".into(),
            quant_plan: "plan.toml".into(),
            ..other
        };
        assert_eq!(mixed.predicting(), mixed);
    }
}
