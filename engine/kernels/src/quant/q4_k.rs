//! Q4_K: super-blocks of 8 groups of 32 codes of 4 bits; scales and minima of 6 bits; weight = d s q - dmin m.
#![allow(unsafe_code)]

use super::{Codes, Format, f16_at, gather_f16, put_f16, search};
use crate::simd::{LANES, Simd};

/// Block: `d: f16, dmin: f16, scales: [u8; 12], qs: [u8; 128]`; bytes `32 c ..` of `qs` hold groups `2 c` (low nibbles)
/// and `2 c + 1`.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct Q4_K;

/// The 6-bit scale and minimum of group `g` (0..8) out of the 12 bytes that Q4_K and Q5_K keep them in.
#[inline(always)]
pub(super) fn scale_min(packed: &[u8], g: usize) -> (u8, u8) {
    if g < 4 {
        (packed[g] & 63, packed[g + 4] & 63)
    } else {
        (
            packed[g + 4] & 15 | packed[g - 4] >> 6 << 4,
            packed[g + 4] >> 4 | packed[g] >> 6 << 4,
        )
    }
}

/// The inverse of [`scale_min`] for all groups.
#[inline(always)]
fn pack_scale_min(scales: [u8; 8], mins: [u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => mins[i - 4] | mins[i] >> 4 << 6,
        _ => scales[i - 4] & 15 | (mins[i - 4] & 15) << 4,
    })
}

/// Chooses scales and minima for codes of `0..=max`, writes the block's first 16 bytes and gives the codes.
#[inline(always)]
pub(super) fn quantize_groups<S: Simd>(
    s: S,
    values: &[f32],
    weights: &[f32],
    max: f32,
    block: &mut [u8],
    codes: &mut [u8; 256],
) {
    let found = search::nested_lines::<S, 8>(s, values, weights, max, 63.0);
    put_f16(block, 0, found.factors[0]);
    put_f16(block, 2, found.factors[1]);
    block[4..16].copy_from_slice(&pack_scale_min(found.scales, found.mins));
    for (g, (x, c)) in values
        .chunks_exact(32)
        .zip(codes.chunks_exact_mut(32))
        .enumerate()
    {
        found.line(g).codes(x, max, c);
    }
}

/// Writes the scales of 16 rows: `d` and `dmin` as f16; then a byte of each group with its scale in the lower six bits
/// and the upper two bits of its minimum above; then the lower four bits of the minima, two groups in a byte. 16 bytes a
/// row, as in the file.
#[inline(always)]
pub(super) fn pack_panel_scales(blocks: [&[u8]; LANES], out: &mut [u8]) {
    gather_f16(&blocks, 0, &mut out[..32]);
    gather_f16(&blocks, 2, &mut out[32..64]);
    let (scales, mins) = out[64..].split_at_mut(8 * LANES);
    mins.fill(0);
    for (r, b) in blocks.iter().enumerate() {
        for g in 0..8 {
            let (s, m) = scale_min(&b[4..16], g);
            scales[g * LANES + r] = s | m >> 4 << 6;
            mins[g / 2 * LANES + r] |= (m & 15) << (g % 2 * 4);
        }
    }
}

/// `d` and `-dmin` of what [`pack_panel_scales`] wrote.
///
/// # Safety
/// `p` is readable for 256 bytes.
#[inline(always)]
pub(super) unsafe fn panel_factors<S: Simd>(s: S, p: *const u8) -> [S::F; 2] {
    // SAFETY: the first 64 bytes.
    let (d, dmin) = unsafe { (s.load_f16(p), s.load_f16(p.add(32))) };
    [d, s.sub(s.splat(0.0), dmin)]
}

/// Reads what [`pack_panel_scales`] wrote, for group `g`.
///
/// # Safety
/// `p` is readable for 256 bytes and `g < 8`.
#[inline(always)]
pub(super) unsafe fn panel_scales<S: Simd>(
    s: S,
    [d, minus_dmin]: [S::F; 2],
    p: *const u8,
    g: usize,
) -> (S::F, S::F) {
    // SAFETY: all offsets lie below 64 + 128 + 64.
    let (scales, mins) = unsafe {
        (
            s.i_from_u8(p.add(64 + g * LANES)),
            s.i_from_u8(p.add(64 + 8 * LANES + g / 2 * LANES)),
        )
    };
    let scale = s.i_and(scales, s.i_splat(63));
    let low = s.i_and(s.i_shr(mins, (g % 2 * 4) as u32), s.i_splat(15));
    let min = s.i_or(s.i_and(s.i_shr(scales, 2), s.i_splat(0x30)), low);
    (s.mul(d, s.i_to_f(scale)), s.mul(minus_dmin, s.i_to_f(min)))
}

/// Decodes a block of the Q4_K family from its codes.
pub(super) fn dequantize_groups(block: &[u8], codes: &[u8; 256], out: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for g in 0..8 {
        let (s, m) = scale_min(&block[4..16], g);
        let (scale, min) = (d * f32::from(s), dmin * f32::from(m));
        for (o, &q) in out[32 * g..][..32].iter_mut().zip(&codes[32 * g..]) {
            *o = scale * f32::from(q) - min;
        }
    }
}

impl Format for Q4_K {
    const NAME: &'static str = "Q4_K";
    const ID: u32 = 12;
    const FILE_TYPE: u32 = 14;
    const STAND_IN: Option<&'static str> = Some("Q5_0");
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 144;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let mut codes = [0; 256];
        Self::codes(block, &mut codes);
        dequantize_groups(block, &codes, out);
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let mut codes = [0; 256];
        quantize_groups(s, values, weights, 15.0, block, &mut codes);
        for (c, bytes) in block[16..].chunks_exact_mut(32).enumerate() {
            for (j, b) in bytes.iter_mut().enumerate() {
                *b = codes[64 * c + j] | codes[64 * c + 32 + j] << 4;
            }
        }
    }
}

impl Codes for Q4_K {
    const LOW_BITS: u32 = 0;
    const OFFSET: i32 = 0;
    const SUB: usize = 32;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        for (c, bytes) in block[16..].chunks_exact(32).enumerate() {
            for (j, &b) in bytes.iter().enumerate() {
                codes[64 * c + j] = b & 15;
                codes[64 * c + 32 + j] = b >> 4;
            }
        }
    }

    #[inline(always)]
    fn pack_scales(blocks: [&[u8]; LANES], out: &mut [u8]) {
        pack_panel_scales(blocks, out);
    }

    type Common<S: Simd> = [S::F; 2];

    #[inline(always)]
    unsafe fn common<S: Simd>(s: S, scales: *const u8) -> [S::F; 2] {
        // SAFETY: the same contract.
        unsafe { panel_factors(s, scales) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(
        s: S,
        factors: [S::F; 2],
        scales: *const u8,
        sub: usize,
    ) -> (S::F, S::F) {
        // SAFETY: the same contract.
        unsafe { panel_scales(s, factors, scales, sub) }
    }
}
