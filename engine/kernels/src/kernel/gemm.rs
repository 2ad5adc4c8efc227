//! Products of panels of 16 weight rows with the tokens of a batch.
//!
//! A few groups of a panel at a time are unpacked, codes to a byte each and scales to `f32`, into a buffer that stays in the
//! first cache, and multiplied with all tokens, [`TILE`] at a time in registers; so the unpacking is shared by the batch. Where
//! there are many registers ([`Simd::MANY`]), this is done with [`PANELS`] panels at a time, since what is read of a token then
//! serves them all; and up to [`MOST_TOKENS`] tokens, or those of a panel that is left over, are multiplied as the codes are
//! unpacked. Integer sums are exact and the groups are added in the order of columns, as for one token, so that the result is
//! the same in every bit.
#![allow(unsafe_code)]

use super::dot::{LINE, QUAD};
use super::tile::{
    STEP_GROUPS, Step, Unpacked, add_scaled, bits, each_quad, fetch_group, minus_offset, tile,
    unpack,
};
use super::{Reading, TILE_TOKENS as TILE, TileGroup, Tiles, check_columns, panel_bytes};
use crate::quant::{Codes, GROUP, Planes, head_bytes, low_bits, parts};
use crate::simd::{LANES, Simd};
use std::mem::MaybeUninit;

/// Groups that are unpacked at a time for at most [`FEW_TOKENS`], so that the memory is read without pauses.
const FEW_STEP_GROUPS: usize = 2;

/// Tokens of a batch whose products take little more time than the weights take to arrive: their panels are read side by
/// side, like those of one token, unless registers hold all sums.
pub const FEW_TOKENS: usize = 8;

/// Tokens of one panel whose sums stay in registers, where these are many ([`Simd::MANY`]).
const MOST_TOKENS: usize = 12;

/// Panels that more tokens are multiplied with at a time, where registers are many: the sums of [`TILE`] tokens of each and
/// their products take 24 of 32. With fewer panels the loads take as long as the products.
pub const PANELS: usize = 3;

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
                    let at_once = if tokens > MOST_TOKENS { PANELS } else { 1 };
                    for (panels, out) in panels
                        .chunks(at_once * panel_bytes)
                        .zip(out.chunks_mut(at_once * tokens))
                    {
                        if out.len() == PANELS * tokens {
                            batch::<S, Q, PANELS>(s, panels.as_ptr(), k, x, reading.ahead, out);
                            continue;
                        }
                        for (panel, out) in panels.chunks(panel_bytes).zip(out.chunks_mut(tokens)) {
                            all_tokens::<S, Q>(s, panel.as_ptr(), k, x, reading.ahead, out);
                        }
                    }
                    return;
                }
                if tokens <= FEW_TOKENS && count > 1 && reading.side_by_side {
                    few::<S, Q>(s, panels.as_ptr(), count, k, x, reading.head_lines, out);
                    return;
                }
                for (panel, out) in panels.chunks(panel_bytes).zip(out.chunks_mut(tokens)) {
                    batch::<S, Q, 1>(s, panel.as_ptr(), k, x, reading.ahead, out);
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
    let mut sum = [[s.splat(0.0); T]];
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
                add_scaled::<S, Q, 1, T>(s, [[scale, min]], sub, [ints], &x, &mut sum);
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sum[0]) {
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
    let mut unpacked = MaybeUninit::<Unpacked<1>>::uninit();
    for group in 0..k / GROUP {
        for (p, out) in out.chunks_mut(tokens).enumerate() {
            let panel = panels.wrapping_add(p * panel_bytes::<Q>(k));
            if group < head_lines {
                s.prefetch(panel.wrapping_add(count * panel_bytes::<Q>(k) + group * LINE));
            }
            // SAFETY: the group lies within the panel and the activations, and `tiles` reads what was just written.
            unsafe {
                unpack::<S, Q, 1>(s, panel, k, group, 0, unpacked.as_mut_ptr(), [0, 0]);
                tiles::<S, Q, 1>(s, unpacked.as_mut_ptr(), group, 1, x, out);
            }
        }
    }
}

/// # Safety
/// `panels` holds `P` panels of `k` columns of 16 rows of `Q`, and `x` `k / 32` groups for each [`TILE`] of as many tokens as
/// `out` has outputs of each panel.
#[inline(always)]
unsafe fn batch<S: Simd, Q: Codes, const P: usize>(
    s: S,
    panels: *const u8,
    k: usize,
    x: Tiles<'_>,
    ahead: usize,
    out: &mut [[f32; LANES]],
) {
    let mut unpacked = MaybeUninit::<Unpacked<P>>::uninit();
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
            for p in 0..P {
                let panel = panels.add(p * panel_bytes::<Q>(k));
                for g in 0..count {
                    let to = unpacked.as_mut_ptr();
                    unpack::<S, Q, P>(s, panel, k, first + g, ahead, to, [p, g]);
                }
            }
            tiles::<S, Q, P>(s, unpacked.as_mut_ptr(), first, count, x, out);
        }
        first += count;
    }
}

/// Adds the products of `count` unpacked groups, the first of them group `first` of the columns, with all tokens to `out`.
///
/// # Safety
/// The groups were unpacked and lie within the activations.
#[inline(always)]
unsafe fn tiles<S: Simd, Q: Codes, const P: usize>(
    s: S,
    unpacked: *mut Unpacked<P>,
    first: usize,
    count: usize,
    x: Tiles<'_>,
    out: &mut [[f32; LANES]],
) {
    let x_ahead = x.stride * size_of::<TileGroup>();
    let tokens = out.len() / P;
    for (i, token) in (0..tokens).step_by(TILE).enumerate() {
        let step = Step {
            groups: count,
            fresh: first == 0,
            token,
            tokens,
        };
        // SAFETY: by contract.
        unsafe {
            let x = x.groups.as_ptr().add(i * x.stride + first);
            // Where registers are many, what is missing to a tile costs less than code for it.
            match tokens - token {
                1 if P == 1 => tile::<S, Q, P, 1>(s, unpacked, step, x, x_ahead, out),
                2 if P == 1 => tile::<S, Q, P, 2>(s, unpacked, step, x, x_ahead, out),
                3 if P == 1 => tile::<S, Q, P, 3>(s, unpacked, step, x, x_ahead, out),
                _ => tile::<S, Q, P, TILE>(s, unpacked, step, x, x_ahead, out),
            }
        }
    }
}
