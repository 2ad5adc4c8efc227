//! Products of panels of 16 weight rows with the tokens of a batch.
//!
//! Where there are many registers ([`Simd::MANY`]), they hold the sums of [`MOST_TOKENS`] tokens: codes are multiplied with all
//! of these as they are unpacked. Elsewhere a few groups of a panel at a time are unpacked, codes to a byte each and scales to
//! `f32`, into a buffer that stays in the first cache, and multiplied with all tokens, [`TILE`] at a time in registers; so the
//! unpacking is shared by the batch. Integer sums are exact and the groups are added in the order of columns, as for one token,
//! so that the result is the same in every bit.
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
/// side, like those of one token, unless registers hold all sums.
pub const FEW_TOKENS: usize = 8;

/// Tokens of one panel whose sums stay in registers, where these are many ([`Simd::MANY`]).
const MOST_TOKENS: usize = 12;

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
pub(super) const fn bits<Q: Codes>() -> u32 {
    if Q::TABLE.is_some() {
        8
    } else {
        Q::HIGH_BITS + Q::LOW_BITS
    }
}

/// Whether whole codes fit the products of `S`; else their two parts are multiplied apart.
pub(super) fn whole<S: Simd, Q: Codes>() -> bool {
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
                if const { S::MANY } {
                    for (panel, out) in panels.chunks(panel_bytes).zip(out.chunks_mut(tokens)) {
                        all_tokens::<S, Q>(s, panel.as_ptr(), k, x, reading.ahead, out);
                    }
                    return;
                }
                if tokens <= FEW_TOKENS && count > 1 && reading.side_by_side {
                    few::<S, Q>(s, panels.as_ptr(), count, k, x, reading.head_lines, out);
                    return;
                }
                for (panel, out) in panels.chunks(panel_bytes).zip(out.chunks_mut(tokens)) {
                    batch::<S, Q>(s, panel.as_ptr(), k, x, reading.ahead, out);
                }
            }
        },
    );
}

/// The products of one panel with all tokens, as many at a time as there are registers for their sums.
///
/// # Safety
/// As [`batch`], for one panel.
#[inline(always)]
unsafe fn all_tokens<S: Simd, Q: Codes>(
    s: S,
    panel: *const u8,
    k: usize,
    mut x: Tiles<'_>,
    mut ahead: usize,
    mut out: &mut [[f32; LANES]],
) {
    while !out.is_empty() {
        let at_once = match out.len() {
            MOST_TOKENS.. => MOST_TOKENS,
            n => n.next_multiple_of(TILE),
        };
        let (these, rest) = out.split_at_mut(at_once.min(out.len()));
        // SAFETY: by contract; tiles are whole.
        unsafe {
            match at_once {
                4 => direct::<S, Q, 4>(s, panel, k, x, ahead, these),
                8 => direct::<S, Q, 8>(s, panel, k, x, ahead, these),
                _ => direct::<S, Q, MOST_TOKENS>(s, panel, k, x, ahead, these),
            }
        }
        let next = (at_once / TILE * x.stride).min(x.groups.len());
        // The panel is in the cache now.
        (x.groups, out, ahead) = (&x.groups[next..], rest, 0);
    }
}

