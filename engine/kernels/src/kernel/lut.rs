//! Products of panels of 16 weight rows with one token by tables, after T-MAC (Wei et al. 2024).
//!
//! For every four activations, a *quad*, a table holds the 16 sums of some of them. The four codes of a row are taken bit by
//! bit: the bits of one weight are a number below 16 that looks its sum up, and the sums of the bits count 1, 2, 4 and 8
//! times. Nothing is multiplied but for that, and fewer bits take less work.
//!
//! T-MAC rounds the sums to 8 bits. Here they are exact, so that a product has the bits of [`super::dot`]: with [`BIAS`] added
//! a sum has ten bits, the lower and upper five of which lie in two tables of bytes. Eight of either still fit a byte, so that
//! the columns of a group are added up without widening.
//!
//! # Panels
//! Panels are those of [`crate::quant`], of the same size, each vector of 64 bytes rearranged. In the four bytes of a row, the
//! two matrices of 4 times 4 bits, column times bit, are transposed, so that the halves of every byte are numbers to look up.
//! The four of one half belong to one quad's four bits, two quads' two bits or four quads' one bit, first the bits, then the
//! quads. Where they are of several quads, a quarter of the vector holds the 16 rows' bytes of one kind: the quads of the first
//! bit, then those of the second, so that every quarter has one table.
#![allow(unsafe_code)]

use super::dot::{LINE, QUAD, add_scaled, minus_offset};
use super::{Reading, Row, check_codes, check_shapes, panel_bytes};
use crate::options::Kernel;
use crate::quant::{Codes, GROUP, Planes, head_bytes, plane_bits};
use crate::simd::{LANES, Simd};

/// Bytes of the tables for one column.
pub const TABLE_BYTES: usize = 2 * ENTRIES / QUAD;

/// Entries of a table.
const ENTRIES: usize = 1 << QUAD;

/// Added to every sum of a table, so that none is negative.
const BIAS: i32 = QUAD as i32 * 128;

/// Bits of a sum in the first table.
const LOW_BITS: u32 = 5;

/// Bytes of the tables of one kind, lower or upper bits, of a group.
const HALF: usize = GROUP / QUAD * ENTRIES;

/// See [`super::Kernels::tables`].
#[inline(always)]
pub(super) fn tables<S: Simd>(s: S, codes: &[i8], out: &mut [u8]) {
    assert!(
        codes.len().is_multiple_of(GROUP) && out.len() == codes.len() * TABLE_BYTES,
        "whole groups, and {TABLE_BYTES} bytes for each column"
    );
    // In entry `n` the columns whose bits `n` has.
    let mut chosen = [0; LANES * QUAD];
    for (at, chosen) in chosen.iter_mut().enumerate() {
        *chosen = ((at / QUAD) >> (at % QUAD)) as u8 & 1;
    }
    // SAFETY: an array of 64 bytes.
    let chosen = unsafe { s.b_load(chosen.as_ptr()) };
    let bias = s.i_splat(BIAS);
    for (codes, out) in codes
        .chunks_exact(GROUP)
        .zip(out.chunks_exact_mut(2 * HALF))
    {
        let (low, high) = out.split_at_mut(HALF);
        let tables = low
            .chunks_exact_mut(ENTRIES)
            .zip(high.chunks_exact_mut(ENTRIES));
        for (quad, (low, high)) in codes.chunks_exact(QUAD).zip(tables) {
            // SAFETY: a quad has 4 codes, a table 16 bytes.
            unsafe {
                let sums = s.dot_sum(s.dot(s.dot_start(bias), chosen, quad.as_ptr()), bias);
                s.i_store_i8(
                    low.as_mut_ptr().cast(),
                    s.i_and(sums, s.i_splat((1 << LOW_BITS) - 1)),
                );
                s.i_store_i8(high.as_mut_ptr().cast(), s.i_shr(sums, LOW_BITS));
            }
        }
    }
}

