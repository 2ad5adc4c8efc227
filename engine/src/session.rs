//! A sequence being processed: its KV cache, its position, and the passes that extend it.

mod parts;

pub use parts::Parts;
pub(crate) use parts::{check_vocabulary, require_top_bits, skipped};

use crate::error::{Error, Result};
use crate::kv::Kv;
use crate::matrix::Matrix;
use crate::model::{Buffers, HEAD_TOKENS, Model, Pass, Wanted};
use crate::options::Options;
use crate::pool::Pool;
use crate::quantize::Observer;
use crate::sparsity::{LayerCount, Magnitudes, Site, SiteCount, Telemetry};
use crate::stage::{Ledger, Listener, Stage, StageClock, StageTimes};

/// Time and bytes of the passes since they were last taken.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Time per stage, averaged over the threads: the stages add up to the wall time of the passes.
    pub stages: StageTimes,
    /// Bytes, summed over the threads.
    pub ledger: Ledger,
    /// Passes through the layers.
    pub passes: u64,
    /// Tokens that went through the layers.
    pub tokens: u64,
    /// Multiplications of weights with activations, those that sparsity left out among them.
    pub products: u64,
}

impl Stats {
    /// Adds those of other passes.
    pub fn add(&mut self, other: &Stats) {
        self.stages.add(&other.stages);
        self.ledger.add(&other.ledger);
        self.passes += other.passes;
        self.tokens += other.tokens;
        self.products += other.products;
    }
}

/// One sequence on one model.
pub struct Session<'a> {
    model: &'a Model,
    pool: &'a Pool,
    kv: Kv,
    buffers: Buffers,
    batch: usize,
    parts: Parts,
    position: usize,
    stats: Stats,
    observer: Option<Observer>,
    magnitudes: Option<Magnitudes>,
    /// What took part at the sites of sparsity, `[layers][sites]`.
    counts: Vec<SiteCount>,
    /// Whether passes are drafts, of which [`Session::counts`] holds nothing.
    drafting: bool,
}

