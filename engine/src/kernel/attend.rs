//! Attention of some query rows over a chunk of the KV cache, as a partial softmax that can be merged (Dao et al. 2022;
//! Dao 2023, flash-decoding).
//!
//! The rows are the queries that share a KV head: of all heads of its group, of one token or of many. They share every
//! read of keys and values. Scores are taken for [`POSITIONS`] positions at a time, values are summed over
//! [`BLOCK`] positions at a time; both are the same product of a few rows with a few columns of vectors, kept in
//! registers. Each score is one chain of fused multiply-adds over the dimensions, each value one over the positions, so
//! the result of a row does not depend on the rows beside it.
#![allow(unsafe_code)]

use super::cache::{self, POSITIONS};
use super::ops::exp;
use crate::options::KvType;
use crate::simd::{LANES, Simd};

/// Positions that one call covers at most. Chunk borders lie at multiples of this, whatever the batch or the number of
/// threads, so that a token's attention is summed in the same order always.
pub const CHUNK: usize = 256;

/// Query rows that one call takes at most.
pub const ROWS_MAX: usize = 64;

/// Positions whose values are summed for all rows before the next ones are read.
const BLOCK: usize = 2 * POSITIONS;

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
    /// Positions of the chunk that the first token sees, at least one; each next token sees one more, up to [`CHUNK`].
    pub seen: usize,
}

impl Attend<'_> {
    /// Number of query rows.
    pub fn rows(&self) -> usize {
        self.tokens * self.heads
    }

    /// Positions that are read: those which the last token sees.
    pub fn positions(&self) -> usize {
        self.visible(self.rows() - 1)
    }

    /// Positions that row `r` sees.
    fn visible(&self, r: usize) -> usize {
        (self.seen + r / self.heads).min(CHUNK)
    }

    /// Asserts what the kernel's reads and writes rely on.
    fn check(&self, out: &[Partial], values: &[f32], scores: &[f32]) {
        let rows = self.rows();
        assert!(rows > 0 && rows <= ROWS_MAX && self.seen > 0 && self.dim.is_multiple_of(LANES));
        assert!(self.q.len() >= (self.tokens - 1) * self.stride + self.heads * self.dim);
        let bytes = self.positions().div_ceil(POSITIONS) * cache::panel_bytes(self.kind, self.dim);
        assert!(self.keys.len() >= bytes && self.values.len() >= bytes);
        assert!(out.len() == rows && values.len() == rows * self.dim);
        assert!(scores.len() >= rows * CHUNK);
    }
}

/// See [`super::Kernels::attend`].
#[inline(always)]
pub(super) fn attend<S: Simd>(
    s: S,
    a: &Attend<'_>,
    out: &mut [Partial],
    values: &mut [f32],
    scores: &mut [f32],
) {
    a.check(out, values, scores);
    match a.kind {
        // SAFETY: the shapes were checked.
        KvType::F16 => unsafe { attend_f16(s, a, out, values, scores) },
    }
}

/// # Safety
/// The shapes were checked by [`Attend::check`].
#[inline(always)]
unsafe fn attend_f16<S: Simd>(
    s: S,
    a: &Attend<'_>,
    out: &mut [Partial],
    values: &mut [f32],
    scores: &mut [f32],
) {
    let (rows, dim, positions) = (a.rows(), a.dim, a.positions());
    let panel_bytes = cache::panel_bytes(a.kind, dim);
    let row_bytes = 2 * dim;
    for first in (0..positions).step_by(BLOCK) {
        let at = a.keys.as_ptr().wrapping_add(first * row_bytes);
        let last = first + BLOCK >= positions;
        let ahead = if last {
            a.values.as_ptr()
        } else {
            at.wrapping_add(BLOCK * row_bytes)
        };
        for tile in (0..rows).step_by(TILE_ROWS) {
            let tile = tile..rows.min(tile + TILE_ROWS);
            let visible = a.visible(tile.end - 1);
            if visible <= first {
                continue;
            }
            let mut io = Strips::new(tile.len());
            for (i, r) in tile.enumerate() {
                io.x[i] = a.q[r / a.heads * a.stride + r % a.heads * dim..].as_ptr();
                io.out[i] = scores[r * CHUNK + first..].as_mut_ptr();
            }
            let y = Columns {
                at,
                ahead: ahead.addr().wrapping_sub(at.addr()),
                steps: dim,
                step: 2 * LANES,
                columns: (visible - first).min(BLOCK).div_ceil(POSITIONS),
                column: panel_bytes,
            };
            // SAFETY: `dim` queries a row; panels up to the last position seen are there, and 16 scores for each.
            unsafe { io.multiply::<S, Half>(s, &y, false) };
        }
    }
    for (r, (scores, partial)) in scores.chunks_exact_mut(CHUNK).zip(out).enumerate() {
        *partial = softmax(s, scores, a.visible(r), positions);
    }
    for first in (0..positions).step_by(BLOCK) {
        let at = a.values.as_ptr().wrapping_add(first * row_bytes);
        let last = first + BLOCK >= positions;
        let ahead = if last {
            a.keys.as_ptr_range().end
        } else {
            at.wrapping_add(BLOCK * row_bytes)
        };
        for tile in (0..rows).step_by(TILE_ROWS) {
            let tile = tile..rows.min(tile + TILE_ROWS);
            let visible = a.visible(tile.end - 1);
            if visible <= first {
                continue;
            }
            let mut io = Strips::new(tile.len());
            for (i, r) in tile.enumerate() {
                io.x[i] = scores[r * CHUNK + first..].as_ptr();
                io.out[i] = values[r * dim..].as_mut_ptr();
            }
            let y = Columns {
                at,
                ahead: ahead.addr().wrapping_sub(at.addr()),
                steps: (visible - first).min(BLOCK),
                step: row_bytes,
                columns: dim / LANES,
                column: 2 * LANES,
            };
            // SAFETY: one weight a row and position, positions up to the last one seen, `dim` values each.
            unsafe { io.multiply::<S, Half>(s, &y, first > 0) };
        }
    }
}

