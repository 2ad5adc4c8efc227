//! Products of panels of 16 weight rows with a few tokens.
#![allow(unsafe_code)]

use super::{Reading, Row, SUM_GROUP, check_codes, check_shapes, panel_bytes};
use crate::quant::{
    BLOCK_LEN_MAX, Codes, Floats, Format, GROUP, Planes, head_bytes, low_bits, parts, plane_bytes,
};
use crate::simd::{LANES, Simd};

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Columns in a quad: what one [`Simd::dot`] takes.
pub(super) const QUAD: usize = 4;

/// Panels that are read side by side for one or two tokens: while the CPU's own prefetch begins anew on the next page of one,
/// the others arrive. Of three and four tokens one panel fetched ahead comes out faster, even where there are registers for
/// the sums of several.
pub const STREAMS: usize = 4;

/// Goes through the panels, [`STREAMS`] at a time for one or two tokens; each number of tokens has its own unrolled loop.
macro_rules! by_shape {
    ($s:ident, $run:ident::<$S:ty, $F:ty>($panels:ident, $k:ident, $x:ident, $reading:ident, $out:ident)) => {
        $s.vectorize(
            #[inline(always)]
            || {
                let (panel_bytes, tokens) = (panel_bytes::<$F>($k), $x.len());
                let (mut panels, mut out) = ($panels, &mut $out[..]);
                while !panels.is_empty() && tokens > 0 {
                    let enough = tokens <= 2 && panels.len() >= STREAMS * panel_bytes;
                    let streams = if enough && $reading.side_by_side {
                        STREAMS
                    } else {
                        1
                    };
                    let (these, rest) = panels.split_at(streams * panel_bytes);
                    let (results, others) = out.split_at_mut(streams * tokens);
                    (panels, out) = (rest, others);
                    let p = these.as_ptr();
                    // SAFETY: the shapes were checked by the caller.
                    unsafe {
                        match (streams, tokens) {
                            (STREAMS, 1) => {
                                $run::<$S, $F, STREAMS, 1>($s, p, $k, $x, $reading, results)
                            }
                            (STREAMS, _) => {
                                $run::<$S, $F, STREAMS, 2>($s, p, $k, $x, $reading, results)
                            }
                            (_, 1) => $run::<$S, $F, 1, 1>($s, p, $k, $x, $reading, results),
                            (_, 2) => $run::<$S, $F, 1, 2>($s, p, $k, $x, $reading, results),
                            (_, 3) => $run::<$S, $F, 1, 3>($s, p, $k, $x, $reading, results),
                            (..) => $run::<$S, $F, 1, 4>($s, p, $k, $x, $reading, results),
                        }
                    }
                }
            },
        )
    };
}

