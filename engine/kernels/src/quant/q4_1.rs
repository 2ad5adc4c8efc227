//! Q4_1: 32 codes of 4 bits, scale and minimum; weight = d q + m.
#![allow(unsafe_code)]

use super::{Codes, Format, f16_at, gather_f16, put_f16, search};
use crate::simd::{LANES, Simd};

/// Block: `d: f16, m: f16, qs: [u8; 16]`; byte `j` holds columns `j` (low nibble) and `j + 16`.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct Q4_1;

impl Format for Q4_1 {
    const NAME: &'static str = "Q4_1";
    const ID: u32 = 3;
    const FILE_TYPE: u32 = 3;
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 20;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        for (j, &b) in block[4..].iter().enumerate() {
            out[j] = d * f32::from(b & 15) + m;
            out[j + 16] = d * f32::from(b >> 4) + m;
        }
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let line = search::line(s, values, weights, 15.0, false);
        let line = search::Line {
            scale: put_f16(block, 0, line.scale),
            min: put_f16(block, 2, line.min),
        };
        let mut codes = [0; 32];
        line.codes(values, 15.0, &mut codes);
        for (j, b) in block[4..].iter_mut().enumerate() {
            *b = codes[j] | codes[j + 16] << 4;
        }
    }
}

impl Codes for Q4_1 {
    const LOW_BITS: u32 = 0;
    const OFFSET: i32 = 0;
    const SUB: usize = 32;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        for (j, &b) in block[4..].iter().enumerate() {
            codes[j] = b & 15;
            codes[j + 16] = b >> 4;
        }
    }

    #[inline(always)]
    fn pack_scales(blocks: [&[u8]; LANES], out: &mut [u8]) {
        let (d, m) = out.split_at_mut(2 * LANES);
        gather_f16(&blocks, 0, d);
        gather_f16(&blocks, 2, m);
    }

    type Common<S: Simd> = ();

    #[inline(always)]
    unsafe fn common<S: Simd>(_s: S, _scales: *const u8) {}

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, (): (), scales: *const u8, _sub: usize) -> (S::F, S::F) {
        // SAFETY: readable for 64 bytes by contract.
        unsafe { (s.load_f16(scales), s.load_f16(scales.add(2 * LANES))) }
    }
}
