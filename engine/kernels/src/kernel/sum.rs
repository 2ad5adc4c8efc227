//! Sums of channels in strips, inputs each with all its outputs, times their values.
//!
//! What a weight's code is multiplied with, the channel's value times the block's scale, is its *factor*. The factors that
//! [`SHARED`] channels have in a block are rounded together, to [`LIMIT`] steps of the largest of them: a part of eight bits and
//! one of seven, since products are of bytes. Codes of four channels are turned over, so that those of one output stand
//! side by side, and multiplied with the four factors of their block; the integer sums are exact, and those of each
//! [`SHARED`] channels are added in the order of channels.
#![allow(unsafe_code)]

use super::dot::{LINE, QUAD};
use super::strip::{Active, Ahead, QUADS, STRIP, Strips};
use super::tile::{bits, whole};
use super::{Reading, panel_bytes};
use crate::quant::{Codes, GROUP, Planes, low_bits, parts_in, vector_of};
use crate::simd::{LANES, Simd};
use std::mem::MaybeUninit;

/// Channels whose factors are rounded together. More of them would need fewer conversions, and be coarser.
const SHARED: usize = 32;

/// How many strips ahead they are fetched: two of each channel.
const DISTANCE: usize = 2 * SHARED;

/// What the largest factor of a block is rounded to: 127 in the high part.
const LIMIT: f32 = (127 << LOW_PART) as f32;

/// Bits of the low part of a factor, which is not negative; the high one has a sign.
const LOW_PART: u32 = 7;

/// Factors that are smaller than this over [`LIMIT`] are taken for zeros, so that no inverse is infinite.
const FACTOR_MIN: f32 = 1e-30;

/// Quads that share a vector of the high plane.
const PAIR: usize = 2;

/// Rows of a vector whose four bytes are turned over together.
const CROSSED: usize = 4;

/// Channels that are summed before sums become floats.
struct Shared {
    from: [*const u8; SHARED],
    values: [f32; SHARED],
    /// Fours of channels; what is missing to the last one has the value 0.
    quads: usize,
    /// Whether all values are numbers, and finite.
    finite: bool,
}

impl Shared {
    #[inline(always)]
    fn of<Q: Codes>(strips: Strips<'_>, channels: &[Active]) -> Shared {
        let mut shared = Shared {
            from: [strips.at::<Q>(&channels[0]); SHARED],
            values: [0.0; SHARED],
            quads: channels.len().div_ceil(QUAD),
            finite: channels.iter().all(|a| a.value.is_finite()),
        };
        for (i, a) in channels.iter().enumerate() {
            shared.from[i] = strips.at::<Q>(a);
            if shared.finite {
                shared.values[i] = a.value;
            }
        }
        shared
    }
}

/// High and low parts of the factors, `[quad of channels][which of four rows][part][16 rows][channel]`.
#[repr(C, align(64))]
struct Factors([[[[u8; LINE]; 2]; CROSSED]; SHARED / QUAD]);

/// What turns the integer sums of a strip into floats, of each of its blocks.
struct Rounding<S: Simd> {
    /// Value of one.
    scale: S::F,
    /// Sum of the additive terms times the values.
    min: S::F,
    /// Sum of the factors.
    sum: S::I,
}

/// See [`super::Kernels::add_channels`].
pub(super) fn channels<S: Simd, Q: Codes>(
    s: S,
    strips: Strips<'_>,
    active: &[Active],
    next: &[Active],
    reading: Reading,
    out: &mut [f32],
) {
    strips.check::<Q>(active);
    assert!(
        out.len() == strips.per_channel * STRIP,
        "sums of all strips of a channel"
    );
    s.vectorize(
        #[inline(always)]
        || {
            out.fill(0.0);
            let mut factors = MaybeUninit::<Factors>::uninit();
            let lists = [active, next];
            let mut ahead = Ahead::<Q>::of(s, strips, lists, (SHARED, DISTANCE), reading);
            for these in active.chunks(SHARED) {
                let shared = Shared::of::<Q>(strips, these);
                for (u, sums) in out.as_chunks_mut::<STRIP>().0.iter_mut().enumerate() {
                    let at = u * panel_bytes::<Q>(GROUP);
                    // SAFETY: the channels were found to be there, and have as many strips as there are sums for.
                    unsafe {
                        let rounding = factors_of::<S, Q>(s, &shared, at, factors.as_mut_ptr());
                        let factors = factors.as_ptr();
                        strip::<S, Q>(s, &shared, at, factors, &rounding, &mut ahead, sums);
                    }
                }
            }
        },
    );
}