/// Panels of integer codes.
pub(super) fn codes<S: Simd, Q: Codes>(
    s: S,
    panels: &[u8],
    k: usize,
    x: &[Row<'_>],
    reading: Reading,
    out: &mut [[f32; LANES]],
) {
    check_shapes::<Q>(panels, k, x, out);
    check_codes::<Q>(k, x);
    by_shape!(s, codes_tile::<S, Q>(panels, k, x, reading, out));
}

/// # Safety
/// `panels` holds `P` panels of `k` columns of 16 rows of `Q`, and every row of `x` holds quantised activations for `k`
/// columns (checked by [`check_shapes`] and [`check_codes`]).
#[inline(always)]
unsafe fn codes_tile<S: Simd, Q: Codes, const P: usize, const T: usize>(
    s: S,
    panels: *const u8,
    k: usize,
    x: &[Row<'_>],
    reading: Reading,
    out: &mut [[f32; LANES]],
) {
    let groups = Q::BLOCK_LEN / GROUP;
    let mut sum = [[s.splat(0.0); T]; P];
    for b in 0..k / Q::BLOCK_LEN {
        let panel = |p| panels.wrapping_add(p * panel_bytes::<Q>(k));
        let block = |p| panel(p).wrapping_add(b * head_bytes::<Q>());
        let common: [Q::Common<S>; P] = std::array::from_fn(
            #[inline(always)]
            // SAFETY: block `b` lies within panel `p`.
            |p| unsafe { Q::common(s, block(p)) },
        );
        for g in 0..groups {
            for (p, sum) in sum.iter_mut().enumerate() {
                // SAFETY: block `b` lies within panel `p`, and group `g` within the block and the activations.
                unsafe {
                    let (group, next) = (b * groups + g, P * panel_bytes::<Q>(k));
                    let planes = Planes::of::<Q>(panel(p), k, group);
                    if P == 1 && reading.ahead > 0 {
                        if const { reads_all::<Q>() } {
                            planes.prefetch::<S, Q>(s, reading.ahead);
                        } else {
                            let planes = ahead_of::<Q>(panel(p), k, group, reading.ahead);
                            planes.prefetch::<S, Q>(s, 0);
                        }
                    } else if P > 1 && group < reading.head_lines {
                        s.prefetch(panel(p).wrapping_add(next + group * LINE));
                    }
                    group_dot::<S, Q, T>(s, common[p], block(p), planes, group, x, sum);
                }
            }
        }
    }
    for (o, v) in out.iter_mut().zip(sum.as_flattened()) {
        *o = s.to_array(*v);
    }
}

/// Whether a product reads all of a panel, so that what comes `ahead` bytes later stands `ahead` bytes further on.
const fn reads_all<Q: Codes>() -> bool {
    let lows = Q::BLOCK_LEN / GROUP * plane_bytes(Q::LOW_BITS);
    head_bytes::<Q>() + lows == LANES * Q::BLOCK_BYTES
}

/// The planes whose turn comes when `ahead` bytes more of the heads have been read: of this panel, or of the next one.
#[inline(always)]
fn ahead_of<Q: Codes>(panel: *const u8, k: usize, group: usize, ahead: usize) -> Planes {
    let (groups, group_bytes) = (k / GROUP, head_bytes::<Q>() * GROUP / Q::BLOCK_LEN);
    let then = group + ahead / group_bytes;
    match then < groups {
        true => Planes::of::<Q>(panel, k, then),
        false => {
            let next = panel.wrapping_add(panel_bytes::<Q>(k));
            Planes::of::<Q>(next, k, (then - groups).min(groups - 1))
        }
    }
}

/// Adds the products of group `group` of the matrix to `sum`.
///
/// # Safety
/// `block` is the group's block in a panel, `common` what its scales have in common, `planes` the group's planes, and the activations cover the group.
#[inline(always)]
unsafe fn group_dot<S: Simd, Q: Codes, const T: usize>(
    s: S,
    common: Q::Common<S>,
    block: *const u8,
    planes: Planes,
    group: usize,
    x: &[Row<'_>],
    sum: &mut [S::F; T],
) {
    let subs = GROUP / Q::SUB;
    let first_sub = group % (Q::BLOCK_LEN / GROUP) * subs;
    for sub in 0..subs {
        // SAFETY: by contract.
        unsafe {
            let scales = Q::scales(s, common, block, first_sub + sub);
            let ints = sub_dot::<S, Q, T>(s, planes, group, sub, x);
            add_scaled::<S, Q, T>(s, scales, ints, group, sub, x, sum);
        }
    }
}

/// Adds the integer sums of scale `sub` of group `group` and, where the format has them, the additive terms to those of `T`
/// tokens.
///
/// # Safety
/// The activations cover the group.
#[inline(always)]
pub(super) unsafe fn add_scaled<S: Simd, Q: Codes, const T: usize>(
    s: S,
    (scale, min): (S::F, S::F),
    ints: [S::I; T],
    group: usize,
    sub: usize,
    x: &[Row<'_>],
    sum: &mut [S::F; T],
) {
    for t in 0..T {
        // SAFETY: by contract.
        unsafe {
            let x_scale = *x[t].scales.get_unchecked(group);
            sum[t] = s.fma(s.mul(scale, s.splat(x_scale)), s.i_to_f(ints[t]), sum[t]);
            if Q::HAS_MIN {
                let x_sum = if Q::SUB == GROUP {
                    *x[t].scaled_sums.get_unchecked(group)
                } else {
                    let sums = x[t].sums;
                    x_scale * *sums.get_unchecked(group * (GROUP / Q::SUB) + sub) as f32
                };
                sum[t] = s.fma(min, s.splat(x_sum), sum[t]);
            }
        }
    }
}

/// Sums of `(code - OFFSET) * x` over the columns of one scale, exact.
///
/// # Safety
/// `planes` is a group's planes, and the activations cover group `group`.
#[inline(always)]
unsafe fn sub_dot<S: Simd, Q: Codes, const T: usize>(
    s: S,
    planes: Planes,
    group: usize,
    sub: usize,
    x: &[Row<'_>],
) -> [S::I; T] {
    let quads = Q::SUB / QUAD;
    let zero = s.i_splat(0);
    let mut high = [s.dot_start(zero); T];
    let mut low = [s.dot_start(zero); T];
    for i in 0..quads {
        let quad = sub * quads + i;
        // SAFETY: a group has 8 quads, and the activations cover it.
        unsafe {
            let [w_high, w_low] = parts::<S, Q>(s, planes, quad);
            for t in 0..T {
                let quad_x = x[t].codes.as_ptr().add(group * GROUP + quad * QUAD);
                high[t] = s.pin(s.dot(high[t], w_high, quad_x));
            }
            if low_bits::<Q>() > 0 {
                for t in 0..T {
                    let quad_x = x[t].codes.as_ptr().add(group * GROUP + quad * QUAD);
                    low[t] = s.pin(s.dot(low[t], w_low, quad_x));
                }
            }
        }
    }
    let mut totals = [zero; T];
    for t in 0..T {
        let mut total = s.dot_sum(high[t], zero);
        if low_bits::<Q>() > 0 {
            total = s.i_add(s.i_shl(total, low_bits::<Q>()), s.dot_sum(low[t], zero));
        }
        // SAFETY: by contract.
        totals[t] = unsafe { minus_offset::<S, Q>(s, total, group, sub, &x[t]) };
    }
    totals
}

/// `total` less what `OFFSET` adds to every code of scale `sub` of group `group`.
///
/// # Safety
/// The activations cover the group.
#[inline(always)]
pub(super) unsafe fn minus_offset<S: Simd, Q: Codes>(
    s: S,
    total: S::I,
    group: usize,
    sub: usize,
    x: &Row<'_>,
) -> S::I {
    if Q::OFFSET == 0 {
        return total;
    }
    let mut x_sum = 0;
    for i in 0..Q::SUB / SUM_GROUP {
        let at = (group * GROUP + sub * Q::SUB) / SUM_GROUP + i;
        // SAFETY: by contract.
        x_sum += unsafe { *x.sums.get_unchecked(at) };
    }
    s.i_sub(total, s.i_splat(Q::OFFSET * x_sum))
}

/// Panels of floats.
pub(super) fn floats<S: Simd, F: Floats>(
    s: S,
    panels: &[u8],
    k: usize,
    x: &[Row<'_>],
    reading: Reading,
    out: &mut [[f32; LANES]],
) {
    check_shapes::<F>(panels, k, x, out);
    assert!(
        x.iter().all(|row| row.values.len() >= k),
        "activations too short"
    );
    by_shape!(s, floats_tile::<S, F>(panels, k, x, reading, out));
}

/// Even and odd columns are summed apart, for the latency of the additions.
///
/// # Safety
/// `panels` holds `P` panels of `k` columns of 16 rows of `F`, and every row of `x` holds `k` values.
#[inline(always)]
unsafe fn floats_tile<S: Simd, F: Floats, const P: usize, const T: usize>(
    s: S,
    panels: *const u8,
    k: usize,
    x: &[Row<'_>],
    reading: Reading,
    out: &mut [[f32; LANES]],
) {
    let column_bytes = LANES * F::BLOCK_BYTES;
    let mut sums = [[[s.splat(0.0); 2]; T]; P];
    for c in 0..k {
        for (p, sums) in sums.iter_mut().enumerate() {
            // SAFETY: column `c` lies within panel `p` and the activations.
            unsafe {
                let (panel, next) = (panels.add(p * panel_bytes::<F>(k)), P * panel_bytes::<F>(k));
                let column = panel.add(c * column_bytes);
                if P == 1 && reading.ahead > 0 {
                    s.prefetch(column.wrapping_add(reading.ahead));
                } else if P > 1 && c < reading.head_lines {
                    s.prefetch(panel.wrapping_add(next + c * LINE));
                }
                let w = F::column(s, column);
                for (t, [even, odd]) in sums.iter_mut().enumerate() {
                    let v = s.splat(*x[t].values.get_unchecked(c));
                    let sum = if c % 2 == 0 { even } else { odd };
                    *sum = s.fma(w, v, *sum);
                }
            }
        }
    }
    for (o, [even, odd]) in out.iter_mut().zip(sums.as_flattened()) {
        *o = s.to_array(s.add(*even, *odd));
    }
}

/// See [`super::Kernels::pack`].
#[inline(always)]
pub(super) fn pack_floats<F: Format>(rows: [&[u8]; LANES], panel: &mut [u8]) {
    let width = F::BLOCK_BYTES;
    for (c, column) in panel.chunks_exact_mut(LANES * width).enumerate() {
        for (row, out) in rows.iter().zip(column.chunks_exact_mut(width)) {
            out.copy_from_slice(&row[c * width..][..width]);
        }
    }
}

/// See [`super::Kernels::pack`].
#[inline(always)]
pub(super) fn pack_codes<S: Simd, Q: Codes>(s: S, rows: [&[u8]; LANES], panel: &mut [u8]) {
    let mut codes = [[0u8; BLOCK_LEN_MAX]; LANES];
    let blocks = panel.len() / (LANES * Q::BLOCK_BYTES);
    let (heads, lows) = panel.split_at_mut(blocks * head_bytes::<Q>());
    let low_bytes = plane_bytes(Q::LOW_BITS);
    for (b, head) in heads.chunks_exact_mut(head_bytes::<Q>()).enumerate() {
        let blocks: [&[u8]; LANES] = std::array::from_fn(
            #[inline(always)]
            |r| &rows[r][b * Q::BLOCK_BYTES..][..Q::BLOCK_BYTES],
        );
        let (scales, planes) = head.split_at_mut(Q::SCALE_BYTES);
        Q::pack_scales(blocks, scales);
        for (from, to) in blocks.iter().zip(&mut codes) {
            // Cut here, so that the compiler knows the lengths.
            Q::codes(&from[..Q::BLOCK_BYTES], &mut to[..Q::BLOCK_LEN]);
        }
        let groups = Q::BLOCK_LEN / GROUP;
        let lows = &mut lows[b * groups * low_bytes..][..groups * low_bytes];
        for (g, high) in planes
            .chunks_exact_mut(plane_bytes(Q::HIGH_BITS))
            .enumerate()
        {
            let quads: [S::I; GROUP / QUAD] = std::array::from_fn(
                #[inline(always)]
                |quad| {
                    let first = codes.as_flattened()[g * GROUP + quad * QUAD..].as_ptr();
                    // SAFETY: each row has `BLOCK_LEN_MAX` codes, those of the quad among them.
                    unsafe { s.i_strided(first, BLOCK_LEN_MAX) }
                },
            );
            pack_plane(s, &quads, Q::LOW_BITS, Q::HIGH_BITS, high);
            let low = &mut lows[g * low_bytes..][..low_bytes];
            pack_plane(s, &quads, 0, Q::LOW_BITS, low);
        }
    }
}

/// Writes bits `from..from + bits` of a group's codes, `[quad][row]`, as a plane.
#[inline(always)]
fn pack_plane<S: Simd>(s: S, quads: &[S::I; GROUP / QUAD], from: u32, bits: u32, plane: &mut [u8]) {
    if bits == 0 {
        return;
    }
    let mask = s.i_splat(u32::from_le_bytes([((1u32 << bits) - 1) as u8; QUAD]) as i32);
    let per_vector = (u8::BITS / bits) as usize;
    for (quads, out) in quads
        .chunks_exact(per_vector)
        .zip(plane.as_chunks_mut::<LINE>().0)
    {
        let mut vector = s.i_splat(0);
        for (i, codes) in quads.iter().enumerate() {
            let field = s.i_and(s.i_shr(*codes, from), mask);
            vector = s.i_or(vector, s.i_shl(field, i as u32 * bits));
        }
        // SAFETY: a line has 64 bytes.
        unsafe { s.i_store(out.as_mut_ptr(), vector) };
    }
}
