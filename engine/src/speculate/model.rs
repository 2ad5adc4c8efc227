//! Drafters that are models: the target itself without some of its parts, the same in fewer bits, or another one.

use super::{Draft, Drafter};
use crate::error::Result;
use crate::sample::{Sampler, SamplerOptions};
use crate::session::{Parts, Session, Stats};

/// How a drafting model chooses tokens.
struct Choice {
    sampler: Sampler,
    /// Tokens that are never chosen.
    never: Vec<u32>,
}

impl Choice {
    /// Like the target, but for the tokens in `never`.
    fn new(sampler: SamplerOptions, never: &[u32]) -> Result<Choice> {
        // Its draws must not be the target's.
        let seed = !sampler.seed;
        Ok(Choice {
            sampler: Sampler::new(SamplerOptions { seed, ..sampler })?,
            never: never.to_vec(),
        })
    }

    /// Proposes a token to follow the last one of `session`.
    fn propose(&mut self, session: &mut Session<'_>, draft: &mut Draft) -> Result<u32> {
        draft.push_drawn(|chances| {
            session.sample(|logits| {
                for &id in &self.never {
                    if let Some(logit) = logits.get_mut(id as usize) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
                self.sampler.distribution(logits, chances)?;
                self.sampler.draw(chances)
            })
        })
    }
}

/// Proposes what the target would write without some of its parts (Zhang et al. 2024, draft & verify). It goes on from the
/// target's own cache, so that it need not read anything itself, and what it adds there is written anew as it is verified.
pub struct SelfDrafter {
    parts: Parts,
    choice: Choice,
    stats: Stats,
}

impl SelfDrafter {
    /// Drafts with `parts` of the target, choosing tokens like it, but for those in `never`.
    ///
    /// # Errors
    /// When a number of the sampler is out of its range.
    pub fn new(parts: Parts, sampler: SamplerOptions, never: &[u32]) -> Result<SelfDrafter> {
        Ok(SelfDrafter {
            parts,
            choice: Choice::new(sampler, never)?,
            stats: Stats::default(),
        })
    }
}

impl Drafter for SelfDrafter {
    fn propose(
        &mut self,
        target: &mut Session<'_>,
        context: &[u32],
        max: usize,
        draft: &mut Draft,
    ) -> Result<()> {
        let mut last = context[target.position()];
        let (result, stats) = target.draft(&mut self.parts, |session| {
            for _ in 0..max {
                session.decode(last)?;
                last = self.choice.propose(session, draft)?;
            }
            Ok(())
        });
        self.stats.add(&stats);
        result
    }

    fn take_stats(&mut self) -> Stats {
        std::mem::take(&mut self.stats)
    }
}

/// Proposes what another model would write, with a sequence of its own.
pub struct ModelDrafter<'a> {
    session: Session<'a>,
    /// The tokens of its sequence.
    held: Vec<u32>,
    choice: Choice,
}

impl<'a> ModelDrafter<'a> {
    /// Drafts with the model of `session`, an empty one, choosing tokens like the target, but for those in `never`.
    ///
    /// # Errors
    /// When a number of the sampler is out of its range.
    pub fn new(
        session: Session<'a>,
        sampler: SamplerOptions,
        never: &[u32],
    ) -> Result<ModelDrafter<'a>> {
        Ok(ModelDrafter {
            session,
            held: Vec::new(),
            choice: Choice::new(sampler, never)?,
        })
    }

    /// Brings the sequence to `context` and leaves the logits behind its last token.
    fn follow(&mut self, context: &[u32]) -> Result<()> {
        let common = std::iter::zip(&self.held, context)
            .take_while(|(a, b)| a == b)
            .count();
        // The last token goes through once more where nothing is new: its logits are needed.
        let common = common.min(context.len() - 1);
        self.session.truncate(common);
        self.held.truncate(common);
        self.session.prefill(&context[common..])?;
        self.held.extend(&context[common..]);
        Ok(())
    }
}

impl Drafter for ModelDrafter<'_> {
    fn begin(&mut self, prompt: &[u32]) -> Result<()> {
        self.follow(prompt)
    }

    fn behind(&self, context: &[u32]) -> usize {
        context.len().saturating_sub(self.held.len() + 2)
    }

    fn propose(
        &mut self,
        _target: &mut Session<'_>,
        context: &[u32],
        max: usize,
        draft: &mut Draft,
    ) -> Result<()> {
        self.follow(context)?;
        for _ in 1..max {
            let last = self.choice.propose(&mut self.session, draft)?;
            self.session.decode(last)?;
            self.held.push(last);
        }
        self.choice.propose(&mut self.session, draft)?;
        Ok(())
    }

    fn take_stats(&mut self) -> Stats {
        self.session.take_stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Distribution;

    /// A draft that is drawn by the same chance as its verdict would not be refused by chance.
    #[test]
    fn a_drafter_draws_otherwise_than_its_target() {
        let options = SamplerOptions {
            temp: 1.0,
            top_k: 0,
            ..SamplerOptions::default()
        };
        let drafting = Choice::new(options, &[]).expect("in range").sampler;
        let target = Sampler::new(options).expect("in range");
        let [drafted, wanted] = [drafting, target].map(|mut sampler| {
            let mut chances = Distribution::default();
            let logits = [0.0; 100];
            sampler.distribution(&logits, &mut chances).expect("finite");
            [(); 16].map(|()| sampler.draw(&chances).expect("some are likely"))
        });
        let same = std::iter::zip(drafted, wanted).filter(|(a, b)| a == b);
        assert!(same.count() < 4, "{drafted:?} {wanted:?}");
    }
}