/// The factors of the strips at byte `at` of each channel.
///
/// # Safety
/// Those strips are readable, and `out` is writable.
#[inline(always)]
unsafe fn factors_of<S: Simd, Q: Codes>(
    s: S,
    shared: &Shared,
    at: usize,
    out: *mut Factors,
) -> Rounding<S> {
    let mut products = [MaybeUninit::<[f32; LANES]>::uninit(); SHARED];
    let zero = s.splat(0.0);
    let (mut least, mut most, mut min_sum) = (zero, s.splat(FACTOR_MIN), zero);
    let channels = shared.quads * QUAD;
    for (c, product) in products.iter_mut().enumerate().take(channels) {
        let strip = shared.from[c].wrapping_add(at);
        // SAFETY: by contract.
        unsafe {
            let (scale, min) = Q::scales(s, Q::common(s, strip), strip, 0);
            let value = s.splat(shared.values[c]);
            let scaled = s.mul(scale, value);
            (least, most) = (s.min(scaled, least), s.max(scaled, most));
            if Q::HAS_MIN {
                min_sum = s.fma(min, value, min_sum);
            }
            s.store(product.as_mut_ptr().cast(), scaled);
        }
    }
    let largest = s.max(s.sub(zero, least), most);
    let inverse = s.div(s.splat(LIMIT), largest);
    let mut sum = s.i_splat(0);
    for n in 0..shared.quads {
        let factor: [S::I; QUAD] = std::array::from_fn(
            #[inline(always)]
            |i| {
                // SAFETY: written just before.
                let product = unsafe { s.load(products[n * QUAD + i].as_ptr().cast()) };
                s.f_to_i(s.mul(product, inverse))
            },
        );
        for factor in factor {
            sum = s.i_add(sum, factor);
        }
        for (part, bytes) in parts_of_factors(s, factor).into_iter().enumerate() {
            for (j, bytes) in s.b_spread(bytes).into_iter().enumerate() {
                // SAFETY: writable by contract.
                unsafe { s.b_store((&raw mut (*out).0[n][j][part]).cast(), bytes) };
            }
        }
    }
    Rounding {
        // Values that are no numbers were taken as 0, but are not to be hidden.
        scale: match shared.finite {
            true => s.mul(largest, s.splat(1.0 / LIMIT)),
            false => s.splat(f32::NAN),
        },
        min: min_sum,
        sum,
    }
}

/// High and low parts of the factors of four channels, a byte each.
#[inline(always)]
fn parts_of_factors<S: Simd>(s: S, [a, b, c, d]: [S::I; QUAD]) -> [S::B; 2] {
    let mask = |v, mask: u32| s.i_and(v, s.i_splat(mask as i32));
    let two = |low, high| s.i_or(mask(low, 0xFFFF), s.i_shl(high, 16));
    let (ac, bd) = (two(a, c), two(b, d));
    let high = s.i_or(
        mask(s.i_shr(ac, LOW_PART), 0x00FF_00FF),
        mask(s.i_shl(bd, 8 - LOW_PART), 0xFF00_FF00),
    );
    let low = s.i_or(mask(ac, 0x007F_007F), mask(s.i_shl(bd, 8), 0x7F00_7F00));
    [s.i_as_b(high), s.i_as_b(low)]
}

/// Adds the strips at byte `at` of each channel, times their factors, to `sums`.
///
/// # Safety
/// Those strips are readable, and `factors` are theirs.
#[inline(always)]
unsafe fn strip<S: Simd, Q: Codes>(
    s: S,
    shared: &Shared,
    at: usize,
    factors: *const Factors,
    rounding: &Rounding<S>,
    ahead: &mut Ahead<'_, Q>,
    sums: &mut [f32; STRIP],
) {
    const { assert!(Q::OFFSET == 0 || Q::OFFSET.unsigned_abs().is_power_of_two()) };
    let zero = s.i_splat(0);
    let minus_offset = match Q::OFFSET {
        0 => zero,
        offset => s.i_sub(zero, s.i_shl(rounding.sum, offset.trailing_zeros())),
    };
    let starts = s.b_spread(s.i_as_b(minus_offset)).map(
        #[inline(always)]
        |b| s.b_as_i(b),
    );
    let scales = spread(s, rounding.scale);
    let mins = spread(s, rounding.min);
    for (pair, sums) in sums
        .as_chunks_mut::<{ STRIP / QUADS * PAIR }>()
        .0
        .iter_mut()
        .enumerate()
    {
        // SAFETY: by contract.
        let totals = unsafe {
            let low = pair_sums::<S, Q, true>(s, shared, at, pair, factors, starts, ahead);
            if low_bits::<Q>() == 0 || whole::<S, Q>() {
                low
            } else {
                let high =
                    pair_sums::<S, Q, false>(s, shared, at, pair, factors, [zero; CROSSED], ahead);
                std::array::from_fn(
                    #[inline(always)]
                    |i| s.i_add(s.i_shl(high[i], low_bits::<Q>()), low[i]),
                )
            }
        };
        for (i, sums) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            // SAFETY: an array of 16.
            unsafe {
                let mut sum = s.load(sums.as_ptr());
                if Q::HAS_MIN {
                    sum = s.add(sum, mins[i % CROSSED]);
                }
                let sum = s.fma(s.i_to_f(totals[i]), scales[i % CROSSED], sum);
                s.store(sums.as_mut_ptr(), sum);
            }
        }
    }
}

