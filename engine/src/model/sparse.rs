//! The steps of a pass over one token that leave channels out.
//!
//! Every thread lists the channels that take part for itself. A product by columns is two steps with a barrier between them:
//! the sums of blocks of channels, then those sums added up in the order of blocks, each output by one thread.
#![allow(unsafe_code)]

use super::forward::{Pass, Worker};
use super::weights::Model;
use crate::kernel::{Active, STRIP, StripCodes};
use crate::matrix::{Matrix, row};
use crate::options::sparsity::Method;
use crate::pool::SharedBuf;
use crate::quant::GROUP;
use crate::simd::LANES;
use crate::sparsity::{self, Channels, Site, SiteCount, Sparse};
use crate::stage::Stage;

/// Working memory of sparse steps; nothing where a model has none.
pub(crate) struct SparseScratch {
    /// Inputs of a product by channels, of each thread.
    values: SharedBuf<f32>,
    width: usize,
    /// Quantised inputs of a product with rows, of each thread.
    codes: SharedBuf<StripCodes>,
    /// Channels that take part, and where those of each block begin, of each thread.
    active: SharedBuf<Active>,
    starts: SharedBuf<u32>,
    starts_len: usize,
    /// Sums of blocks of channels, `[blocks][sums]`.
    sums: SharedBuf<f32>,
    /// Values of the rows of `up` that took part, in their order.
    up: SharedBuf<f32>,
    /// What took part, `[layers][sites]`; written by the first thread.
    pub(crate) counts: SharedBuf<SiteCount>,
}

impl SparseScratch {
    pub(super) fn new(model: &Model, threads: usize) -> SparseScratch {
        let c = &model.config;
        let sparse = model.sparse.as_ref();
        let width = c.n_embd.max(c.n_ff).max(c.q_dim()).next_multiple_of(STRIP);
        let width = if sparse.is_some() { width } else { 0 };
        let most = |of: fn(&Channels) -> usize| {
            let all = sparse.into_iter().flat_map(Sparse::matrices);
            all.map(of).max().unwrap_or(0)
        };
        let starts_len = most(Channels::blocks) + 1;
        SparseScratch {
            values: SharedBuf::new(threads * width),
            width,
            codes: SharedBuf::new(threads * width / STRIP),
            active: SharedBuf::new(threads * width),
            starts: SharedBuf::new(threads * starts_len),
            starts_len,
            sums: SharedBuf::new(most(|m| m.blocks() * m.sums())),
            up: SharedBuf::new(width),
            counts: SharedBuf::new(sparse.map_or(0, |s| s.layers.len() * Site::ALL.len())),
        }
    }
}

/// Channels that take part, and where those of each block begin.
struct Taking<'a> {
    active: &'a mut [Active],
    starts: &'a [u32],
}

