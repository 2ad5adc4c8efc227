//! Tiles of a product: unpacked groups of a few panels times [`TILE`] tokens, whose sums stay in registers.
#![allow(unsafe_code)]

use super::dot::{LINE, QUAD};
use super::{SUM_GROUP, TILE_TOKENS as TILE, TileGroup};
use crate::quant::{Codes, GROUP, Planes, head_bytes, low_bits, parts};
use crate::simd::{LANES, Simd};

/// Groups that are unpacked at a time for a large batch: 4 KB of codes a panel.
pub(super) const STEP_GROUPS: usize = 8;

/// Quads of a group.
const QUADS: usize = GROUP / QUAD;

/// Bytes of a group's codes, one a byte.
const GROUP_BYTES: usize = LANES * GROUP;

/// Unpacked groups of `P` panels: `codes` as planes of bytes, `[panel][group][plane][quad][64]`, and `scales` and `mins`,
/// `[panel][group][sub]`. Those of a format with fewer planes or scales lie close together.
#[repr(C, align(64))]
pub(super) struct Unpacked<const P: usize> {
    codes: [[[u8; 2 * GROUP_BYTES]; STEP_GROUPS]; P],
    scales: [[[[f32; LANES]; GROUP / SUM_GROUP]; STEP_GROUPS]; P],
    mins: [[[[f32; LANES]; GROUP / SUM_GROUP]; STEP_GROUPS]; P],
}

impl<const P: usize> Unpacked<P> {
    /// The planes of group `group` of panel `p`.
    ///
    /// # Safety
    /// `of` may be written or read, `p` is below `P` and `group` below [`STEP_GROUPS`]; the same below.
    #[inline(always)]
    unsafe fn codes<S: Simd, Q: Codes>(of: *mut Self, p: usize, group: usize) -> *mut u8 {
        let planes = if whole::<S, Q>() { 1 } else { 2 };
        // SAFETY: by contract; there are at most two planes.
        unsafe {
            let codes = (&raw mut (*of).codes).cast::<u8>();
            codes.add((p * STEP_GROUPS + group) * planes * GROUP_BYTES)
        }
    }

    /// Scales and additive terms `sub` of a group.
    ///
    /// # Safety
    /// As above, and the group has so many.
    #[inline(always)]
    unsafe fn scales<Q: Codes>(of: *mut Self, p: usize, group: usize, sub: usize) -> [*mut f32; 2] {
        let at = ((p * STEP_GROUPS + group) * (GROUP / Q::SUB) + sub) * LANES;
        // SAFETY: by contract.
        unsafe {
            [
                (&raw mut (*of).scales).cast::<f32>().add(at),
                (&raw mut (*of).mins).cast::<f32>().add(at),
            ]
        }
    }
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

/// Writes group `group` of a panel of `k` columns to place `[panel, group]` of the buffer.
///
/// # Safety
/// The group lies within the panel, and the place within the buffer.
#[inline(always)]
pub(super) unsafe fn unpack<S: Simd, Q: Codes, const P: usize>(
    s: S,
    panel: *const u8,
    k: usize,
    group: usize,
    ahead: usize,
    unpacked: *mut Unpacked<P>,
    [to_panel, to_group]: [usize; 2],
) {
    let groups = Q::BLOCK_LEN / GROUP;
    let subs = GROUP / Q::SUB;
    let planes = Planes::of::<Q>(panel, k, group);
    if ahead > 0 {
        planes.prefetch::<S, Q>(s, ahead);
    }
    // SAFETY: the block and the group's planes lie within the panel; the place within the buffer.
    unsafe {
        let block = panel.add(group / groups * head_bytes::<Q>());
        let codes = Unpacked::codes::<S, Q>(unpacked, to_panel, to_group);
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
            let [scales, mins] = Unpacked::scales::<Q>(unpacked, to_panel, to_group, sub);
            s.store(scales, scale);
            if Q::HAS_MIN {
                s.store(mins, min);
            }
        }
    }
}

