//! AVX-512 F, BW, VL and VNNI: a vector of sixteen lanes is one register.
#![allow(unsafe_code)]

use super::Simd;
use std::arch::x86_64::*;

/// Witness that the CPU has AVX-512 F, BW, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// `Some` if this CPU has AVX-512 F, BW, VL and VNNI.
    pub fn new() -> Option<Avx512> {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
        {
            return Some(Avx512(()));
        }
        None
    }
}

/// Calls an intrinsic that only needs the CPU feature.
macro_rules! cpu {
    ($e:expr) => {{
        // SAFETY: the witness guarantees the CPU feature.
        unsafe { $e }
    }};
}

/// Gives `v`, of which the compiler then knows nothing.
#[inline]
#[target_feature(enable = "avx512f")]
fn keep(mut v: __m512i) -> __m512i {
    // SAFETY: no instruction; the register keeps its value.
    unsafe {
        std::arch::asm!("/* {0} */", inout(zmm_reg) v, options(nomem, nostack, preserves_flags))
    };
    v
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn enter<R>(f: impl FnOnce() -> R) -> R {
    f()
}

// SAFETY: constructed only by `new`, which asks the CPU.
unsafe impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    type Acc = __m512i;

    const REGISTERS: usize = 32;

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        // SAFETY: the witness guarantees the CPU features that `enter` is compiled for (AVX-512 F implies AVX2, FMA
        // and F16C).
        unsafe { enter(f) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        cpu!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: readable for 16 f32 by contract.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        // SAFETY: writable for 16 f32 by contract.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> Self::F {
        // SAFETY: readable for 32 bytes by contract.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: Self::F) {
        // SAFETY: writable for 32 bytes by contract.
        unsafe {
            _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> Self::F {
        // SAFETY: readable for 32 bytes by contract.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        cpu!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn above(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!({
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b);
            _mm512_maskz_mov_ps(above, _mm512_set1_ps(1.0))
        })
    }
    #[inline(always)]
    fn peak(self, a: Self::F, b: Self::F) -> f32 {
        let bits = |v| cpu!(_mm512_castps_si512(_mm512_abs_ps(v)));
        let largest = cpu!(_mm512_reduce_max_epi32(_mm512_max_epi32(bits(a), bits(b))));
        f32::from_bits(largest as u32)
    }

    #[inline(always)]
    fn largest(self, v: Self::F) -> f32 {
        cpu!(_mm512_reduce_max_ps(v))
    }

    #[inline(always)]
    fn i_splat(self, x: i32) -> Self::I {
        cpu!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    unsafe fn i_from_u8(self, p: *const u8) -> Self::I {
        // SAFETY: readable for 16 bytes by contract.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn i_from_i8(self, p: *const u8) -> Self::I {
        // SAFETY: readable for 16 bytes by contract.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I {
        cpu!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn i_sub(self, a: Self::I, b: Self::I) -> Self::I {
        cpu!(_mm512_sub_epi32(a, b))
    }
    #[inline(always)]
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I {
        cpu!(_mm512_mullo_epi32(a, b))
    }
    #[inline(always)]
    fn i_sum(self, v: Self::I) -> i32 {
        cpu!(_mm512_reduce_add_epi32(v))
    }
    #[inline(always)]
    fn i_and(self, a: Self::I, b: Self::I) -> Self::I {
        cpu!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn i_or(self, a: Self::I, b: Self::I) -> Self::I {
        cpu!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn i_shl(self, a: Self::I, n: u32) -> Self::I {
        cpu!(_mm512_sll_epi32(a, _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn i_shr(self, a: Self::I, n: u32) -> Self::I {
        cpu!(_mm512_srl_epi32(a, _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn i_to_f(self, a: Self::I) -> Self::F {
        cpu!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn f_to_i(self, a: Self::F) -> Self::I {
        cpu!(_mm512_cvtps_epi32(a))
    }
    #[inline(always)]
    fn i_as_f(self, a: Self::I) -> Self::F {
        cpu!(_mm512_castsi512_ps(a))
    }
    #[inline(always)]
    fn f_as_i(self, a: Self::F) -> Self::I {
        cpu!(_mm512_castps_si512(a))
    }
    #[inline(always)]
    unsafe fn i_store_i8(self, p: *mut i8, v: Self::I) {
        // SAFETY: writable for 16 bytes by contract.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v)) }
    }

    #[inline(always)]
    unsafe fn i_strided(self, p: *const u8, stride: usize) -> Self::I {
        // SAFETY: readable by contract.
        unsafe {
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(stride as i32));
            _mm512_i32gather_epi32::<1>(offsets, p.cast())
        }
    }
    #[inline(always)]
    unsafe fn i_store(self, p: *mut u8, v: Self::I) {
        // SAFETY: writable for 64 bytes by contract.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }

    #[inline(always)]
    unsafe fn b_load(self, p: *const u8) -> Self::B {
        // SAFETY: readable for 64 bytes by contract.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    fn b_field(self, v: Self::B, shift: u32, mask: u8) -> Self::B {
        cpu!({
            let v = if shift == 0 {
                v
            } else {
                _mm512_srl_epi16(v, _mm_cvtsi32_si128(shift as i32))
            };
            _mm512_and_si512(v, _mm512_set1_epi8(mask as i8))
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
        cpu!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn b_lookup(self, table: [u8; 16], v: Self::B) -> Self::B {
        // The table has 16 bytes.
        let table = cpu!(_mm512_broadcast_i32x4(_mm_loadu_si128(
            table.as_ptr().cast()
        )));
        cpu!(_mm512_shuffle_epi8(table, v))
    }
    #[inline(always)]
    unsafe fn b_tables(self, p: *const u8, count: usize) -> Self::B {
        // SAFETY: readable for 16 `count` bytes by contract.
        unsafe {
            match count {
                1 => _mm512_broadcast_i32x4(_mm_loadu_si128(p.cast())),
                2 => _mm512_broadcast_i64x4(_mm256_loadu_si256(p.cast())),
                _ => _mm512_loadu_si512(p.cast()),
            }
        }
    }
    #[inline(always)]
    fn b_choose(self, tables: Self::B, v: Self::B) -> Self::B {
        cpu!(_mm512_shuffle_epi8(tables, v))
    }
    #[inline(always)]
    fn b_by_rows(self, v: Self::B) -> Self::B {
        cpu!({
            // Four rows of each quarter together, then the four bytes of each row.
            let fours = _mm512_setr_epi32(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15);
            let bytes = _mm512_broadcast_i32x4(_mm_setr_epi8(
                0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
            ));
            _mm512_shuffle_epi8(_mm512_permutexvar_epi32(fours, v), bytes)
        })
    }
    #[inline(always)]
    fn b_add(self, a: Self::B, b: Self::B) -> Self::B {
        cpu!(_mm512_add_epi8(a, b))
    }
    #[inline(always)]
    unsafe fn b_store(self, p: *mut u8, v: Self::B) {
        // SAFETY: writable for 64 bytes by contract.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    fn b_join(self, high: Self::B, low: Self::B, low_bits: u32) -> Self::B {
        let count = cpu!(_mm_cvtsi32_si128(low_bits as i32));
        cpu!(_mm512_or_si512(_mm512_sll_epi16(high, count), low))
    }

    /// Thirty-two-bit sums.
    #[inline(always)]
    fn dots_max(_bits: u32) -> usize {
        8
    }
    #[inline(always)]
    fn dot_start(self, from: Self::I) -> Self::Acc {
        from
    }
    #[inline(always)]
    unsafe fn dot(self, acc: Self::Acc, w: Self::B, x: *const i8) -> Self::Acc {
        // SAFETY: readable for 4 bytes by contract; the witness guarantees the CPU feature.
        unsafe { _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn dot_rows(self, acc: Self::Acc, w: Self::B, x: *const i8) -> Self::Acc {
        // SAFETY: readable for 64 bytes by contract; the witness guarantees the CPU feature.
        unsafe { _mm512_dpbusd_epi32(acc, w, _mm512_loadu_si512(x.cast())) }
    }
    #[inline(always)]
    fn b_cross(self, [a, b, c, d]: [Self::B; 4]) -> [Self::B; 4] {
        cpu!({
            let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
            [
                _mm512_unpacklo_epi16(ab, cd),
                _mm512_unpackhi_epi16(ab, cd),
                _mm512_unpacklo_epi16(ab_high, cd_high),
                _mm512_unpackhi_epi16(ab_high, cd_high),
            ]
        })
    }
    #[inline(always)]
    fn b_spread(self, v: Self::B) -> [Self::B; 4] {
        cpu!([
            _mm512_shuffle_epi32::<0b00_00_00_00>(v),
            _mm512_shuffle_epi32::<0b01_01_01_01>(v),
            _mm512_shuffle_epi32::<0b10_10_10_10>(v),
            _mm512_shuffle_epi32::<0b11_11_11_11>(v),
        ])
    }
    #[inline(always)]
    fn pin(self, acc: Self::Acc) -> Self::Acc {
        cpu!(keep(acc))
    }
    #[inline(always)]
    fn dot_sum(self, acc: Self::Acc, _from: Self::I) -> Self::I {
        acc
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
