//! IQ4_NL: 32 codes of 4 bits that stand for unevenly spaced values, one scale; weight = d value(q).
#![allow(unsafe_code)]

use super::search::{self, Grid, Uneven};
use super::{Codes, Format, f16_at, gather_f16, put_f16, recip};
use crate::simd::{LANES, Simd};

/// Block: `d: f16, qs: [u8; 16]`; codes as in Q4_0. In a panel too, where they are multiplied as their value + 128.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct IQ4_NL;

/// What the codes of IQ4_NL and IQ4_XS stand for.
pub(super) const LEVELS: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];

/// The same as codes to multiply: plus 128.
pub(super) const TABLE: [u8; 16] = table(LEVELS, 128.0);

/// The same as a grid.
pub(super) const GRID: Uneven = Uneven {
    levels: &LEVELS,
    codes: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
};

/// Levels plus `offset`, as bytes.
pub(super) const fn table(levels: [f32; 16], offset: f32) -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut i = 0;
    while i < bytes.len() {
        bytes[i] = (levels[i] + offset) as u8;
        i += 1;
    }
    bytes
}

/// Codes of four bits, column `j` in the low nibble of byte `j` and column `j + 16` in the high one.
pub(super) fn get_nibbles(bytes: &[u8], codes: &mut [u8]) {
    for (j, &b) in bytes.iter().enumerate() {
        codes[j] = b & 15;
        codes[j + 16] = b >> 4;
    }
}

/// The inverse of [`get_nibbles`], for 32 values that `code` gives the codes of.
#[inline(always)]
pub(super) fn put_nibbles(values: &[f32], code: impl Fn(f32) -> u8, bytes: &mut [u8]) {
    for (j, b) in bytes.iter_mut().enumerate() {
        *b = code(values[j]) | code(values[j + 16]) << 4;
    }
}

impl Format for IQ4_NL {
    const NAME: &'static str = "IQ4_NL";
    const ID: u32 = 20;
    const FILE_TYPE: u32 = 25;
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 18;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        let mut codes = [0; 32];
        Self::codes(block, &mut codes);
        for (o, q) in out.iter_mut().zip(codes) {
            *o = d * LEVELS[usize::from(q)];
        }
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let inverse = recip(put_f16(block, 0, search::scale(s, values, weights, GRID)));
        put_nibbles(values, |x| GRID.code(x * inverse), &mut block[2..]);
    }
}

impl Codes for IQ4_NL {
    const LOW_BITS: u32 = 0;
    const TABLE: Option<[u8; 16]> = Some(TABLE);
    const OFFSET: i32 = 128;
    const SUB: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        get_nibbles(&block[2..], codes);
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
