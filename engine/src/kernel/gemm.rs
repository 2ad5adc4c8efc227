//! Products of a panel of 16 weight rows with the tokens of a batch.
//!
//! A few groups of the panel at a time are unpacked, codes to a byte each and scales to `f32`, into a buffer that stays in
//! the first cache, and multiplied with all tokens, [`TILE`] at a time in registers. The unpacking is so shared by the
//! batch. Integer sums are exact and the groups are added in the order of columns, as for one token, so that the result is
//! the same in every bit.
#![allow(unsafe_code)]

use super::dot::{LINE, QUAD};
use super::{
    Reading, SUM_GROUP, TILE_TOKENS as TILE, TileGroup, Tiles, check_columns, panel_bytes,
};
use crate::quant::{Codes, GROUP, low_bits, parts, plane_bits};
use crate::simd::{LANES, Simd};
use std::mem::MaybeUninit;

/// Groups that are unpacked at a time for a large batch: 4 KB of codes.
const STEP_GROUPS: usize = 8;

/// Groups that are unpacked at a time for at most [`FEW_TOKENS`], so that the memory is read without pauses.
const FEW_STEP_GROUPS: usize = 2;

/// Tokens of a batch whose products take little more time than the weights take to arrive: their panels are read side by
/// side, like those of one token.
pub const FEW_TOKENS: usize = 8;

/// Quads of a group.
const QUADS: usize = GROUP / QUAD;

/// Bytes of a group's codes, one a byte.
const GROUP_BYTES: usize = LANES * GROUP;

/// Unpacked groups: `codes` as planes of bytes, `[group][plane][quad][64]`, and `scales` and `mins`, `[group][sub]`.
#[repr(C, align(64))]
struct Unpacked {
    codes: [[u8; 2 * GROUP_BYTES]; STEP_GROUPS],
    scales: [[[f32; LANES]; GROUP / SUM_GROUP]; STEP_GROUPS],
    mins: [[[f32; LANES]; GROUP / SUM_GROUP]; STEP_GROUPS],
}

/// Bits of a whole code.
const fn bits<Q: Codes>() -> u32 {
    if Q::TABLE.is_some() {
        8
    } else {
        Q::HIGH_BITS + Q::LOW_BITS
    }
}

/// Whether whole codes fit the products of `S`; else their two parts are multiplied apart.
fn whole<S: Simd, Q: Codes>() -> bool {
    S::dots_max(bits::<Q>()) > 0
}

/// See [`super::Kernels::dot_batch`].
pub(super) fn codes<S: Simd, Q: Codes>(
    s: S,
    panels: &[u8],
    k: usize,
    x: Tiles<'_>,
    reading: Reading,
    out: &mut [[f32; LANES]],
) {
    check_columns::<Q>(k);
    let panel_bytes = panel_bytes::<Q>(k);
    let count = panels.len() / panel_bytes;
    assert!(
        panels.len().is_multiple_of(panel_bytes) && (count > 0 && out.len().is_multiple_of(count)),
        "{} bytes are no whole number of panels with equally many outputs",
        panels.len()
    );
    let tokens = out.len() / count;
    let tiles = tokens.div_ceil(TILE);
    assert!(
        tiles == 0 || x.groups.len() >= (tiles - 1) * x.stride + k / GROUP,
        "activations too short"
    );
    if tokens == 0 {
        return;
    }
    s.vectorize(
        #[inline(always)]
        || {
            // SAFETY: the shapes were just checked.
            unsafe {
                if tokens <= FEW_TOKENS && count > 1 && reading.side_by_side {
                    few::<S, Q>(s, panels.as_ptr(), count, k, x, reading.head_lines, out);
                } else {
                    for (panel, out) in panels.chunks(panel_bytes).zip(out.chunks_mut(tokens)) {
                        batch::<S, Q>(s, panel.as_ptr(), k, x, reading.ahead, out);
                    }
                }
            }
        },
    );
}

/// Reads `count` panels side by side, a group of each in turn, so that one arrives while another is multiplied.
///
/// # Safety
/// As [`batch`], for each of the panels; `out` holds equally many outputs of each.
#[inline(always)]
unsafe fn few<S: Simd, Q: Codes>(
    s: S,
    panels: *const u8,
    count: usize,
    k: usize,
    x: Tiles<'_>,
    head_lines: usize,
    out: &mut [[f32; LANES]],
) {
    let tokens = out.len() / count;
    let mut unpacked = MaybeUninit::<Unpacked>::uninit();
    let unpacked = unpacked.as_mut_ptr();
    for group in 0..k / GROUP {
        for (p, out) in out.chunks_mut(tokens).enumerate().take(count) {
            // SAFETY: the group lies within the panel and the activations, and `tiles` reads what was just written.
            unsafe {
                let panel = panels.add(p * panel_bytes::<Q>(k));
                if group < head_lines {
                    s.prefetch(panel.wrapping_add(count * panel_bytes::<Q>(k) + group * LINE));
                }
                unpack::<S, Q>(s, panel, group, 0, unpacked, 0);
                tiles::<S, Q>(s, unpacked, group, 1, x, out);
            }
        }
    }
}

