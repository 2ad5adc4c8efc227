//! AVX2, FMA and F16C: a vector of sixteen lanes is two 256-bit registers.
#![allow(unsafe_code)]

use super::{LANES, Simd};
use std::arch::x86_64::*;

/// Witness that the CPU has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// `Some` if this CPU has AVX2, FMA and F16C.
    pub fn new() -> Option<Avx2> {
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            return Some(Avx2(()));
        }
        None
    }
}

/// Applies an intrinsic to both halves.
macro_rules! both {
    ($f:ident, $a:expr) => {{
        let a = $a;
        // SAFETY: the witness guarantees the CPU feature.
        unsafe { [$f(a[0]), $f(a[1])] }
    }};
    ($f:ident, $a:expr, $b:expr) => {{
        let (a, b) = ($a, $b);
        // SAFETY: the witness guarantees the CPU feature.
        unsafe { [$f(a[0], b[0]), $f(a[1], b[1])] }
    }};
    ($f:ident, $a:expr, $b:expr, $c:expr) => {{
        let (a, b, c) = ($a, $b, $c);
        // SAFETY: the witness guarantees the CPU feature.
        unsafe { [$f(a[0], b[0], c[0]), $f(a[1], b[1], c[1])] }
    }};
}

#[target_feature(enable = "avx2,fma,f16c")]
fn enter<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Gives `v`, of which the compiler then knows nothing.
#[inline]
#[target_feature(enable = "avx2")]
fn keep(mut v: __m256i) -> __m256i {
    // SAFETY: no instruction; the register keeps its value.
    unsafe {
        std::arch::asm!("/* {0} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags))
    };
    v
}

// SAFETY: constructed only by `new`, which asks the CPU.
unsafe impl Simd for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];
    /// Sixteen-bit sums.
    type Acc = [__m256i; 2];

    const REGISTERS: usize = 8;

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        // SAFETY: the witness guarantees the CPU features that `enter` is compiled for.
        unsafe { enter(f) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: the witness guarantees the CPU feature.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: readable for 16 f32 by contract.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        // SAFETY: writable for 16 f32 by contract.
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> Self::F {
        let p = p.cast::<__m128i>();
        // SAFETY: readable for 32 bytes by contract.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(p)),
                _mm256_cvtph_ps(_mm_loadu_si128(p.add(1))),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: Self::F) {
        let p = p.cast::<__m128i>();
        // SAFETY: writable for 32 bytes by contract.
        unsafe {
            _mm_storeu_si128(p, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
            _mm_storeu_si128(p.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> Self::F {
        let p = p.cast::<__m128i>();
        // SAFETY: readable for 32 bytes by contract.
        let halves = unsafe { [_mm_loadu_si128(p), _mm_loadu_si128(p.add(1))] };
        // SAFETY: the witness guarantees the CPU feature.
        halves.map(|h| unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(h)))
        })
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn above(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the witness guarantees the CPU feature.
        unsafe {
            let one = _mm256_set1_ps(1.0);
            [
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]), one),
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1]), one),
            ]
        }
    }
    #[inline(always)]
    fn peak(self, a: Self::F, b: Self::F) -> f32 {
        // SAFETY: the witness guarantees the CPU feature.
        let mask = unsafe { [_mm256_set1_epi32(i32::MAX); 2] };
        let bits = |v: Self::F| both!(_mm256_and_si256, both!(_mm256_castps_si256, v), mask);
        let both = both!(_mm256_max_epi32, bits(a), bits(b));
        // SAFETY: the witness guarantees the CPU feature.
        unsafe {
            let eight = _mm256_max_epi32(both[0], both[1]);
            let four = _mm_max_epi32(
                _mm256_castsi256_si128(eight),
                _mm256_extracti128_si256::<1>(eight),
            );
            let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
            let one = _mm_max_epi32(two, _mm_shuffle_epi32::<1>(two));
            f32::from_bits(_mm_cvtsi128_si32(one) as u32)
        }
    }

    #[inline(always)]
    fn largest(self, v: Self::F) -> f32 {
        // SAFETY: the witness guarantees the CPU feature.
        unsafe {
            let eight = _mm256_max_ps(v[0], v[1]);
            let four = _mm_max_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn i_splat(self, x: i32) -> Self::I {
        // SAFETY: the witness guarantees the CPU feature.
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    unsafe fn i_from_u8(self, p: *const u8) -> Self::I {
        // SAFETY: readable for 16 bytes by contract.
        unsafe {
            let v = _mm_loadu_si128(p.cast());
            [
                _mm256_cvtepu8_epi32(v),
                _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(v)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn i_from_i8(self, p: *const u8) -> Self::I {
        // SAFETY: readable for 16 bytes by contract.
        unsafe {
            let v = _mm_loadu_si128(p.cast());
            [
                _mm256_cvtepi8_epi32(v),
                _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(v)),
            ]
        }
    }
    #[inline(always)]
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_add_epi32, a, b)
    }
    #[inline(always)]
    fn i_sub(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_sub_epi32, a, b)
    }
    #[inline(always)]
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_mullo_epi32, a, b)
    }
    #[inline(always)]
    fn i_sum(self, v: Self::I) -> i32 {
        // SAFETY: the witness guarantees the CPU feature.
        unsafe {
            let eight = _mm256_add_epi32(v[0], v[1]);
            let four = _mm_add_epi32(
                _mm256_castsi256_si128(eight),
                _mm256_extracti128_si256::<1>(eight),
            );
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
        }
    }
    #[inline(always)]
    fn i_and(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_and_si256, a, b)
    }
    #[inline(always)]
    fn i_or(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_or_si256, a, b)
    }
    #[inline(always)]
    fn i_shl(self, a: Self::I, n: u32) -> Self::I {
        // SAFETY: the witness guarantees the CPU feature.
        a.map(|v| unsafe { _mm256_sll_epi32(v, _mm_cvtsi32_si128(n as i32)) })
    }
    #[inline(always)]
    fn i_shr(self, a: Self::I, n: u32) -> Self::I {
        // SAFETY: the witness guarantees the CPU feature.
        a.map(|v| unsafe { _mm256_srl_epi32(v, _mm_cvtsi32_si128(n as i32)) })
    }
    #[inline(always)]
    fn i_to_f(self, a: Self::I) -> Self::F {
        both!(_mm256_cvtepi32_ps, a)
    }
    #[inline(always)]
    fn f_to_i(self, a: Self::F) -> Self::I {
        both!(_mm256_cvtps_epi32, a)
    }
    #[inline(always)]
    fn i_as_f(self, a: Self::I) -> Self::F {
        both!(_mm256_castsi256_ps, a)
    }
    #[inline(always)]
    fn f_as_i(self, a: Self::F) -> Self::I {
        both!(_mm256_castps_si256, a)
    }
    #[inline(always)]
    unsafe fn i_store_i8(self, p: *mut i8, v: Self::I) {
        // SAFETY: writable for 16 bytes by contract; the packs saturate, which lanes in range never reach.
        unsafe {
            let words = _mm256_permute4x64_epi64::<0b1101_1000>(_mm256_packs_epi32(v[0], v[1]));
            let bytes = _mm_packs_epi16(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(p.cast(), bytes);
        }
    }

    #[inline(always)]
    unsafe fn i_store(self, p: *mut u8, v: Self::I) {
        // SAFETY: writable for 64 bytes by contract; the vectors of both kinds are the same here.
        unsafe { self.b_store(p, v) }
    }

    #[inline(always)]
    unsafe fn b_load(self, p: *const u8) -> Self::B {
        let p = p.cast::<__m256i>();
        // SAFETY: readable for 64 bytes by contract.
        unsafe { [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))] }
    }
    #[inline(always)]
    fn b_field(self, v: Self::B, shift: u32, mask: u8) -> Self::B {
        // SAFETY: the witness guarantees the CPU feature.
        v.map(|h| unsafe {
            let h = if shift == 0 {
                h
            } else {
                _mm256_srl_epi16(h, _mm_cvtsi32_si128(shift as i32))
            };
            _mm256_and_si256(h, _mm256_set1_epi8(mask as i8))
        })
    }

    #[inline(always)]
    fn b_as_i(self, v: Self::B) -> Self::I {
        v
    }
    #[inline(always)]
    fn i_as_b(self, v: Self::I) -> Self::B {
        v
    }
    #[inline(always)]
    fn b_zero(self) -> Self::B {
        // SAFETY: the witness guarantees the CPU feature.
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    fn b_lookup(self, table: [u8; 16], v: Self::B) -> Self::B {
        // SAFETY: the witness guarantees the CPU feature; the table has 16 bytes.
        let table =
            unsafe { [_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())); 2] };
        both!(_mm256_shuffle_epi8, table, v)
    }
    #[inline(always)]
    unsafe fn b_tables(self, p: *const u8, count: usize) -> Self::B {
        let p = p.cast::<__m256i>();
        // SAFETY: readable for 16 `count` bytes by contract.
        unsafe {
            match count {
                1 => [_mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast())); 2],
                2 => [_mm256_loadu_si256(p); 2],
                _ => [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))],
            }
        }
    }
    #[inline(always)]
    fn b_choose(self, tables: Self::B, v: Self::B) -> Self::B {
        both!(_mm256_shuffle_epi8, tables, v)
    }
    #[inline(always)]
    fn b_by_rows(self, v: Self::B) -> Self::B {
        // SAFETY: the witness guarantees the CPU feature.
        unsafe {
            // Of eight rows each: quarters 0 and 2 in the lower half, 1 and 3 in the upper one, two bytes a row.
            let first = _mm256_unpacklo_epi8(v[0], v[1]);
            let second = _mm256_unpackhi_epi8(v[0], v[1]);
            // Of four rows in each half, then in turn.
            let four_rows = [
                _mm256_permute4x64_epi64::<0b1101_1000>(first),
                _mm256_permute4x64_epi64::<0b1101_1000>(second),
            ];
            let in_turn = _mm256_broadcastsi128_si256(_mm_setr_epi8(
                0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15,
            ));
            [
                _mm256_shuffle_epi8(four_rows[0], in_turn),
                _mm256_shuffle_epi8(four_rows[1], in_turn),
            ]
        }
    }
    #[inline(always)]
    fn b_add(self, a: Self::B, b: Self::B) -> Self::B {
        both!(_mm256_add_epi8, a, b)
    }
    #[inline(always)]
    unsafe fn b_store(self, p: *mut u8, v: Self::B) {
        let p = p.cast::<__m256i>();
        // SAFETY: writable for 64 bytes by contract.
        unsafe {
            _mm256_storeu_si256(p, v[0]);
            _mm256_storeu_si256(p.add(1), v[1]);
        }
    }
    #[inline(always)]
    fn b_join(self, high: Self::B, low: Self::B, low_bits: u32) -> Self::B {
        // SAFETY: the witness guarantees the CPU feature. No bit leaves its byte: four bits move by at most four.
        let high = high.map(|h| unsafe { _mm256_sll_epi16(h, _mm_cvtsi32_si128(low_bits as i32)) });
        both!(_mm256_or_si256, high, low)
    }

    /// Sums of pairs of products, the codes' largest magnitude being 127, stay below 2^15.
    #[inline(always)]
    fn dots_max(bits: u32) -> usize {
        match bits {
            ..=4 => 8,
            5 => 4,
            6 => 2,
            7 => 1,
            _ => 0,
        }
    }
    #[inline(always)]
    fn dot_start(self, _from: Self::I) -> Self::Acc {
        // SAFETY: the witness guarantees the CPU feature.
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    unsafe fn dot(self, acc: Self::Acc, w: Self::B, x: *const i8) -> Self::Acc {
        // SAFETY: readable for 4 bytes by contract; the witness guarantees the CPU feature.
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            [
                _mm256_add_epi16(acc[0], _mm256_maddubs_epi16(w[0], x)),
                _mm256_add_epi16(acc[1], _mm256_maddubs_epi16(w[1], x)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn dot_rows(self, acc: Self::Acc, w: Self::B, x: *const i8) -> Self::Acc {
        // SAFETY: readable for 64 bytes by contract.
        let x = unsafe { self.b_load(x.cast()) };
        both!(_mm256_add_epi16, acc, both!(_mm256_maddubs_epi16, w, x))
    }
    #[inline(always)]
    fn b_cross(self, [a, b, c, d]: [Self::B; 4]) -> [Self::B; 4] {
        let (ab, cd) = (
            both!(_mm256_unpacklo_epi8, a, b),
            both!(_mm256_unpacklo_epi8, c, d),
        );
        let (ab_high, cd_high) = (
            both!(_mm256_unpackhi_epi8, a, b),
            both!(_mm256_unpackhi_epi8, c, d),
        );
        [
            both!(_mm256_unpacklo_epi16, ab, cd),
            both!(_mm256_unpackhi_epi16, ab, cd),
            both!(_mm256_unpacklo_epi16, ab_high, cd_high),
            both!(_mm256_unpackhi_epi16, ab_high, cd_high),
        ]
    }
    #[inline(always)]
    fn b_spread(self, v: Self::B) -> [Self::B; 4] {
        // SAFETY: the witness guarantees the CPU feature.
        unsafe {
            [
                v.map(|v| _mm256_shuffle_epi32::<0b00_00_00_00>(v)),
                v.map(|v| _mm256_shuffle_epi32::<0b01_01_01_01>(v)),
                v.map(|v| _mm256_shuffle_epi32::<0b10_10_10_10>(v)),
                v.map(|v| _mm256_shuffle_epi32::<0b11_11_11_11>(v)),
            ]
        }
    }
    #[inline(always)]
    fn pin(self, acc: Self::Acc) -> Self::Acc {
        both!(keep, acc)
    }
    #[inline(always)]
    fn dot_sum(self, acc: Self::Acc, from: Self::I) -> Self::I {
        // SAFETY: the witness guarantees the CPU feature.
        let ones = unsafe { [_mm256_set1_epi16(1); 2] };
        self.i_add(both!(_mm256_madd_epi16, acc, ones), from)
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_second(self, p: *const u8) {
        // SAFETY: a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}

const _: () = assert!(LANES == 16, "two 256-bit registers");
