//! What can be gated and followed over time: every metric once, with its name, its unit and its better direction.

use crate::counter;
use crate::record::{Counts, ENGINE, Part, Run, Sample, Simulated, Source};
use crate::summary::Summary;
use crate::verdict::Better;
use engine::quality::Figures;

/// How a metric comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Timed, or counted by the machine: it scatters, and drifts with the machine.
    Timed,
    /// Counted: the same on every repetition.
    Counted,
    /// From predictions of a text: the same on every repetition and machine, for the same text and base.
    Predicted,
    /// Counted under a simulation: the same on every machine.
    Simulated {
        /// Whether the caches that were simulated bear on it.
        caches: bool,
    },
}

/// Something measured of a case.
#[derive(Debug)]
pub struct Metric {
    /// As options and files name it.
    pub name: &'static str,
    /// In words.
    pub title: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// Digits after the point that are shown.
    pub digits: usize,
    /// Better direction.
    pub better: Better,
    /// How it comes about.
    pub kind: Kind,
    /// Whether a gate looks at it unless told otherwise.
    pub gated: bool,
    values: fn(&Run, &Summary<'_>) -> Vec<f64>,
}

impl Metric {
    /// The values of all repetitions of a case that count and know it.
    pub fn values(&self, run: &Run, summary: &Summary<'_>) -> Vec<f64> {
        (self.values)(run, summary)
    }

    /// The metric of that name.
    pub fn by_name(name: &str) -> Option<&'static Metric> {
        ALL.iter().find(|metric| metric.name == name)
    }
}

/// All metrics.
pub const ALL: &[Metric] = &[
    Metric {
        name: "decode_tok_s",
        title: "decode rate",
        unit: "tok/s",
        digits: 2,
        better: Better::Higher,
        kind: Kind::Timed,
        gated: true,
        values: |_, summary| summary.values(Sample::decode_tok_s),
    },
    Metric {
        name: "prefill_tok_s",
        title: "prefill rate",
        unit: "tok/s",
        digits: 1,
        better: Better::Higher,
        kind: Kind::Timed,
        gated: true,
        values: |_, summary| summary.values(Sample::prefill_tok_s),
    },
    Metric {
        name: "bw_pct",
        title: "share of the read bandwidth of the same rounds",
        unit: "%",
        digits: 1,
        better: Better::Higher,
        kind: Kind::Timed,
        gated: true,
        values: |run, summary| summary.values(|s| run.bw_pct(s)),
    },
    Metric {
        name: "acceptance_pct",
        title: "acceptance: share kept of the drafted tokens that the model came to look at",
        unit: "%",
        digits: 1,
        better: Better::Higher,
        kind: Kind::Timed,
        gated: false,
        values: |_, summary| summary.values(|s| Some(100.0 * s.acceptance()?)),
    },
    Metric {
        name: "kept_pct",
        title: "share of all drafted tokens that were kept",
        unit: "%",
        digits: 1,
        better: Better::Higher,
        kind: Kind::Timed,
        gated: false,
        values: |_, summary| summary.values(|s| Some(100.0 * s.kept_share()?)),
    },
    Metric {
        name: "tokens_per_pass",
        title: "tokens of a pass of the target",
        unit: "tokens",
        digits: 3,
        better: Better::Higher,
        kind: Kind::Timed,
        gated: false,
        values: |_, summary| summary.values(Sample::tokens_per_pass),
    },
    Metric {
        name: "load_ms",
        title: "load time",
        unit: "ms",
        digits: 1,
        better: Better::Lower,
        kind: Kind::Timed,
        gated: false,
        values: |_, summary| summary.values(|s| s.load_ms),
    },
    Metric {
        name: "peak_rss_bytes",
        title: "peak memory",
        unit: "bytes",
        digits: 0,
        better: Better::Lower,
        kind: Kind::Timed,
        gated: false,
        values: |_, summary| summary.values(|s| s.usage.peak_rss_bytes.map(|b| b as f64)),
    },
    Metric {
        name: "decode_bytes_per_token",
        title: "bytes read per token",
        unit: "bytes",
        digits: 0,
        better: Better::Lower,
        kind: Kind::Counted,
        gated: true,
        values: |_, summary| summary.values(Sample::decode_bytes_per_token),
    },
    Metric {
        name: "perplexity",
        title: "perplexity of the scenario's text",
        unit: "tokens",
        digits: 3,
        better: Better::Lower,
        kind: Kind::Predicted,
        gated: true,
        values: |run, summary| figure(run, summary, |f| f.perplexity),
    },
    Metric {
        name: "kld_mean",
        title: "mean KL divergence from the base",
        unit: "nats",
        digits: 5,
        better: Better::Lower,
        kind: Kind::Predicted,
        gated: false,
        values: |run, summary| figure(run, summary, |f| f.kld_mean),
    },
    Metric {
        name: "kld_p99",
        title: "99th percentile of the KL divergence from the base",
        unit: "nats",
        digits: 5,
        better: Better::Lower,
        kind: Kind::Predicted,
        gated: false,
        values: |run, summary| figure(run, summary, |f| f.kld_p99),
    },
    Metric {
        name: "top1_pct",
        title: "predictions whose likeliest token is the base's",
        unit: "%",
        digits: 2,
        better: Better::Higher,
        kind: Kind::Predicted,
        gated: false,
        values: |run, summary| figure(run, summary, |f| 100.0 * f.top1_share),
    },
    Metric {
        name: "decode_instructions",
        title: "instructions per generated token",
        unit: "instructions",
        digits: 0,
        better: Better::Lower,
        kind: Kind::Timed,
        gated: false,
        values: |_, summary| events(summary, "instructions"),
    },
    Metric {
        name: "decode_cycles",
        title: "cycles per generated token",
        unit: "cycles",
        digits: 0,
        better: Better::Lower,
        kind: Kind::Timed,
        gated: false,
        values: |_, summary| events(summary, "cycles"),
    },
    Metric {
        name: "decode_llc_misses",
        title: "last-level read misses per generated token",
        unit: "misses",
        digits: 0,
        better: Better::Lower,
        kind: Kind::Timed,
        gated: false,
        values: |_, summary| events(summary, "LLC-load-misses"),
    },
    Metric {
        name: "decode_cpu_ns",
        title: "CPU time of all threads per generated token",
        unit: "ns",
        digits: 0,
        better: Better::Lower,
        kind: Kind::Timed,
        gated: false,
        values: |_, summary| events(summary, "task-clock"),
    },
    Metric {
        name: "sim_decode_instructions",
        title: "simulated instructions per generated token",
        unit: "instructions",
        digits: 0,
        better: Better::Lower,
        kind: Kind::Simulated { caches: false },
        gated: true,
        values: |run, summary| decode_count(run, summary, |c| c.instructions),
    },
    Metric {
        name: "sim_decode_l1_misses",
        title: "simulated first-level misses per generated token",
        unit: "misses",
        digits: 0,
        better: Better::Lower,
        kind: Kind::Simulated { caches: true },
        gated: false,
        values: |run, summary| decode_count(run, summary, Counts::l1_misses),
    },
    Metric {
        name: "sim_decode_ll_misses",
        title: "simulated last-level misses per generated token",
        unit: "misses",
        digits: 0,
        better: Better::Lower,
        kind: Kind::Simulated { caches: true },
        gated: true,
        values: |run, summary| decode_count(run, summary, Counts::ll_misses),
    },
    Metric {
        name: "sim_prefill_instructions",
        title: "simulated instructions per prompt token",
        unit: "instructions",
        digits: 0,
        better: Better::Lower,
        kind: Kind::Simulated { caches: false },
        gated: true,
        values: |run, summary| prefill_count(run, summary, |c| c.instructions),
    },
    Metric {
        name: "sim_prefill_ll_misses",
        title: "simulated last-level misses per prompt token",
        unit: "misses",
        digits: 0,
        better: Better::Lower,
        kind: Kind::Simulated { caches: true },
        gated: true,
        values: |run, summary| prefill_count(run, summary, Counts::ll_misses),
    },
];

