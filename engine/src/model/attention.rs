//! The attention steps of a layer: rotation and KV write, then attention of all tokens of the pass.
//!
//! Tokens are taken in tiles that share every read of keys and values. A tile attends to the chunks of its KV head one
//! after another; where there are too few tiles for the threads, the chunks are spread over them and merged behind one
//! more barrier. Both ways merge the same chunks in the same order.
#![allow(unsafe_code)]

use super::arch::RopeStyle;
use super::config::{Config, HEAD_DIM_MAX};
use super::forward::{Pass, Worker, row_part};
use crate::kernel::cache::POSITIONS;
use crate::kernel::{Attend, CHUNK, Partial, ROWS_MAX, room_len};
use crate::matrix::row;
use crate::pool::SharedBuf;
use crate::stage::Stage;
use std::ops::Range;

/// Work items a thread should have at least before attention is not split further.
const ITEMS_PER_THREAD: usize = 4;

/// Query rows of a tile, unless one token has more: enough to hide reading keys and values, few enough that their
/// scores stay in the second-level cache.
const TILE_ROWS: usize = 48;

/// Passes of up to this many tokens can be split by chunks.
const SPLIT_TOKENS: usize = 8;

/// Working memory of attention.
pub(super) struct Scratch {
    /// Working memory of the kernel, weighted values and those of one chunk, of each thread.
    own: SharedBuf<f32>,
    own_len: usize,
    /// Softmax states and weighted values of single chunks, where attention is split by chunks:
    /// `[split tokens][n_heads][chunks]` and the same times `[head_dim]`.
    split: SharedBuf<Partial>,
    split_values: SharedBuf<f32>,
    chunks_max: usize,
}

impl Scratch {
    pub(super) fn new(c: &Config, threads: usize, batch: usize, ctx: usize) -> Scratch {
        let rows = TILE_ROWS.max(c.group());
        let own_len = room_len(rows, c.head_dim) + 2 * rows * c.head_dim;
        let chunks_max = ctx.div_ceil(CHUNK);
        let slots = SPLIT_TOKENS.min(batch) * c.n_heads * chunks_max;
        Scratch {
            own: SharedBuf::new(threads * own_len),
            own_len,
            split: SharedBuf::new(slots),
            split_values: SharedBuf::new(slots * c.head_dim),
            chunks_max,
        }
    }
}

/// Query rows that are computed together: some heads of one KV head, of consecutive tokens.
struct Tile {
    layer: usize,
    tokens: Range<usize>,
    kv_head: usize,
    heads: Range<usize>,
}

impl Tile {
    fn rows(&self) -> usize {
        self.tokens.len() * self.heads.len()
    }

    /// Token and head of row `r`.
    fn row(&self, r: usize) -> (usize, usize) {
        let heads = self.heads.len();
        (self.tokens.start + r / heads, self.heads.start + r % heads)
    }
}

