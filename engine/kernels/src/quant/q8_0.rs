//! Q8_0: 32 codes of 8 bits, one scale; weight = d q with signed q.
#![allow(unsafe_code)]

use super::search::{self, Even};
use super::{Codes, Format, f16_at, gather_f16, put_f16, recip};
use crate::simd::{LANES, Simd};

/// Block: `d: f16, qs: [i8; 32]`. In a panel the codes are `q + 128`, as two planes of four bits.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct Q8_0;

/// The codes' values.
const GRID: Even = Even {
    low: -127.0,
    high: 127.0,
};

impl Format for Q8_0 {
    const NAME: &'static str = "Q8_0";
    const ID: u32 = 8;
    const FILE_TYPE: u32 = 7;
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 34;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (o, &b) in out.iter_mut().zip(&block[2..]) {
            *o = d * f32::from(b as i8);
        }
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let inverse = recip(put_f16(block, 0, search::scale(s, values, weights, GRID)));
        for (b, x) in block[2..].iter_mut().zip(values) {
            *b = GRID.round(x * inverse) as i8 as u8;
        }
    }
}

impl Codes for Q8_0 {
    const LOW_BITS: u32 = 4;
    const OFFSET: i32 = 128;
    const SUB: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        for (c, &b) in codes.iter_mut().zip(&block[2..]) {
            *c = b ^ 0x80;
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
