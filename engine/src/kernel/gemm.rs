//! Products of panels of 16 weight rows with the tokens of a batch.
//!
//! A few groups of a panel at a time are unpacked, codes to a byte each and scales to `f32`, into a buffer that stays in
//! the first cache, and multiplied with all tokens, [`TILE`] at a time in registers. The unpacking is so shared by the
//! batch. Where there are registers enough ([`Simd::PAIRS`]), two panels share what is read of the tokens. Integer sums are
//! exact and the groups are added in the order of columns, as for one token, so that the result is the same in every bit.
#![allow(unsafe_code)]

use super::dot::{LINE, QUAD};
use super::{
    Reading, SUM_GROUP, TILE_TOKENS as TILE, TileGroup, Tiles, check_columns, panel_bytes,
};
use crate::quant::{Codes, GROUP, Planes, head_bytes, low_bits, parts};
use crate::simd::{LANES, Simd};
use std::mem::MaybeUninit;

/// Groups that are unpacked at a time for a large batch: 4 KB of codes.
const STEP_GROUPS: usize = 8;

/// Groups that are unpacked at a time for at most [`FEW_TOKENS`], so that the memory is read without pauses.
const FEW_STEP_GROUPS: usize = 2;

/// Tokens of a batch whose products take little more time than the weights take to arrive: their panels are read side by
/// side, like those of one token.
pub const FEW_TOKENS: usize = 8;