/// Which products a tile is for.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Groups of columns.
    pub(super) groups: usize,
    /// Whether they are the first ones.
    pub(super) fresh: bool,
    /// First token.
    pub(super) token: usize,
    /// All of the batch.
    pub(super) tokens: usize,
}

/// Adds the products of the first unpacked groups of `P` panels with `T` tokens to `out`, or with `fresh` stores them. The
/// tokens' groups `x_ahead` bytes further on, the next tile's, are fetched meanwhile.
///
/// # Safety
/// The groups were unpacked, `x` holds as many, and `out` has the outputs of `step.tokens` for each panel, of which `T` come
/// from `step.token` on, or for several panels at least one.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "one index for the sums and for where they lie"
)]
pub(super) unsafe fn tile<S: Simd, Q: Codes, const P: usize, const T: usize>(
    s: S,
    unpacked: *mut Unpacked<P>,
    step: Step,
    x: *const TileGroup,
    x_ahead: usize,
    out: &mut [[f32; LANES]],
) {
    let subs = GROUP / Q::SUB;
    // Where no code is made for less than a tile, what is missing to the last one is left out here.
    let there = if P == 1 { T } else { step.tokens - step.token };
    let mut sum = [[s.splat(0.0); T]; P];
    // SAFETY: by contract.
    unsafe {
        let out = out.as_mut_ptr().add(step.token);
        if !step.fresh {
            for p in 0..P {
                for t in 0..T {
                    if t < there {
                        sum[p][t] = s.load(out.add(p * step.tokens + t).cast());
                    }
                }
            }
        }
        for g in 0..step.groups {
            let x = &*x.add(g);
            fetch_group(s, x, x_ahead);
            for sub in 0..subs {
                let ints = sub_dot::<S, Q, P, T>(s, unpacked, g, sub, x);
                let scales = std::array::from_fn(
                    #[inline(always)]
                    |p| {
                        let [scale, min] = Unpacked::scales::<Q>(unpacked, p, g, sub);
                        match Q::HAS_MIN {
                            true => [s.load(scale), s.load(min)],
                            false => [s.load(scale), s.splat(0.0)],
                        }
                    },
                );
                add_scaled::<S, Q, P, T>(s, scales, sub, ints, &[x], &mut sum);
            }
        }
        for p in 0..P {
            for t in 0..T {
                if t < there {
                    s.store(out.add(p * step.tokens + t).cast(), sum[p][t]);
                }
            }
        }
    }
}

/// Hints that the group `ahead` bytes behind `x` will be read.
#[inline(always)]
pub(super) fn fetch_group<S: Simd>(s: S, x: &TileGroup, ahead: usize) {
    let x = (&raw const *x).cast::<u8>();
    for line in 0..size_of::<TileGroup>().div_ceil(LINE) {
        s.prefetch(x.wrapping_add(ahead + line * LINE));
    }
}

/// Adds the integer sums of scale `sub` of a group and, where the format has them, the additive terms to those of `T` tokens,
/// of each of `P` panels. What is read of a token is used for all panels at once, so that it needs one register.
#[inline(always)]
pub(super) fn add_scaled<S: Simd, Q: Codes, const P: usize, const T: usize>(
    s: S,
    scales: [[S::F; 2]; P],
    sub: usize,
    ints: [[S::I; T]; P],
    x: &[&TileGroup],
    sum: &mut [[S::F; T]; P],
) {
    for t in 0..T {
        let (tile, at) = (x[t / TILE], t % TILE);
        let x_scale = s.splat(tile.scales[at]);
        for p in 0..P {
            let scaled = s.mul(scales[p][0], x_scale);
            sum[p][t] = s.fma(scaled, s.i_to_f(ints[p][t]), sum[p][t]);
        }
    }
    if Q::HAS_MIN {
        for t in 0..T {
            let (tile, at) = (x[t / TILE], t % TILE);
            let x_sum = if Q::SUB == GROUP {
                tile.scaled_sums[at]
            } else {
                let codes = tile.minus_half_sums[at][sub] / -TileGroup::SUM_UNIT;
                tile.scales[at] * codes as f32
            };
            let x_sum = s.splat(x_sum);
            for p in 0..P {
                sum[p][t] = s.fma(scales[p][1], x_sum, sum[p][t]);
            }
        }
    }
}

