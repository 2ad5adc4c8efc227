//! Products that read only some channels of a matrix: inputs, each with all its outputs, or outputs, each with all its inputs.
//!
//! What a channel is multiplied with lies in strips of 16 blocks of 32 weights, packed as the 16 rows of a panel are: a lane of
//! a vector is a block, and a quad of codes four of its positions. Values go with them in the same order,
//! `[strips][32 positions][16 blocks]`: see [`Kernels::arrange`](super::Kernels::arrange). Activations are not rounded here.
#![allow(unsafe_code)]

use super::dot::{LINE, QUAD};
use super::{Reading, panel_bytes};
use crate::quant::{Codes, GROUP, Planes, low_bits, parts, plane_bytes};
use crate::simd::{LANES, Simd};

/// Weights in a strip.
pub const STRIP: usize = LANES * GROUP;

/// Strips of a channel that one call of [`Kernels::add_channels`](super::Kernels::add_channels) takes at most.
pub const STRIPS_MAX: usize = 4;

/// Channels whose products are added to a sum between loading and storing it.
const TOGETHER: usize = 4;

/// Rows that share the loads of what they are multiplied with.
const ROWS: usize = 2;

/// Sums of a row that are added up apart, for the latency of the additions.
const CHAINS: usize = 4;

/// Positions that come of two quads of codes.
const PAIR: usize = 2 * QUAD;

/// A channel that takes part in a product, and its value.
#[derive(Debug, Clone, Copy, Default)]
pub struct Active {
    /// Its number.
    pub channel: u32,
    /// What it is multiplied with.
    pub value: f32,
}

/// Channels in strips.
#[derive(Debug, Clone, Copy)]
pub struct Strips<'a> {
    /// All of them, channel after channel.
    pub bytes: &'a [u8],
    /// Strips of a channel.
    pub per_channel: usize,
}

/// Values of the codes of four bits alone, in units of the scale.
#[inline(always)]
fn table<S: Simd, Q: Codes>(s: S) -> S::F {
    let value = |code: usize| match Q::TABLE {
        Some(table) => i32::from(table[code]) - Q::OFFSET,
        None => code as i32 - Q::OFFSET,
    };
    let values: [f32; LANES] = std::array::from_fn(
        #[inline(always)]
        |code| value(code) as f32,
    );
    // SAFETY: an array of 16.
    unsafe { s.load(values.as_ptr()) }
}

/// The weights of quads `2 pair` and `2 pair + 1` of a strip, in units of its scales, in the order of positions.
///
/// # Safety
/// The strip is readable, and `pair < 4`.
#[inline(always)]
unsafe fn values<S: Simd, Q: Codes>(
    s: S,
    table: S::F,
    strip: *const u8,
    pair: usize,
) -> [S::F; PAIR] {
    let planes = Planes::of::<Q>(strip, GROUP, 0);
    if Q::HIGH_BITS == 4 && Q::LOW_BITS == 0 {
        // SAFETY: a plane of four bits has a vector for every two quads.
        let codes = s.b_as_i(unsafe { s.b_load(planes.high.add(pair * 4 * LANES)) });
        return std::array::from_fn(
            #[inline(always)]
            |n| {
                let bit = 8 * (n % QUAD) + 4 * (n / QUAD);
                s.f_lookup(table, s.i_shr(codes, bit as u32))
            },
        );
    }
    let quads: [S::I; 2] = std::array::from_fn(
        #[inline(always)]
        |i| {
            // SAFETY: a group has 8 quads.
            let [high, low] = unsafe { parts::<S, Q>(s, planes, 2 * pair + i) };
            s.b_as_i(s.b_join(high, low, low_bits::<Q>()))
        },
    );
    std::array::from_fn(
        #[inline(always)]
        |n| {
            let byte = s.i_shr(quads[n / QUAD], 8 * (n % QUAD) as u32);
            s.i_to_f(s.i_sub(s.i_and(byte, s.i_splat(255)), s.i_splat(Q::OFFSET)))
        },
    )
}

/// Asserts that blocks have 32 weights and one scale, and that the strips hold all of `channels`.
fn check<Q: Codes>(strips: Strips<'_>, channels: impl Iterator<Item = u32>) {
    assert!(
        Q::BLOCK_LEN == GROUP && Q::SUB == GROUP && strips.per_channel > 0,
        "strips have blocks of {GROUP} with one scale"
    );
    let channel_bytes = strips.per_channel * panel_bytes::<Q>(GROUP);
    let held = strips.bytes.len() / channel_bytes;
    let last = channels.max().map_or(0, |c| c as usize + 1);
    assert!(last <= held, "channel {last} of {held}");
}

