//! TQ2_0: 256 ternary codes of 2 bits, one scale; weight = d (q - 1).
#![allow(unsafe_code)]

use super::search::{self, Even, Grid};
use super::{Codes, Format, f16_at, gather_f16, put_f16, q2_k, recip};
use crate::simd::{LANES, Simd};

/// Block: `qs: [u8; 64], d: f16`; `qs` as in Q2_K.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct TQ2_0;

/// Byte offset of `d`.
const D: usize = 64;
/// The codes' values; 3 is not used.
const GRID: Even = Even {
    low: -1.0,
    high: 1.0,
};

impl Format for TQ2_0 {
    const NAME: &'static str = "TQ2_0";
    const ID: u32 = 35;
    const FILE_TYPE: u32 = 37;
    const STAND_IN: Option<&'static str> = Some("Q4_0");
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 66;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, D);
        let mut codes = [0; 256];
        Self::codes(block, &mut codes);
        for (o, q) in out.iter_mut().zip(codes) {
            *o = d * (f32::from(q) - 1.0);
        }
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let inverse = recip(put_f16(block, D, search::scale(s, values, weights, GRID)));
        let codes = std::array::from_fn(|i| GRID.code(values[i] * inverse));
        q2_k::put_pairs(&codes, &mut block[..D]);
    }
}

impl Codes for TQ2_0 {
    const HIGH_BITS: u32 = 2;
    const LOW_BITS: u32 = 0;
    const OFFSET: i32 = 1;
    const SUB: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        q2_k::get_pairs(&block[..D], codes);
    }

    #[inline(always)]
    fn pack_scales(blocks: [&[u8]; LANES], out: &mut [u8]) {
        gather_f16(&blocks, D, out);
    }

    type Common<S: Simd> = S::F;

    #[inline(always)]
    unsafe fn common<S: Simd>(s: S, scales: *const u8) -> S::F {
        // SAFETY: readable for 32 bytes by contract.
        unsafe { s.load_f16(scales) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, d: S::F, _scales: *const u8, _sub: usize) -> (S::F, S::F) {
        (d, s.splat(0.0))
    }
}
