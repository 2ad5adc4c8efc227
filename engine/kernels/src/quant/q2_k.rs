//! Q2_K: super-blocks of 16 groups of 16 codes of 2 bits; scales and minima of 4 bits; weight = d s q - dmin m.
#![allow(unsafe_code)]

use super::{Codes, Format, f16_at, gather_f16, put_f16, search};
use crate::simd::{LANES, Simd};

/// Block: `scales: [u8; 16], qs: [u8; 64], d: f16, dmin: f16`. A byte of `scales` is a group's scale (low nibble) and
/// minimum; column `128 h + 32 k + j` is bits `2 k ..` of `qs[32 h + j]`.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct Q2_K;

/// Byte offset of `d`; `dmin` follows.
const D: usize = 80;

/// Codes of two bits as Q2_K, Q3_K and TQ2_0 keep them, in 64 bytes.
pub(super) fn get_pairs(bytes: &[u8], codes: &mut [u8]) {
    for (half, out) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (i, o) in out.iter_mut().enumerate() {
            *o = half[i % 32] >> (i / 32 * 2) & 3;
        }
    }
}

/// The inverse of [`get_pairs`]; higher bits of the codes are left out.
#[inline(always)]
pub(super) fn put_pairs(codes: &[u8; 256], bytes: &mut [u8]) {
    for (half, codes) in bytes.chunks_exact_mut(32).zip(codes.chunks_exact(128)) {
        for (j, b) in half.iter_mut().enumerate() {
            *b = (0..4).fold(0, |bits, k| bits | (codes[32 * k + j] & 3) << (2 * k));
        }
    }
}

impl Format for Q2_K {
    const NAME: &'static str = "Q2_K";
    const ID: u32 = 10;
    const FILE_TYPE: u32 = 10;
    const STAND_IN: Option<&'static str> = Some("IQ4_NL");
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 84;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, dmin) = (f16_at(block, D), f16_at(block, D + 2));
        let mut codes = [0; 256];
        Self::codes(block, &mut codes);
        for (i, o) in out.iter_mut().enumerate() {
            let scales = block[i / 16];
            let (scale, min) = (d * f32::from(scales & 15), dmin * f32::from(scales >> 4));
            *o = scale * f32::from(codes[i]) - min;
        }
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let found = search::nested_lines::<S, 16>(s, values, weights, 3.0, 15.0);
        put_f16(block, D, found.factors[0]);
        put_f16(block, D + 2, found.factors[1]);
        let mut codes = [0; 256];
        for (g, (x, c)) in values
            .chunks_exact(16)
            .zip(codes.chunks_exact_mut(16))
            .enumerate()
        {
            block[g] = found.scales[g] | found.mins[g] << 4;
            found.line(g).codes(x, 3.0, c);
        }
        put_pairs(&codes, &mut block[16..D]);
    }
}

impl Codes for Q2_K {
    const HIGH_BITS: u32 = 2;
    const LOW_BITS: u32 = 0;
    const OFFSET: i32 = 0;
    const SUB: usize = 16;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        get_pairs(&block[16..D], codes);
    }

    #[inline(always)]
    fn pack_scales(blocks: [&[u8]; LANES], out: &mut [u8]) {
        gather_f16(&blocks, D, &mut out[..32]);
        gather_f16(&blocks, D + 2, &mut out[32..64]);
        for (r, b) in blocks.iter().enumerate() {
            for g in 0..16 {
                out[64 + g * LANES + r] = b[g];
            }
        }
    }

    type Common<S: Simd> = [S::F; 2];

    #[inline(always)]
    unsafe fn common<S: Simd>(s: S, scales: *const u8) -> [S::F; 2] {
        // SAFETY: the first 64 bytes.
        let (d, dmin) = unsafe { (s.load_f16(scales), s.load_f16(scales.add(32))) };
        [d, s.sub(s.splat(0.0), dmin)]
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(
        s: S,
        [d, minus_dmin]: [S::F; 2],
        scales: *const u8,
        sub: usize,
    ) -> (S::F, S::F) {
        // SAFETY: readable for 64 + 256 bytes by contract, and `sub < 16`.
        let both = unsafe { s.i_from_u8(scales.add(64 + sub * LANES)) };
        let (scale, min) = (s.i_and(both, s.i_splat(15)), s.i_shr(both, 4));
        (s.mul(d, s.i_to_f(scale)), s.mul(minus_dmin, s.i_to_f(min)))
    }
}
