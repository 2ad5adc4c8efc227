//! MXFP4 (OCP Microscaling 1.0): 32 floats of 4 bits, a power of two as scale; weight = 2^(e - 128) value(q).
#![allow(unsafe_code)]

use super::iq4_nl::{get_nibbles, put_nibbles, table};
use super::search::{self, Grid, Uneven};
use super::{Codes, Format, peak, recip};
use crate::simd::{LANES, Simd};

/// Block: `e: u8, qs: [u8; 16]`; codes as in Q4_0. In a panel too, where they are multiplied as their value + 16.
#[allow(non_camel_case_types, reason = "the format's name")]
pub struct MXFP4;

/// Twice what the codes stand for, so that all are integers: sign, two bits of exponent, one of mantissa.
const LEVELS: [f32; 16] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0,
];

/// The same in ascending order.
const GRID: Uneven = Uneven {
    levels: &[
        -12.0, -8.0, -6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0,
    ],
    codes: &[15, 14, 13, 12, 11, 10, 9, 0, 0, 1, 2, 3, 4, 5, 6, 7],
};

/// `2^(e - 128)`, as the product of two powers that are normal numbers.
fn scale_of(e: u8) -> f32 {
    let power = |n: u8| f32::from_bits((u32::from(n) + 63) << 23);
    power(e / 2) * power(e - e / 2)
}

impl Format for MXFP4 {
    const NAME: &'static str = "MXFP4";
    const ID: u32 = 39;
    const FILE_TYPE: u32 = 38;
    const BLOCK_LEN: usize = 32;
    const BLOCK_BYTES: usize = 17;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = scale_of(block[0]);
        let mut codes = [0; 32];
        Self::codes(block, &mut codes);
        for (o, q) in out.iter_mut().zip(codes) {
            *o = d * LEVELS[usize::from(q)];
        }
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        // The powers around the one that spans the values, the last one again in the lanes that are left.
        let exponent = (peak(values).abs() / 12.0).to_bits() >> 23;
        let power = |i: usize| (exponent + i.min(3) as u32).clamp(1, 254) as u8;
        let losses = search::losses(s, values, weights, GRID, |i| scale_of(power(i)));
        let mut e = (f32::INFINITY, 0);
        for (i, loss) in losses.into_iter().enumerate() {
            if loss < e.0 {
                e = (loss, power(i));
            }
        }
        let e = e.1;
        block[0] = e;
        let inverse = recip(scale_of(e));
        put_nibbles(values, |x| GRID.code(x * inverse), &mut block[1..]);
    }
}

impl Codes for MXFP4 {
    const LOW_BITS: u32 = 0;
    const TABLE: Option<[u8; 16]> = Some(table(LEVELS, 16.0));
    const OFFSET: i32 = 16;
    const SUB: usize = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        get_nibbles(&block[1..], codes);
    }

    #[inline(always)]
    fn pack_scales(blocks: [&[u8]; LANES], out: &mut [u8]) {
        blocks.iter().zip(out).for_each(|(b, o)| *o = b[0]);
    }

    type Common<S: Simd> = ();

    #[inline(always)]
    unsafe fn common<S: Simd>(_s: S, _scales: *const u8) {}

    #[inline(always)]
    unsafe fn scales<S: Simd>(s: S, (): (), scales: *const u8, _sub: usize) -> (S::F, S::F) {
        // SAFETY: readable for 16 bytes by contract.
        let e = unsafe { s.i_from_u8(scales) };
        let half = s.i_shr(e, 1);
        let power = |n: S::I| s.i_as_f(s.i_shl(s.i_add(n, s.i_splat(63)), 23));
        (s.mul(power(half), power(s.i_sub(e, half))), s.splat(0.0))
    }
}
