//! Q5_0: 32 codes of 5 bits, one scale; weight = d (q - 16).
#![allow(unsafe_code)]

use super::{Codes, Format, code, f16_at, gather_f16, peak, put_f16, recip};
use crate::simd::{LANES, Simd};

/// Block: `d: f16, qh: u32, qs: [u8; 16]`; `qs` as in Q4_0, bit `j` of `qh` is the fifth bit of column `j`.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct Q5_0;

impl Format for Q5_0 {
    const NAME: &'static str = "Q5_0";
    const ID: u32 = 6;
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 22;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        let mut codes = [0; 32];
        Self::codes(block, &mut codes);
        for (o, q) in out.iter_mut().zip(codes) {
            *o = d * (f32::from(q) - 16.0);
        }
    }

    fn quantize(values: &[f32], block: &mut [u8]) {
        let inverse = recip(put_f16(block, 0, peak(values) / -16.0));
        let mut high = 0u32;
        let mut q = |j: usize| {
            let q = code(values[j] * inverse + 16.0, 31);
            high |= u32::from(q >> 4) << j;
            q & 15
        };
        for (j, b) in block[6..].iter_mut().enumerate() {
            *b = q(j) | q(j + 16) << 4;
        }
        block[2..6].copy_from_slice(&high.to_le_bytes());
    }
}

impl Codes for Q5_0 {
    const LOW_BITS: u32 = 1;
    const OFFSET: i32 = 16;
    const SUB: usize = 32;
    const HAS_MIN: bool = false;

    fn codes(block: &[u8], codes: &mut [u8]) {
        let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
        for (j, &b) in block[6..].iter().enumerate() {
            codes[j] = (b & 15) | ((high >> j & 1) as u8 * 16);
            codes[j + 16] = (b >> 4) | ((high >> (j + 16) & 1) as u8 * 16);
        }
    }

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
