//! Attention of some query rows over a chunk of the KV cache, as a partial softmax that can be merged (Dao et al. 2022;
//! Dao 2023, flash-decoding).
//!
//! The rows are the queries that share a KV head: of all heads of its group, of one token or of many. They share every
//! read of keys and values. Keys and values are read [`BLOCK`] positions at a time, once for all rows; scores
//! and weighted values are the same product of a few rows with a few columns of vectors, kept in
//! registers. Each score is one chain of fused multiply-adds over the dimensions, each value one over the positions, so
//! the result of a row does not depend on the rows beside it.
#![allow(unsafe_code)]

use super::cache::{self, BLOCK, POSITIONS, Reader, Source, View};
use super::ops::{exp, soft_cap};
use crate::options::KvType;
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// Positions that one call covers at most. Chunk borders lie at multiples of this, whatever the batch or the number of
/// threads, so that a token's attention is summed in the same order always.
pub const CHUNK: usize = 256;

/// Query rows that one call takes at most.
pub const ROWS_MAX: usize = 64;

/// Rows whose sums are in registers at a time.
const TILE_ROWS: usize = 6;

/// Softmax state of one row over some positions: `values` (kept beside it) are relative to `max`.
#[derive(Debug, Clone, Copy)]
pub struct Partial {
    /// Largest score.
    pub max: f32,
    /// Sum of `exp(score - max)`.
    pub sum: f32,
}

impl Default for Partial {
    fn default() -> Self {
        Partial::EMPTY
    }
}

impl Partial {
    /// No positions yet.
    pub const EMPTY: Partial = Partial {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };

    /// Adds the positions of `other`, whose weighted values are `other_values`, to `self` and `values`.
    pub fn merge(&mut self, values: &mut [f32], other: Partial, other_values: &[f32]) {
        let max = self.max.max(other.max);
        let (a, b) = ((self.max - max).exp(), (other.max - max).exp());
        for (v, o) in values.iter_mut().zip(other_values) {
            *v = *v * a + *o * b;
        }
        self.sum = self.sum * a + other.sum * b;
        self.max = max;
    }
}

/// Scaled queries of consecutive tokens for some heads of one KV head, and the chunk they attend to.
#[derive(Debug, Clone, Copy)]
pub struct Attend<'a> {
    /// Queries: `heads` times `dim` values of a token, tokens `stride` values apart.
    pub q: &'a [f32],
    /// Values from one token to the next.
    pub stride: usize,
    /// Number of tokens.
    pub tokens: usize,
    /// Heads of a token.
    pub heads: usize,
    /// Values of a head.
    pub dim: usize,
    /// How keys and values are stored.
    pub kind: KvType,
    /// Panels of keys of the chunk, see [`cache`].
    pub keys: &'a [u8],
    /// Panels of values of the chunk.
    pub values: &'a [u8],
    /// Positions from the start of the chunk to that of the first token, its own included, at least one; each next token
    /// has one more. A token sees them as far as [`CHUNK`] goes.
    pub seen: usize,
    /// Of these a token sees only so many latest ones, counted to its own position; `usize::MAX` for all.
    pub window: usize,
    /// Soft cap of the scores, see [`super::Kernels::soft_cap`]; 0 for none.
    pub cap: f32,
}

impl Attend<'_> {
    /// Number of query rows.
    pub fn rows(&self) -> usize {
        self.tokens * self.heads
    }

    /// End of the positions that are read: of those which the last token sees.
    pub fn positions(&self) -> usize {
        self.visible(self.rows() - 1)
    }

    /// Bytes of the cache that are read: whole panels, but of values that need no decoding only the positions seen.
    pub fn bytes(&self) -> usize {
        let positions = self.positions() - self.first_block();
        let values = match self.kind {
            KvType::F16 => positions,
            KvType::Q8_0 => positions.next_multiple_of(POSITIONS),
        };
        let panel_bytes = cache::panel_bytes(self.kind, self.dim);
        positions.div_ceil(POSITIONS) * panel_bytes + values * panel_bytes / POSITIONS
    }

    /// End of the positions that row `r` sees.
    fn visible(&self, r: usize) -> usize {
        (self.seen + r / self.heads).min(CHUNK)
    }

    /// Positions of the chunk that lie before the window of row `r`.
    fn hidden(&self, r: usize) -> usize {
        (self.seen + r / self.heads).saturating_sub(self.window)
    }

    /// First position of the first block that any row sees.
    fn first_block(&self) -> usize {
        self.hidden(0) / BLOCK * BLOCK
    }

    /// Rows that are computed together and see positions from `first` on.
    fn tiles(&self, first: usize) -> impl Iterator<Item = Tile> {
        (0..self.rows()).step_by(TILE_ROWS).filter_map(move |r| {
            let rows = r..self.rows().min(r + TILE_ROWS);
            let visible = self.visible(rows.end - 1);
            (visible > first).then(|| Tile {
                rows,
                positions: (visible - first).min(BLOCK),
            })
        })
    }

    /// Asserts what the kernel's reads and writes rely on.
    fn check(&self, out: &[Partial], values: &[f32], room: &[f32]) {
        let rows = self.rows();
        assert!(rows > 0 && rows <= ROWS_MAX && self.seen > 0 && self.window > 0);
        assert!(
            self.hidden(rows - 1) < CHUNK,
            "every row sees a position of the chunk"
        );
        assert!(self.dim.is_multiple_of(cache::dim_unit(self.kind)));
        assert!(self.q.len() >= (self.tokens - 1) * self.stride + self.heads * self.dim);
        let bytes = self.positions().div_ceil(POSITIONS) * cache::panel_bytes(self.kind, self.dim);
        assert!(self.keys.len() >= bytes && self.values.len() >= bytes);
        assert!(out.len() == rows && values.len() == rows * self.dim);
        assert!(room.len() >= room_len(rows, self.dim));
    }
}

