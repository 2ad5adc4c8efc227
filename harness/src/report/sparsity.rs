//! What sparsity came to in each case: one row of a table, from the records of its repetitions.

use super::data::Group;
use super::plots::SpeedUp;
use crate::record::{CaseRecord, Run, active_share};
use crate::summary::Beside;
use engine::quality::Figures;
use engine::sparsity::{Site, SiteCount, Telemetry, Thresholds};
use std::collections::BTreeSet;

/// What the keys of sparsity begin with.
const SPARSITY: &str = "engine.sparsity.";

/// A case that left something out.
pub(crate) struct Thinned<'a> {
    pub(super) group: &'a Group<'a>,
    /// Of all repetitions that count.
    pub telemetry: Telemetry,
    /// Weights read and left out for a decoded token, in bytes.
    pub read: f64,
    pub skipped: f64,
    /// Decode rate over that of the dense case with the same settings otherwise.
    pub measured: Option<Beside>,
    /// What the bytes of the dense case over those of this one would give.
    pub by_bytes: Option<f64>,
    /// How well it predicts, where the scenario asks for that, and how well the dense case does.
    pub figures: Option<&'a Figures>,
    pub dense_figures: Option<&'a Figures>,
}

/// The cases that had sites to leave something out at.
pub(crate) fn thinned<'a>(run: &'a Run, groups: &[&'a Group<'a>]) -> Vec<Thinned<'a>> {
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
            figures: run.quality(group.case.index),
            dense_figures: dense.and_then(|dense| run.quality(dense.case.index)),
        })
    };
    groups.iter().filter_map(|group| of_group(group)).collect()
}

/// How large the values that a site decides about are in each layer, as a file of thresholds tells it.
pub(super) struct Magnitudes<'a> {
    pub site: Site,
    pub found: &'a Thresholds,
}

/// What the files of thresholds tell about the sites of the cases, the same text read by the same model once.
pub(super) fn magnitudes<'a>(run: &'a Run, all: &[Thinned<'_>]) -> Vec<Magnitudes<'a>> {
    let mut told: Vec<Magnitudes<'a>> = Vec::new();
    for one in all {
        let Some(sparsity) = &one.group.case.engine.sparsity else {
            continue;
        };
        let name = sparsity.thresholds.display().to_string();
        let Some(found) = run.manifest.thresholds.get(&name) else {
            continue;
        };
        for &site in sparsity.method.sites() {
            if !told
                .iter()
                .any(|m| m.site == site && m.found.curve == found.curve)
            {
                told.push(Magnitudes { site, found });
            }
        }
    }
    told.sort_by_key(|m| m.site);
    told
}

impl Magnitudes<'_> {
    /// Of every other share that the file has a magnitude for: that share, and the magnitudes below which it lies, layer by
    /// layer.
    pub(super) fn below(&self) -> Vec<(f64, Vec<f32>)> {
        let shares = self.found.made_by.iter().flat_map(|by| &by.curve_shares);
        let layers = &self.found.curve;
        let of_share = |(i, share): (usize, &f64)| {
            let magnitudes = layers.iter();
            let magnitudes = magnitudes.map(|sites| sites.get(&self.site)?.get(i).copied());
            Some((*share, magnitudes.collect::<Option<_>>()?))
        };
        shares.enumerate().step_by(2).filter_map(of_share).collect()
    }
}

impl Thinned<'_> {
    /// The case.
    pub(crate) fn case(&self) -> &CaseRecord {
        self.group.case
    }

    /// Name of the case.
    pub(crate) fn name(&self) -> &str {
        &self.group.short
    }

    /// What the model held a second time, by channels, what of that was encoded anew, and how it came into memory, in all ways
    /// that it did; `None` where it held nothing so.
    pub(crate) fn held(&self) -> Option<String> {
        let all = self.group.counted.iter();
        let all: Vec<_> = all.filter_map(|s| s.by_channels.as_ref()).collect();
        let ways: BTreeSet<String> = all.iter().map(|held| held.placed.to_string()).collect();
        let ways = Vec::from_iter(ways).join("; ");
        Some(format!("{}: {}; {ways}", self.name(), all.first()?))
    }

    /// Share of the channels that took part, over all sites.
    pub(crate) fn active(&self) -> f64 {
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