/// Sums of `(code - OFFSET) * x` over the quads of scale `sub`, exact, of group `group` of the buffer.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn sub_dot<S: Simd, Q: Codes, const P: usize, const T: usize>(
    s: S,
    unpacked: *mut Unpacked<P>,
    group: usize,
    sub: usize,
    x: &TileGroup,
) -> [[S::I; T]; P] {
    let start: [S::I; T] = std::array::from_fn(
        #[inline(always)]
        |t| minus_offset::<S, Q>(s, x, t, sub),
    );
    let zero = [s.i_splat(0); T];
    let plane = |i: usize| Plane::<P> {
        codes: std::array::from_fn(
            #[inline(always)]
            // SAFETY: by contract.
            |p| unsafe { Unpacked::codes::<S, Q>(unpacked, p, group).add(i * GROUP_BYTES) },
        ),
        first_quad: sub * (Q::SUB / QUAD),
        quads: Q::SUB / QUAD,
    };
    // SAFETY: both planes lie within the group's.
    unsafe {
        if whole::<S, Q>() {
            return plane_dot::<S, P, T>(s, plane(0), S::dots_max(bits::<Q>()), x, start);
        }
        let high = plane_dot::<S, P, T>(s, plane(0), S::dots_max(4), x, zero);
        let low = plane_dot::<S, P, T>(s, plane(1), S::dots_max(4), x, start);
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
pub(super) fn minus_offset<S: Simd, Q: Codes>(s: S, x: &TileGroup, t: usize, half: usize) -> S::I {
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

/// Quads of a group in a plane of bytes of each of `P` panels.
#[derive(Clone, Copy)]
struct Plane<const P: usize> {
    codes: [*mut u8; P],
    first_quad: usize,
    quads: usize,
}

/// `start`, and the sums of `code * x` over the quads of a plane, `per_acc` of them in an accumulator.
///
/// # Safety
/// The plane was unpacked.
#[inline(always)]
unsafe fn plane_dot<S: Simd, const P: usize, const T: usize>(
    s: S,
    plane: Plane<P>,
    per_acc: usize,
    x: &TileGroup,
    start: [S::I; T],
) -> [[S::I; T]; P] {
    let per_acc = per_acc.min(plane.quads);
    let zero = [s.i_splat(0); T];
    let mut totals = [zero; P];
    for part in 0..plane.quads / per_acc {
        let start = if part == 0 { start } else { zero };
        let acc = start.map(
            #[inline(always)]
            |start| s.dot_start(start),
        );
        let mut acc = [acc; P];
        each_quad::<S>(
            per_acc,
            #[inline(always)]
            |i| {
                let quad = plane.first_quad + part * per_acc + i;
                let w = plane.codes.map(
                    #[inline(always)]
                    // SAFETY: by contract.
                    |codes| unsafe { s.b_load(codes.add(quad * LINE)) },
                );
                for (t, codes) in x.codes[..T].iter().enumerate() {
                    for (acc, w) in acc.iter_mut().zip(w) {
                        // SAFETY: a group has 8 quads.
                        acc[t] =
                            unsafe { s.pin(s.dot(acc[t], w, codes.as_ptr().add(quad * QUAD))) };
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
pub(super) fn each_quad<S: Simd>(n: usize, mut f: impl FnMut(usize)) {
    if const { S::REGISTERS == 0 } {
        return (0..n).for_each(f);
    }
    macro_rules! each {
        ($($i:literal)*) => { $(if $i < n { f($i); })* };
    }
    each!(0 1 2 3 4 5 6 7);
}