/// Rows of a tile, and the positions of a block that the last of them sees.
struct Tile {
    rows: Range<usize>,
    positions: usize,
}

/// Values of working memory that [`super::Kernels::attend`] needs: scores, and a block of decoded keys or values.
pub fn room_len(rows: usize, dim: usize) -> usize {
    rows * CHUNK + BLOCK * dim
}

/// See [`super::Kernels::attend`].
#[inline(always)]
pub(super) fn attend<S: Simd>(
    s: S,
    a: &Attend<'_>,
    out: &mut [Partial],
    values: &mut [f32],
    room: &mut [f32],
) {
    a.check(out, values, room);
    // SAFETY: the shapes were checked.
    unsafe {
        match a.kind {
            KvType::F16 => chunk::<S, cache::F16>(s, a, out, values, room),
            KvType::Q8_0 => chunk::<S, cache::Q8>(s, a, out, values, room),
        }
    }
}

/// # Safety
/// The shapes were checked by [`Attend::check`].
#[inline(always)]
unsafe fn chunk<S: Simd, R: Reader>(
    s: S,
    a: &Attend<'_>,
    out: &mut [Partial],
    values: &mut [f32],
    room: &mut [f32],
) {
    let (dim, positions) = (a.dim, a.positions());
    let (scores, room) = room.split_at_mut(a.rows() * CHUNK);
    let panel_bytes = cache::panel_bytes(a.kind, dim);
    let first_block = a.first_block();
    let blocks = || (first_block..positions).step_by(BLOCK);
    let panels = |first: usize| (positions - first).min(BLOCK).div_ceil(POSITIONS);
    let at = |panels: &[u8], first: usize| {
        panels
            .as_ptr()
            .wrapping_add(first / POSITIONS * panel_bytes)
    };
    let last = |first: usize| first + BLOCK >= positions;
    for first in blocks() {
        let this = at(a.keys, first);
        let next = at(
            if last(first) { a.values } else { a.keys },
            if last(first) {
                first_block
            } else {
                first + BLOCK
            },
        );
        // SAFETY: the panels of all positions are there.
        let view = unsafe { R::keys(s, this, panels(first), dim, next, room) };
        for tile in a.tiles(first) {
            let mut strips = Strips::new(tile.rows.len());
            for (i, r) in tile.rows.enumerate() {
                strips.x[i] = a.q[r / a.heads * a.stride + r % a.heads * dim..].as_ptr();
                strips.out[i] = scores[r * CHUNK + first..].as_mut_ptr();
            }
            strips.steps = dim;
            strips.columns = tile.positions.div_ceil(POSITIONS);
            // SAFETY: `dim` queries a row; panels up to the last position seen are there, and 16 scores for each.
            unsafe { strips.multiply::<S, R::Vectors>(s, &view, false) };
        }
    }
    for (r, (scores, partial)) in scores.chunks_exact_mut(CHUNK).zip(out).enumerate() {
        let seen = a.hidden(r)..a.visible(r);
        *partial = softmax(s, scores, seen, first_block..positions, a.cap);
    }
    for first in blocks() {
        let this = at(a.values, first);
        let next = if last(first) {
            a.keys.as_ptr_range().end
        } else {
            at(a.values, first + BLOCK)
        };
        // SAFETY: the panels of all positions are there.
        let view = unsafe { R::values(s, this, panels(first), dim, next, room) };
        for tile in a.tiles(first) {
            let mut strips = Strips::new(tile.rows.len());
            for (i, r) in tile.rows.enumerate() {
                strips.x[i] = scores[r * CHUNK + first..].as_ptr();
                strips.out[i] = values[r * dim..].as_mut_ptr();
            }
            strips.steps = tile.positions;
            strips.columns = dim / LANES;
            // SAFETY: one weight a row and position, positions up to the last one seen, `dim` values each.
            unsafe { strips.multiply::<S, R::Vectors>(s, &view, first > first_block) };
        }
    }
}

