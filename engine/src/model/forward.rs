//! The forward pass: the same program on every thread, a handful of barriers a layer, for one token or many.
//!
//! Steps of a layer, each ended by a barrier: norm + q, k, v projections · rotation and KV write · attention · output
//! projection + residual · norm + gate, up and activation · down projection + residual. Of a few tokens every thread
//! quantises the activations it needs for itself; of many, each thread quantises its share and one more barrier follows.
//! Models that norm what attention and feed-forward give add it to the residual stream behind another barrier; of mixtures of
//! experts the router is one more step.
//!
//! A token's result does not depend on how many tokens share the pass or how many threads there are: every output row
//! is summed by one thread in one order, and attention is merged chunk by chunk in the order of positions.
#![allow(unsafe_code)]

use super::buffers::{Buffers, REDUNDANT_TOKENS};
use super::weights::{Layer, Model};
use crate::kernel::{Bits, TILE_TOKENS};
use crate::kv::Kv;
use crate::matrix::{Activations, Bank, Matrix, row, tail_panels};
use crate::pool::Ctx;
use crate::quantize::Observer;
use crate::simd::LANES;
use crate::sparsity::{Magnitudes, Site};
use crate::stage::{Ledger, Stage, StageClock};
use std::ops::Range;

/// Tokens of a pass whose residual stream is wanted behind the last layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All, each in its row.
    All,
    /// The last one, in the first row.
    Last,
    /// None: only what the cache holds counts.
    None,
}

/// One pass of `tokens` at positions `start ..` through the model.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a Model,
    pub(crate) kv: &'a Kv,
    pub(crate) buffers: &'a Buffers,
    pub(crate) tokens: &'a [u32],
    pub(crate) start: usize,
    /// Layers that are left out.
    pub(crate) skipped: &'a [bool],
    /// What is read of the matrices' codes.
    pub(crate) bits: Bits,
    /// The output's matrix, or the first rows of it.
    pub(crate) head: &'a Matrix,
    /// Number of the first step of the pass that hands out panels.
    pub(crate) first_step: u32,
    /// Hears the inputs of the matrices of every step.
    pub(crate) observer: Option<&'a Observer>,
    /// Hears magnitudes at every site.
    pub(crate) magnitudes: Option<&'a Magnitudes>,
    /// Whether channels may be left out; the pass then has one token.
    pub(crate) sparse: bool,
    /// Whose residual stream is wanted.
    pub(crate) wanted: Wanted,
}

/// What a thread carries through a pass.
pub(super) struct Worker<'a> {
    pub(super) ctx: Ctx<'a>,
    pub(super) clock: StageClock,
    pub(super) ledger: Ledger,
    /// Number of the next step that hands out panels, the same on all threads.
    step: u32,
}

impl Worker<'_> {
    /// Waits for the others; the time goes to [`Stage::Wait`].
    pub(super) fn barrier(&mut self) {
        self.ctx.barrier();
        self.clock.lap(Stage::Wait);
    }
}