/// # Safety
/// `panel` holds `k` columns of 16 rows of `Q`, and `x` holds `k / 32` groups for each [`TILE`] tokens of `out`.
#[inline(always)]
unsafe fn batch<S: Simd, Q: Codes>(
    s: S,
    panel: *const u8,
    k: usize,
    x: Tiles<'_>,
    ahead: usize,
    out: &mut [[f32; LANES]],
) {
    let mut unpacked = MaybeUninit::<Unpacked>::uninit();
    let unpacked = unpacked.as_mut_ptr();
    let groups = k / GROUP;
    let step = if out.len() <= FEW_TOKENS {
        FEW_STEP_GROUPS
    } else {
        STEP_GROUPS
    };
    let mut first = 0;
    while first < groups {
        let count = step.min(groups - first);
        // SAFETY: groups `first..first + count` lie within the panel and the activations, `count` is at most
        // STEP_GROUPS, and what `tiles` reads of `unpacked` was written just before.
        unsafe {
            for g in 0..count {
                unpack::<S, Q>(s, panel, first + g, ahead, unpacked, g);
            }
            tiles::<S, Q>(s, unpacked, first, count, x, out);
        }
        first += count;
    }
}

/// Adds the products of `count` unpacked groups, the first of them group `first` of the columns, with all tokens to `out`.
///
/// # Safety
/// The groups were unpacked, and lie within the activations.
#[inline(always)]
unsafe fn tiles<S: Simd, Q: Codes>(
    s: S,
    unpacked: *const Unpacked,
    first: usize,
    count: usize,
    x: Tiles<'_>,
    out: &mut [[f32; LANES]],
) {
    for (i, out) in out.chunks_mut(TILE).enumerate() {
        // SAFETY: by contract.
        unsafe {
            let x = x.groups.as_ptr().add(i * x.stride + first);
            match out.len() {
                1 => tile::<S, Q, 1>(s, unpacked, count, x, first == 0, out),
                2 => tile::<S, Q, 2>(s, unpacked, count, x, first == 0, out),
                3 => tile::<S, Q, 3>(s, unpacked, count, x, first == 0, out),
                _ => tile::<S, Q, TILE>(s, unpacked, count, x, first == 0, out),
            }
        }
    }
}

/// Writes group `group` of the panel to place `to` of the buffer.
///
/// # Safety
/// The group lies within the panel, and `to` is below [`STEP_GROUPS`].
#[inline(always)]
unsafe fn unpack<S: Simd, Q: Codes>(
    s: S,
    panel: *const u8,
    group: usize,
    ahead: usize,
    unpacked: *mut Unpacked,
    to: usize,
) {
    let groups = Q::BLOCK_LEN / GROUP;
    let subs = GROUP / Q::SUB;
    let group_bytes = GROUP_BYTES * plane_bits::<Q>() / 8;
    // SAFETY: the block and the group's planes lie within the panel; `to` within the buffer.
    unsafe {
        let block = panel.add(group / groups * LANES * Q::BLOCK_BYTES);
        let planes = block.add(Q::SCALE_BYTES + group % groups * group_bytes);
        if ahead > 0 {
            for line in 0..group_bytes.div_ceil(LINE) {
                s.prefetch(planes.wrapping_add(ahead + line * LINE));
            }
        }
        let codes = (&raw mut (*unpacked).codes[to]).cast::<u8>();
        for quad in 0..QUADS {
            let [mut high, low] = parts::<S, Q>(s, planes, quad);
            if low_bits::<Q>() > 0 {
                if whole::<S, Q>() {
                    high = s.b_join(high, low, low_bits::<Q>());
                } else {
                    s.b_store(codes.add(GROUP_BYTES + quad * 64), low);
                }
            }
            s.b_store(codes.add(quad * 64), high);
        }
        let common = Q::common(s, block);
        for sub in 0..subs {
            let (scale, min) = Q::scales(s, common, block, group % groups * subs + sub);
            s.store((&raw mut (*unpacked).scales[to][sub]).cast(), scale);
            if Q::HAS_MIN {
                s.store((&raw mut (*unpacked).mins[to][sub]).cast(), min);
            }
        }
    }
}