/// Replaces the scores of the positions `seen` by `exp(score - max)` and all others of `positions` by zero; before, scores
/// are capped where `cap` is not 0.
#[inline(always)]
fn softmax<S: Simd>(
    s: S,
    scores: &mut [f32],
    seen: Range<usize>,
    positions: Range<usize>,
    cap: f32,
) -> Partial {
    let (start, end) = (seen.start / LANES * LANES, seen.end.next_multiple_of(LANES));
    if cap != 0.0 {
        soft_cap(s, cap, &mut scores[seen.clone()]);
    }
    scores[start..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..end].fill(f32::NEG_INFINITY);
    let mut max = s.splat(f32::NEG_INFINITY);
    for chunk in scores[start..end].chunks_exact(LANES) {
        // SAFETY: chunks of 16 values.
        max = s.max(unsafe { s.load(chunk.as_ptr()) }, max);
    }
    let max = s.largest(max);
    for chunk in scores[start..end].chunks_exact_mut(LANES) {
        // SAFETY: chunks of 16 values.
        unsafe {
            let e = exp(s, s.sub(s.load(chunk.as_ptr()), s.splat(max)));
            s.store(chunk.as_mut_ptr(), e);
        }
    }
    scores[positions.start..seen.start].fill(0.0);
    scores[seen.end..end.max(positions.end)].fill(0.0);
    let mut sum = s.splat(0.0);
    for chunk in scores[start..end].chunks_exact(LANES) {
        // SAFETY: chunks of 16 values.
        sum = s.add(sum, unsafe { s.load(chunk.as_ptr()) });
    }
    Partial {
        max,
        sum: s.sum(sum),
    }
}

/// A few rows of factors and of results.
struct Strips {
    rows: usize,
    /// Factors of a row.
    steps: usize,
    /// Vectors of results of a row.
    columns: usize,
    x: [*const f32; TILE_ROWS],
    out: [*mut f32; TILE_ROWS],
}

impl Strips {
    fn new(rows: usize) -> Strips {
        Strips {
            rows,
            steps: 0,
            columns: 0,
            x: [std::ptr::null(); TILE_ROWS],
            out: [std::ptr::null_mut(); TILE_ROWS],
        }
    }

    /// `out[r][16 c ..] = sum over i of x[r][i] * y[i][c]`; with `add`, to what is there.
    ///
    /// # Safety
    /// The first `rows` pointers of `x` are readable for `steps` values, those of `out` writable for 16 values a
    /// column, and all vectors of `y` are readable.
    #[inline(always)]
    unsafe fn multiply<S: Simd, Y: Source>(&self, s: S, y: &View, add: bool) {
        // As many columns at a time as keep 4 to 6 sums in registers, or 12 where there are as many.
        let many = S::REGISTERS >= 32;
        // SAFETY: by contract.
        unsafe {
            match self.rows {
                4 if many => self.strip::<S, Y, 4, 2>(s, y, add),
                5 if many => self.strip::<S, Y, 5, 2>(s, y, add),
                6 if many => self.strip::<S, Y, 6, 2>(s, y, add),
                1 => self.strip::<S, Y, 1, 4>(s, y, add),
                2 => self.strip::<S, Y, 2, 2>(s, y, add),
                3 => self.strip::<S, Y, 3, 2>(s, y, add),
                4 => self.strip::<S, Y, 4, 1>(s, y, add),
                5 => self.strip::<S, Y, 5, 1>(s, y, add),
                _ => self.strip::<S, Y, 6, 1>(s, y, add),
            }
        }
    }

    /// # Safety
    /// As [`Strips::multiply`], with `R` rows.
    #[inline(always)]
    unsafe fn strip<S: Simd, Y: Source, const R: usize, const C: usize>(
        &self,
        s: S,
        y: &View,
        add: bool,
    ) {
        let mut c = 0;
        // SAFETY: by contract.
        unsafe {
            while c + C <= self.columns {
                self.tile::<S, Y, R, C>(s, y, c, add);
                c += C;
            }
            while c < self.columns {
                self.tile::<S, Y, R, 1>(s, y, c, add);
                c += 1;
            }
        }
    }

    /// Columns `first ..` to `first + C`.
    ///
    /// # Safety
    /// As [`Strips::multiply`], with `R` rows and that many columns.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant bounds unroll")]
    unsafe fn tile<S: Simd, Y: Source, const R: usize, const C: usize>(
        &self,
        s: S,
        y: &View,
        first: usize,
        add: bool,
    ) {
        let mut sums = [[s.splat(0.0); C]; R];
        let mut x = [self.x[0]; R];
        x.copy_from_slice(&self.x[..R]);
        // SAFETY: by contract.
        unsafe {
            if add {
                for r in 0..R {
                    for c in 0..C {
                        sums[r][c] = s.load(self.out[r].add((first + c) * LANES));
                    }
                }
            }
            let mut p = y.at.add(first * y.column);
            for i in 0..self.steps {
                for c in 0..C {
                    let v = Y::load(s, p.add(c * y.column));
                    s.prefetch(p.wrapping_add(c * y.column).wrapping_add(y.ahead));
                    for r in 0..R {
                        sums[r][c] = s.fma(s.splat(*x[r].add(i)), v, sums[r][c]);
                    }
                }
                p = p.wrapping_add(y.step);
            }
            for r in 0..R {
                for c in 0..C {
                    s.store(self.out[r].add((first + c) * LANES), sums[r][c]);
                }
            }
        }
    }
}