/// The products of one panel with up to `T` tokens, whose sums stay in registers; codes are multiplied as they are unpacked.
///
/// # Safety
/// As [`batch`], for one panel; what is missing to `T` tokens is in the tiles, and of no account.
#[inline(always)]
unsafe fn direct<S: Simd, Q: Codes, const T: usize>(
    s: S,
    panel: *const u8,
    k: usize,
    x: Tiles<'_>,
    ahead: usize,
    out: &mut [[f32; LANES]],
) {
    let (groups, subs, quads) = (Q::BLOCK_LEN / GROUP, GROUP / Q::SUB, Q::SUB / QUAD);
    debug_assert!(
        S::dots_max(bits::<Q>()) >= quads,
        "a sum holds the products of a scale"
    );
    let mut sum = [s.splat(0.0); T];
    // Tokens that come next are fetched meanwhile.
    let x_ahead = T / TILE * x.stride * size_of::<TileGroup>();
    for group in 0..k / GROUP {
        let planes = Planes::of::<Q>(panel, k, group);
        if ahead > 0 {
            planes.prefetch::<S, Q>(s, ahead);
        }
        // SAFETY: the group lies within the panel, and within both tiles of the activations.
        unsafe {
            let x: [&TileGroup; MOST_TOKENS / TILE] = std::array::from_fn(
                #[inline(always)]
                |tile| {
                    &*x.groups
                        .as_ptr()
                        .add(tile.min(T / TILE - 1) * x.stride + group)
                },
            );
            for tile in &x[..T / TILE] {
                fetch_group(s, tile, x_ahead);
            }
            let block = panel.add(group / groups * head_bytes::<Q>());
            let common = Q::common(s, block);
            for sub in 0..subs {
                let start: [S::I; T] = std::array::from_fn(
                    #[inline(always)]
                    |t| minus_offset::<S, Q>(s, x[t / TILE], t % TILE, sub),
                );
                let mut acc = start.map(
                    #[inline(always)]
                    |start| s.dot_start(start),
                );
                each_quad::<S>(
                    quads,
                    #[inline(always)]
                    |i| {
                        let quad = sub * quads + i;
                        let [mut w, low] = parts::<S, Q>(s, planes, quad);
                        if low_bits::<Q>() > 0 {
                            w = s.b_join(w, low, low_bits::<Q>());
                        }
                        for (t, acc) in acc.iter_mut().enumerate() {
                            let codes = &x[t / TILE].codes[t % TILE];
                            *acc = s.pin(s.dot(*acc, w, codes.as_ptr().add(quad * QUAD)));
                        }
                    },
                );
                let ints: [S::I; T] = std::array::from_fn(
                    #[inline(always)]
                    |t| s.dot_sum(acc[t], start[t]),
                );
                let (scale, min) = Q::scales(s, common, block, group % groups * subs + sub);
                add_scaled::<S, Q, T>(s, [scale, min], sub, ints, &x, &mut sum);
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sum) {
        *out = s.to_array(sum);
    }
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
    for group in 0..k / GROUP {
        for (p, out) in out.chunks_mut(tokens).enumerate() {
            let panel = panels.wrapping_add(p * panel_bytes::<Q>(k));
            if group < head_lines {
                s.prefetch(panel.wrapping_add(count * panel_bytes::<Q>(k) + group * LINE));
            }
            // SAFETY: the group lies within the panel and the activations, and `tiles` reads what was just written.
            unsafe {
                unpack::<S, Q>(s, panel, k, group, 0, unpacked.as_mut_ptr(), 0);
                tiles::<S, Q>(s, unpacked.as_ptr(), group, 1, x, out);
            }
        }
    }
}

/// # Safety
/// `panel` holds `k` columns of 16 rows of `Q`, and `x` `k / 32` groups for each [`TILE`] of `out`.
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
                unpack::<S, Q>(s, panel, k, first + g, ahead, unpacked.as_mut_ptr(), g);
            }
            tiles::<S, Q>(s, unpacked.as_ptr(), first, count, x, out);
        }
        first += count;
    }
}

