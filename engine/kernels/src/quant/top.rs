//! The top bits of a format's codes, where they stand: a coarser model in the same memory.
#![allow(unsafe_code)]

use super::{Codes, Format};
use crate::simd::{LANES, Simd};
use std::marker::PhantomData;

/// The high planes of panels of `Q`: `weight = scale 2^LOW_BITS high + scale (middle - OFFSET) + min`, where `middle` is what
/// the low bits are on average. It is only ever read.
pub struct Top<Q>(PhantomData<Q>);

impl<Q: Codes> Format for Top<Q> {
    const NAME: &'static str = Q::NAME;
    const ID: u32 = Q::ID;
    const FILE_TYPE: u32 = Q::FILE_TYPE;
    const BLOCK_LEN: usize = Q::BLOCK_LEN;
    const BLOCK_BYTES: usize = Q::BLOCK_BYTES;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        Q::dequantize(block, out);
    }

    #[inline(always)]
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]) {
        Q::quantize(s, values, weights, block);
    }
}

impl<Q: Codes> Codes for Top<Q> {
    const HIGH_BITS: u32 = Q::HIGH_BITS;
    const LOW_BITS: u32 = 0;
    const OFFSET: i32 = 0;
    const SUB: usize = Q::SUB;
    const HAS_MIN: bool = true;
    const SCALE_BYTES: usize = Q::SCALE_BYTES;

    #[inline(always)]
    fn codes(block: &[u8], codes: &mut [u8]) {
        Q::codes(block, codes);
    }

    #[inline(always)]
    fn pack_scales(blocks: [&[u8]; LANES], out: &mut [u8]) {
        Q::pack_scales(blocks, out);
    }

    type Common<S: Simd> = Q::Common<S>;

    #[inline(always)]
    unsafe fn common<S: Simd>(s: S, scales: *const u8) -> Q::Common<S> {
        // SAFETY: the same contract.
        unsafe { Q::common(s, scales) }
    }

    #[inline(always)]
    unsafe fn scales<S: Simd>(
        s: S,
        common: Q::Common<S>,
        scales: *const u8,
        sub: usize,
    ) -> (S::F, S::F) {
        let step = (1 << Q::LOW_BITS) as f32;
        let middle = (step - 1.0) / 2.0 - Q::OFFSET as f32;
        // SAFETY: the same contract.
        let (scale, min) = unsafe { Q::scales(s, common, scales, sub) };
        let shift = s.mul(scale, s.splat(middle));
        let min = if Q::HAS_MIN { s.add(shift, min) } else { shift };
        (s.mul(scale, s.splat(step)), min)
    }
}