/// An event of `[counters]` per generated token. Counts without the kernel's part are left out: they are not the same.
fn events(summary: &Summary<'_>, event: &str) -> Vec<f64> {
    summary.values(|s| {
        let (value, source) = counter::per_token(s, Part::Decode, event)?;
        (source != Source::UserOnly).then_some(value)
    })
}

/// A figure of the quality of a case, which is of the engine's work; one value, since it does not scatter.
fn figure(run: &Run, summary: &Summary<'_>, of: fn(&Figures) -> f64) -> Vec<f64> {
    let figures = run.quality(summary.case.index);
    let figures = figures.filter(|_| summary.runner == ENGINE);
    figures.map(of).into_iter().collect()
}

/// The counts of a case under simulation, which is of the engine's work.
fn simulated<'a>(run: &'a Run, summary: &Summary<'_>) -> Option<&'a Simulated> {
    run.simulated(summary.case.index)
        .filter(|_| summary.runner == ENGINE)
}

/// A simulated count of one generated token; one value, since it does not scatter.
fn decode_count(run: &Run, summary: &Summary<'_>, count: fn(&Counts) -> u64) -> Vec<f64> {
    let decode = simulated(run, summary).and_then(|s| s.decode.as_ref());
    decode.map(|d| d.per_token(count)).into_iter().collect()
}

/// A simulated count of one prompt token.
fn prefill_count(run: &Run, summary: &Summary<'_>, count: fn(&Counts) -> u64) -> Vec<f64> {
    let counts = simulated(run, summary).map(|s| s.prefill.per_token(count));
    counts.into_iter().collect()
}
