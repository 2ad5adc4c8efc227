//! Q6_K: super-blocks of 16 groups of 16 codes of 6 bits, 8-bit scales; weight = d s (q - 32).
#![allow(unsafe_code)]

use super::search::{self, Even, Grid};
use super::{Codes, Format, f16_at, gather_f16, put_f16, recip};
use crate::simd::{LANES, Simd};

/// Block: `ql: [u8; 128], qh: [u8; 64], scales: [i8; 16], d: f16`. Each half of 128 columns takes 64 bytes of `ql` and
/// 32 of `qh`; column `32 k + j` of a half has its low nibble in `ql[j + 32 (k mod 2)]` (low nibble for `k < 2`) and its
/// high bits in bits `2 k ..` of `qh[j]`.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct Q6_K;

/// Byte offset of the scales.
const SCALES: usize = 192;
/// Byte offset of `d`.
const D: usize = 208;

/// The codes' values.
const GRID: Even = Even {
    low: -32.0,
    high: 31.0,
};
/// Values of the scales.
const SCALE_RANGE: Even = Even {
    low: -128.0,
    high: 127.0,
};

impl Format for Q6_K {
    const NAME: &'static str = "Q6_K";
    const ID: u32 = 14;
    const FILE_TYPE: u32 = 18;
    const STAND_IN: Option<&'static str> = Some("Q8_0");
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 210;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, D);
        let mut codes = [0; 256];
        Self::codes(block, &mut codes);
        for (i, o) in out.iter_mut().enumerate() {
            let scale = d * f32::from(block[SCALES + i / 16] as i8);
            *o = scale * (f32::from(codes[i]) - 32.0);
        }
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let found = search::nested::<S, 16, _>(s, values, weights, GRID, SCALE_RANGE);
        put_f16(block, D, found.d);
        let mut codes = [0u8; 256];
        for (g, x) in values.chunks_exact(16).enumerate() {
            block[SCALES + g] = found.scales[g] as u8;
            let inverse = recip(found.d * f32::from(found.scales[g]));
            for (c, x) in codes[16 * g..].iter_mut().zip(x) {
                *c = GRID.code(x * inverse);
            }
        }
        for half in 0..2 {
            let q = &codes[128 * half..];
            for j in 0..32 {
                block[64 * half + j] = q[j] & 15 | (q[j + 64] & 15) << 4;
                block[64 * half + 32 + j] = q[j + 32] & 15 | (q[j + 96] & 15) << 4;
                block[128 + 32 * half + j] =
                    q[j] >> 4 | q[j + 32] >> 4 << 2 | q[j + 64] >> 4 << 4 | q[j + 96] >> 4 << 6;
            }
        }
    }
}

impl Codes for Q6_K {
    const LOW_BITS: u32 = 2;
    const OFFSET: i32 = 32;
    const SUB: usize = 16;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        for half in 0..2 {
            let low = &block[64 * half..][..64];
            let high = &block[128 + 32 * half..][..32];
            let out = &mut codes[128 * half..][..128];
            for j in 0..32 {
                out[j] = low[j] & 15 | (high[j] & 3) << 4;
                out[j + 32] = low[j + 32] & 15 | (high[j] >> 2 & 3) << 4;
                out[j + 64] = low[j] >> 4 | (high[j] >> 4 & 3) << 4;
                out[j + 96] = low[j + 32] >> 4 | high[j] >> 6 << 4;
            }
        }
    }

    #[inline(always)]
    fn pack_scales(blocks: [&[u8]; LANES], out: &mut [u8]) {
        let (d, scales) = out.split_at_mut(2 * LANES);
        gather_f16(&blocks, D, d);
        for (r, b) in blocks.iter().enumerate() {
            for g in 0..16 {
                scales[g * LANES + r] = b[SCALES + g];
            }
        }
    }

    type Common<S: Simd> = S::F;

    #[inline(always)]
    unsafe fn common<S: Simd>(s: S, scales: *const u8) -> S::F {
        // SAFETY: readable for 32 bytes by contract.
        unsafe { s.load_f16(scales) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, d: S::F, scales: *const u8, sub: usize) -> (S::F, S::F) {
        // SAFETY: readable for 32 + 256 bytes by contract, and `sub < 16`.
        let g = unsafe { s.i_from_i8(scales.add(2 * LANES + sub * LANES)) };
        (s.mul(d, s.i_to_f(g)), s.splat(0.0))
    }
}
