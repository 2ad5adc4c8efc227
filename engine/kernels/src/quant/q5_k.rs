//! Q5_K: Q4_K with a fifth bit; weight = d s q - dmin m.
#![allow(unsafe_code)]

use super::{Codes, Format, q4_k};
use crate::simd::{LANES, Simd};

/// Block: `d: f16, dmin: f16, scales: [u8; 12], qh: [u8; 32], qs: [u8; 128]`; `qs` as in Q4_K, bit `g` of `qh[j]` is the
/// fifth bit of column `32 g + j`.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct Q5_K;

impl Format for Q5_K {
    const NAME: &'static str = "Q5_K";
    const ID: u32 = 13;
    const FILE_TYPE: u32 = 16;
    const STAND_IN: Option<&'static str> = Some("Q5_1");
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 176;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let mut codes = [0; 256];
        Self::codes(block, &mut codes);
        q4_k::dequantize_groups(block, &codes, out);
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let mut codes = [0; 256];
        q4_k::quantize_groups(s, values, weights, 31.0, block, &mut codes);
        let (high, low) = block[16..].split_at_mut(32);
        for (j, h) in high.iter_mut().enumerate() {
            *h = (0..8).fold(0, |bits, g| bits | codes[32 * g + j] >> 4 << g);
        }
        for (c, bytes) in low.chunks_exact_mut(32).enumerate() {
            for (j, b) in bytes.iter_mut().enumerate() {
                *b = codes[64 * c + j] & 15 | (codes[64 * c + 32 + j] & 15) << 4;
            }
        }
    }
}

impl Codes for Q5_K {
    const LOW_BITS: u32 = 1;
    const OFFSET: i32 = 0;
    const SUB: usize = 32;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        let (high, low) = block[16..].split_at(32);
        for (c, bytes) in low.chunks_exact(32).enumerate() {
            for (j, (&b, &h)) in bytes.iter().zip(high).enumerate() {
                codes[64 * c + j] = b & 15 | (h >> (2 * c) & 1) << 4;
                codes[64 * c + 32 + j] = b >> 4 | (h >> (2 * c + 1) & 1) << 4;
            }
        }
    }

    #[inline(always)]
    fn pack_scales(blocks: [&[u8]; LANES], out: &mut [u8]) {
        q4_k::pack_panel_scales(blocks, out);
    }

    type Common<S: Simd> = [S::F; 2];

    #[inline(always)]
    unsafe fn common<S: Simd>(s: S, scales: *const u8) -> [S::F; 2] {
        // SAFETY: the same contract.
        unsafe { q4_k::panel_factors(s, scales) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(
        s: S,
        factors: [S::F; 2],
        scales: *const u8,
        sub: usize,
    ) -> (S::F, S::F) {
        // SAFETY: the same contract.
        unsafe { q4_k::panel_scales(s, factors, scales, sub) }
    }
}