/// Adds the products of the first `groups` unpacked groups with `T` tokens to `out`, or with `fresh` stores them.
///
/// # Safety
/// The groups were unpacked, `x` holds as many, and `out` has `T` entries.
#[inline(always)]
unsafe fn tile<S: Simd, Q: Codes, const T: usize>(
    s: S,
    unpacked: *const Unpacked,
    groups: usize,
    x: *const TileGroup,
    fresh: bool,
    out: &mut [[f32; LANES]],
) {
    let subs = GROUP / Q::SUB;
    let quads = Q::SUB / QUAD;
    let mut sum = [s.splat(0.0); T];
    // SAFETY: by contract.
    unsafe {
        if !fresh {
            for (t, sum) in sum.iter_mut().enumerate() {
                *sum = s.load(out.get_unchecked(t).as_ptr());
            }
        }
        for g in 0..groups {
            let x = x.add(g);
            let codes = (&raw const (*unpacked).codes)
                .cast::<u8>()
                .add(g * 2 * GROUP_BYTES);
            for sub in 0..subs {
                let ints = sub_dot::<S, Q, T>(s, codes, sub * quads, x);
                let at = (g * GROUP / SUM_GROUP + sub) * LANES;
                let scale = s.load((&raw const (*unpacked).scales).cast::<f32>().add(at));
                for (t, sum) in sum.iter_mut().enumerate() {
                    let x_scale = s.splat((*x).scales[t]);
                    *sum = s.fma(s.mul(scale, x_scale), s.i_to_f(ints[t]), *sum);
                }
                if Q::HAS_MIN {
                    let min = s.load((&raw const (*unpacked).mins).cast::<f32>().add(at));
                    for (t, sum) in sum.iter_mut().enumerate() {
                        let x_sum = if Q::SUB == GROUP {
                            (*x).scaled_sums[t]
                        } else {
                            (*x).scales[t] * ((*x).half_sums[t][sub] / TileGroup::SUM_UNIT) as f32
                        };
                        *sum = s.fma(min, s.splat(x_sum), *sum);
                    }
                }
            }
        }
        for (t, sum) in sum.into_iter().enumerate() {
            s.store(out.get_unchecked_mut(t).as_mut_ptr(), sum);
        }
    }
}

/// Sums of `(code - OFFSET) * x` over the quads of one scale, exact.
///
/// # Safety
/// `codes` are a group's planes of bytes.
#[inline(always)]
unsafe fn sub_dot<S: Simd, Q: Codes, const T: usize>(
    s: S,
    codes: *const u8,
    first_quad: usize,
    x: *const TileGroup,
) -> [S::I; T] {
    let quads = Q::SUB / QUAD;
    // SAFETY: both planes lie within the group's.
    let mut totals = unsafe {
        if whole::<S, Q>() {
            let per_acc = S::dots_max(bits::<Q>());
            plane_dot::<S, T>(s, codes, first_quad, quads, per_acc, x)
        } else {
            let high = plane_dot::<S, T>(s, codes, first_quad, quads, S::dots_max(4), x);
            let low = plane_dot::<S, T>(
                s,
                codes.add(GROUP_BYTES),
                first_quad,
                quads,
                S::dots_max(4),
                x,
            );
            std::array::from_fn(
                #[inline(always)]
                |t| s.i_add(s.i_shl(high[t], low_bits::<Q>()), low[t]),
            )
        }
    };
    if Q::OFFSET != 0 {
        const { assert!(Q::OFFSET == 0 || Q::OFFSET.unsigned_abs().is_power_of_two()) };
        let shift = (Q::OFFSET / TileGroup::SUM_UNIT).max(1).trailing_zeros();
        for (t, total) in totals.iter_mut().enumerate() {
            // SAFETY: `x` is readable.
            let mut x_sum = unsafe {
                if Q::SUB == GROUP {
                    (*x).sums[t]
                } else {
                    (*x).half_sums[t][first_quad * QUAD / SUM_GROUP]
                }
            };
            if Q::OFFSET < TileGroup::SUM_UNIT {
                x_sum /= TileGroup::SUM_UNIT / Q::OFFSET;
            }
            let mut x_sum = s.i_splat(x_sum);
            if shift > 0 {
                x_sum = s.i_shl(x_sum, shift);
            }
            *total = s.i_sub(*total, x_sum);
        }
    }
    totals
}

/// Sums of `code * x` over `quads` quads of one plane of bytes, `per_acc` of them in an accumulator.
///
/// # Safety
/// `codes` is a group's plane.
#[inline(always)]
unsafe fn plane_dot<S: Simd, const T: usize>(
    s: S,
    codes: *const u8,
    first_quad: usize,
    quads: usize,
    per_acc: usize,
    x: *const TileGroup,
) -> [S::I; T] {
    let per_acc = per_acc.min(quads);
    let mut totals = [s.i_splat(0); T];
    for part in 0..quads / per_acc {
        let mut acc = [s.dot_zero(); T];
        unrolled(
            per_acc,
            #[inline(always)]
            |i| {
                let quad = first_quad + part * per_acc + i;
                // SAFETY: by contract.
                unsafe {
                    let w = s.b_load(codes.add(quad * 64));
                    for (t, acc) in acc.iter_mut().enumerate() {
                        let x = (&raw const (*x).codes[t]).cast::<i8>().add(quad * QUAD);
                        *acc = s.pin(s.dot(*acc, w, x));
                    }
                }
            },
        );
        for (total, acc) in totals.iter_mut().zip(acc) {
            *total = if part == 0 {
                s.dot_sum(acc)
            } else {
                s.i_add(*total, s.dot_sum(acc))
            };
        }
    }
    totals
}

/// Calls `f` with the numbers below `n`, at most eight, in straight code: the compiler leaves long bodies as loops.
#[inline(always)]
fn unrolled(n: usize, mut f: impl FnMut(usize)) {
    macro_rules! each {
        ($($i:literal)*) => { $(if $i < n { f($i); })* };
    }
    each!(0 1 2 3 4 5 6 7);
}
