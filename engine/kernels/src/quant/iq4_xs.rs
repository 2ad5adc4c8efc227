//! IQ4_XS: super-blocks of 8 groups of 32 codes as in IQ4_NL, scales of 6 bits; weight = d (s - 32) value(q).
#![allow(unsafe_code)]

use super::iq4_nl::{GRID, LEVELS, TABLE, get_nibbles, put_nibbles};
use super::search::{self, Even, Grid};
use super::{Codes, Format, f16_at, gather_f16, pack_six_bits, put_f16, recip, six_bits};
use crate::simd::{LANES, Simd};

/// Block: `d: f16, scales_h: u16, scales_l: [u8; 4], qs: [u8; 128]`. `scales_l` holds the lower four bits of the scales,
/// two in a byte, `scales_h` the upper two; a group's codes are 16 bytes as in IQ4_NL.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct IQ4_XS;

/// Byte offset of the codes.
const CODES: usize = 8;
/// Values of the scales.
const SCALE_RANGE: Even = Even {
    low: -32.0,
    high: 31.0,
};

/// The scales of a block, 0 to 63.
fn scales_of(block: &[u8]) -> [u8; 8] {
    std::array::from_fn(|g| {
        block[4 + g / 2] >> (g % 2 * 4) & 15 | (block[2 + g / 4] >> (g % 4 * 2) & 3) << 4
    })
}

/// The inverse of [`scales_of`].
fn put_scales(scales: [u8; 8], block: &mut [u8]) {
    block[2..CODES].fill(0);
    for (g, s) in scales.into_iter().enumerate() {
        block[4 + g / 2] |= (s & 15) << (g % 2 * 4);
        block[2 + g / 4] |= (s >> 4) << (g % 4 * 2);
    }
}

impl Format for IQ4_XS {
    const NAME: &'static str = "IQ4_XS";
    const ID: u32 = 23;
    const FILE_TYPE: u32 = 30;
    const STAND_IN: Option<&'static str> = Some("IQ4_NL");
    const BLOCK_LEN: usize = 256;
    const BLOCK_BYTES: usize = 136;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        let scales = scales_of(block);
        let mut codes = [0; 256];
        Self::codes(block, &mut codes);
        for (i, o) in out.iter_mut().enumerate() {
            let scale = d * (f32::from(scales[i / 32]) - 32.0);
            *o = scale * LEVELS[usize::from(codes[i])];
        }
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        let found = search::nested::<S, 8, _>(s, values, weights, GRID, SCALE_RANGE);
        put_f16(block, 0, found.d);
        put_scales(found.scales.map(|s| (s + 32) as u8), block);
        let groups = values
            .chunks_exact(32)
            .zip(block[CODES..].chunks_exact_mut(16));
        for ((x, bytes), s) in groups.zip(found.scales) {
            let inverse = recip(found.d * f32::from(s));
            put_nibbles(x, |x| GRID.code(x * inverse), bytes);
        }
    }
}

impl Codes for IQ4_XS {
    const LOW_BITS: u32 = 0;
    const TABLE: Option<[u8; 16]> = Some(TABLE);
    const OFFSET: i32 = 128;
    const SUB: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        let groups = block[CODES..]
            .chunks_exact(16)
            .zip(codes.chunks_exact_mut(32));
        groups.for_each(|(bytes, codes)| get_nibbles(bytes, codes));
    }

    #[inline(always)]
    fn pack_scales(blocks: [&[u8]; LANES], out: &mut [u8]) {
        let (d, scales) = out.split_at_mut(2 * LANES);
        gather_f16(&blocks, 0, d);
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
        // SAFETY: readable for 32 + 96 bytes by contract, and `sub < 8`.
        let g = unsafe { six_bits(s, scales.add(2 * LANES), 8, sub) };
        let g = s.i_sub(g, s.i_splat(32));
        (s.mul(d, s.i_to_f(g)), s.splat(0.0))
    }
}