/// Replaces the first `visible` scores by `exp(score - max)` and those behind, up to `positions`, by zero.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [f32], visible: usize, positions: usize) -> Partial {
    let end = visible.next_multiple_of(LANES);
    scores[visible..end].fill(f32::NEG_INFINITY);
    let mut max = s.splat(f32::NEG_INFINITY);
    for chunk in scores[..end].chunks_exact(LANES) {
        // SAFETY: chunks of 16 values.
        max = s.max(unsafe { s.load(chunk.as_ptr()) }, max);
    }
    let max = s.largest(max);
    for chunk in scores[..end].chunks_exact_mut(LANES) {
        // SAFETY: chunks of 16 values.
        unsafe {
            let e = exp(s, s.sub(s.load(chunk.as_ptr()), s.splat(max)));
            s.store(chunk.as_mut_ptr(), e);
        }
    }
    scores[visible..end.max(positions)].fill(0.0);
    let mut sum = s.splat(0.0);
    for chunk in scores[..end].chunks_exact(LANES) {
        // SAFETY: chunks of 16 values.
        sum = s.add(sum, unsafe { s.load(chunk.as_ptr()) });
    }
    Partial {
        max,
        sum: s.sum(sum),
    }
}

/// Where vectors of 16 values are read from.
trait Source {
    /// # Safety
    /// `p` is readable for 16 values.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F;
}

/// Half precision.
struct Half;

impl Source for Half {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: by contract.
        unsafe { s.load_f16(p) }
    }
}

/// Columns of vectors: vector `i` of column `c` lies at `at + i * step + c * column`.
struct Columns {
    at: *const u8,
    /// From a vector to the one to be prefetched when it is read.
    ahead: usize,
    steps: usize,
    step: usize,
    columns: usize,
    column: usize,
}

/// A few rows of factors and of results.
struct Strips {
    rows: usize,
    x: [*const f32; TILE_ROWS],
    out: [*mut f32; TILE_ROWS],
}

impl Strips {
    fn new(rows: usize) -> Strips {
        Strips {
            rows,
            x: [std::ptr::null(); TILE_ROWS],
            out: [std::ptr::null_mut(); TILE_ROWS],
        }
    }

    /// `out[r][16 c ..] = sum over i of x[r][i] * y[i][c]`; with `add`, to what is there.
    ///
    /// # Safety
    /// The first `rows` pointers of `x` are readable for `y.steps` values, those of `out` writable for 16 values a
    /// column, and all vectors of `y` are readable.
    #[inline(always)]
    unsafe fn multiply<S: Simd, Y: Source>(&self, s: S, y: &Columns, add: bool) {
        // As many columns at a time as keep 8 to 12 sums of 8 lanes in registers.
        // SAFETY: by contract.
        unsafe {
            match self.rows {
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
        y: &Columns,
        add: bool,
    ) {
        let mut c = 0;
        // SAFETY: by contract.
        unsafe {
            while c + C <= y.columns {
                self.tile::<S, Y, R, C>(s, y, c, add);
                c += C;
            }
            while c < y.columns {
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
        y: &Columns,
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
            for i in 0..y.steps {
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