/// Adds the products of `count` unpacked groups, the first of them group `first` of the columns, with all tokens to `out`.
///
/// # Safety
/// The groups were unpacked and lie within the activations.
#[inline(always)]
unsafe fn tiles<S: Simd, Q: Codes>(
    s: S,
    unpacked: *const Unpacked,
    first: usize,
    count: usize,
    x: Tiles<'_>,
    out: &mut [[f32; LANES]],
) {
    let x_ahead = x.stride * size_of::<TileGroup>();
    for (i, out) in out.chunks_mut(TILE).enumerate() {
        // SAFETY: by contract.
        unsafe {
            let x = x.groups.as_ptr().add(i * x.stride + first);
            match out.len() {
                1 => tile::<S, Q, 1>(s, unpacked, count, x, x_ahead, first == 0, out),
                2 => tile::<S, Q, 2>(s, unpacked, count, x, x_ahead, first == 0, out),
                3 => tile::<S, Q, 3>(s, unpacked, count, x, x_ahead, first == 0, out),
                _ => tile::<S, Q, TILE>(s, unpacked, count, x, x_ahead, first == 0, out),
            }
        }
    }
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

/// Adds the products of the first `groups` unpacked groups with `T` tokens to `out`, or with `fresh` stores them. The tokens'
/// groups `x_ahead` bytes further on, the next tile's, are fetched meanwhile.
///
/// # Safety
/// The groups were unpacked, `x` holds as many, and `out` has `T` entries.
#[inline(always)]
unsafe fn tile<S: Simd, Q: Codes, const T: usize>(
    s: S,
    unpacked: *const Unpacked,
    groups: usize,
    x: *const TileGroup,
    x_ahead: usize,
    fresh: bool,
    out: &mut [[f32; LANES]],
) {
    let subs = GROUP / Q::SUB;
    let mut sum = [s.splat(0.0); T];
    // SAFETY: by contract.
    unsafe {
        if !fresh {
            for (sum, out) in sum.iter_mut().zip(&*out) {
                *sum = s.load(out.as_ptr());
            }
        }
        for g in 0..groups {
            let x = &*x.add(g);
            fetch_group(s, x, x_ahead);
            for sub in 0..subs {
                let ints = sub_dot::<S, Q, T>(s, unpacked, g, sub, x);
                let scale = s.load((&raw const (*unpacked).scales[g][sub]).cast());
                let min = match Q::HAS_MIN {
                    true => s.load((&raw const (*unpacked).mins[g][sub]).cast()),
                    false => s.splat(0.0),
                };
                add_scaled::<S, Q, T>(s, [scale, min], sub, ints, &[x], &mut sum);
            }
        }
        for (out, sum) in out.iter_mut().zip(sum) {
            s.store(out.as_mut_ptr(), sum);
        }
    }
}

/// Hints that the group `ahead` bytes behind `x` will be read.
#[inline(always)]
fn fetch_group<S: Simd>(s: S, x: &TileGroup, ahead: usize) {
    let x = (&raw const *x).cast::<u8>();
    for line in 0..size_of::<TileGroup>().div_ceil(LINE) {
        s.prefetch(x.wrapping_add(ahead + line * LINE));
    }
}

/// Adds the integer sums of scale `sub` of a group and, where the format has them, the additive terms to those of `T` tokens.
#[inline(always)]
fn add_scaled<S: Simd, Q: Codes, const T: usize>(
    s: S,
    [scale, min]: [S::F; 2],
    sub: usize,
    ints: [S::I; T],
    x: &[&TileGroup],
    sum: &mut [S::F; T],
) {
    for (t, sum) in sum.iter_mut().enumerate() {
        let (tile, at) = (x[t / TILE], t % TILE);
        let scaled = s.mul(scale, s.splat(tile.scales[at]));
        *sum = s.fma(scaled, s.i_to_f(ints[t]), *sum);
    }
    if Q::HAS_MIN {
        for (t, sum) in sum.iter_mut().enumerate() {
            let (tile, at) = (x[t / TILE], t % TILE);
            let x_sum = if Q::SUB == GROUP {
                tile.scaled_sums[at]
            } else {
                let codes = tile.minus_half_sums[at][sub] / -TileGroup::SUM_UNIT;
                tile.scales[at] * codes as f32
            };
            *sum = s.fma(min, s.splat(x_sum), *sum);
        }
    }
}

/// Sums of `(code - OFFSET) * x` over the quads of scale `sub`, exact, of group `group` of the buffer.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn sub_dot<S: Simd, Q: Codes, const T: usize>(
    s: S,
    unpacked: *const Unpacked,
    group: usize,
    sub: usize,
    x: &TileGroup,
) -> [S::I; T] {
    let start: [S::I; T] = std::array::from_fn(
        #[inline(always)]
        |t| minus_offset::<S, Q>(s, x, t, sub),
    );
    let zero = [s.i_splat(0); T];
    let plane = |i: usize| Plane {
        // SAFETY: by contract.
        codes: unsafe { (&raw const (*unpacked).codes[group]).cast::<u8>() }
            .wrapping_add(i * GROUP_BYTES),
        first_quad: sub * (Q::SUB / QUAD),
        quads: Q::SUB / QUAD,
    };
    // SAFETY: both planes lie within the group's.
    unsafe {
        if whole::<S, Q>() {
            return plane_dot::<S, T>(s, plane(0), S::dots_max(bits::<Q>()), x, start);
        }
        let high = plane_dot::<S, T>(s, plane(0), S::dots_max(4), x, zero);
        let low = plane_dot::<S, T>(s, plane(1), S::dots_max(4), x, start);
        std::array::from_fn(
            #[inline(always)]
            |t| s.i_add(s.i_shl(high[t], low_bits::<Q>()), low[t]),
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

/// Quads of a group in a plane of bytes.
#[derive(Clone, Copy)]
struct Plane {
    codes: *const u8,
    first_quad: usize,
    quads: usize,
}

/// `start`, and the sums of `code * x` over the quads of a plane, `per_acc` of them in an accumulator.
///
/// # Safety
/// The plane was unpacked.
#[inline(always)]
unsafe fn plane_dot<S: Simd, const T: usize>(
    s: S,
    plane: Plane,
    per_acc: usize,
    x: &TileGroup,
    start: [S::I; T],
) -> [S::I; T] {
    let per_acc = per_acc.min(plane.quads);
    let zero = [s.i_splat(0); T];
    let mut totals = zero;
    for part in 0..plane.quads / per_acc {
        let start = if part == 0 { start } else { zero };
        let mut acc = start.map(
            #[inline(always)]
            |start| s.dot_start(start),
        );
        each_quad::<S>(
            per_acc,
            #[inline(always)]
            |i| {
                let quad = plane.first_quad + part * per_acc + i;
                // SAFETY: by contract.
                unsafe {
                    let w = s.b_load(plane.codes.add(quad * LINE));
                    for (acc, codes) in acc.iter_mut().zip(&x.codes) {
                        *acc = s.pin(s.dot(*acc, w, codes.as_ptr().add(quad * QUAD)));
                    }
                }
            },
        );
        for ((total, acc), start) in totals.iter_mut().zip(acc).zip(start) {
            let sum = s.dot_sum(acc, start);
            *total = if part == 0 { sum } else { s.i_add(*total, sum) };
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
