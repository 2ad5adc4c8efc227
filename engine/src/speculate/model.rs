//! A drafter that is a model: another one, the same in fewer bits, or the same without some of its layers or bits.

use super::{Draft, Drafter};
use crate::error::Result;
use crate::sample::{Sampler, SamplerOptions};
use crate::session::{Session, Stats};

/// Proposes what a model would write, with a sequence of its own.
pub struct ModelDrafter<'a> {
    session: Session<'a>,
    /// The tokens of its sequence.
    held: Vec<u32>,
    sampler: Sampler,
    /// Tokens that are never chosen.
    never: Vec<u32>,
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
        // Its draws must not be the target's.
        let seed = !sampler.seed;
        Ok(ModelDrafter {
            session,
            held: Vec::new(),
            sampler: Sampler::new(SamplerOptions { seed, ..sampler })?,
            never: never.to_vec(),
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
    fn take_stats(&mut self) -> Stats {
        self.session.take_stats()
    }

    fn begin(&mut self, prompt: &[u32]) -> Result<()> {
        self.follow(prompt)
    }

    fn propose(&mut self, context: &[u32], max: usize, draft: &mut Draft) -> Result<()> {
        self.follow(context)?;
        for i in 0..max {
            if let Some(&last) = draft.tokens().last() {
                self.session.decode(last)?;
                self.held.push(last);
            }
            debug_assert_eq!(draft.tokens().len(), i, "one token a turn");
            draft.push_drawn(|chances| {
                self.session.sample(|logits| {
                    for &id in &self.never {
                        logits[id as usize] = f32::NEG_INFINITY;
                    }
                    self.sampler.distribution(logits, chances)?;
                    self.sampler.draw(chances)
                })
            })?;
        }
        Ok(())
    }
}
