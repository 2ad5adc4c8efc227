//! Q3_K: super-blocks of 16 groups of 16 codes of 3 bits; scales of 6 bits; weight = d (s - 32) (q - 4).
#![allow(unsafe_code)]

use super::search::{self, Even, Grid};
use super::{Codes, Format, f16_at, gather_f16, pack_six_bits, put_f16, q2_k, recip, six_bits};
use crate::simd::{LANES, Simd};

/// Block: `hmask: [u8; 32], qs: [u8; 64], scales: [u8; 12], d: f16`. `qs` holds the two lower bits of the codes as in
/// Q2_K, bit `i / 32` of `hmask[i mod 32]` the third one of column `i`. The scale of group `g` has its lower four bits in a
/// nibble of `scales[g mod 8]` and its upper two in bits `2 (g / 4) ..` of `scales[8 + g mod 4]`.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct Q3_K;

/// Byte offset of `qs`.
const LOW: usize = 32;
/// Byte offset of the scales.
const SCALES: usize = 96;
/// Byte offset of `d`.
const D: usize = 108;
/// The codes' values.
const GRID: Even = Even {
    low: -4.0,
    high: 3.0,
};
/// Values of the scales.
const SCALE_RANGE: Even = Even {
    low: -32.0,
    high: 31.0,
};

/// The scales of a block, 0 to 63.
fn scales_of(block: &[u8]) -> [u8; 16] {
    let packed = &block[SCALES..D];
    std::array::from_fn(|g| {
        packed[g % 8] >> (g / 8 * 4) & 15 | (packed[8 + g % 4] >> (g / 4 * 2) & 3) << 4
    })
}

/// The inverse of [`scales_of`].
fn put_scales(scales: [u8; 16], block: &mut [u8]) {
    block[SCALES..D].fill(0);
    for (g, s) in scales.into_iter().enumerate() {
        block[SCALES + g % 8] |= (s & 15) << (g / 8 * 4);
        block[SCALES + 8 + g % 4] |= (s >> 4) << (g / 4 * 2);
    }
}

impl Format for Q3_K {
    const NAME: &'static str = "Q3_K";
    const ID: u32 = 11;
    const FILE_TYPE: u32 = 11;
    const STAND_IN: Option<&'static str> = Some("IQ4_NL");
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 110;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, D);
        let scales = scales_of(block);
        let mut codes = [0; 256];
        Self::codes(block, &mut codes);
        for (i, o) in out.iter_mut().enumerate() {
            let scale = d * (f32::from(scales[i / 16]) - 32.0);
            *o = scale * (f32::from(codes[i]) - 4.0);
        }
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let found = search::nested::<S, 16, _>(s, values, weights, GRID, SCALE_RANGE);
        put_f16(block, D, found.d);
        put_scales(found.scales.map(|s| (s + 32) as u8), block);
        let mut codes = [0u8; 256];
        for (g, x) in values.chunks_exact(16).enumerate() {
            let inverse = recip(found.d * f32::from(found.scales[g]));
            for (c, x) in codes[16 * g..].iter_mut().zip(x) {
                *c = GRID.code(x * inverse);
            }
        }
        for (j, h) in block[..LOW].iter_mut().enumerate() {
            *h = (0..8).fold(0, |bits, k| bits | codes[32 * k + j] >> 2 << k);
        }
        q2_k::put_pairs(&codes, &mut block[LOW..SCALES]);
    }
}

impl Codes for Q3_K {
    const HIGH_BITS: u32 = 2;
    const LOW_BITS: u32 = 1;
    const OFFSET: i32 = 4;
    const SUB: usize = 16;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        q2_k::get_pairs(&block[LOW..SCALES], codes);
        for (i, c) in codes.iter_mut().enumerate() {
            *c |= (block[i % 32] >> (i / 32) & 1) << 2;
        }
    }

    #[inline(always)]
    fn pack_scales(blocks: [&[u8]; LANES], out: &mut [u8]) {
        let (d, scales) = out.split_at_mut(2 * LANES);
        gather_f16(&blocks, D, d);
        pack_six_bits(blocks.map(scales_of), scales);
    }

    type Common<S: Simd> = S::F;

    #[inline(always)]
    unsafe fn common<S: Simd>(s: S, scales: *const u8) -> S::F {
        // SAFETY: readable for 32 bytes by contract.
        unsafe { s.load_f16(scales) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, d: S::F, scales: *const u8, sub: usize) -> (S::F, S::F) {
        // SAFETY: readable for 32 + 192 bytes by contract, and `sub < 16`.
        let g = unsafe { six_bits(s, scales.add(2 * LANES), 16, sub) };
        let g = s.i_sub(g, s.i_splat(32));
        (s.mul(d, s.i_to_f(g)), s.splat(0.0))
    }
}
