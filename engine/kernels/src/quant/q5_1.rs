//! Q5_1: 32 codes of 5 bits, scale and minimum; weight = d q + m.
#![allow(unsafe_code)]

use super::{Codes, Format, f16_at, gather_f16, put_f16, q5_0, search};
use crate::simd::{LANES, Simd};

/// Block: `d: f16, m: f16, qh: u32, qs: [u8; 16]`; `qh` and `qs` as in Q5_0.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct Q5_1;

impl Format for Q5_1 {
    const NAME: &'static str = "Q5_1";
    const ID: u32 = 7;
    const FILE_TYPE: u32 = 9;
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 24;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        let mut codes = [0; 32];
        Self::codes(block, &mut codes);
        for (o, q) in out.iter_mut().zip(codes) {
            *o = d * f32::from(q) + m;
        }
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let line = search::line(s, values, weights, 31.0, false);
        let line = search::Line {
            scale: put_f16(block, 0, line.scale),
            min: put_f16(block, 2, line.min),
        };
        let mut codes = [0; 32];
        line.codes(values, 31.0, &mut codes);
        q5_0::put_codes(&codes, &mut block[4..]);
    }
}

impl Codes for Q5_1 {
    const LOW_BITS: u32 = 1;
    const OFFSET: i32 = 0;
    const SUB: usize = 32;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        q5_0::get_codes(&block[4..], codes);
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
