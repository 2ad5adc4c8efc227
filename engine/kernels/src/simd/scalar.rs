//! Portable lanes: plain arrays and loops.
#![allow(unsafe_code)]

use super::{LANES, Simd};
use half::{bf16, f16};

/// The bit of an `f32` that holds its sign.
const SIGN: u32 = 1 << 31;

/// Witness for the portable implementation, which every CPU has.
#[derive(Debug, Clone, Copy)]
pub struct Scalar;

#[inline(always)]
fn map<T: Copy, U: Copy + Default>(a: [T; LANES], f: impl Fn(T) -> U) -> [U; LANES] {
    a.map(f)
}

#[inline(always)]
fn zip<T: Copy, U: Copy + Default>(
    a: [T; LANES],
    b: [T; LANES],
    f: impl Fn(T, T) -> U,
) -> [U; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY: needs no CPU feature.
unsafe impl Simd for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type B = [u8; 64];
    type Acc = [i32; LANES];

    const REGISTERS: usize = 0;

    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: readable for 16 f32 by contract.
        unsafe { p.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F) {
        // SAFETY: writable for 16 f32 by contract.
        unsafe { p.cast::<Self::F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> Self::F {
        // SAFETY: readable for 32 bytes by contract.
        let bits = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        map(bits, |b| f16::from_bits(u16::from_le(b)).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: Self::F) {
        let bits = map(v, |x| f16::from_f32(x).to_bits().to_le());
        // SAFETY: writable for 32 bytes by contract.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u8) -> Self::F {
        // SAFETY: readable for 32 bytes by contract.
        let bits = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        map(bits, |b| bf16::from_bits(u16::from_le(b)).to_f32())
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    fn above(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |x, y| if x > y { 1.0 } else { 0.0 })
    }
    #[inline(always)]
    fn peak(self, a: Self::F, b: Self::F) -> f32 {
        let bits = zip(a.map(f32::to_bits), b.map(f32::to_bits), |a, b| {
            (a & !SIGN).max(b & !SIGN)
        });
        f32::from_bits(bits.into_iter().fold(0, u32::max))
    }

    #[inline(always)]
    fn i_splat(self, x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn i_from_u8(self, p: *const u8) -> Self::I {
        // SAFETY: readable for 16 bytes by contract.
        map(unsafe { p.cast::<[u8; LANES]>().read() }, i32::from)
    }
    #[inline(always)]
    unsafe fn i_from_i8(self, p: *const u8) -> Self::I {
        // SAFETY: readable for 16 bytes by contract.
        map(unsafe { p.cast::<[i8; LANES]>().read() }, i32::from)
    }
    #[inline(always)]
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn i_sub(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_mul)
    }
    #[inline(always)]
    fn i_sum(self, v: Self::I) -> i32 {
        v.into_iter().fold(0, i32::wrapping_add)
    }
    #[inline(always)]
    fn i_and(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |x, y| x & y)
    }
    #[inline(always)]
    fn i_or(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |x, y| x | y)
    }
    #[inline(always)]
    fn i_shl(self, a: Self::I, n: u32) -> Self::I {
        map(a, |x| x << n)
    }
    #[inline(always)]
    fn i_shr(self, a: Self::I, n: u32) -> Self::I {
        map(a, |x| ((x as u32) >> n) as i32)
    }
    #[inline(always)]
    fn i_to_f(self, a: Self::I) -> Self::F {
        map(a, |x| x as f32)
    }
    #[inline(always)]
    fn f_to_i(self, a: Self::F) -> Self::I {
        map(a, |x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    fn i_as_f(self, a: Self::I) -> Self::F {
        map(a, |x| f32::from_bits(x as u32))
    }
    #[inline(always)]
    fn f_as_i(self, a: Self::F) -> Self::I {
        map(a, |x| x.to_bits() as i32)
    }
    #[inline(always)]
    unsafe fn i_store_i8(self, p: *mut i8, v: Self::I) {
        // SAFETY: writable for 16 bytes by contract.
        unsafe { p.cast::<[i8; LANES]>().write(map(v, |x| x as i8)) }
    }

    #[inline(always)]
    unsafe fn i_store(self, p: *mut u8, v: Self::I) {
        let bytes = v.map(i32::to_le_bytes);
        // SAFETY: writable for 64 bytes by contract.
        unsafe { p.cast::<[[u8; 4]; LANES]>().write(bytes) }
    }

    #[inline(always)]
    unsafe fn b_load(self, p: *const u8) -> Self::B {
        // SAFETY: readable for 64 bytes by contract.
        unsafe { p.cast::<[u8; 64]>().read() }
    }
    #[inline(always)]
    fn b_field(self, v: Self::B, shift: u32, mask: u8) -> Self::B {
        v.map(|b| (b >> shift) & mask)
    }

    #[inline(always)]
    fn b_as_i(self, v: Self::B) -> Self::I {
        std::array::from_fn(|r| i32::from_le_bytes(std::array::from_fn(|i| v[4 * r + i])))
    }
    #[inline(always)]
    fn i_as_b(self, v: Self::I) -> Self::B {
        std::array::from_fn(|at| v[at / 4].to_le_bytes()[at % 4])
    }
    #[inline(always)]
    fn b_zero(self) -> Self::B {
        [0; 64]
    }
    #[inline(always)]
    fn b_lookup(self, table: [u8; 16], v: Self::B) -> Self::B {
        v.map(|b| table[usize::from(b & 15)])
    }
    #[inline(always)]
    unsafe fn b_tables(self, p: *const u8, count: usize) -> Self::B {
        // SAFETY: readable for 16 `count` bytes by contract.
        std::array::from_fn(|i| unsafe { *p.add(i % (16 * count)) })
    }
    #[inline(always)]
    fn b_choose(self, tables: Self::B, v: Self::B) -> Self::B {
        std::array::from_fn(|i| tables[i / 16 * 16 + usize::from(v[i] & 15)])
    }
    #[inline(always)]
    fn b_by_rows(self, v: Self::B) -> Self::B {
        std::array::from_fn(|i| v[[0, 2, 1, 3][i % 4] * 16 + i / 4])
    }
    #[inline(always)]
    fn b_add(self, a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn b_store(self, p: *mut u8, v: Self::B) {
        // SAFETY: writable for 64 bytes by contract.
        unsafe { p.cast::<[u8; 64]>().write(v) }
    }
    #[inline(always)]
    fn b_join(self, high: Self::B, low: Self::B, low_bits: u32) -> Self::B {
        std::array::from_fn(|i| high[i] << low_bits | low[i])
    }

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
        // SAFETY: readable for 4 bytes by contract.
        let x = unsafe { x.cast::<[i8; 4]>().read() };
        std::array::from_fn(|r| {
            acc[r]
                + (0..4)
                    .map(|i| i32::from(w[4 * r + i]) * i32::from(x[i]))
                    .sum::<i32>()
        })
    }
    #[inline(always)]
    unsafe fn dot_rows(self, acc: Self::Acc, w: Self::B, x: *const i8) -> Self::Acc {
        // SAFETY: readable for 64 bytes by contract.
        let x = unsafe { x.cast::<[i8; 64]>().read() };
        std::array::from_fn(|r| {
            let products = (4 * r..4 * r + 4).map(|i| i32::from(w[i]) * i32::from(x[i]));
            acc[r] + products.sum::<i32>()
        })
    }
    #[inline(always)]
    fn b_cross(self, v: [Self::B; 4]) -> [Self::B; 4] {
        std::array::from_fn(|j| {
            std::array::from_fn(|at| {
                let (row, n) = (at / 4, at % 4);
                v[n][4 * (row / 4 * 4 + j) + row % 4]
            })
        })
    }
    #[inline(always)]
    fn b_spread(self, v: Self::B) -> [Self::B; 4] {
        std::array::from_fn(|j| std::array::from_fn(|at| v[4 * (at / 16 * 4 + j) + at % 4]))
    }
    #[inline(always)]
    fn dot_sum(self, acc: Self::Acc, _from: Self::I) -> Self::I {
        acc
    }

    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}
    #[inline(always)]
    fn prefetch_second(self, _p: *const u8) {}
}
