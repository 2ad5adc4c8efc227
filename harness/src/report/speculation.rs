//! What speculation came to in each case: one row of the report, from the records of its repetitions.

use super::data::Group;
use crate::record::{Terms, acceptance_by_position, pass_costs, plain_pass_ns};
use crate::stats;
use engine::speculate::Telemetry;

/// A case with drafts.
pub(super) struct Drafted<'a> {
    pub group: &'a Group<'a>,
    /// Of all repetitions that count, added up.
    pub telemetry: Telemetry,
    /// Acceptance at each position.
    pub by_position: Vec<f64>,
    /// Time of the passes over each number of tokens, in passes over one; empty where those are unknown.
    pub pass_costs: Vec<(usize, f64)>,
    /// The formula's terms.
    pub terms: Option<Terms>,
    /// Decode rate over that of the case without drafts.
    pub measured: Option<f64>,
}

/// The cases that drafted something. A pass over one token takes what it took where nothing is drafted: in the case without
/// drafts, or in the case's own passes without.
pub(super) fn drafted<'a>(groups: &[&'a Group<'a>]) -> Vec<Drafted<'a>> {
    let telemetry = |group: &Group<'_>| {
        let all = group.counted.iter().filter_map(|s| s.speculation.as_ref());
        all.fold(Telemetry::default(), |mut sum, t| {
            sum.add(t);
            sum
        })
    };
    let all: Vec<(&Group<'_>, Telemetry)> = groups.iter().map(|g| (*g, telemetry(g))).collect();
    let plain = all
        .iter()
        .find(|(group, t)| t.drafted == 0 && !group.counted.is_empty());
    let plain_rate = plain.and_then(|(group, _)| Some(group.decode()?.median));
    let drafting = all.iter().filter(|(_, t)| t.drafted > 0);
    drafting
        .map(|(group, t)| {
            let plain_ns = plain_rate
                .map(|rate| 1e9 / rate)
                .or_else(|| plain_pass_ns(t));
            Drafted {
                group,
                by_position: acceptance_by_position(t),
                pass_costs: plain_ns.map_or_else(Vec::new, |ns| pass_costs(t, ns)),
                terms: plain_ns.and_then(|ns| Terms::of(t, ns)),
                measured: plain_rate.and_then(|rate| Some(group.decode()?.median / rate)),
                telemetry: t.clone(),
            }
        })
        .collect()
}

impl Drafted<'_> {
    /// Share of the decode time that went into drafting.
    pub(super) fn draft_share(&self) -> f64 {
        let t = &self.telemetry;
        t.draft_ns as f64 / (t.draft_ns + t.verify_ns).max(1) as f64
    }

    /// Tokens of a pass, median over repetitions.
    pub(super) fn tokens_per_pass(&self) -> Option<f64> {
        let all = self
            .group
            .counted
            .iter()
            .filter_map(|s| s.tokens_per_pass());
        stats::median(&all.collect::<Vec<f64>>())
    }
}