/// See [`Simd::b_spread`].
#[inline(always)]
fn spread<S: Simd>(s: S, v: S::F) -> [S::F; CROSSED] {
    s.b_spread(s.i_as_b(s.f_as_i(v))).map(
        #[inline(always)]
        |b| s.i_as_f(s.b_as_i(b)),
    )
}

/// Sums of codes times factors of quads `2 pair` and `2 pair + 1`, `[quad][which of four rows]`, that begin at `starts`: of
/// whole codes where these fit the products of `S`, else of their low or high parts.
///
/// Of 32 factors below 2^14 times codes of eight bits, sums stay below 2^27.
///
/// # Safety
/// As [`strip`], and `pair < 4`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a product's operands")]
unsafe fn pair_sums<S: Simd, Q: Codes, const LOW: bool>(
    s: S,
    shared: &Shared,
    at: usize,
    pair: usize,
    factors: *const Factors,
    starts: [S::I; CROSSED],
    ahead: &mut Ahead<'_, Q>,
) -> [S::I; PAIR * CROSSED] {
    let zero = s.i_splat(0);
    let per_acc = S::dots_max(if whole::<S, Q>() { bits::<Q>() } else { 4 });
    let mut sums: [[S::I; 2]; PAIR * CROSSED] = std::array::from_fn(
        #[inline(always)]
        |i| [zero, starts[i % CROSSED]],
    );
    for first in (0..shared.quads).step_by(per_acc) {
        let mut acc = sums.map(
            #[inline(always)]
            |[high, low]| [s.dot_start(high), s.dot_start(low)],
        );
        for n in first..shared.quads.min(first + per_acc) {
            if LOW {
                ahead.step(s);
            }
            // SAFETY: by contract; `n` is one of the quads of channels.
            unsafe {
                let [high, low] = crossed::<S, Q>(s, shared, at, n, pair);
                for (i, acc) in acc.iter_mut().enumerate() {
                    let (quad, j) = (pair * PAIR + i / CROSSED, i % CROSSED);
                    let [mut w, low] = parts_in::<S, Q>(s, high[j], low[j], quad);
                    if low_bits::<Q>() > 0 && whole::<S, Q>() {
                        w = s.b_join(w, low, low_bits::<Q>());
                    } else if low_bits::<Q>() > 0 && LOW {
                        w = low;
                    }
                    let [f_high, f_low] = &(*factors).0[n][j];
                    acc[0] = s.pin(s.dot_rows(acc[0], w, f_high.as_ptr().cast()));
                    acc[1] = s.pin(s.dot_rows(acc[1], w, f_low.as_ptr().cast()));
                }
            }
        }
        for (sums, acc) in sums.iter_mut().zip(acc) {
            *sums = [s.dot_sum(acc[0], sums[0]), s.dot_sum(acc[1], sums[1])];
        }
    }
    sums.map(
        #[inline(always)]
        |[high, low]| s.i_add(s.i_shl(high, LOW_PART), low),
    )
}

/// The vectors with the codes of quads `2 pair` and `2 pair + 1` of four channels, high and low planes, turned over.
///
/// # Safety
/// As [`pair_sums`], and `n` is one of the quads of channels.
#[inline(always)]
unsafe fn crossed<S: Simd, Q: Codes>(
    s: S,
    shared: &Shared,
    at: usize,
    n: usize,
    pair: usize,
) -> [[S::B; CROSSED]; 2] {
    let planes: [Planes; QUAD] = std::array::from_fn(
        #[inline(always)]
        |i| Planes::of::<Q>(shared.from[n * QUAD + i].wrapping_add(at), GROUP, 0),
    );
    let vector = |bits| vector_of(bits, pair * PAIR);
    let high = planes.map(
        #[inline(always)]
        // SAFETY: by contract.
        |p| unsafe { s.b_load(p.high.add(vector(Q::HIGH_BITS))) },
    );
    let low = planes.map(
        #[inline(always)]
        |p| match Q::LOW_BITS {
            0 => s.b_zero(),
            // SAFETY: by contract.
            bits => unsafe { s.b_load(p.low.add(vector(bits))) },
        },
    );
    match Q::LOW_BITS {
        0 => [s.b_cross(high), low],
        _ => [s.b_cross(high), s.b_cross(low)],
    }
}

/// See [`super::Kernels::collect`].
#[inline(always)]
pub(super) fn collect(parts: &[f32], stride: usize, out: &mut [f32; STRIP]) {
    let mut sums = [0.0; STRIP];
    for part in parts.chunks(stride) {
        for (sum, v) in sums.iter_mut().zip(part) {
            *sum += v;
        }
    }
    for (i, rows) in sums.as_chunks::<LANES>().0.iter().enumerate() {
        let (quad, j) = (i / CROSSED, i % CROSSED);
        for (four, values) in rows.as_chunks::<QUAD>().0.iter().enumerate() {
            let block = four * CROSSED + j;
            out[block * GROUP + quad * QUAD..][..QUAD].copy_from_slice(values);
        }
    }
}
