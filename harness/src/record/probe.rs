//! Peaks taken by probes in the rounds of a run, and shares of them.

use super::rates::positive;
use super::{PassStats, Phase, Run, Sample};
use engine::probe::{Reading, What};
use serde::{Deserialize, Serialize};

/// What a machine gave in a round, with the threads, CPUs and pages of one or more cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeRecord {
    /// [`super::SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Whether the round counts.
    pub phase: Phase,
    /// Round, from 0; warm-up rounds count on their own.
    pub round: u32,
    /// Start of the child, RFC 3339, UTC.
    pub started_at: String,
    /// The options of the engine that bear on a peak, see [`probed`]; the others at their defaults.
    pub engine: engine::Options,
    /// CPUs the threads were pinned to, in thread order; empty if not pinned.
    pub cpus: Vec<u32>,
    /// Instruction set.
    pub isa: String,
    /// What was measured.
    pub readings: Vec<Reading>,
}

/// The options that bear on a peak, the others at their defaults: cases that agree in them share a probe.
pub fn probed(options: &engine::Options) -> engine::Options {
    engine::Options {
        threads: options.threads,
        affinity: options.affinity.clone(),
        oversubscribe: options.oversubscribe,
        isa: options.isa,
        huge_pages: options.huge_pages,
        ..engine::Options::default()
    }
}

impl ProbeRecord {
    /// Median of what was measured, in its unit.
    pub fn median(&self, what: What) -> Option<f64> {
        let found = self.readings.iter().find(|r| r.what == what);
        positive(found?.median)
    }
}

impl Run {
    /// The probe of a sample's round, taken with its threads, CPUs and pages.
    pub fn probe_of(&self, sample: &Sample) -> Option<&ProbeRecord> {
        let case = self.manifest.cases.get(sample.case_index as usize)?;
        let options = probed(&case.engine);
        self.probes.iter().find(|probe| {
            (probe.phase, probe.round) == (sample.phase, sample.round) && probe.engine == options
        })
    }

    /// The read bandwidth of a sample's round, in 1e9 bytes a second.
    pub fn peak_gb_s(&self, sample: &Sample) -> Option<f64> {
        self.probe_of(sample)?.median(What::Read)
    }

    /// A sample's achieved bandwidth while decoding as a share of the peak of its round, in percent.
    pub fn bw_pct(&self, sample: &Sample) -> Option<f64> {
        Some(100.0 * sample.decode_gb_s()? / self.peak_gb_s(sample)?)
    }

    /// The arithmetic peak of a sample's round for its weights: bytes for packed ones, single precision for floats; 1e9
    /// operations a second.
    pub fn peak_gops(&self, sample: &Sample) -> Option<f64> {
        let what = match sample.model.float_weights? {
            true => What::F32,
            false => What::Int8,
        };
        self.probe_of(sample)?.median(what)
    }

    /// A sample's achieved arithmetic while reading the prompt as a share of the peak of its round, in percent.
    pub fn prefill_pct(&self, sample: &Sample) -> Option<f64> {
        Some(100.0 * sample.prefill_gops()? / self.peak_gops(sample)?)
    }
}

impl Sample {
    /// Operations a second in the matrix products while reading the prompt, in 1e9: two for each product. Attention, norms and
    /// quantisation are left out.
    pub fn prefill_gops(&self) -> Option<f64> {
        let seconds = f64::from(self.n_prompt) / self.prefill_tok_s()?;
        positive(self.prefill_operations()? / seconds / 1e9)
    }

    /// As they were counted, or else two for each weight of the layers and token, but for those behind the last layer's
    /// attention and of the output head, once.
    fn prefill_operations(&self) -> Option<f64> {
        if let Some(counted) = counted(self.prefill) {
            return Some(counted);
        }
        let m = &self.model;
        let once = (m.head_params? + m.last_params.unwrap_or(0)) as f64;
        let often = (m.layer_params? - m.last_params.unwrap_or(0)) as f64;
        Some(2.0 * (often * f64::from(self.n_prompt) + once))
    }

    /// Operations in the matrix products of all passes over the tokens decoded: as they were counted, those of drafts among
    /// them, or else two for each weight of the model.
    pub fn decode_operations_per_token(&self) -> Option<f64> {
        let tokens = self.n_out().checked_sub(1).filter(|&n| n > 0);
        match counted(self.decode).zip(tokens) {
            Some((counted, tokens)) => Some(counted / tokens as f64),
            None => Some(2.0 * (self.model.layer_params? + self.model.head_params?) as f64),
        }
    }
}

/// Operations of a phase, two for each product that was counted.
fn counted(stats: Option<PassStats>) -> Option<f64> {
    positive(2.0 * stats?.products as f64)
}

/// What stands beside a share of a peak, in percent: more than all of it is possible, as the peak is what another loop reached.
pub fn above_peak(percent: f64) -> &'static str {
    match percent.round() > 100.0 {
        true => ", above the probe",
        false => "",
    }
}
