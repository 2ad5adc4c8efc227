//! What speculation came to in each case: one row of the report, from the records of its repetitions.

use super::data::{Group, short_words};
use super::plots::SpeedUp;
use crate::host::plural;
use crate::record::{CaseRecord, Terms, acceptance_by_position, pass_costs, plain_pass_ns};
use crate::stats;
use crate::summary::Beside;
use engine::options::speculation::Speculation;
use engine::speculate::Telemetry;
use std::collections::BTreeSet;

/// Passes over one token that a case without one to hold it against must have had itself.
const PLAIN_MIN: u64 = 10;
/// What the keys of drafts begin with.
const SPECULATION: &str = "engine.speculation.";

/// A case that may draft.
pub(crate) struct Drafted<'a> {
    pub(super) group: &'a Group<'a>,
    /// Of all repetitions that count, added up.
    pub telemetry: Telemetry,
    /// Acceptance at each position.
    pub(super) by_position: Vec<f64>,
    /// Time of a pass over one token.
    plain_ns: Option<f64>,
    /// The formula's terms.
    pub terms: Option<Terms>,
    /// Decode rate over that of the case without drafts.
    pub measured: Option<Beside>,
    /// Its text beside that of the case without drafts.
    pub output: Output,
}

/// The cases that could draft something. A pass over one token takes what it took in the case of the same settings that drafts
/// nothing, or where there is none in the case's own passes without a draft.
pub(crate) fn drafted<'a>(groups: &[&'a Group<'a>]) -> Vec<Drafted<'a>> {
    let telemetry = |group: &Group<'_>| {
        let all = group.counted.iter().filter_map(|s| s.speculation.as_ref());
        all.fold(Telemetry::default(), |mut sum, t| {
            sum.add(t);
            sum
        })
    };
    let drafts = |group: &Group<'_>| {
        let wanted = group.case.engine.speculation.as_ref();
        wanted.is_some_and(Speculation::drafts)
    };
    let plain_of = |one: &Group<'_>| {
        let same =
            |g: &&&'a Group<'a>| !drafts(g) && !g.counted.is_empty() && g.alike(one, SPECULATION);
        groups.iter().find(same).copied()
    };
    let drafting = groups.iter().copied().filter(|group| drafts(group));
    let drafting = drafting.filter(|group| !group.counted.is_empty());
    drafting
        .map(|group| {
            let (plain, t) = (plain_of(group), telemetry(group));
            let plain_ns = plain
                .and_then(|plain| plain_pass_ns(&telemetry(plain)))
                .or_else(|| plain_pass_ns(&t).filter(|_| t.passes_ns[0][0] >= PLAIN_MIN));
            Drafted {
                group,
                by_position: acceptance_by_position(&t),
                plain_ns,
                terms: plain_ns.and_then(|ns| Terms::of(&t, ns)),
                output: plain.map_or(Output::Unknown, |plain| output(group, plain)),
                // Without drafts, with the same settings otherwise.
                measured: plain.and_then(|plain| group.beside(plain)),
                telemetry: t,
            }
        })
        .collect()
}

/// The text of a case beside that of plain decoding.
fn output(group: &Group<'_>, plain: &Group<'_>) -> Output {
    let counted = group.counted.iter().chain(&plain.counted);
    let hashes: BTreeSet<&str> = counted.map(|s| s.output_sha256.as_str()).collect();
    match (hashes.contains(""), hashes.len()) {
        (false, 1) => Output::Same,
        (false, _) if group.case.temp == Some(0.0) => Output::Differs,
        _ => Output::Unknown,
    }
}

/// Of cases that draft, what their texts are beside those of plain decoding, in a sentence.
pub(crate) fn outputs(all: &[Drafted<'_>]) -> String {
    let names = |output: Output| {
        let those = all.iter().filter(move |one| one.output == output);
        Vec::from_iter(those.map(|one| one.group.short.as_str()))
    };
    let differ = names(Output::Differs);
    if !differ.is_empty() {
        let names = differ.join("; ");
        return format!("ERROR of the engine: with drafts the text is another one: {names}.");
    }
    let unknown = names(Output::Unknown).len();
    let why = "as texts were drawn or are not recorded, or there is no case without drafts";
    match all.len() - unknown {
        n if unknown == 0 => format!(
            "Drafts changed no text: {} wrote what the case without drafts did.",
            plural(n, "case")
        ),
        0 => format!("Whether drafts changed a text is unknown, {why}."),
        n => format!(
            "Drafts changed no text of {}; of {unknown} that is unknown, {why}.",
            plural(n, "case")
        ),
    }
}

/// What became of a case's text beside that of plain decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Same,
    Differs,
    /// It was drawn, so that it may be another one; or there is nothing to hold it against.
    Unknown,
}

/// What a pass over several tokens takes on one target.
pub(super) struct Costs {
    /// The swept keys that make the target; empty if there are none.
    pub name: String,
    /// Tokens of a pass, and its time in passes over one.
    pub points: Vec<(usize, f64)>,
}

/// Costs of the passes of all cases that share a target, whatever the prompt; empty where those are unknown.
pub(super) fn costs_by_target(all: &[Drafted<'_>]) -> Vec<Costs> {
    let mut targets: Vec<(String, Vec<(&Telemetry, f64)>)> = Vec::new();
    for one in all {
        let Some(plain_ns) = one.plain_ns else {
            continue;
        };
        let name = short_words(one.group.case, |key| {
            !key.starts_with(SPECULATION) && !key.starts_with("prompt.")
        });
        let passes = (&one.telemetry, plain_ns);
        match targets.iter_mut().find(|(n, _)| *n == name) {
            Some((_, all)) => all.push(passes),
            None => targets.push((name, vec![passes])),
        }
    }
    let costs = targets.into_iter().map(|(name, all)| Costs {
        name,
        points: pass_costs(&all),
    });
    costs.collect()
}

impl Drafted<'_> {
    /// The case.
    pub(crate) fn case(&self) -> &CaseRecord {
        self.group.case
    }

    /// As a row of a plot; `None` without a case that drafts nothing.
    pub(super) fn speed_up(&self) -> Option<SpeedUp<'_>> {
        Some(SpeedUp {
            name: &self.group.short,
            measured: self.measured.as_ref()?,
            expected: self.terms.map(|terms| terms.speed_up()),
        })
    }

    /// Drafted tokens that the model came to look at, and those of them that it kept.
    pub(crate) fn looked_at(&self) -> (u64, u64) {
        let positions = self.telemetry.by_position.iter();
        positions.fold((0, 0), |(seen, kept), p| (seen + p[0], kept + p[1]))
    }

    /// Shares of the decode time that went into drafting and into rolling back; the rest verified.
    pub(super) fn time_shares(&self) -> [f64; 2] {
        let t = &self.telemetry;
        let all_ns = t.draft_ns + t.verify_ns + t.rollback_ns;
        [t.draft_ns, t.rollback_ns].map(|ns| ns as f64 / all_ns.max(1) as f64)
    }

    /// Time of a token that went into verifying, drafting and rolling back, in passes over one; `None` where what such a pass takes
    /// is unknown.
    pub(super) fn token_times(&self) -> Option<[f64; 3]> {
        let t = &self.telemetry;
        let tokens_ns = self.plain_ns? * t.tokens as f64;
        let times_ns = [t.verify_ns, t.draft_ns, t.rollback_ns];
        (t.tokens > 0).then(|| times_ns.map(|ns| ns as f64 / tokens_ns))
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
