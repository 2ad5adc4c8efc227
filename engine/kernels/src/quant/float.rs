//! F32, F16 and BF16: one value a block.
#![allow(unsafe_code)]

use super::{Floats, Format, f16_at, put_f16};
use crate::simd::Simd;
use half::bf16;

/// Single precision.
pub struct F32;
/// IEEE half precision.
pub struct F16;
/// Brain float: the upper half of single precision.
pub struct BF16;

impl Format for F32 {
    const NAME: &'static str = "F32";
    const ID: u32 = 0;
    const FILE_TYPE: u32 = 0;
    const BLOCK_LEN: usize = 1;
    const BLOCK_BYTES: usize = 4;
    fn dequantize(block: &[u8], out: &mut [f32]) {
        out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    }
    #[inline(always)]
    fn quantize<S: Simd>(_s: S, values: &[f32], _weights: &[f32], block: &mut [u8]) {
        block.copy_from_slice(&values[0].to_le_bytes());
    }
}

impl Floats for F32 {
    #[inline(always)]
    unsafe fn column<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: readable for 64 bytes by contract; loads take any alignment.
        unsafe { s.load(p.cast()) }
    }
}

impl Format for F16 {
    const NAME: &'static str = "F16";
    const ID: u32 = 1;
    const FILE_TYPE: u32 = 1;
    const BLOCK_LEN: usize = 1;
    const BLOCK_BYTES: usize = 2;
    fn dequantize(block: &[u8], out: &mut [f32]) {
        out[0] = f16_at(block, 0);
    }
    #[inline(always)]
    fn quantize<S: Simd>(_s: S, values: &[f32], _weights: &[f32], block: &mut [u8]) {
        put_f16(block, 0, values[0]);
    }
}

impl Floats for F16 {
    #[inline(always)]
    unsafe fn column<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: readable for 32 bytes by contract.
        unsafe { s.load_f16(p) }
    }
}

impl Format for BF16 {
    const NAME: &'static str = "BF16";
    const ID: u32 = 30;
    const FILE_TYPE: u32 = 32;
    const BLOCK_LEN: usize = 1;
    const BLOCK_BYTES: usize = 2;
    fn dequantize(block: &[u8], out: &mut [f32]) {
        out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32();
    }
    #[inline(always)]
    fn quantize<S: Simd>(_s: S, values: &[f32], _weights: &[f32], block: &mut [u8]) {
        block.copy_from_slice(&bf16::from_f32(values[0]).to_le_bytes());
    }
}

impl Floats for BF16 {
    #[inline(always)]
    unsafe fn column<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: readable for 32 bytes by contract.
        unsafe { s.load_bf16(p) }
    }
}
