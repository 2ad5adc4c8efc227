//! Vector operations between the matrices: norm, quantisation of activations, gates, soft caps, conversions, exponential.
#![allow(unsafe_code)]

use super::{Activation, RowMut, SUM_GROUP, TILE_TOKENS, TileGroup};
use crate::quant::GROUP;
use crate::simd::{LANES, Simd};

/// `e^x`, accurate to 2 units in the last place for -87 <= x <= 88 and clamped to that range.
///
/// Range reduction by multiples of ln 2 in two parts, then a polynomial of degree 6 (Cody and Waite 1980).
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let x = s.min(s.max(x, s.splat(-87.0)), s.splat(88.0));
    let n = s.f_to_i(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let nf = s.i_to_f(n);
    let r = s.fma(nf, s.splat(-0.693_359_4), x);
    let r = s.fma(nf, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    let power = s.i_as_f(s.i_shl(s.i_add(n, s.i_splat(127)), 23));
    s.mul(p, power)
}

/// The 16 values at `i`, padded with zeros at the end of `x`.
#[inline(always)]
fn load_at<S: Simd>(s: S, x: &[f32], i: usize) -> S::F {
    let rest = &x[i..];
    if rest.len() >= LANES {
        // SAFETY: 16 values are there.
        return unsafe { s.load(rest.as_ptr()) };
    }
    let mut padded = [0.0; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    // SAFETY: an array of 16.
    unsafe { s.load(padded.as_ptr()) }
}

/// Stores `v` at `i`, as far as `out` goes.
#[inline(always)]
fn store_at<S: Simd>(s: S, out: &mut [f32], i: usize, v: S::F) {
    let rest = &mut out[i..];
    if rest.len() >= LANES {
        // SAFETY: room for 16 values.
        unsafe { s.store(rest.as_mut_ptr(), v) };
    } else {
        let len = rest.len();
        rest.copy_from_slice(&s.to_array(v)[..len]);
    }
}

/// See [`super::Kernels::rms_norm`]; with `ADD`, adds to `out`.
#[inline(always)]
pub(super) fn rms_norm<S: Simd, const ADD: bool>(
    s: S,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    assert!(weight.len() == x.len() && out.len() == x.len());
    let mut squares = s.splat(0.0);
    for i in (0..x.len()).step_by(LANES) {
        let v = load_at(s, x, i);
        squares = s.fma(v, v, squares);
    }
    let mean = s.sum(squares) / x.len() as f32;
    let scale = s.splat(1.0 / (mean + eps).sqrt());
    for i in (0..x.len()).step_by(LANES) {
        let mut v = s.mul(s.mul(load_at(s, x, i), scale), load_at(s, weight, i));
        if ADD {
            v = s.add(load_at(s, out, i), v);
        }
        store_at(s, out, i, v);
    }
}

#[inline(always)]
pub(super) fn quantize<S: Simd>(s: S, row: &mut RowMut<'_>) {
    let k = row.values.len();
    if !k.is_multiple_of(GROUP) {
        return;
    }
    let groups = k / GROUP;
    assert!(row.codes.len() >= k && row.sums.len() >= k / SUM_GROUP);
    assert!(row.scales.len() >= groups && row.scaled_sums.len() >= groups);
    let (values, _) = row.values.as_chunks();
    let (codes, _) = row.codes.as_chunks_mut();
    let (sums, _) = row.sums.as_chunks_mut();
    for g in 0..groups {
        let scale = quantize_group(s, &values[g], &mut codes[g], &mut sums[g]);
        row.scales[g] = scale;
        row.scaled_sums[g] = scale * sums[g].iter().sum::<i32>() as f32;
    }
}

/// See [`super::Kernels::quantize_tile`].
#[inline(always)]
pub(super) fn quantize_tile<S: Simd>(s: S, values: &[f32], t: usize, groups: &mut [TileGroup]) {
    let (values, rest) = values.as_chunks();
    assert!(rest.is_empty() && groups.len() >= values.len() && t < TILE_TOKENS);
    for (values, group) in values.iter().zip(groups) {
        let mut sums = [0; GROUP / SUM_GROUP];
        let scale = quantize_group(s, values, &mut group.codes[t], &mut sums);
        let total: i32 = sums.iter().sum();
        group.scales[t] = scale;
        group.scaled_sums[t] = scale * total as f32;
        group.minus_sums[t] = -TileGroup::SUM_UNIT * total;
        group.minus_half_sums[t] = sums.map(|s| -TileGroup::SUM_UNIT * s);
    }
}

/// Smallest peak of a group whose inverse is finite, times 127; values of smaller ones are taken for zeros.
const PEAK_MIN: f32 = 64.0 * f32::MIN_POSITIVE;

/// Quantises 32 values with a common scale, which it gives; `sums` are those of 16 codes. Where a value is infinite or no
/// number, so is the scale, and the codes are zeros.
#[inline(always)]
fn quantize_group<S: Simd>(
    s: S,
    values: &[f32; GROUP],
    codes: &mut [i8; GROUP],
    sums: &mut [i32; GROUP / SUM_GROUP],
) -> f32 {
    let (a, b) = (load_at(s, values, 0), load_at(s, values, LANES));
    let peak = s.peak(a, b);
    if !peak.is_finite() {
        // Products with such a scale are no numbers, whatever the codes are.
        *codes = [0; GROUP];
        *sums = [0; GROUP / SUM_GROUP];
        return peak;
    }
    let inverse = s.splat(if peak >= PEAK_MIN { 127.0 / peak } else { 0.0 });
    let (a, b) = (s.f_to_i(s.mul(a, inverse)), s.f_to_i(s.mul(b, inverse)));
    // SAFETY: 32 codes; values are at most `peak`, so codes lie within -127..=127.
    unsafe {
        s.i_store_i8(codes.as_mut_ptr(), a);
        s.i_store_i8(codes.as_mut_ptr().add(LANES), b);
    }
    *sums = [s.i_sum(a), s.i_sum(b)];
    peak / 127.0
}

/// See [`super::Kernels::gate`]. Both activations are `x / (1 + exp(-y))`: since `(1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z))`,
/// `y` is `x` for SiLU and `2 sqrt(2 / pi) (x + 0.044715 x^3)` for GELU.
#[inline(always)]
pub(super) fn gate<S: Simd>(
    s: S,
    activation: Activation,
    gate: &mut [f32; LANES],
    up: &[f32; LANES],
) {
    // SAFETY: arrays of 16.
    let (x, u) = unsafe { (s.load(gate.as_ptr()), s.load(up.as_ptr())) };
    let y = match activation {
        Activation::Silu => x,
        Activation::Gelu => {
            let cubic = s.mul(s.mul(x, x), s.splat(0.071_354_814));
            s.mul(x, s.add(cubic, s.splat(1.595_769)))
        }
    };
    let e = exp(s, s.sub(s.splat(0.0), y));
    *gate = s.to_array(s.mul(s.div(x, s.add(s.splat(1.0), e)), u));
}

/// See [`super::Kernels::soft_cap`]: `tanh(y) = 1 - 2 / (1 + exp(2 y))`.
#[inline(always)]
pub(super) fn soft_cap<S: Simd>(s: S, cap: f32, x: &mut [f32]) {
    let (one, two) = (s.splat(1.0), s.splat(2.0));
    for i in (0..x.len()).step_by(LANES) {
        let e = exp(s, s.mul(load_at(s, x, i), s.splat(2.0 / cap)));
        let tanh = s.sub(one, s.div(two, s.add(one, e)));
        store_at(s, x, i, s.mul(tanh, s.splat(cap)));
    }
}

/// 16 values in half precision.
#[inline(always)]
pub(super) fn to_f16<S: Simd>(s: S, x: &[f32]) -> [u8; 2 * LANES] {
    let mut half = [0; 2 * LANES];
    // SAFETY: an array of 32 bytes; `load_at` pads.
    unsafe { s.store_f16(half.as_mut_ptr(), load_at(s, x, 0)) };
    half
}