impl<'a> Session<'a> {
    /// Allocates everything a sequence needs.
    ///
    /// # Errors
    /// When an option is out of its range, or asks for what the model cannot give.
    pub fn new(model: &'a Model, pool: &'a Pool, options: &Options) -> Result<Session<'a>> {
        let c = model.config();
        options.check()?;
        let ctx = c.context(options)?;
        let batch = options.batch.min(ctx);
        let kv = Kv::new(options.kv, c.n_layers(), c.n_kv_heads, c.head_dim, ctx);
        let buffers = Buffers::new(model, pool.threads(), batch, ctx, options);
        Ok(Session {
            model,
            pool,
            kv,
            buffers,
            batch,
            parts: Parts::all(model),
            position: 0,
            stats: Stats::default(),
            observer: None,
            magnitudes: None,
            counts: Vec::new(),
            drafting: false,
        })
    }

    /// Uses `parts` of the model from now on.
    pub fn set_parts(&mut self, parts: Parts) {
        self.parts = parts;
    }

    /// Does `what` with `parts` of the model only, then forgets the tokens that it appended. Gives what came of it, and time
    /// and bytes of its passes, which are not among the session's own.
    pub fn draft<R>(
        &mut self,
        parts: &mut Parts,
        what: impl FnOnce(&mut Session<'a>) -> R,
    ) -> (R, Stats) {
        let (position, own) = (self.position, self.take_stats());
        std::mem::swap(&mut self.parts, parts);
        self.drafting = true;
        let result = what(self);
        self.drafting = false;
        std::mem::swap(&mut self.parts, parts);
        self.truncate(position);
        (result, std::mem::replace(&mut self.stats, own))
    }

    /// Tokens in the sequence.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.kv.capacity
    }

    /// Tokens of the vocabulary: logits of a prediction.
    pub fn n_vocab(&self) -> usize {
        self.model.config().n_vocab
    }

    /// Bytes of the KV cache.
    pub fn kv_bytes(&self) -> u64 {
        self.kv.bytes() as u64
    }

    /// Appends `tokens`, in batches, and gives the logits after the last one, `[n_vocab]`, or as many as [`Parts`] want.
    /// Several tokens are computed densely, one alone with the sparsity that the model was loaded with.
    ///
    /// # Errors
    /// When there are none, one is not in the vocabulary, or the context is full; the sequence is then unchanged.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        self.check(tokens)?;
        // Whoever observes is to see all tokens go through all layers.
        let observed = self.observer.is_some() || self.magnitudes.is_some();
        let mut left = tokens.len();
        for batch in tokens.chunks(self.batch) {
            left -= batch.len();
            let wanted = match left {
                _ if observed => Wanted::All,
                0 => Wanted::Last,
                _ => Wanted::None,
            };
            self.pass(batch, tokens.len() == 1, wanted);
        }
        let row = match observed {
            true => (tokens.len() - 1) % self.batch,
            false => 0,
        };
        self.head(&tokens[tokens.len() - 1 - row..], row..row + 1);
        self.collect();
        Ok(&self.buffers.logits.values_mut()[..self.parts.head.rows])
    }

    /// Appends one token and gives the logits after it, `[n_vocab]`.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn decode(&mut self, token: u32) -> Result<&[f32]> {
        self.prefill(&[token])
    }

    /// Appends `tokens` and gives the logits after each one from the `first` on to `each(index, logits)`, which may change
    /// them; its time is booked as sampling. With sparsity the tokens go through one by one.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn score(
        &mut self,
        tokens: &[u32],
        first: usize,
        mut each: impl FnMut(usize, &mut [f32]),
    ) -> Result<()> {
        self.check(tokens)?;
        let n_vocab = self.model.config().n_vocab;
        let sparse = self.model.sparse.is_some();
        let batch_max = if sparse { 1 } else { self.batch };
        for (i, batch) in tokens.chunks(batch_max).enumerate() {
            self.pass(batch, sparse, Wanted::All);
            let base = i * batch_max;
            let wanted = first.saturating_sub(base).min(batch.len())..batch.len();
            for from in wanted.clone().step_by(HEAD_TOKENS.min(batch_max)) {
                let to = wanted.end.min(from + HEAD_TOKENS.min(batch_max));
                self.head(batch, from..to);
                let mut clock = StageClock::new(true, self.buffers.listener);
                clock.start();
                let logits = self.buffers.logits.values_mut().chunks_exact_mut(n_vocab);
                for (t, logits) in (from..to).zip(logits) {
                    each(base + t, logits);
                }
                clock.lap(Stage::Sample);
                self.stats.stages.add(&clock.times);
            }
        }
        self.collect();
        Ok(())
    }

    /// Calls `choose` with the logits after the last token, which it may change; the time is booked as sampling.
    pub fn sample<R>(&mut self, choose: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut clock = StageClock::new(true, self.buffers.listener);
        clock.start();
        let choice = choose(&mut self.buffers.logits.values_mut()[..self.parts.head.rows]);
        clock.lap(Stage::Sample);
        self.stats.stages.add(&clock.times);
        choice
    }

    /// Has `listener` hear of the stages from now on, on every thread.
    pub fn listen(&mut self, listener: Listener) {
        self.buffers.listener = Some(listener);
    }

    /// Sums the squares of what every matrix of the layers is multiplied with, from now on.
    pub fn observe(&mut self) {
        self.observer = Some(self.model.observer(self.pool.threads()));
    }

    /// What was summed since [`Session::observe`]; `None` without it.
    pub fn observed(&self) -> Option<&Observer> {
        self.observer.as_ref()
    }

    /// Counts the magnitudes at every site that sparsity can have a threshold for, from now on, in passes over several tokens.
    pub fn observe_magnitudes(&mut self) {
        self.magnitudes = Some(self.model.magnitudes(self.pool.threads()));
    }

    /// What was counted since [`Session::observe_magnitudes`]; `None` without it.
    pub fn magnitudes(&self) -> Option<&Magnitudes> {
        self.magnitudes.as_ref()
    }

    /// What took part at the sites of sparsity since the last call; `None` where the model has none.
    pub fn take_sparsity(&mut self) -> Option<Telemetry> {
        self.model.sparse.as_ref()?;
        let counts = std::mem::take(&mut self.counts).into_iter().enumerate();
        let sites = counts.filter(|(_, count)| count.channels > 0);
        let sites = sites.map(|(i, count)| LayerCount {
            layer: i / Site::ALL.len(),
            site: Site::ALL[i % Site::ALL.len()],
            count,
        });
        Some(Telemetry {
            sites: sites.collect(),
        })
    }

    /// Forgets all tokens from position `len` on. Costs nothing.
    ///
    /// # Panics
    /// If the sequence is shorter.
    pub fn truncate(&mut self, len: usize) {
        assert!(
            len <= self.position,
            "cannot truncate {} tokens to {len}",
            self.position
        );
        self.position = len;
    }

    /// Time and bytes since the last call.
    pub fn take_stats(&mut self) -> Stats {
        std::mem::take(&mut self.stats)
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        let c = self.model.config();
        if tokens.is_empty() {
            return Err(Error::Input(
                "the prompt has no tokens: give at least one".into(),
            ));
        }
        if let Some(t) = tokens.iter().find(|&&t| t as usize >= c.n_vocab) {
            return Err(Error::Input(format!(
                "token {t} is not in the vocabulary of {} tokens: was it made with another model's tokenizer?",
                c.n_vocab
            )));
        }
        let needed = self.position + tokens.len();
        if needed > self.kv.capacity {
            let (capacity, trained) = (self.kv.capacity, c.n_ctx_train);
            return Err(Error::ContextFull {
                needed,
                capacity,
                trained,
            });
        }
        Ok(())
    }

    /// One batch through the layers.
    fn pass(&mut self, tokens: &[u32], sparse: bool, wanted: Wanted) {
        let pass = Pass {
            wanted,
            observer: self.observer.as_ref(),
            magnitudes: self.magnitudes.as_ref(),
            sparse,
            ..self.at(tokens, self.position)
        };
        self.pool.run(&|ctx| pass.layers(ctx));
        self.position += tokens.len();
        self.stats.passes += 1;
        self.stats.tokens += tokens.len() as u64;
        self.stats.products += self.products(tokens.len(), wanted);
    }

    /// Multiplications of the layers' weights in a pass over `n` tokens.
    fn products(&self, n: usize, wanted: Wanted) -> u64 {
        let last = self.parts.skipped.iter().rposition(|&skipped| !skipped);
        let behind = match wanted {
            Wanted::All => n,
            Wanted::Last => 1,
            Wanted::None => 0,
        };
        let layers = self.model.layers.iter().enumerate();
        let layers = layers.filter(|(l, _)| !self.parts.skipped[*l]);
        let used = self
            .model
            .config()
            .experts
            .map_or(1, |experts| experts.used);
        let products = layers.map(|(l, layer)| {
            let sum = |all: &[&Matrix]| all.iter().map(|m| m.weights()).sum::<usize>();
            let before = sum(&[&layer.q, &layer.k, &layer.v]);
            let expert = sum(&[&layer.gate[0], &layer.up[0], &layer.down[0]]);
            let router = layer.router.as_ref().map_or(0, Matrix::weights);
            let rest = layer.o.weights() + router + used * expert;
            let tokens = if Some(l) == last { behind } else { n };
            before * n + rest * tokens
        });
        products.sum::<usize>() as u64
    }

    /// Logits of some tokens of the batch just passed.
    fn head(&mut self, batch: &[u32], outputs: std::ops::Range<usize>) {
        self.stats.products += (outputs.len() * self.parts.head.weights()) as u64;
        let pass = self.at(batch, self.position - batch.len());
        self.pool.run(&|ctx| pass.head(ctx, outputs.clone()));
    }

    fn at<'b>(&'b self, tokens: &'b [u32], start: usize) -> Pass<'b> {
        Pass {
            model: self.model,
            kv: &self.kv,
            buffers: &self.buffers,
            tokens,
            start,
            skipped: &self.parts.skipped,
            bits: self.parts.bits,
            head: &self.parts.head,
            first_step: self.buffers.next_steps(self.model),
            observer: None,
            magnitudes: None,
            sparse: false,
            wanted: Wanted::All,
        }
    }

    /// Adds up what the threads left.
    fn collect(&mut self) {
        let threads = self.pool.threads() as u64;
        let mut times = StageTimes::default();
        for tally in self.buffers.tallies.values_mut() {
            times.add(&tally.times);
            self.stats.ledger.add(&tally.ledger);
            *tally = Default::default();
        }
        let counts = self.buffers.sparse.counts.values_mut();
        self.counts.resize(counts.len(), SiteCount::default());
        for (all, count) in self.counts.iter_mut().zip(counts) {
            let count = std::mem::take(count);
            if !self.drafting {
                all.add(&count);
            }
        }
        times.ns.iter_mut().for_each(|ns| *ns /= threads);
        self.stats.stages.add(&times);
    }
}
