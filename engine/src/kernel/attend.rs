//! Attention over a chunk of the KV cache, as a partial softmax that can be merged (Dao et al. 2022; Dao 2023,
//! flash-decoding).
#![allow(unsafe_code)]

use super::ops::exp;
use crate::simd::{LANES, Simd};

/// Positions that one call covers at most. Chunk borders lie at multiples of this, whatever the batch or the number of
/// threads, so that a token's attention is summed in the same order always.
pub const CHUNK: usize = 256;

/// Softmax state of one head over some positions: `values` (kept beside it) are relative to `max`.
#[derive(Debug, Clone, Copy)]
pub struct Partial {
    /// Largest score.
    pub max: f32,
    /// Sum of `exp(score - max)`.
    pub sum: f32,
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

/// See [`super::Kernels::attend`].
#[inline(always)]
pub(super) fn attend<S: Simd>(
    s: S,
    q: &[f32],
    k: &[u16],
    v: &[u16],
    dim: usize,
    out: &mut [Partial],
    values: &mut [f32],
) {
    let positions = k.len() / dim;
    assert!(dim.is_multiple_of(LANES) && positions > 0 && positions <= CHUNK);
    assert!(v.len() == k.len() && q.len() == out.len() * dim && values.len() == q.len());
    let mut scores = [f32::NEG_INFINITY; CHUNK];
    for (h, partial) in out.iter_mut().enumerate() {
        let q = &q[h * dim..][..dim];
        for (score, row) in scores.iter_mut().zip(k.chunks_exact(dim)) {
            *score = dot_f16(s, q, row);
        }
        *partial = softmax(s, &mut scores, positions);
        weighted_sum(s, &scores[..positions], v, &mut values[h * dim..][..dim]);
    }
}

/// Product of `q` with a row in half precision; both have a multiple of 16 values.
#[inline(always)]
fn dot_f16<S: Simd>(s: S, q: &[f32], row: &[u16]) -> f32 {
    let mut sum = s.splat(0.0);
    for (q, r) in q.chunks_exact(LANES).zip(row.chunks_exact(LANES)) {
        // SAFETY: chunks of 16 values.
        let (q, r) = unsafe { (s.load(q.as_ptr()), s.load_f16(r.as_ptr().cast())) };
        sum = s.fma(q, r, sum);
    }
    s.sum(sum)
}

/// Replaces the first `positions` scores by `exp(score - max)`; the scores behind them count as minus infinity.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [f32; CHUNK], positions: usize) -> Partial {
    let used = &mut scores[..positions.next_multiple_of(LANES)];
    used[positions..].fill(f32::NEG_INFINITY);
    let max = used
        .iter()
        .fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    let mut sum = s.splat(0.0);
    for chunk in used.chunks_exact_mut(LANES) {
        // SAFETY: chunks of 16 values.
        unsafe {
            let e = exp(s, s.sub(s.load(chunk.as_ptr()), s.splat(max)));
            s.store(chunk.as_mut_ptr(), e);
        }
    }
    used[positions..].fill(0.0);
    for chunk in used.chunks_exact(LANES) {
        // SAFETY: chunks of 16 values.
        sum = s.add(sum, unsafe { s.load(chunk.as_ptr()) });
    }
    Partial {
        max,
        sum: s.sum(sum),
    }
}

/// `out = sum over positions of weight * row`.
#[inline(always)]
fn weighted_sum<S: Simd>(s: S, weights: &[f32], rows: &[u16], out: &mut [f32]) {
    let dim = out.len();
    for (c, out) in out.chunks_exact_mut(LANES).enumerate() {
        let mut sum = [s.splat(0.0); 2];
        for (j, (w, row)) in weights.iter().zip(rows.chunks_exact(dim)).enumerate() {
            // SAFETY: `c` counts chunks of 16 values of `dim`.
            let r = unsafe { s.load_f16(row.as_ptr().add(c * LANES).cast()) };
            sum[j % 2] = s.fma(s.splat(*w), r, sum[j % 2]);
        }
        // SAFETY: a chunk of 16 values.
        unsafe { s.store(out.as_mut_ptr(), s.add(sum[0], sum[1])) };
    }
}
