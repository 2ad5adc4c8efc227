//! Speculative decoding (Leviathan, Kalman and Matias 2023; Chen et al. 2023): a drafter proposes tokens, the target verifies
//! them all in one pass, and what it would have chosen itself is kept.
//!
//! [`Speculator::step`] is the one loop for all methods: propose, verify, commit. It loses nothing. With greedy choice the
//! tokens are those of plain decoding in every bit, because a token's logits do not depend on the tokens that share its
//! pass; with sampling a drafted token is kept with probability `min(1, p / q)` and else drawn from what `p` has over `q`
//! ([`crate::sample::Sampler::verify`]). Rolling back is [`Session::truncate`], which costs nothing.

mod build;
mod layers;
mod length;
mod lookup;
mod model;
#[cfg(test)]
mod tests;

pub use build::{check, check_room, load_draft, speculator};
pub use layers::{LayerSearch, Skipping};
pub use length::expected_tokens;
pub use lookup::{PromptLookup, Suffixes};
pub use model::{ModelDrafter, SelfDrafter};

use crate::error::Result;
use crate::options::speculation::DraftTokens;
use crate::sample::Distribution;
use crate::session::{Session, Stats};
use crate::stage::thread_cpu_ns;
use length::{Length, Spent};
use serde::{Deserialize, Serialize};

/// Tokens that a drafter proposes, and what each was drawn from.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    tokens: Vec<u32>,
    /// As many as tokens; those behind them are room for later ones.
    chances: Vec<Distribution>,
}

impl Draft {
    /// Tokens proposed.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Proposes `token` for certain: the drafter could have proposed no other.
    pub fn push_certain(&mut self, token: u32) {
        self.push_drawn(|chances| {
            chances.set_certain(token);
            Ok(token)
        })
        .expect("nothing fails");
    }

    /// Proposes the token that `draw` gives, having written what it was drawn from.
    ///
    /// # Errors
    /// Those of `draw`.
    pub fn push_drawn(
        &mut self,
        draw: impl FnOnce(&mut Distribution) -> Result<u32>,
    ) -> Result<u32> {
        let i = self.tokens.len();
        if self.chances.len() == i {
            self.chances.push(Distribution::default());
        }
        let token = draw(&mut self.chances[i])?;
        self.tokens.push(token);
        Ok(token)
    }

    fn clear(&mut self) {
        self.tokens.clear();
    }

    fn get(&self, i: usize) -> Option<(u32, &Distribution)> {
        self.tokens.get(i).map(|&token| (token, &self.chances[i]))
    }
}

/// A way to guess what comes next.
pub trait Drafter {
    /// Reads the prompt, where it has to; the time is part of that to the first token.
    ///
    /// # Errors
    /// When the drafter has no room for it.
    fn begin(&mut self, prompt: &[u32]) -> Result<()> {
        let _ = prompt;
        Ok(())
    }

    /// Tokens of `context` that it has missed and must read first, about; the last two, which are always new to it where a draft
    /// was kept whole, do not count.
    fn behind(&self, context: &[u32]) -> usize {
        let _ = context;
        0
    }

    /// Proposes at most `max` tokens, at least one, to follow `context`, which has grown or lost its end since the last call;
    /// none where it has no guess. Those beyond `max` are not looked at, and one that is not of the target's vocabulary is an error
    /// of the step. `target` holds all of `context` but its last token, and does so again afterwards.
    ///
    /// # Errors
    /// When a model behind it cannot go on.
    fn propose(
        &mut self,
        target: &mut Session<'_>,
        context: &[u32],
        max: usize,
        draft: &mut Draft,
    ) -> Result<()>;

    /// Time and bytes of its passes since they were last taken.
    fn take_stats(&mut self) -> Stats {
        Stats::default()
    }
}