/// See [`super::Kernels::add_channels`].
pub(super) fn add<S: Simd, Q: Codes>(
    s: S,
    strips: Strips<'_>,
    active: &[Active],
    reading: Reading,
    out: &mut [f32],
) {
    let per = strips.per_channel;
    check::<Q>(strips, active.iter().map(|a| a.channel));
    assert!(
        per <= STRIPS_MAX && out.len() == per * STRIP,
        "sums of all strips of a channel"
    );
    s.vectorize(
        #[inline(always)]
        || {
            out.fill(0.0);
            let mut mins = [s.splat(0.0); STRIPS_MAX];
            let bytes = per * panel_bytes::<Q>(GROUP);
            let ahead = reading.ahead.div_ceil(bytes);
            let at = |a: &Active| {
                strips
                    .bytes
                    .as_ptr()
                    .wrapping_add(a.channel as usize * bytes)
            };
            let (together, rest) = active.as_chunks::<TOGETHER>();
            for (i, these) in together.iter().enumerate() {
                if ahead > 0 {
                    let from = active.len().min((i + 1) * TOGETHER + ahead);
                    let to = active.len().min(from + TOGETHER);
                    for a in &active[from..to] {
                        fetch(s, at(a), bytes);
                    }
                }
                // SAFETY: the shapes and channels were checked above.
                unsafe {
                    add_to::<S, Q, TOGETHER>(s, these, these.each_ref().map(at), &mut mins, out)
                }
            }
            for one in rest.as_chunks::<1>().0 {
                // SAFETY: as above.
                unsafe { add_to::<S, Q, 1>(s, one, one.each_ref().map(at), &mut mins, out) }
            }
            if Q::HAS_MIN {
                for (lanes, min) in out.chunks_exact_mut(STRIP).zip(mins) {
                    for o in lanes.as_chunks_mut::<LANES>().0 {
                        // SAFETY: an array of 16.
                        unsafe { s.store(o.as_mut_ptr(), s.add(s.load(o.as_ptr()), min)) };
                    }
                }
            }
        },
    );
}

/// Asks for the cache lines of `len` bytes.
#[inline(always)]
fn fetch<S: Simd>(s: S, p: *const u8, len: usize) {
    for line in 0..=len / LINE {
        s.prefetch(p.wrapping_add(line * LINE));
    }
}

/// Adds the strips of `N` channels, which begin at `from`, times their values to the sums in `out`; additive terms to `mins`.
///
/// # Safety
/// From each of `from` on there are as many strips as `out` has sums for, at most [`STRIPS_MAX`].
#[inline(always)]
unsafe fn add_to<S: Simd, Q: Codes, const N: usize>(
    s: S,
    active: &[Active; N],
    from: [*const u8; N],
    mins: &mut [S::F; STRIPS_MAX],
    out: &mut [f32],
) {
    let table = table::<S, Q>(s);
    for (u, sums) in out.chunks_exact_mut(STRIP).enumerate() {
        let strip = |j: usize| from[j].wrapping_add(u * panel_bytes::<Q>(GROUP));
        let mut scales = [s.splat(0.0); N];
        for (j, scaled) in scales.iter_mut().enumerate() {
            // SAFETY: strip `u` is there by contract.
            let (scale, min) = unsafe { Q::scales(s, Q::common(s, strip(j)), strip(j), 0) };
            let value = s.splat(active[j].value);
            *scaled = s.mul(scale, value);
            if Q::HAS_MIN {
                mins[u] = s.fma(min, value, mins[u]);
            }
        }
        for (pair, sums) in sums.chunks_exact_mut(PAIR * LANES).enumerate() {
            let sums = sums.as_mut_ptr();
            // SAFETY: eight vectors of sums; a strip has its scales, then its planes.
            unsafe {
                let mut acc: [S::F; PAIR] = std::array::from_fn(
                    #[inline(always)]
                    |n| s.load(sums.add(n * LANES)),
                );
                for (j, scale) in scales.iter().enumerate() {
                    let weights = values::<S, Q>(s, table, strip(j), pair);
                    for n in 0..PAIR {
                        acc[n] = s.fma(weights[n], *scale, acc[n]);
                    }
                }
                for (n, acc) in acc.iter().enumerate() {
                    s.store(sums.add(n * LANES), *acc);
                }
            }
        }
    }
}