impl Pass<'_> {
    /// What the layer leaves out; nothing in passes that are dense.
    fn sparse_layer(&self, l: usize) -> Option<(Method, &sparsity::Layer)> {
        let sparse = self.model.sparse.as_ref().filter(|_| self.sparse)?;
        Some((sparse.method, &sparse.layers[l]))
    }

    /// The matrix that the site decides about, where channels of it are left out.
    pub(super) fn channels(&self, l: usize, site: Site) -> Option<&Channels> {
        self.sparse_layer(l)?.1.matrices[site as usize].as_ref()
    }

    /// The bytes of all matrices by channels.
    fn arena(&self) -> &[u8] {
        let sparse = self.model.sparse.as_ref();
        sparse.map_or(&[], |sparse| sparse.arena.bytes())
    }

    /// `matrices`, unless it is by channels that they are read.
    pub(super) fn panels<'m>(
        &self,
        l: usize,
        site: Site,
        matrices: &'m [&'m Matrix],
    ) -> &'m [&'m Matrix] {
        match self.channels(l, site) {
            Some(_) => &[],
            None => matrices,
        }
    }

    /// Norms that weigh the inputs of a site; empty for none.
    pub(super) fn norms(&self, l: usize, site: Site) -> &[f32] {
        match &self.model.sparse {
            Some(Sparse {
                method: Method::Wina,
                layers,
                ..
            }) => layers[l].matrices[site as usize]
                .as_ref()
                .map_or(&[], |m| &m.norms),
            _ => &[],
        }
    }

    /// Takes small feed-forward values as 0, where they are masked.
    pub(super) fn mask(&self, thread: usize, l: usize, values: &mut [f32]) {
        let Some((Method::FatreluMasked, layer)) = self.sparse_layer(l) else {
            return;
        };
        let threshold = layer.thresholds[Site::Down as usize];
        let mut active = 0;
        for v in values.iter_mut() {
            match sparsity::takes_part(*v, threshold) {
                true => active += 1,
                false => *v = 0.0,
            }
        }
        let bytes = self.model.layers[l].down[0].bytes();
        self.count(
            thread,
            l,
            Site::Down,
            [active, values.len()],
            [bytes, bytes],
        );
    }

    /// `W x` by channels, of the values that `fill` writes: outputs below `rows` go to `sink(first row, token, outputs)`.
    #[allow(clippy::too_many_arguments, reason = "a product's operands")]
    pub(super) fn project_channels(
        &self,
        w: &mut Worker<'_>,
        (l, site): (usize, Site),
        m: &Channels,
        rows: usize,
        fill: impl FnOnce(&mut [f32]),
        sink: impl FnMut(usize, usize, &[f32]),
    ) {
        let values = self.own_values(w, m.len);
        fill(values);
        let taking = self.take(w, (l, site), values, self.norms(l, site), m.block());
        self.count_channels(w, (l, site), m, taking.active.len());
        w.clock.lap(Stage::Norm);
        self.sum_channels(w, m, &taking, site.stage());
        self.collect_channels(w, m, rows, sink);
    }

    /// Gate and up projections by channels, activated.
    pub(super) fn gate_up_channels(&self, w: &mut Worker<'_>, l: usize, m: &Channels) {
        let (c, b, site) = (&self.model.config, self.buffers, Site::GateUp);
        let values = self.own_values(w, m.len);
        self.normed(0, &self.model.layers[l].ffn_norm, values);
        let taking = self.take(w, (l, site), values, self.norms(l, site), m.block());
        self.count_channels(w, (l, site), m, taking.active.len());
        w.clock.lap(Stage::Norm);
        self.sum_channels(w, m, &taking, Stage::GateUp);
        let strips = c.n_ff.div_ceil(STRIP);
        for strip in w.ctx.share(strips) {
            let [mut gate, up] = [strip, strips + strip].map(|strip| self.collected(m, strip));
            let first = strip * STRIP;
            let len = STRIP.min(c.n_ff - first);
            let (rows, up) = (gate.as_chunks_mut::<LANES>().0, up.as_chunks::<LANES>().0);
            self.model.kernels.gate(c.arch.activation, rows, up);
            // SAFETY: each strip belongs to one thread.
            unsafe { b.ff.write(first..first + len) }.copy_from_slice(&gate[..len]);
        }
        w.clock.lap(Stage::GateUp);
    }

    /// The feed-forward block with rows of `up` and channels of `down` left out where the gate is small. Outputs go to `sink`
    /// as in [`Pass::project_channels`].
    pub(super) fn gated_block(
        &self,
        w: &mut Worker<'_>,
        l: usize,
        up: &Channels,
        sink: impl FnMut(usize, usize, &[f32]),
    ) {
        let (c, b, s) = (&self.model.config, self.buffers, &self.buffers.sparse);
        let (layer, kernels) = (&self.model.layers[l], &*self.model.kernels);
        let down = self.channels(l, Site::Down).expect("goes with the gate");
        let fill = |t: usize, out: &mut [f32]| self.normed(t, &layer.ffn_norm, out);
        let act = self.quantise(w, 1, c.n_embd, Some((l, Site::GateUp)), fill);
        self.project(w, &[&layer.gate[0]], act, 1, |r, _, gate| {
            let mut activated = [[0.0; LANES]];
            activated[0][..gate.len()].copy_from_slice(gate);
            kernels.gate(c.arch.activation, &mut activated, &[[1.0; LANES]]);
            // SAFETY: each row belongs to one thread.
            let ff = unsafe { b.ff.write(r..r + gate.len()) };
            ff.copy_from_slice(&activated[0][..gate.len()]);
        });
        w.clock.lap(Stage::GateUp);
        w.barrier();
        // SAFETY: written before the last barrier, and again only in another layer, behind the barriers below.
        let gate = unsafe { b.ff.read(0..c.n_ff) };
        let taking = self.take(w, (l, Site::Gate), gate, &[], down.block());
        let n = taking.active.len();
        self.count_channels(w, (l, Site::Gate), up, n);
        self.count_channels(w, (l, Site::Down), down, n);
        let first = w.ctx.index * (s.width / STRIP);
        // SAFETY: each thread has its own codes, and its own activations of a single token.
        let codes = unsafe {
            let padded = c.n_embd.next_multiple_of(GROUP);
            if padded > c.n_embd {
                // Such rows were not quantised.
                act.set(kernels, 0, 1, padded, |out| {
                    let (x, zeros) = out.split_at_mut(c.n_embd);
                    fill(0, x);
                    zeros.fill(0.0);
                });
            }
            let codes = s.codes.write(first..first + up.sums() / STRIP);
            kernels.arrange(&act.token(0, padded, padded), codes);
            codes
        };
        w.clock.lap(Stage::Norm);
        let mine = w.ctx.share(n);
        // SAFETY: shares do not overlap.
        let out = unsafe { s.up.write(mine.clone()) };
        let these = &taking.active[mine];
        kernels.dot_channels(up.format.id, up.rows(self.arena()), these, codes, out);
        for (out, a) in out.iter_mut().zip(these) {
            let bias = up.bias.get(a.channel as usize).unwrap_or(&0.0);
            *out = a.value * (*out + bias);
        }
        let left_out = w.ctx.share(up.len - n).len();
        w.ledger.weight_bytes += (these.len() * up.channel_bytes()) as u64;
        w.ledger.skipped_bytes += (left_out * up.channel_bytes()) as u64;
        w.ledger.activation_bytes += (size_of_val(these) + size_of_val(codes)) as u64;
        w.clock.lap(Stage::GateUp);
        w.barrier();
        // SAFETY: written before the last barrier.
        let values = unsafe { s.up.read(0..n) };
        for (a, v) in taking.active.iter_mut().zip(values) {
            a.value = *v;
        }
        w.clock.lap(Stage::Norm);
        self.sum_channels(w, down, &taking, Stage::Down);
        self.collect_channels(w, down, c.n_embd, sink);
    }

    /// This thread's room for `len` values.
    #[allow(clippy::mut_from_ref, reason = "each thread has its own")]
    fn own_values(&self, w: &Worker<'_>, len: usize) -> &mut [f32] {
        let s = &self.buffers.sparse;
        let first = w.ctx.index * s.width;
        // SAFETY: each thread has its own, and has done with what it last held there.
        unsafe { s.values.write(first..first + len) }
    }

    /// The channels whose values take part at a site.
    fn take(
        &self,
        w: &Worker<'_>,
        (l, site): (usize, Site),
        values: &[f32],
        norms: &[f32],
        block: usize,
    ) -> Taking<'_> {
        let s = &self.buffers.sparse;
        let (_, layer) = self.sparse_layer(l).expect("asked for its sites before");
        let threshold = layer.thresholds[site as usize];
        // SAFETY: each thread has its own, and has done with what it last held there.
        let (list, starts) = unsafe {
            (
                s.active.write(row(w.ctx.index, s.width)),
                s.starts.write(row(w.ctx.index, s.starts_len)),
            )
        };
        let n = sparsity::select(values, norms, threshold, block, list, starts);
        Taking {
            active: &mut list[..n],
            starts,
        }
    }

    /// Sums the channels of every block; the time goes to `stage`. Ends with a barrier.
    fn sum_channels(&self, w: &mut Worker<'_>, m: &Channels, taking: &Taking<'_>, stage: Stage) {
        let (kernels, sums) = (&*self.model.kernels, &self.buffers.sparse.sums);
        let arena = self.arena();
        self.share_panels(w, m.items(), 1, |w, items| {
            let of = |block: usize| {
                let [from, to] = [block, block + 1].map(|b| taking.starts[b] as usize);
                &taking.active[from..to]
            };
            for i in items.clone() {
                let item = m.item(i);
                let these = of(item.block);
                let next = match item.block + 1 < m.blocks() && i + 1 < items.end {
                    true => of(item.block + 1),
                    false => &[],
                };
                let at = item.block * m.sums() + item.strips.start * STRIP;
                // SAFETY: each item belongs to one thread.
                let out = unsafe { sums.write(at..at + item.strips.len() * STRIP) };
                kernels.add_channels(m.format.id, m.slice(arena, &item), these, next, out);
                let bytes = m.run_bytes() as u64;
                w.ledger.weight_bytes += these.len() as u64 * bytes;
                w.ledger.skipped_bytes += (item.channels.len() - these.len()) as u64 * bytes;
                w.ledger.activation_bytes += size_of_val(these) as u64;
            }
        });
        w.clock.lap(stage);
        w.barrier();
    }

    /// Gives this thread's outputs below `rows` to `sink`.
    fn collect_channels(
        &self,
        w: &Worker<'_>,
        m: &Channels,
        rows: usize,
        mut sink: impl FnMut(usize, usize, &[f32]),
    ) {
        for strip in w.ctx.share(m.sums() / STRIP) {
            let first = strip * STRIP;
            let len = STRIP.min(rows.saturating_sub(first));
            if len > 0 {
                sink(first, 0, &self.collected(m, strip)[..len]);
            }
        }
    }

    /// The outputs of a strip, added up over the blocks of channels, and the bias.
    fn collected(&self, m: &Channels, strip: usize) -> [f32; STRIP] {
        let mut y = [0.0; STRIP];
        let first = strip * STRIP;
        let all = m.blocks() * m.sums();
        // SAFETY: written before the last barrier.
        let sums = unsafe { self.buffers.sparse.sums.read(first..all) };
        self.model.kernels.collect(sums, m.sums(), &mut y);
        let bias = m.bias.get(first..).unwrap_or(&[]);
        y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        y
    }

    /// Adds channels of `m` to what took part at a site.
    fn count_channels(
        &self,
        w: &Worker<'_>,
        (l, site): (usize, Site),
        m: &Channels,
        active: usize,
    ) {
        let bytes = m.channel_bytes();
        self.count(
            w.ctx.index,
            l,
            site,
            [active, m.len],
            [active * bytes, m.len * bytes],
        );
    }

    /// Adds channels and bytes, those that took part and all, on the first thread.
    fn count(&self, thread: usize, l: usize, site: Site, n: [usize; 2], bytes: [usize; 2]) {
        if thread > 0 {
            return;
        }
        let at = l * Site::ALL.len() + site as usize;
        // SAFETY: only the first thread counts; the session reads after the run.
        let count = unsafe { self.buffers.sparse.counts.write(at..at + 1) };
        count[0].add(&SiteCount {
            active: n[0] as u64,
            channels: n[1] as u64,
            read_bytes: bytes[0] as u64,
            possible_bytes: bytes[1] as u64,
        });
    }
}