/// What a drafter proposed and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Telemetry {
    /// Passes of the target, with and without drafted tokens.
    pub passes: u64,
    /// Tokens that came of them.
    pub tokens: u64,
    /// Tokens drafted.
    pub drafted: u64,
    /// Of these kept.
    pub accepted: u64,
    /// Of each position in a draft: tokens that the target came to look at, and those kept.
    pub by_position: Vec<[u64; 2]>,
    /// Time of the drafters: CPU time of the thread that drives them, which works with the others or spins while it waits for
    /// them, so that time in which the process stood still is not in it.
    pub draft_ns: u64,
    /// Time of the target, the choice of tokens included; CPU time likewise.
    pub verify_ns: u64,
    /// Time in which the target forgot what was refused; CPU time likewise. A drafter forgets as it drafts. 0 in older records.
    #[serde(default)]
    pub rollback_ns: u64,
    /// Of passes of each number of tokens, from one on: how many, and their time.
    pub passes_ns: Vec<[u64; 2]>,
}

impl Telemetry {
    /// Adds what came of other passes.
    pub fn add(&mut self, other: &Telemetry) {
        self.passes += other.passes;
        self.tokens += other.tokens;
        self.drafted += other.drafted;
        self.accepted += other.accepted;
        self.draft_ns += other.draft_ns;
        self.verify_ns += other.verify_ns;
        self.rollback_ns += other.rollback_ns;
        for (i, pair) in other.by_position.iter().enumerate() {
            add_pair(&mut self.by_position, i, *pair);
        }
        for (i, pair) in other.passes_ns.iter().enumerate() {
            add_pair(&mut self.passes_ns, i, *pair);
        }
    }

    /// Adds a pass with `drafted` tokens of which `kept` were kept, and from which `tokens` came; times are those of the draft,
    /// of verifying it and of rolling back.
    fn count(&mut self, drafted: usize, kept: usize, tokens: usize, times_ns: [u64; 3]) {
        let [draft_ns, verify_ns, rollback_ns] = times_ns;
        self.passes += 1;
        self.tokens += tokens as u64;
        self.drafted += drafted as u64;
        self.accepted += kept as u64;
        self.draft_ns += draft_ns;
        self.verify_ns += verify_ns;
        self.rollback_ns += rollback_ns;
        for i in 0..drafted.min(tokens) {
            add_pair(&mut self.by_position, i, [1, u64::from(i < kept)]);
        }
        add_pair(&mut self.passes_ns, drafted, [1, verify_ns]);
    }
}

/// Adds to entry `i`, which need not be there yet.
fn add_pair(to: &mut Vec<[u64; 2]>, i: usize, pair: [u64; 2]) {
    to.resize(to.len().max(i + 1), [0, 0]);
    to[i][0] += pair[0];
    to[i][1] += pair[1];
}

/// A drafter and how far it is trusted.
struct Stage<'a> {
    drafter: Box<dyn Drafter + 'a>,
    length: Length,
}

/// Decodes with drafters: the first of them that has a guess is asked.
pub struct Speculator<'a> {
    stages: Vec<Stage<'a>>,
    spent: Spent,
    draft: Draft,
    pass: Vec<u32>,
    telemetry: Telemetry,
}

