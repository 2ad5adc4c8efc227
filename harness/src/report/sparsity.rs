//! What sparsity came to in each case: one row of the report, from the records of its repetitions.

use super::data::Group;
use super::plots::SpeedUp;
use crate::record::active_share;
use crate::summary::Beside;
use engine::sparsity::{SiteCount, Telemetry};

/// What the keys of sparsity begin with.
const SPARSITY: &str = "engine.sparsity.";

/// A case that left something out.
pub(super) struct Thinned<'a> {
    pub group: &'a Group<'a>,
    /// Of all repetitions that count.
    pub telemetry: Telemetry,
    /// Weights read and left out for a decoded token, in bytes.
    pub read: f64,
    pub skipped: f64,
    /// Decode rate over that of the dense case with the same settings otherwise.
    pub measured: Option<Beside>,
    /// What the bytes of the dense case over those of this one would give.
    pub by_bytes: Option<f64>,
}

/// The cases that had sites to leave something out at.
pub(super) fn thinned<'a>(groups: &[&'a Group<'a>]) -> Vec<Thinned<'a>> {
    let is_dense =
        |g: &Group<'_>| !g.counted.is_empty() && g.counted.iter().all(|s| s.sparsity.is_none());
    let of_group = |group: &'a Group<'a>| {
        let all = group.counted.iter().filter_map(|s| s.sparsity.as_ref());
        let sites: Vec<_> = all.flat_map(|t| t.sites.iter().cloned()).collect();
        let bytes = group.decode_bytes()?;
        let mut others = groups.iter();
        let dense = others.find(|g| is_dense(g) && g.alike(group, SPARSITY));
        let dense_bytes = dense.and_then(|g| g.decode_bytes());
        (!sites.is_empty()).then(|| Thinned {
            group,
            telemetry: Telemetry { sites },
            read: bytes.weights,
            skipped: bytes.skipped,
            measured: dense.and_then(|dense| group.beside(dense)),
            by_bytes: dense_bytes.as_ref().map(|d| d.moved() / bytes.moved()),
        })
    };
    groups.iter().filter_map(|group| of_group(group)).collect()
}

impl Thinned<'_> {
    /// Share of the channels that took part, over all sites.
    pub(super) fn active(&self) -> f64 {
        let mut all = SiteCount::default();
        self.telemetry.sites.iter().for_each(|s| all.add(&s.count));
        active_share(&all).unwrap_or(1.0)
    }

    /// As a row of a plot; `None` without a dense case.
    pub(super) fn speed_up(&self) -> Option<SpeedUp<'_>> {
        Some(SpeedUp {
            name: &self.group.short,
            measured: self.measured.as_ref()?,
            expected: self.by_bytes,
        })
    }
}