impl Pass<'_> {
    /// Norms, where the model does, and rotates queries and keys, scales the queries, and writes keys and values to the cache.
    pub(super) fn rotate(&self, w: &mut Worker<'_>, l: usize) {
        let c = &self.model.config;
        let heads = c.n_heads + c.n_kv_heads;
        // A thread has all tokens that fall into a panel of the cache.
        let first_panel = self.start / POSITIONS;
        let panels = (self.start + self.tokens.len()).div_ceil(POSITIONS) - first_panel;
        for item in w.ctx.share(panels * heads) {
            let panel = (first_panel + item / heads) * POSITIONS;
            let first = panel.max(self.start) - self.start;
            let end = self.tokens.len().min(panel + POSITIONS - self.start);
            for t in first..end {
                self.rotate_head(w, l, t, item % heads);
            }
        }
    }

    /// Query or key head `h` of token `t`.
    fn rotate_head(&self, w: &mut Worker<'_>, l: usize, t: usize, h: usize) {
        let (c, b) = (&self.model.config, self.buffers);
        let at = t * (c.q_dim() + 2 * c.kv_dim()) + h * c.head_dim;
        // SAFETY: each head of each token belongs to one thread; the values behind are only read.
        let head = unsafe { b.qkv.write(at..at + c.head_dim) };
        let (position, layer) = (self.start + t, &self.model.layers[l]);
        let norm = if h < c.n_heads {
            &layer.q_norm
        } else {
            &layer.k_norm
        };
        if !norm.is_empty() {
            let mut values = [0.0; HEAD_DIM_MAX];
            let values = &mut values[..head.len()];
            values.copy_from_slice(head);
            let kernels = &self.model.kernels;
            kernels.rms_norm(values, norm, c.rms_eps, head);
        }
        if let Some(i) = c.layers[l].rope {
            let (half, style) = (c.ropes[i].dims / 2, c.ropes[i].style);
            rotate(head, &b.ropes[i][position * half..][..half], style);
        }
        if h < c.n_heads {
            head.iter_mut().for_each(|q| *q *= c.attention_scale);
            return;
        }
        let v_at = at + c.kv_dim();
        // SAFETY: value heads are not written in this step, and each panel by one thread.
        let (value, (panels, slot)) = unsafe {
            (
                b.qkv.read(v_at..v_at + c.head_dim),
                self.kv.write(l, h - c.n_heads, position),
            )
        };
        let kernels = &self.model.kernels;
        kernels.store_kv(self.kv.kind, [head, value], slot, panels);
        w.ledger.kv_write_bytes += (2 * self.kv.panel_bytes() / POSITIONS) as u64;
    }

    /// Attention of all tokens; the time is booked here, since splitting by chunks takes a barrier inside.
    pub(super) fn attend(&self, w: &mut Worker<'_>, l: usize) {
        let c = &self.model.config;
        let (n, threads) = (self.tokens.len(), w.ctx.threads);
        let chunks = self.chunks(l, &(0..n));
        let items_min = ITEMS_PER_THREAD * threads;
        let few = n * c.n_kv_heads < items_min;
        // Of a few short sequences the heads of a group go to different threads; the keys come from cache then.
        let alone = few && chunks.len() == 1;
        let heads = if alone { 1 } else { c.group() };
        let head_items = c.n_heads / heads;
        let tile_max = (TILE_ROWS / heads).max(1);
        let split = few && chunks.len() > 1 && threads > 1 && n <= SPLIT_TOKENS;
        let tile_tokens = if split {
            tile_max
        } else {
            (n * head_items / items_min).clamp(1, tile_max)
        };
        let tile = |i: usize| {
            let first = i / head_items * tile_tokens;
            let first_head = i % head_items * heads;
            Tile {
                layer: l,
                tokens: first..n.min(first + tile_tokens),
                kv_head: first_head / c.group(),
                heads: first_head..first_head + heads,
            }
        };
        let tiles = n.div_ceil(tile_tokens) * head_items;
        if split {
            for item in w.ctx.share(tiles * chunks.len()) {
                let chunk = chunks.start + item % chunks.len();
                self.attend_split(w, &tile(item / chunks.len()), chunk);
            }
            w.clock.lap(Stage::Attention);
            w.barrier();
            self.merge_chunks(w, l);
        } else {
            for i in (w.ctx.index..tiles).step_by(threads) {
                self.attend_whole(w, &tile(i));
            }
        }
        w.clock.lap(Stage::Attention);
    }

    /// Chunks of which `tokens` see something in layer `l`.
    fn chunks(&self, l: usize, tokens: &Range<usize>) -> Range<usize> {
        let window = self.model.config.layers[l].window;
        let first = (self.start + tokens.start + 1).saturating_sub(window);
        first / CHUNK..(self.start + tokens.end).div_ceil(CHUNK)
    }

    /// Tokens of a tile that see something of `chunk`.
    fn seeing(&self, tile: &Tile, chunk: usize) -> Range<usize> {
        let window = self.model.config.layers[tile.layer].window;
        let first = chunk * CHUNK;
        let end = (first + CHUNK - 1)
            .saturating_add(window)
            .saturating_sub(self.start);
        tile.tokens.start.max(first.saturating_sub(self.start))..tile.tokens.end.min(end)
    }

    /// A tile over all positions, chunk after chunk.
    fn attend_whole(&self, w: &mut Worker<'_>, tile: &Tile) {
        let (c, b, rows) = (&self.model.config, self.buffers, tile.rows());
        // SAFETY: nothing else of it is in use here.
        let [room, values, chunk_values] = unsafe { self.scratch(w, rows) };
        let mut states = [Partial::EMPTY; ROWS_MAX];
        let mut parts = [Partial::EMPTY; ROWS_MAX];
        let mut chunks = self.chunks(tile.layer, &tile.tokens);
        if self.seeing(tile, chunks.start) == tile.tokens {
            self.attend_chunk(w, tile, chunks.start, room, &mut states, values);
            chunks.start += 1;
        } else {
            values.fill(0.0);
        }
        for chunk in chunks {
            let seeing = self.attend_chunk(w, tile, chunk, room, &mut parts, chunk_values);
            for (i, r) in seeing.enumerate() {
                let values = &mut values[row(r, c.head_dim)];
                states[r].merge(values, parts[i], &chunk_values[row(i, c.head_dim)]);
            }
        }
        for (r, values) in values.chunks_exact(c.head_dim).enumerate() {
            let (t, h) = tile.row(r);
            // SAFETY: each head of each token belongs to one thread.
            let out = unsafe {
                b.attn
                    .write(row_part(t, c.q_dim(), h * c.head_dim, c.head_dim))
            };
            for (out, v) in out.iter_mut().zip(values) {
                *out = v / states[r].sum;
            }
        }
    }

    /// One chunk for those rows of a tile that see it, whose numbers it gives.
    fn attend_chunk(
        &self,
        w: &mut Worker<'_>,
        tile: &Tile,
        chunk: usize,
        room: &mut [f32],
        states: &mut [Partial],
        values: &mut [f32],
    ) -> Range<usize> {
        let c = &self.model.config;
        let stride = c.q_dim() + 2 * c.kv_dim();
        let first = chunk * CHUNK;
        let seeing = self.seeing(tile, chunk);
        if seeing.is_empty() {
            return 0..0;
        }
        let (token, tokens) = (seeing.start, seeing.len());
        let seen = self.start + token + 1 - first;
        let last = CHUNK.min(seen + tokens - 1);
        let q = token * stride + tile.heads.start * c.head_dim
            ..(token + tokens - 1) * stride + tile.heads.end * c.head_dim;
        // SAFETY: queries and cache were written before the last barrier.
        let (q, (k, v)) = unsafe {
            (
                self.buffers.qkv.read(q),
                self.kv.read(tile.layer, tile.kv_head, first..first + last),
            )
        };
        let a = Attend {
            q,
            stride,
            tokens,
            heads: tile.heads.len(),
            dim: c.head_dim,
            kind: self.kv.kind,
            keys: k,
            values: v,
            seen,
            window: c.layers[tile.layer].window,
            cap: c.attention_cap,
        };
        if tile.heads.start.is_multiple_of(c.group()) {
            w.ledger.kv_read_bytes += a.bytes() as u64;
        }
        let rows = a.rows();
        self.model.kernels.attend(
            &a,
            &mut states[..rows],
            &mut values[..rows * c.head_dim],
            room,
        );
        let first_row = (token - tile.tokens.start) * tile.heads.len();
        first_row..first_row + rows
    }

    /// One chunk of a tile, left to be merged.
    fn attend_split(&self, w: &mut Worker<'_>, tile: &Tile, chunk: usize) {
        let (dim, b) = (self.model.config.head_dim, &self.buffers.attention);
        // SAFETY: nothing else of it is in use here.
        let [room, values, _] = unsafe { self.scratch(w, tile.rows()) };
        let mut parts = [Partial::EMPTY; ROWS_MAX];
        let seeing = self.attend_chunk(w, tile, chunk, room, &mut parts, values);
        for (i, r) in seeing.enumerate() {
            let (t, h) = tile.row(r);
            let slot = self.slot(t, h, chunk);
            // SAFETY: each slot belongs to one item.
            unsafe {
                b.split.write(slot..slot + 1)[0] = parts[i];
                b.split_values
                    .write(row(slot, dim))
                    .copy_from_slice(&values[row(i, dim)]);
            }
        }
    }

    /// Merges the chunks of every head in the order of positions, as [`Pass::attend_whole`] does.
    fn merge_chunks(&self, w: &mut Worker<'_>, l: usize) {
        let (c, b) = (&self.model.config, self.buffers);
        for item in w.ctx.share(self.tokens.len() * c.n_heads) {
            let (t, h) = (item / c.n_heads, item % c.n_heads);
            let chunks = self.chunks(l, &(t..t + 1));
            let first = self.slot(t, h, chunks.start);
            let out = row_part(t, c.q_dim(), h * c.head_dim, c.head_dim);
            // SAFETY: the slots were written before the last barrier; each head belongs to one thread.
            let (out, states, values) = unsafe {
                (
                    b.attn.write(out),
                    b.attention.split.read(first..first + chunks.len()),
                    b.attention
                        .split_values
                        .read(first * c.head_dim..(first + chunks.len()) * c.head_dim),
                )
            };
            let mut state = states[0];
            out.copy_from_slice(&values[..c.head_dim]);
            for (i, part) in states.iter().enumerate().skip(1) {
                state.merge(out, *part, &values[row(i, c.head_dim)]);
            }
            out.iter_mut().for_each(|v| *v /= state.sum);
        }
    }

    /// Where the state of a chunk is kept.
    fn slot(&self, t: usize, head: usize, chunk: usize) -> usize {
        (t * self.model.config.n_heads + head) * self.buffers.attention.chunks_max + chunk
    }

    /// This thread's room for the kernel, weighted values and those of one chunk, for `rows` rows.
    ///
    /// # Safety
    /// The results of the thread's last call are not used any more.
    #[allow(clippy::mut_from_ref, reason = "exclusive by contract")]
    unsafe fn scratch(&self, w: &Worker<'_>, rows: usize) -> [&mut [f32]; 3] {
        let b = &self.buffers.attention;
        // SAFETY: each thread has its own part, used once at a time by contract.
        let own = unsafe { b.own.write(row(w.ctx.index, b.own_len)) };
        let values = rows * self.model.config.head_dim;
        let (room, rest) = own.split_at_mut(room_len(rows, self.model.config.head_dim));
        let (first, rest) = rest.split_at_mut(values);
        [room, first, &mut rest[..values]]
    }
}

/// Rotates the leading values of a head by the angles of its position.
fn rotate(head: &mut [f32], angles: &[[f32; 2]], style: RopeStyle) {
    let half = angles.len();
    for (i, [cos, sin]) in angles.iter().enumerate() {
        let (a, b) = match style {
            RopeStyle::Adjacent => (2 * i, 2 * i + 1),
            RopeStyle::Halves => (i, i + half),
        };
        let (x, y) = (head[a], head[b]);
        head[a] = x * cos - y * sin;
        head[b] = x * sin + y * cos;
    }
}
