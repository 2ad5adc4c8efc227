//! What speculation came to in a repetition, each quantity derived in one place; the terms are those of Leviathan et al. 2023.

use super::Sample;
use engine::speculate::{Telemetry, expected_tokens};

impl Sample {
    /// Of the drafted tokens that the target came to look at, the share kept.
    pub fn acceptance(&self) -> Option<f64> {
        acceptance(self.speculation.as_ref()?)
    }

    /// Of all drafted tokens, those behind the first wrong one among them, the share kept.
    pub fn kept_share(&self) -> Option<f64> {
        let t = self.speculation.as_ref()?;
        share(t.accepted, t.drafted)
    }

    /// Time of drafting, of verifying and of rolling back, in milliseconds; CPU time of the thread that drives the others.
    pub fn speculation_ms(&self) -> Option<[f64; 3]> {
        let t = self.speculation.as_ref()?;
        Some([t.draft_ns, t.verify_ns, t.rollback_ns].map(|ns| ns as f64 / 1e6))
    }

    /// Tokens that came of a pass of the target.
    pub fn tokens_per_pass(&self) -> Option<f64> {
        let t = self.speculation.as_ref()?;
        share(t.tokens, t.passes)
    }
}

/// The formula's terms, as a repetition met them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// Acceptance: of the drafted tokens that the target came to look at, the share kept.
    pub a: f64,
    /// Tokens of a draft, on average.
    pub k: f64,
    /// Time to draft a token, in passes over one token.
    pub c: f64,
    /// Time of a pass over a draft and the token before it, in passes over one token.
    pub v: f64,
    /// Share of the passes that had a draft.
    pub with: f64,
}

impl Terms {
    /// From what was counted, where a pass over one token takes `plain_ns`; `None` where nothing was drafted.
    pub fn of(t: &Telemetry, plain_ns: f64) -> Option<Terms> {
        let (drafts, ns) = t
            .passes_ns
            .iter()
            .skip(1)
            .fold((0, 0), |(n, ns), p| (n + p[0], ns + p[1]));
        Some(Terms {
            a: acceptance(t)?,
            k: share(t.drafted, drafts)?,
            c: share(t.draft_ns, t.drafted)? / plain_ns,
            v: share(ns, drafts)? / plain_ns,
            with: share(drafts, t.passes)?,
        })
    }

    /// Tokens that a pass with a draft gives on average.
    pub fn tokens(&self) -> f64 {
        expected_tokens(self.a, self.k)
    }

    /// How many times as fast as plain decoding the formula has it: passes with a draft give that many tokens in `k c + v`, the
    /// others one in one.
    pub fn speed_up(&self) -> f64 {
        let without = 1.0 - self.with;
        let time = self.with * (self.k * self.c + self.v) + without;
        (self.with * self.tokens() + without) / time
    }

    /// The acceptance from which on a draft pays; `None` where it never does.
    pub fn break_even(&self) -> Option<f64> {
        let gain = |a| Terms { a, ..*self }.tokens() - (self.k * self.c + self.v);
        if gain(1.0) < 0.0 {
            return None;
        }
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            match gain(middle) < 0.0 {
                true => low = middle,
                false => high = middle,
            }
        }
        Some(high)
    }
}

/// Time of the passes over each number of tokens, in passes over one: `(n, v(n))`, over all of these records; each comes with the
/// time of its own pass over one token, in nanoseconds.
pub fn pass_costs(all: &[(&Telemetry, f64)]) -> Vec<(usize, f64)> {
    let longest = all.iter().map(|(t, _)| t.passes_ns.len()).max();
    let cost = |i: usize| {
        let passes = all.iter();
        let passes = passes.filter_map(|(t, plain_ns)| Some((t.passes_ns.get(i)?, plain_ns)));
        let (time, plain) = passes.fold((0.0, 0.0), |(time, plain), ([count, ns], plain_ns)| {
            (time + *ns as f64, plain + *count as f64 * plain_ns)
        });
        (plain > 0.0).then(|| (i + 1, time / plain))
    };
    (0..longest.unwrap_or(0)).filter_map(cost).collect()
}

