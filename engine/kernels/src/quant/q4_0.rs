//! Q4_0: 32 codes of 4 bits, one scale; weight = d (q - 8).
#![allow(unsafe_code)]

use super::search::{self, Even, Grid};
use super::{Codes, Format, f16_at, gather_f16, put_f16, recip};
use crate::simd::{LANES, Simd};

/// Block: `d: f16, qs: [u8; 16]`; byte `j` holds columns `j` (low nibble) and `j + 16`.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct Q4_0;

/// The codes' values.
const GRID: Even = Even {
    low: -8.0,
    high: 7.0,
};

impl Format for Q4_0 {
    const NAME: &'static str = "Q4_0";
    const ID: u32 = 2;
    const FILE_TYPE: u32 = 2;
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 18;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (j, &b) in block[2..].iter().enumerate() {
            out[j] = d * (f32::from(b & 15) - 8.0);
            out[j + 16] = d * (f32::from(b >> 4) - 8.0);
        }
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let inverse = recip(put_f16(block, 0, search::scale(s, values, weights, GRID)));
        let q = |x: f32| GRID.code(x * inverse);
        for (j, b) in block[2..].iter_mut().enumerate() {
            *b = q(values[j]) | q(values[j + 16]) << 4;
        }
    }
}

impl Codes for Q4_0 {
    const LOW_BITS: u32 = 0;
    const OFFSET: i32 = 8;
    const SUB: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        for (j, &b) in block[2..].iter().enumerate() {
            codes[j] = b & 15;
            codes[j + 16] = b >> 4;
        }
    }

    #[inline(always)]
    fn pack_scales(blocks: [&[u8]; LANES], out: &mut [u8]) {
        gather_f16(&blocks, 0, out);
    }

    type Common<S: Simd> = ();

    #[inline(always)]
    unsafe fn common<S: Simd>(_s: S, _scales: *const u8) {}

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, (): (), scales: *const u8, _sub: usize) -> (S::F, S::F) {
        // SAFETY: readable for 32 bytes by contract.
        (unsafe { s.load_f16(scales) }, s.splat(0.0))
    }
}
