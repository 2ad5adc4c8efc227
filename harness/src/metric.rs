//! What can be gated and followed over time: every metric once, with its name, its unit and its better direction.

use crate::record::{Run, Sample};
use crate::summary::Summary;
use crate::verdict::Better;

/// How a metric comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Timed: it scatters, and drifts with the machine.
    Timed,
    /// Counted: the same on every repetition.
    Counted,
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
];