/// See [`super::Kernels::lookup`].
pub(super) fn codes<S: Simd, Q: Codes>(
    s: S,
    panels: &[u8],
    k: usize,
    x: Row<'_>,
    tables: &[u8],
    reading: Reading,
    out: &mut [[f32; LANES]],
) {
    check_shapes::<Q>(panels, k, &[x], out);
    check_codes::<Q>(k, &[x]);
    assert!(tables.len() >= k * TABLE_BYTES, "tables too short");
    s.vectorize(
        #[inline(always)]
        || {
            for (panel, out) in panels.chunks_exact(panel_bytes::<Q>(k)).zip(out) {
                // SAFETY: the shapes were just checked.
                *out = unsafe {
                    one_panel::<S, Q>(s, panel.as_ptr(), k, x, tables.as_ptr(), reading.ahead)
                };
            }
        },
    );
}

/// # Safety
/// `panel` holds `k` columns of 16 rows of `Q`, rearranged, and `x` and `tables` cover as many.
#[inline(always)]
unsafe fn one_panel<S: Simd, Q: Codes>(
    s: S,
    panel: *const u8,
    k: usize,
    x: Row<'_>,
    tables: *const u8,
    ahead: usize,
) -> [f32; LANES] {
    let (groups, subs) = (Q::BLOCK_LEN / GROUP, GROUP / Q::SUB);
    let mut sum = [s.splat(0.0)];
    for b in 0..k / Q::BLOCK_LEN {
        let block = panel.wrapping_add(b * head_bytes::<Q>());
        // SAFETY: block `b` lies within the panel, its groups within the activations and the tables.
        unsafe {
            let common = Q::common(s, block);
            for g in 0..groups {
                let group = b * groups + g;
                let planes = Planes::of::<Q>(panel, k, group);
                if ahead > 0 {
                    planes.prefetch::<S, Q>(s, ahead);
                }
                let tables = tables.add(group * 2 * HALF);
                for sub in 0..subs {
                    let scales = Q::scales(s, common, block, g * subs + sub);
                    let total = sub_sum::<S, Q>(s, planes, sub, tables);
                    let total = minus_offset::<S, Q>(s, total, group, sub, &x);
                    add_scaled::<S, Q, 1>(s, scales, [total], group, sub, &[x], &mut sum);
                }
            }
        }
    }
    s.to_array(sum[0])
}

/// Sums of `code * x` over the columns of one scale, exact.
///
/// # Safety
/// `planes` and `tables` are a group's.
#[inline(always)]
unsafe fn sub_sum<S: Simd, Q: Codes>(s: S, planes: Planes, sub: usize, tables: *const u8) -> S::I {
    let quads = Q::SUB / QUAD;
    // SAFETY: by contract.
    unsafe {
        let mut total = plane_sum(s, planes.high, Q::HIGH_BITS, sub * quads, quads, tables);
        if Q::LOW_BITS > 0 {
            let low = plane_sum(s, planes.low, Q::LOW_BITS, sub * quads, quads, tables);
            total = s.i_add(s.i_shl(total, Q::LOW_BITS), low);
        }
        let bias = BIAS * quads as i32 * ((1 << plane_bits::<Q>()) - 1);
        s.i_sub(total, s.i_splat(bias))
    }
}

/// The same of a plane of 1, 2 or 4 bits, with the bias of every sum.
///
/// # Safety
/// `plane` is one of a group, `tables` are the group's, and there are quads `first..first + quads`.
#[inline(always)]
unsafe fn plane_sum<S: Simd>(
    s: S,
    plane: *const u8,
    bits: u32,
    first: usize,
    quads: usize,
    tables: *const u8,
) -> S::I {
    // Quads that are looked up at a time.
    let each = QUAD / bits as usize;
    let mut sums = [s.b_zero(); 2];
    for n in first / each..(first + quads) / each {
        // SAFETY: a vector has the numbers of two times `each` quads; all lie within the plane and the tables.
        unsafe {
            let vector = s.b_load(plane.add(n / 2 * LINE));
            let numbers = s.b_field(vector, (n % 2 * 4) as u32, 15);
            for (half, sum) in sums.iter_mut().enumerate() {
                let tables = s.b_tables(tables.add(half * HALF + n * each * ENTRIES), each);
                *sum = s.b_add(*sum, s.b_choose(tables, numbers));
            }
        }
    }
    let [low, high] = sums;
    let (low, high) = (row_sums(s, low, bits), row_sums(s, high, bits));
    s.i_add(s.i_shl(high, LOW_BITS), low)
}