/// Time of the passes without a draft, each; `None` where all had one.
pub fn plain_pass_ns(t: &Telemetry) -> Option<f64> {
    let [count, ns] = *t.passes_ns.first()?;
    share(ns, count)
}

/// Acceptance at each position of a draft: of the tokens the target came to look at there, those it kept.
pub fn acceptance_by_position(telemetry: &Telemetry) -> Vec<f64> {
    let positions = telemetry.by_position.iter();
    positions
        .filter_map(|&[seen, kept]| share(kept, seen))
        .collect()
}

fn acceptance(t: &Telemetry) -> Option<f64> {
    let positions = t.by_position.iter();
    let (seen, kept) = positions.fold((0, 0), |(s, k), p| (s + p[0], k + p[1]));
    share(kept, seen)
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    fn telemetry() -> Telemetry {
        Telemetry {
            passes: 10,
            tokens: 24,
            drafted: 20,
            accepted: 14,
            by_position: vec![[5, 4], [4, 4], [0, 0]],
            draft_ns: 4_000,
            verify_ns: 12_000,
            rollback_ns: 16,
            passes_ns: vec![[5, 5_000], [0, 0], [5, 7_000]],
        }
    }

    #[test]
    fn quantities_follow_their_definitions() {
        let sample = Sample {
            speculation: Some(telemetry()),
            ..sample()
        };
        assert_eq!(sample.kept_share(), Some(0.7));
        assert_eq!(sample.acceptance(), Some(8.0 / 9.0));
        assert_eq!(sample.tokens_per_pass(), Some(2.4));
        assert_eq!(sample.speculation_ms(), Some([0.004, 0.012, 0.000_016]));
        let t = telemetry();
        let terms = Terms {
            a: 8.0 / 9.0,
            k: 4.0,
            c: 0.2,
            v: 1.4,
            with: 0.5,
        };
        assert_eq!(Terms::of(&t, 1_000.0), Some(terms));
        assert_eq!(pass_costs(&[(&t, 1_000.0)]), [(1, 1.0), (3, 1.4)]);
        // Where everything takes twice as long, a pass over three costs the same.
        let slow = Telemetry {
            passes_ns: vec![[1, 2_000], [0, 0], [5, 14_000]],
            ..t.clone()
        };
        let both = pass_costs(&[(&t, 1_000.0), (&slow, 2_000.0)]);
        assert_eq!(both, [(1, 1.0), (3, 1.4)]);
        assert_eq!(plain_pass_ns(&t), Some(1_000.0));
        assert_eq!(acceptance_by_position(&telemetry()), [0.8, 1.0]);
    }

    #[test]
    fn nothing_drafted_is_unknown() {
        let none = Sample {
            speculation: Some(Telemetry::default()),
            ..sample()
        };
        assert_eq!((none.acceptance(), none.kept_share()), (None, None));
        assert_eq!(Terms::of(&Telemetry::default(), 1.0), None);
        assert_eq!(sample().tokens_per_pass(), None);
    }

    #[test]
    fn the_formula_has_its_known_values() {
        let terms = Terms {
            a: 0.8,
            k: 2.0,
            c: 0.1,
            v: 1.02,
            with: 1.0,
        };
        let near = |x: f64, y: f64| assert!((x - y).abs() < 1e-9, "{x} is not {y}");
        near(terms.tokens(), 2.44);
        near(terms.speed_up(), 2.0);
        near(Terms { with: 0.5, ..terms }.speed_up(), 3.44 / 2.22);
        near(Terms { a: 0.0, ..terms }.tokens(), 1.0);
        near(Terms { a: 1.0, ..terms }.tokens(), 3.0);
        let one = Terms {
            k: 1.0,
            c: 0.2,
            v: 1.1,
            ..terms
        };
        near(one.break_even().expect("pays"), 0.3);
        assert_eq!(Terms { c: 1.0, ..one }.break_even(), None);
    }
}
