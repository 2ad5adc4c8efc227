//! Which layers `layer-skip` may leave out: those without which a draft still says most of what the model would.
//!
//! Layers are chosen one after the other, each time the one whose absence beside that of those chosen before leaves the most
//! greedy tokens of a text as they are, all positions in one pass. What is chosen is then measured as drafts are made: token by
//! token, behind a cache that the whole model wrote.

use super::length::{AUTO_MAX, expected_tokens};
use crate::error::Result;
use crate::model::Model;
use crate::quality;
use crate::sample::argmax;
use crate::session::{Parts, Session};
use std::cmp::Reverse;

/// Layers to leave out, and what drafts without them come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Skipping {
    /// The layers, in the order in which they were chosen.
    pub layers: Vec<usize>,
    /// Positions of the text, and those of them where the draft's greedy token is the model's.
    pub positions: usize,
    /// As said.
    pub accepted: usize,
    /// Weights and cache that a drafted token reads, as a share of what a token of the whole model reads.
    pub read_share: f64,
}

impl Skipping {
    /// Share of the positions where the draft's greedy token is the model's.
    pub fn acceptance(&self) -> f64 {
        self.accepted as f64 / self.positions as f64
    }

    /// Its standard error, taking positions as independent.
    pub fn acceptance_error(&self) -> f64 {
        let a = self.acceptance();
        (a * (1.0 - a) / self.positions as f64).sqrt()
    }

    /// The best length of a draft, and how many times as fast as plain decoding it is then expected to be, where a drafted token
    /// takes as much time as it reads bytes, and each further token of a pass adds `slope` to a pass of one.
    pub fn speed_up(&self, slope: f64) -> (usize, f64) {
        let of = |k: usize| {
            let tokens = expected_tokens(self.acceptance(), k as f64);
            (k, tokens / (k as f64 * (self.read_share + slope) + 1.0))
        };
        let all = (2..=AUTO_MAX).map(of);
        all.fold(of(1), |best, one| if one.1 > best.1 { one } else { best })
    }
}

/// The choice of layers, one after the other.
pub struct LayerSearch<'s, 'a> {
    model: &'s Model,
    session: &'s mut Session<'a>,
    windows: &'s [Vec<u32>],
    /// The model's greedy token behind each token of the windows but the last one of each.
    greedy: Vec<u32>,
    /// What a token of the whole model reads, summed over all positions.
    read_bytes: u64,
    chosen: Vec<usize>,
}

impl<'s, 'a> LayerSearch<'s, 'a> {
    /// Reads `windows` of a text, each of two tokens or more, with `model`, of which `session` is one.
    ///
    /// # Errors
    /// When a window does not fit.
    pub fn new(
        model: &'s Model,
        session: &'s mut Session<'a>,
        windows: &'s [Vec<u32>],
    ) -> Result<LayerSearch<'s, 'a>> {
        let greedy = greedy(session, windows)?;
        let mut search = LayerSearch {
            model,
            session,
            windows,
            greedy,
            read_bytes: 0,
            chosen: Vec::new(),
        };
        search.read_bytes = search.drafts()?.1;
        Ok(search)
    }

    /// Leaves out one more layer, and gives what all of them come to; calls `tried` for each layer that was tried.
    ///
    /// # Errors
    /// When no other layer may be left out.
    pub fn next(&mut self, mut tried: impl FnMut()) -> Result<Skipping> {
        let mut best = None;
        for layer in 0..self.model.config().n_layers() {
            if self.chosen.contains(&layer) {
                continue;
            }
            let mut parts = self.parts(Some(layer))?;
            let (windows, session) = (self.windows, &mut *self.session);
            session.truncate(0);
            let drafted = session
                .draft(&mut parts, |session| greedy(session, windows))
                .0?;
            let same = std::iter::zip(&drafted, &self.greedy).filter(|(a, b)| a == b);
            best = best.max(Some((same.count(), Reverse(layer))));
            tried();
        }
        self.chosen.extend(best.map(|(_, Reverse(layer))| layer));
        let (accepted, read_bytes) = self.drafts()?;
        Ok(Skipping {
            layers: self.chosen.clone(),
            positions: self.greedy.len(),
            accepted,
            read_share: read_bytes as f64 / self.read_bytes as f64,
        })
    }

    /// The model without the layers chosen so far, and without one `more`.
    fn parts(&self, more: Option<usize>) -> Result<Parts> {
        let mut parts = Parts::all(self.model);
        let layers: Vec<usize> = self.chosen.iter().copied().chain(more).collect();
        parts.skip_layers(&layers)?;
        Ok(parts)
    }

    /// Drafts one token at every position; how many are the model's, and the bytes that were read.
    fn drafts(&mut self) -> Result<(usize, u64)> {
        let mut parts = self.parts(None)?;
        let (mut accepted, mut read_bytes, mut seen) = (0, 0, 0);
        for window in self.windows {
            let read = &window[..window.len() - 1];
            let greedy = &self.greedy[seen..seen + read.len()];
            seen += read.len();
            self.session.truncate(0);
            self.session.prefill(read)?;
            // From the end, so that a draft writes over nothing that a later one reads.
            for (at, &token) in read.iter().enumerate().rev() {
                self.session.truncate(at);
                let draft = |session: &mut Session<'_>| argmax(session.decode(token)?);
                let (drafted, stats) = self.session.draft(&mut parts, draft);
                accepted += usize::from(drafted? == greedy[at]);
                read_bytes += stats.ledger.weight_bytes + stats.ledger.kv_read_bytes;
            }
        }
        Ok((accepted, read_bytes))
    }
}

/// The greedy token behind each token of `windows` but the last one of each.
fn greedy(session: &mut Session<'_>, windows: &[Vec<u32>]) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for window in windows {
        quality::predict(session, window, 0, |logits, _| all.push(argmax(logits)))?;
    }
    all.into_iter().collect()
}