impl Pass<'_> {
    /// All layers; leaves the residual stream of the tokens behind that are wanted. What the others would go through behind
    /// their keys and values of the last layer is left out. To be called on every thread.
    pub(crate) fn layers(&self, ctx: Ctx<'_>) {
        let mut w = self.worker(ctx);
        let n_embd = self.model.config.n_embd;
        for t in ctx.share(self.tokens.len()) {
            // SAFETY: each token is written by one thread, and read after the barrier.
            self.model.embed(self.tokens[t], unsafe {
                self.buffers.x.write(row(t, n_embd))
            });
        }
        w.clock.lap(Stage::Embed);
        let layers = &self.model.layers;
        let last = self.skipped.iter().rposition(|&skipped| !skipped);
        self.barrier_before_layer(&mut w, 0);
        for (l, layer) in layers.iter().enumerate() {
            if self.skipped[l] {
                continue;
            }
            self.keys_and_values(&mut w, l, layer);
            let rest = match self.wanted {
                Wanted::None if Some(l) == last => break,
                Wanted::Last if Some(l) == last && self.tokens.len() > 1 => self.last_token(&mut w),
                _ => *self,
            };
            rest.attention(&mut w, l, layer);
            rest.feed_forward_block(&mut w, l, layer);
            self.barrier_before_layer(&mut w, l + 1);
        }
        self.finish(w);
    }

    /// The pass of the last token alone, its stream and query moved to the first rows. Ends with a barrier.
    fn last_token(&self, w: &mut Worker<'_>) -> Self {
        let (c, b, last) = (&self.model.config, self.buffers, self.tokens.len() - 1);
        if w.ctx.index == 0 {
            for (buffer, width) in [(&b.x, c.n_embd), (&b.qkv, c.q_dim() + 2 * c.kv_dim())] {
                // SAFETY: two rows; no other thread uses the buffers between the barriers before and behind this.
                unsafe {
                    let from = buffer.read(row(last, width));
                    buffer.write(row(0, width)).copy_from_slice(from);
                }
            }
        }
        w.barrier();
        Pass {
            tokens: &self.tokens[last..],
            start: self.start + last,
            ..*self
        }
    }

    /// Waits for the others before layer `l`, or behind the last one.
    fn barrier_before_layer(&self, w: &mut Worker<'_>, l: usize) {
        match self.model.layers.get(l) {
            Some(next) => {
                let next = [&next.q, &next.k, &next.v];
                self.barrier_before(w, self.panels(l, Site::Qkv, &next))
            }
            None => self.barrier_before(w, &[self.head]),
        }
    }

    /// Logits of the tokens `outputs` (at most [`HEAD_TOKENS`]) of the pass just made. To be called on every thread.
    pub(crate) fn head(&self, ctx: Ctx<'_>, outputs: Range<usize>) {
        let mut w = self.worker(ctx);
        let (model, b) = (self.model, self.buffers);
        let n = outputs.len();
        let act = self.quantise(&mut w, n, model.config.n_embd, None, |t, out| {
            // SAFETY: the residual stream is only read here.
            let x = unsafe { b.x.read(row(outputs.start + t, model.config.n_embd)) };
            model
                .kernels
                .rms_norm(x, &model.output_norm, model.config.rms_eps, out);
        });
        self.project(&mut w, &[self.head], act, n, |r, t, y| {
            let at = t * model.config.n_vocab + r;
            // SAFETY: each row of the head belongs to one thread.
            let out = unsafe { b.logits.write(at..at + y.len()) };
            let scale = model.config.logit_scale;
            each(out, y, |out, y| *out = y * scale);
            if model.config.logit_cap != 0.0 {
                model.kernels.soft_cap(model.config.logit_cap, out);
            }
        });
        w.clock.lap(Stage::Head);
        self.finish(w);
    }

    /// What `thread` multiplies with.
    pub(super) fn bank(&self, thread: usize) -> Bank<'_> {
        Bank {
            kernels: &*self.model.kernels,
            arena: self.model.arena.bytes(),
            bits: self.bits,
            panels: &self.buffers.panels[thread],
        }
    }

    fn worker<'c>(&self, ctx: Ctx<'c>) -> Worker<'c> {
        let mut clock = StageClock::new(self.buffers.stage_clock, self.buffers.listener);
        clock.start();
        Worker {
            ctx,
            clock,
            ledger: Ledger::default(),
            step: self.first_step,
        }
    }

    /// Leaves what the thread did where the session adds it up.
    fn finish(&self, w: Worker<'_>) {
        let i = w.ctx.index;
        // SAFETY: each thread has its own slot; the session reads after the run.
        let slot = unsafe { self.buffers.tallies.write(i..i + 1) };
        slot[0].times.add(&w.clock.times);
        slot[0].ledger.add(&w.ledger);
    }

    /// Fills and quantises rows of `cols` activations for `n` tokens: all of them for itself when they are few, the
    /// thread's share for everybody when they are many. Those of a layer's site are heard by whoever observes.
    pub(super) fn quantise(
        &self,
        w: &mut Worker<'_>,
        n: usize,
        cols: usize,
        site: Option<(usize, Site)>,
        fill: impl Fn(usize, &mut [f32]),
    ) -> &Activations {
        let own = n <= REDUNDANT_TOKENS;
        let act = if own {
            &self.buffers.own[w.ctx.index]
        } else {
            &self.buffers.batch
        };
        let mine = if own {
            0..n
        } else {
            let tiles = w.ctx.share(n.div_ceil(TILE_TOKENS));
            tiles.start * TILE_TOKENS..n.min(tiles.end * TILE_TOKENS)
        };
        for t in mine {
            // SAFETY: own rows are this thread's; shared tiles are split, and the last readers passed a barrier.
            unsafe {
                act.set(&*self.model.kernels, t, n, cols, |out| {
                    fill(t, out);
                    if let Some((l, site)) = site
                        && (!own || w.ctx.index == 0)
                    {
                        self.observe(w.ctx.index, l, site, out);
                    }
                })
            };
        }
        w.clock.lap(Stage::Norm);
        if !own {
            w.barrier();
        }
        act
    }

    /// Waits for the others, and meanwhile fetches the first of this thread's panels of `next`, taken as one.
    pub(super) fn barrier_before(&self, w: &mut Worker<'_>, next: &[&Matrix]) {
        let arena = self.model.arena.bytes();
        w.ctx.barrier_with(|| {
            let mut first = w.ctx.share(next.iter().map(|m| m.panels()).sum()).start;
            for m in next {
                if first < m.panels() {
                    let bytes = &arena[m.panels_bytes(first..first + 1).start..];
                    let len = self.buffers.wait_prefetch_bytes.min(bytes.len());
                    return self.model.kernels.prefetch(&bytes[..len]);
                }
                first -= m.panels();
            }
        });
        w.clock.lap(Stage::Wait);
    }

    /// Hands out `total` panels for `n` tokens: gives `work` this thread's part but for its tail, then what is left of all
    /// tails.
    pub(super) fn share_panels(
        &self,
        w: &mut Worker<'_>,
        total: usize,
        n: usize,
        mut work: impl FnMut(&mut Worker<'_>, Range<usize>),
    ) {
        let b = self.buffers;
        let ctx = w.ctx;
        let tail = |owner| {
            let part = ctx.share_of(owner, total);
            part.end - part.len() * b.tail_percent / 100..part.end
        };
        let unit = tail_panels(n);
        let step = w.step;
        w.step = step.wrapping_add(1);
        work(w, ctx.share(total).start..tail(ctx.index).start);
        for i in 0..ctx.threads {
            let owner = (ctx.index + i) % ctx.threads;
            let tail = tail(owner);
            while let Some(i) = b.tails.take(owner, step, tail.len().div_ceil(unit)) {
                let first = tail.start + i * unit;
                work(w, first..tail.end.min(first + unit));
            }
        }
    }

    /// Multiplies this thread's part of the rows of `matrices`, taken as one, and gives `sink(row, token, outputs)`.
    pub(super) fn project(
        &self,
        w: &mut Worker<'_>,
        matrices: &[&Matrix],
        act: &Activations,
        n: usize,
        mut sink: impl FnMut(usize, usize, &[f32]),
    ) {
        let total = matrices.iter().map(|m| m.panels()).sum();
        self.share_panels(w, total, n, |w, mine| {
            let (mut first_panel, mut first_row) = (0, 0);
            for m in matrices {
                let of_m = first_panel..first_panel + m.panels();
                let from = mine.start.clamp(of_m.start, of_m.end) - first_panel;
                let to = mine.end.clamp(of_m.start, of_m.end) - first_panel;
                self.bank(w.ctx.index).multiply(
                    [m],
                    from..to,
                    act,
                    0..n,
                    &mut w.ledger,
                    |r, t, [y]| {
                        let len = LANES.min(m.rows - r);
                        for (i, y) in y.iter().enumerate() {
                            sink(first_row + r, t + i, &y[..len]);
                        }
                    },
                );
                first_panel = of_m.end;
                first_row += m.rows;
            }
        });
    }

    /// `W x` of the rows that `fill` writes, at a site of layer `l`: this thread's rows of `matrices`, taken as one, go to
    /// `sink(row, token, outputs)`.
    fn product(
        &self,
        w: &mut Worker<'_>,
        (l, site): (usize, Site),
        matrices: &[&Matrix],
        fill: impl Fn(usize, &mut [f32]),
        sink: impl FnMut(usize, usize, &[f32]),
    ) {
        if let Some(m) = self.channels(l, site) {
            let rows = matrices.iter().map(|m| m.rows).sum();
            self.project_channels(w, (l, site), m, rows, |out| fill(0, out), sink);
        } else {
            let n = self.tokens.len();
            let act = self.quantise(w, n, matrices[0].cols, Some((l, site)), fill);
            self.project(w, matrices, act, n, sink);
        }
        w.clock.lap(site.stage());
    }

    /// `x += scale y` of the outputs that `product` gives its sink; with `norm`, `x += norm(y)` for this thread's tokens.
    fn add_to_residual(
        &self,
        w: &mut Worker<'_>,
        norm: &[f32],
        product: impl FnOnce(&mut Worker<'_>, &mut dyn FnMut(usize, usize, &[f32])),
    ) {
        let (c, b, n) = (&self.model.config, self.buffers, self.tokens.len());
        if norm.is_empty() {
            return product(w, &mut |r, t, y| {
                let at = t * c.n_embd + r;
                // SAFETY: each row belongs to one thread; all have read the stream before the last barrier.
                let x = unsafe { b.x.write(at..at + y.len()) };
                each(x, y, |x, y| *x += c.residual_scale * y);
            });
        }
        product(w, &mut |r, t, y| {
            let at = t * c.n_embd + r;
            // SAFETY: each row belongs to one thread.
            each(unsafe { b.block.write(at..at + y.len()) }, y, |b, y| *b = y);
        });
        w.barrier();
        for t in w.ctx.share(n) {
            // SAFETY: the block was written before the last barrier; each token belongs to one thread, and all have read
            // the stream before.
            let (block, x) =
                unsafe { (b.block.read(row(t, c.n_embd)), b.x.write(row(t, c.n_embd))) };
            self.model.kernels.add_rms_norm(block, norm, c.rms_eps, x);
        }
        w.clock.lap(Stage::Norm);
    }

    /// Norm of the residual stream of token `t`.
    pub(super) fn normed(&self, t: usize, weight: &[f32], out: &mut [f32]) {
        let c = &self.model.config;
        // SAFETY: the stream is written only between other barriers.
        let x = unsafe { self.buffers.x.read(row(t, c.n_embd)) };
        self.model.kernels.rms_norm(x, weight, c.rms_eps, out);
    }

    /// Queries, and keys and values in the cache. Ends with a barrier.
    fn keys_and_values(&self, w: &mut Worker<'_>, l: usize, layer: &Layer) {
        let (c, b) = (&self.model.config, self.buffers);
        let width = c.q_dim() + 2 * c.kv_dim();
        self.product(
            w,
            (l, Site::Qkv),
            &[&layer.q, &layer.k, &layer.v],
            |t, out| self.normed(t, &layer.attn_norm, out),
            |r, t, y| {
                let at = t * width + r;
                // SAFETY: each row belongs to one thread.
                each(unsafe { b.qkv.write(at..at + y.len()) }, y, |b, y| *b = y);
            },
        );
        w.barrier();
        self.rotate(w, l);
        w.clock.lap(Stage::Attention);
        w.barrier();
    }

    /// Attention to the cache, and its output projection.
    fn attention(&self, w: &mut Worker<'_>, l: usize, layer: &Layer) {
        let (c, b) = (&self.model.config, self.buffers);
        self.attend(w, l);
        self.barrier_before(w, self.panels(l, Site::O, &[&layer.o]));
        self.add_to_residual(w, &layer.attn_post_norm, |w, sink| {
            let fill = |t: usize, out: &mut [f32]| {
                // SAFETY: written before the last barrier.
                out.copy_from_slice(unsafe { b.attn.read(row(t, c.q_dim())) });
            };
            self.product(w, (l, Site::O), &[&layer.o], fill, sink);
        });
        let next = layer.router.as_ref().unwrap_or(&layer.gate[0]);
        self.barrier_before(w, self.panels(l, Site::GateUp, &[next]));
    }

    fn feed_forward_block(&self, w: &mut Worker<'_>, l: usize, layer: &Layer) {
        let (c, b) = (&self.model.config, self.buffers);
        if let (Some(router), Some(experts)) = (&layer.router, c.experts) {
            return self.experts_block(w, (l, layer), router, experts);
        }
        if let Some(up) = self.channels(l, Site::Gate) {
            return self.add_to_residual(w, &layer.ffn_post_norm, |w, sink| {
                self.gated_block(w, l, up, sink);
                w.clock.lap(Stage::Down);
            });
        }
        match self.channels(l, Site::GateUp) {
            Some(m) => self.gate_up_channels(w, l, m),
            None => self.gate_up(w, l, layer),
        }
        self.barrier_before(w, self.panels(l, Site::Down, &[&layer.down[0]]));
        self.add_to_residual(w, &layer.ffn_post_norm, |w, sink| {
            let thread = w.ctx.index;
            let fill = |t: usize, out: &mut [f32]| {
                // SAFETY: written before the last barrier.
                out.copy_from_slice(unsafe { b.ff.read(row(t, c.n_ff)) });
                self.mask(thread, l, out);
            };
            self.product(w, (l, Site::Down), &[&layer.down[0]], fill, sink);
        });
    }

    /// Gate and up projections, activated.
    fn gate_up(&self, w: &mut Worker<'_>, l: usize, layer: &Layer) {
        let (c, b, n) = (&self.model.config, self.buffers, self.tokens.len());
        let kernels = &*self.model.kernels;
        let act = self.quantise(w, n, c.n_embd, Some((l, Site::GateUp)), |t, out| {
            self.normed(t, &layer.ffn_norm, out)
        });
        let pair = [&layer.gate[0], &layer.up[0]];
        self.share_panels(w, pair[0].panels(), n, |w, panels| {
            let (thread, ledger) = (w.ctx.index, &mut w.ledger);
            self.bank(thread)
                .multiply(pair, panels, act, 0..n, ledger, |r, t, [gate, up]| {
                    let len = LANES.min(c.n_ff - r);
                    if self.magnitudes.is_some() {
                        let mut activated = gate.to_vec();
                        kernels.gate(
                            c.arch.activation,
                            &mut activated,
                            &vec![[1.0; LANES]; gate.len()],
                        );
                        for activated in &activated {
                            self.observe(thread, l, Site::Gate, &activated[..len]);
                        }
                    }
                    kernels.gate(c.arch.activation, gate, up);
                    for (i, gate) in gate.iter().enumerate() {
                        let at = (t + i) * c.n_ff + r;
                        // SAFETY: each row belongs to one thread.
                        let ff = unsafe { b.ff.write(at..at + len) };
                        each(ff, &gate[..len], |ff, gate| *ff = gate);
                    }
                });
        });
        w.clock.lap(Stage::GateUp);
    }
}

/// Calls `f` for each output and what it goes to; a whole panel's without a loop.
#[inline(always)]
pub(super) fn each(to: &mut [f32], y: &[f32], f: impl Fn(&mut f32, f32)) {
    let panel: Result<&[f32; LANES], _> = y.try_into();
    match (panel, <&mut [f32; LANES]>::try_from(&mut *to)) {
        (Ok(y), Ok(to)) => to.iter_mut().zip(y).for_each(|(to, y)| f(to, *y)),
        _ => to.iter_mut().zip(y).for_each(|(to, y)| f(to, *y)),
    }
}

/// `len` values from `from` in row `i` of rows of `width` values.
pub(super) fn row_part(i: usize, width: usize, from: usize, len: usize) -> Range<usize> {
    i * width + from..i * width + from + len
}