/// See [`super::Kernels::dot_channels`].
pub(super) fn dot<S: Simd, Q: Codes>(
    s: S,
    strips: Strips<'_>,
    active: &[Active],
    x: &[f32],
    reading: Reading,
    out: &mut [f32],
) {
    check::<Q>(strips, active.iter().map(|a| a.channel));
    assert!(
        x.len() == strips.per_channel * STRIP && out.len() == active.len(),
        "a value for every weight and an output for every channel"
    );
    s.vectorize(
        #[inline(always)]
        || {
            let bytes = strips.per_channel * panel_bytes::<Q>(GROUP);
            let at = |a: &Active| {
                strips
                    .bytes
                    .as_ptr()
                    .wrapping_add(a.channel as usize * bytes)
            };
            let (together, rest) = active.as_chunks::<ROWS>();
            let (outputs, last) = out.as_chunks_mut::<ROWS>();
            for (i, (these, out)) in together.iter().zip(outputs).enumerate() {
                let next = active.get((i + 1) * ROWS..).unwrap_or(&[]);
                let next = std::array::from_fn(|r| next.get(r).map(at));
                // SAFETY: the shapes and channels were checked above.
                *out =
                    unsafe { dot_of::<S, Q, ROWS>(s, these.each_ref().map(at), next, reading, x) };
            }
            for (one, out) in rest
                .as_chunks::<1>()
                .0
                .iter()
                .zip(last.as_chunks_mut::<1>().0)
            {
                // SAFETY: as above.
                *out = unsafe { dot_of::<S, Q, 1>(s, one.each_ref().map(at), [None], reading, x) };
            }
        },
    );
}

/// Products of `N` channels, which begin at `from`, with `x`; where there are others `next`, and where fetching ahead is
/// wanted, each strip asks for the same one of theirs.
///
/// # Safety
/// From each of `from` on there are as many strips as `x` has values for.
#[inline(always)]
unsafe fn dot_of<S: Simd, Q: Codes, const N: usize>(
    s: S,
    from: [*const u8; N],
    next: [Option<*const u8>; N],
    reading: Reading,
    x: &[f32],
) -> [f32; N] {
    let table = table::<S, Q>(s);
    let strip_bytes = panel_bytes::<Q>(GROUP);
    let mut totals = [s.splat(0.0); N];
    for (u, x) in x.chunks_exact(STRIP).enumerate() {
        let strip = |j: usize| from[j].wrapping_add(u * strip_bytes);
        let mut sums = [[s.splat(0.0); CHAINS]; N];
        let mut x_sum = s.splat(0.0);
        if reading.ahead > 0 {
            for next in next.into_iter().flatten() {
                fetch(s, next.wrapping_add(u * strip_bytes), strip_bytes);
            }
        }
        for (pair, x) in x.chunks_exact(PAIR * LANES).enumerate() {
            // SAFETY: eight vectors of values; strip `u` is there by contract, scales first.
            unsafe {
                let x: [S::F; PAIR] = std::array::from_fn(
                    #[inline(always)]
                    |n| s.load(x.as_ptr().add(n * LANES)),
                );
                for (j, sums) in sums.iter_mut().enumerate() {
                    let weights = values::<S, Q>(s, table, strip(j), pair);
                    for n in 0..PAIR {
                        sums[n % CHAINS] = s.fma(weights[n], x[n], sums[n % CHAINS]);
                    }
                }
                if Q::HAS_MIN {
                    for x in x {
                        x_sum = s.add(x_sum, x);
                    }
                }
            }
        }
        for (j, [a, b, c, d]) in sums.into_iter().enumerate() {
            // SAFETY: strip `u` is there by contract.
            let (scale, min) = unsafe { Q::scales(s, Q::common(s, strip(j)), strip(j), 0) };
            let sum = s.add(s.add(a, b), s.add(c, d));
            totals[j] = s.fma(scale, sum, totals[j]);
            if Q::HAS_MIN {
                totals[j] = s.fma(min, x_sum, totals[j]);
            }
        }
    }
    totals.map(
        #[inline(always)]
        |total| s.sum(total),
    )
}

/// See [`super::Kernels::arrange`].
#[inline(always)]
pub(super) fn arrange(x: &[f32], out: &mut [f32]) {
    for (u, out) in out.chunks_exact_mut(STRIP).enumerate() {
        let x = x.get(u * STRIP..).unwrap_or(&[]);
        for (p, lanes) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            for (block, value) in lanes.iter_mut().enumerate() {
                *value = x.get(block * GROUP + p).copied().unwrap_or(0.0);
            }
        }
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
    for (p, lanes) in sums.as_chunks::<LANES>().0.iter().enumerate() {
        for (block, value) in lanes.iter().enumerate() {
            out[block * GROUP + p] = *value;
        }
    }
}

const _: () = assert!(
    plane_bytes(4) == 4 * 4 * LANES,
    "a vector for two quads of four bits"
);
