//! Q5_0: 32 codes of 5 bits, one scale; weight = d (q - 16).
#![allow(unsafe_code)]

use super::search::{self, Even, Grid};
use super::{Codes, Format, f16_at, gather_f16, put_f16, recip};
use crate::simd::{LANES, Simd};

/// Block: `d: f16, qh: u32, qs: [u8; 16]`; `qs` as in Q4_0, bit `j` of `qh` is the fifth bit of column `j`.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct Q5_0;

/// The codes' values.
const GRID: Even = Even {
    low: -16.0,
    high: 15.0,
};

/// Writes `qh` and `qs` of 32 codes of 5 bits.
pub(super) fn put_codes(codes: &[u8; 32], out: &mut [u8]) {
    let high = (0..32).fold(0, |bits, j| bits | u32::from(codes[j] >> 4) << j);
    out[..4].copy_from_slice(&high.to_le_bytes());
    for (j, b) in out[4..].iter_mut().enumerate() {
        *b = codes[j] & 15 | codes[j + 16] << 4;
    }
}

/// Reads what [`put_codes`] wrote.
pub(super) fn get_codes(bytes: &[u8], codes: &mut [u8]) {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (j, &b) in bytes[4..].iter().enumerate() {
        codes[j] = (b & 15) | ((high >> j & 1) as u8 * 16);
        codes[j + 16] = (b >> 4) | ((high >> (j + 16) & 1) as u8 * 16);
    }
}

impl Format for Q5_0 {
    const NAME: &'static str = "Q5_0";
    const ID: u32 = 6;
    const FILE_TYPE: u32 = 8;
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

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let inverse = recip(put_f16(block, 0, search::scale(s, values, weights, GRID)));
        let codes = std::array::from_fn(|j| GRID.code(values[j] * inverse));
        put_codes(&codes, &mut block[2..]);
    }
}

impl Codes for Q5_0 {
    const LOW_BITS: u32 = 1;
    const OFFSET: i32 = 16;
    const SUB: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        get_codes(&block[2..], codes);
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