/// The sums of a plane of `bits` bits, times 1, 2, 4 and 8, for each row.
#[inline(always)]
fn row_sums<S: Simd>(s: S, sums: S::B, bits: u32) -> S::I {
    let weights: [i8; QUAD] = match bits {
        4 => [1, 2, 4, 8],
        2 => [1, 2, 1, 2],
        _ => [1; QUAD],
    };
    let by_rows = if bits == 4 { sums } else { s.b_by_rows(sums) };
    let zero = s.i_splat(0);
    // SAFETY: an array of four weights.
    let acc = unsafe { s.dot(s.dot_start(zero), by_rows, weights.as_ptr()) };
    s.dot_sum(acc, zero)
}

/// See [`super::Kernels::rearrange`].
#[inline(always)]
pub(super) fn rearrange<S: Simd, Q: Codes>(s: S, to: Kernel, panel: &mut [u8]) {
    let blocks = panel.len() / (LANES * Q::BLOCK_BYTES);
    let (heads, lows) = panel.split_at_mut(blocks * head_bytes::<Q>());
    for head in heads.chunks_exact_mut(head_bytes::<Q>()) {
        each_vector(s, to, &mut head[Q::SCALE_BYTES..], Q::HIGH_BITS);
    }
    each_vector(s, to, lows, Q::LOW_BITS);
}

/// Rearranges the vectors of planes of `bits` bits.
#[inline(always)]
fn each_vector<S: Simd>(s: S, to: Kernel, planes: &mut [u8], bits: u32) {
    for vector in planes.as_chunks_mut::<LINE>().0 {
        // SAFETY: a vector has 64 bytes.
        let from = unsafe { s.b_load(vector.as_ptr()) };
        let rows = match to {
            Kernel::Dot if bits == 2 => s.b_as_i(s.b_by_rows(from)),
            // The quads of quarters 1 and 2 come in turn.
            Kernel::Dot if bits == 1 => exchanged(s, s.b_as_i(s.b_by_rows(from)), 0xff00, 8),
            _ => s.b_as_i(from),
        };
        // Bit `4 h + p` of byte `i` for bit `4 h + i` of byte `p`; twice is nothing.
        let transposed = exchanged(s, exchanged(s, rows, 0x00aa_00aa, 7), 0xcccc, 14);
        // SAFETY: as above.
        unsafe { s.i_store(vector.as_mut_ptr(), transposed) };
        if to == Kernel::Lut && bits < 4 {
            let rows = *vector;
            for (at, byte) in rows.into_iter().enumerate() {
                vector[quarter(at % QUAD, bits as usize) * LANES + at / QUAD] = byte;
            }
        }
    }
}

/// The quarter that byte `i` of a row is in: its bit counts before its quad.
#[inline(always)]
fn quarter(i: usize, bits: usize) -> usize {
    i % bits * (QUAD / bits) + i / bits
}

/// Every lane with the bits of `low` and those `shift` above them exchanged.
#[inline(always)]
fn exchanged<S: Simd>(s: S, x: S::I, low: u32, shift: u32) -> S::I {
    let others = s.i_splat(!(low | (low << shift)) as i32);
    let low = s.i_splat(low as i32);
    let raised = s.i_shl(s.i_and(x, low), shift);
    let lowered = s.i_and(s.i_shr(x, shift), low);
    s.i_or(s.i_or(raised, lowered), s.i_and(x, others))
}