/// Panels that a batch is given at a time, where there are registers enough to multiply them together.
pub const PAIR: usize = 2;

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
                    return;
                }
                let at_once = if S::PAIRS { PAIR } else { 1 };
                let panels = panels.chunks(at_once * panel_bytes);
                for (panels, out) in panels.zip(out.chunks_mut(at_once * tokens)) {
                    let p = panels.as_ptr();
                    if const { S::PAIRS } && panels.len() > panel_bytes {
                        batch::<S, Q, PAIR>(s, p, k, x, reading.ahead, out);
                    } else {
                        batch::<S, Q, 1>(s, p, k, x, reading.ahead, out);
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
    let at_once = if S::PAIRS { PAIR } else { 1 };
    let mut unpacked = [const { MaybeUninit::<Unpacked>::uninit() }; PAIR];
    for group in 0..k / GROUP {
        for (i, out) in out.chunks_mut(at_once * tokens).enumerate() {
            for (p, unpacked) in (i * at_once..count).zip(&mut unpacked[..at_once]) {
                // SAFETY: the group lies within the panel.
                unsafe {
                    let panel = panels.add(p * panel_bytes::<Q>(k));
                    if group < head_lines {
                        s.prefetch(panel.wrapping_add(count * panel_bytes::<Q>(k) + group * LINE));
                    }
                    unpack::<S, Q>(s, panel, k, group, 0, unpacked.as_mut_ptr(), 0);
                }
            }
            // SAFETY: the group lies within the activations, and `tiles` reads what was just written.
            unsafe {
                let unpacked = unpacked.as_ptr().cast();
                if const { S::PAIRS } && out.len() > tokens {
                    tiles::<S, Q, PAIR>(s, unpacked, group, 1, x, out);
                } else {
                    tiles::<S, Q, 1>(s, unpacked, group, 1, x, out);
                }
            }
        }
    }
}

/// # Safety
/// `panels` holds `P` panels of `k` columns of 16 rows of `Q`, `out` equally many outputs of each, and `x` `k / 32` groups
/// for each [`TILE`] of these.
#[inline(always)]
unsafe fn batch<S: Simd, Q: Codes, const P: usize>(
    s: S,
    panels: *const u8,
    k: usize,
    x: Tiles<'_>,
    ahead: usize,
    out: &mut [[f32; LANES]],
) {
    let mut unpacked = [const { MaybeUninit::<Unpacked>::uninit() }; P];
    let groups = k / GROUP;
    let step = if out.len() <= P * FEW_TOKENS {
        FEW_STEP_GROUPS
    } else {
        STEP_GROUPS
    };
    let mut first = 0;
    while first < groups {
        let count = step.min(groups - first);
        // SAFETY: groups `first..first + count` lie within the panels and the activations, `count` is at most
        // STEP_GROUPS, and what `tiles` reads of `unpacked` was written just before.
        unsafe {
            for g in 0..count {
                for (p, unpacked) in unpacked.iter_mut().enumerate() {
                    let panel = panels.add(p * panel_bytes::<Q>(k));
                    unpack::<S, Q>(s, panel, k, first + g, ahead, unpacked.as_mut_ptr(), g);
                }
            }
            tiles::<S, Q, P>(s, unpacked.as_ptr().cast(), first, count, x, out);
        }
        first += count;
    }
}

/// Adds the products of `count` unpacked groups of `P` panels, the first of them group `first` of the columns, with all
/// tokens to `out`.
///
/// # Safety
/// `unpacked` is `P` buffers whose groups were unpacked and lie within the activations; `out` holds equally many outputs of
/// each panel.
#[inline(always)]
unsafe fn tiles<S: Simd, Q: Codes, const P: usize>(
    s: S,
    unpacked: *const Unpacked,
    first: usize,
    count: usize,
    x: Tiles<'_>,
    out: &mut [[f32; LANES]],
) {
    let tokens = out.len() / P;
    let x_ahead = x.stride * size_of::<TileGroup>();
    for (i, t) in (0..tokens).step_by(TILE).enumerate() {
        // SAFETY: by contract.
        unsafe {
            let x = x.groups.as_ptr().add(i * x.stride + first);
            let out = Outputs {
                first: out.as_mut_ptr().add(t).cast(),
                stride: tokens * LANES,
            };
            match tokens - t {
                1 => tile::<S, Q, P, 1>(s, unpacked, count, x, x_ahead, first == 0, out),
                2 => tile::<S, Q, P, 2>(s, unpacked, count, x, x_ahead, first == 0, out),
                3 => tile::<S, Q, P, 3>(s, unpacked, count, x, x_ahead, first == 0, out),
                _ => tile::<S, Q, P, TILE>(s, unpacked, count, x, x_ahead, first == 0, out),
            }
        }
    }
}

/// Where the outputs of a tile go.
#[derive(Clone, Copy)]
struct Outputs {
    /// Those of the first panel, `[tokens][16]`.
    first: *mut f32,
    /// Values from one panel's to the next one's.
    stride: usize,
}

/// Writes group `group` of a panel of `k` columns to place `to` of the buffer.
///
/// # Safety
/// The group lies within the panel, and `to` is below [`STEP_GROUPS`].
#[inline(always)]
unsafe fn unpack<S: Simd, Q: Codes>(
    s: S,
    panel: *const u8,
    k: usize,
    group: usize,
    ahead: usize,
    unpacked: *mut Unpacked,
    to: usize,
) {
    let groups = Q::BLOCK_LEN / GROUP;
    let subs = GROUP / Q::SUB;
    let planes = Planes::of::<Q>(panel, k, group);
    if ahead > 0 {
        planes.prefetch::<S, Q>(s, ahead);
    }
    // SAFETY: the block and the group's planes lie within the panel; `to` within the buffer.
    unsafe {
        let block = panel.add(group / groups * head_bytes::<Q>());
        let codes = (&raw mut (*unpacked).codes[to]).cast::<u8>();
        for quad in 0..QUADS {
            let [mut high, low] = parts::<S, Q>(s, planes, quad);
            if low_bits::<Q>() > 0 {
                if whole::<S, Q>() {
                    high = s.b_join(high, low, low_bits::<Q>());
                } else {
                    s.b_store(codes.add(GROUP_BYTES + quad * LINE), low);
                }
            }
            s.b_store(codes.add(quad * LINE), high);
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

/// Adds the products of the first `groups` unpacked groups of `P` panels with `T` tokens to `out`, or with `fresh` stores
/// them. The tokens' groups `x_ahead` bytes further on, the next tile's, are fetched meanwhile.
///
/// # Safety
/// `unpacked` is `P` buffers whose groups were unpacked, `x` holds as many, and `out` has `T` entries for each panel.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a product's operands")]
unsafe fn tile<S: Simd, Q: Codes, const P: usize, const T: usize>(
    s: S,
    unpacked: *const Unpacked,
    groups: usize,
    x: *const TileGroup,
    x_ahead: usize,
    fresh: bool,
    out: Outputs,
) {
    let subs = GROUP / Q::SUB;
    let quads = Q::SUB / QUAD;
    let mut sum = [[s.splat(0.0); T]; P];
    // SAFETY: by contract.
    unsafe {
        let out = |p, t| out.first.add(p * out.stride + t * LANES);
        if !fresh {
            for (p, sum) in sum.iter_mut().enumerate() {
                for (t, sum) in sum.iter_mut().enumerate() {
                    *sum = s.load(out(p, t));
                }
            }
        }
        for g in 0..groups {
            let x = x.add(g);
            for line in 0..size_of::<TileGroup>().div_ceil(LINE) {
                s.prefetch(x.cast::<u8>().wrapping_add(x_ahead + line * LINE));
            }
            for sub in 0..subs {
                let ints = sub_dot::<S, Q, P, T>(s, unpacked, g, sub * quads, x);
                for p in 0..P {
                    let scale = s.load((&raw const (*unpacked.add(p)).scales[g][sub]).cast());
                    for (t, sum) in sum[p].iter_mut().enumerate() {
                        let x_scale = s.splat((*x).scales[t]);
                        *sum = s.fma(s.mul(scale, x_scale), s.i_to_f(ints[p][t]), *sum);
                    }
                    if Q::HAS_MIN {
                        let min = s.load((&raw const (*unpacked.add(p)).mins[g][sub]).cast());
                        for (t, sum) in sum[p].iter_mut().enumerate() {
                            let x_sum = if Q::SUB == GROUP {
                                (*x).scaled_sums[t]
                            } else {
                                let codes = (*x).minus_half_sums[t][sub] / -TileGroup::SUM_UNIT;
                                (*x).scales[t] * codes as f32
                            };
                            *sum = s.fma(min, s.splat(x_sum), *sum);
                        }
                    }
                }
            }
        }
        for (p, sum) in sum.iter().enumerate() {
            for (t, sum) in sum.iter().enumerate() {
                s.store(out(p, t), *sum);
            }
        }
    }
}

/// Sums of `(code - OFFSET) * x` over the quads of one scale, exact, of group `group` of the buffers.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn sub_dot<S: Simd, Q: Codes, const P: usize, const T: usize>(
    s: S,
    unpacked: *const Unpacked,
    group: usize,
    first_quad: usize,
    x: *const TileGroup,
) -> [[S::I; T]; P] {
    let quads = Q::SUB / QUAD;
    // SAFETY: by contract.
    let start: [S::I; T] = std::array::from_fn(
        #[inline(always)]
        |t| unsafe { minus_offset::<S, Q>(s, &*x, t, first_quad * QUAD / SUM_GROUP) },
    );
    let zero = [s.i_splat(0); T];
    // SAFETY: both planes lie within the group's.
    unsafe {
        if whole::<S, Q>() {
            let per_acc = S::dots_max(bits::<Q>());
            return plane_dot::<S, P, T>(
                s, unpacked, group, 0, first_quad, quads, per_acc, x, start,
            );
        }
        let per_acc = S::dots_max(4);
        let high = plane_dot::<S, P, T>(s, unpacked, group, 0, first_quad, quads, per_acc, x, zero);
        let low = plane_dot::<S, P, T>(s, unpacked, group, 1, first_quad, quads, per_acc, x, start);
        std::array::from_fn(
            #[inline(always)]
            |p| {
                std::array::from_fn(
                    #[inline(always)]
                    |t| s.i_add(s.i_shl(high[p][t], low_bits::<Q>()), low[p][t]),
                )
            },
        )
    }
}

/// What subtracting `OFFSET` from every code of a scale adds to the sums of token `t`; `half` is the number of its 16
/// columns, where a scale has so many.
#[inline(always)]
fn minus_offset<S: Simd, Q: Codes>(s: S, x: &TileGroup, t: usize, half: usize) -> S::I {
    const { assert!(Q::OFFSET == 0 || Q::OFFSET.unsigned_abs().is_power_of_two()) };
    if Q::OFFSET == 0 {
        return s.i_splat(0);
    }
    let mut minus_sum = match Q::SUB == GROUP {
        true => x.minus_sums[t],
        false => x.minus_half_sums[t][half],
    };
    if Q::OFFSET < TileGroup::SUM_UNIT {
        minus_sum /= TileGroup::SUM_UNIT / Q::OFFSET;
    }
    let shift = (Q::OFFSET / TileGroup::SUM_UNIT).max(1).trailing_zeros();
    match shift {
        0 => s.i_splat(minus_sum),
        _ => s.i_shl(s.i_splat(minus_sum), shift),
    }
}

/// `start`, and the sums of `code * x` over `quads` quads of plane `plane` of bytes of a group, `per_acc` of them in an
/// accumulator.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a product's operands")]
#[allow(clippy::needless_range_loop, reason = "constant bounds unroll")]
unsafe fn plane_dot<S: Simd, const P: usize, const T: usize>(
    s: S,
    unpacked: *const Unpacked,
    group: usize,
    plane: usize,
    first_quad: usize,
    quads: usize,
    per_acc: usize,
    x: *const TileGroup,
    start: [S::I; T],
) -> [[S::I; T]; P] {
    let per_acc = per_acc.min(quads);
    let zero = [s.i_splat(0); T];
    let mut totals = [zero; P];
    for part in 0..quads / per_acc {
        let start = if part == 0 { start } else { zero };
        let mut acc = [start.map(
            #[inline(always)]
            |start| s.dot_start(start),
        ); P];
        each_quad::<S>(
            per_acc,
            #[inline(always)]
            |i| {
                let quad = first_quad + part * per_acc + i;
                // SAFETY: by contract.
                unsafe {
                    let w: [S::B; P] = std::array::from_fn(
                        #[inline(always)]
                        |p| {
                            let codes = &raw const (*unpacked.add(p)).codes[group];
                            s.b_load(codes.cast::<u8>().add(plane * GROUP_BYTES + quad * LINE))
                        },
                    );
                    for t in 0..T {
                        let x = (&raw const (*x).codes[t]).cast::<i8>().add(quad * QUAD);
                        for p in 0..P {
                            acc[p][t] = s.pin(s.dot(acc[p][t], w[p], x));
                        }
                    }
                }
            },
        );
        for (totals, acc) in totals.iter_mut().zip(acc) {
            for ((total, acc), start) in totals.iter_mut().zip(acc).zip(start) {
                let sum = s.dot_sum(acc, start);
                *total = if part == 0 { sum } else { s.i_add(*total, sum) };
            }
        }
    }
    totals
}

/// Calls `f` with the numbers below `n`, at most eight: on vectors in straight code, since the compiler leaves long bodies
/// as loops; without, straight code would be hundreds of kilobytes for each format.
#[inline(always)]
fn each_quad<S: Simd>(n: usize, mut f: impl FnMut(usize)) {
    if const { S::REGISTERS == 0 } {
        return (0..n).for_each(f);
    }
    macro_rules! each {
        ($($i:literal)*) => { $(if $i < n { f($i); })* };
    }
    each!(0 1 2 3 4 5 6 7);
}