impl<'a> Speculator<'a> {
    /// With `drafters`, in the order in which they are asked.
    pub fn new(drafters: Vec<Box<dyn Drafter + 'a>>, draft_tokens: DraftTokens) -> Speculator<'a> {
        let stage = |drafter| Stage {
            drafter,
            length: Length::new(draft_tokens),
        };
        Speculator {
            stages: drafters.into_iter().map(stage).collect(),
            spent: Spent::default(),
            draft: Draft::default(),
            pass: Vec::new(),
            telemetry: Telemetry::default(),
        }
    }

    /// Has all drafters read the prompt.
    ///
    /// # Errors
    /// When one has no room for it.
    pub fn begin(&mut self, prompt: &[u32]) -> Result<()> {
        for stage in &mut self.stages {
            let start_ns = thread_cpu_ns();
            stage.drafter.begin(prompt)?;
            stage.length.read(prompt.len(), thread_cpu_ns() - start_ns);
        }
        Ok(())
    }

    /// One pass of `target`, which holds all of `context` but its last token; appends between one and `room` tokens to
    /// `context` and gives their number. `choose(logits, drafted)` chooses the next token, given the one drafted and what it
    /// was drawn from; behind a token of which `ends` is true none follows.
    ///
    /// # Errors
    /// When the target or a drafter has no room, or `choose` fails.
    ///
    /// # Panics
    /// If `target` does not hold as many tokens as said, or `room` is 0.
    pub fn step(
        &mut self,
        target: &mut Session<'_>,
        context: &mut Vec<u32>,
        room: usize,
        mut choose: impl FnMut(&mut [f32], Option<(u32, &Distribution)>) -> Result<u32>,
        ends: impl Fn(u32) -> bool,
    ) -> Result<usize> {
        let held = target.position();
        assert!(
            held + 1 == context.len() && room > 0,
            "one token is pending"
        );
        let start_ns = thread_cpu_ns();
        let most = (room - 1).min(target.capacity().saturating_sub(held + 1));
        let asked = self.propose(target, context, most)?;
        let drafted_ns = thread_cpu_ns();
        self.pass.clear();
        self.pass.push(context[held]);
        self.pass.extend(self.draft.tokens());

        let mut chosen = Ok(true);
        let draft = &self.draft;
        target.score(&self.pass, 0, |i, logits| {
            if matches!(chosen, Ok(true)) {
                let drafted = draft.get(i);
                chosen = choose(logits, drafted).map(|token| {
                    context.push(token);
                    !ends(token) && drafted.is_some_and(|(drafted, _)| drafted == token)
                });
            }
        })?;
        let draft_ns = drafted_ns - start_ns;
        let verified_ns = thread_cpu_ns();
        let verify_ns = verified_ns - drafted_ns;
        let tokens = context.len() - held - 1;
        target.truncate(held + tokens);
        let rollback_ns = thread_cpu_ns() - verified_ns;
        chosen?;

        let drafted = self.draft.tokens().len();
        let kept = std::iter::zip(self.draft.tokens(), &context[held + 1..])
            .take_while(|(a, b)| a == b)
            .count();
        let times_ns = [draft_ns, verify_ns, rollback_ns];
        self.telemetry.count(drafted, kept, tokens, times_ns);
        match asked {
            Some((i, behind)) => {
                let length = &mut self.stages[i].length;
                let times_ns = (draft_ns, verify_ns);
                length.drafted((drafted, kept), behind, times_ns, &mut self.spent);
            }
            None => {
                self.spent.plain(draft_ns, verify_ns);
                let stages = self.stages.iter_mut();
                stages.for_each(|stage| stage.length.plain(verify_ns));
            }
        }
        Ok(tokens)
    }

    /// Fills the draft with at most `most` tokens; which drafter had a guess, and how many tokens it had missed before.
    fn propose(
        &mut self,
        target: &mut Session<'_>,
        context: &[u32],
        most: usize,
    ) -> Result<Option<(usize, usize)>> {
        self.draft.clear();
        let spent = &self.spent;
        if self.stages.iter().any(|s| s.length.wants_plain(spent)) {
            return Ok(None);
        }
        for (i, stage) in self.stages.iter_mut().enumerate() {
            let behind = stage.drafter.behind(context);
            let max = stage.length.next(behind, spent).min(most);
            if max > 0 {
                let draft = &mut self.draft;
                stage.drafter.propose(target, context, max, draft)?;
                draft.tokens.truncate(max);
            }
            if !self.draft.tokens.is_empty() {
                return Ok(Some((i, behind)));
            }
        }
        Ok(None)
    }

    /// Time and bytes of the drafters' passes since the last call.
    pub fn take_stats(&mut self) -> Stats {
        let mut all = Stats::default();
        for stage in &mut self.stages {
            all.add(&stage.drafter.take_stats());
        }
        all
    }

    /// What was drafted and kept since the last call.
    pub fn take_telemetry(&mut self) -> Telemetry {
        std::mem::take(&mut self.telemetry)
    }
}
