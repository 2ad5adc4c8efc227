//! Sixteen lanes of `f32` and `i32` and 64 bytes at a time, on whatever the CPU has.
//!
//! Every algorithm is written once, generic over [`Simd`], and never sees a lane count other than 16: AVX-512 has it in
//! one register, AVX2 in two, the scalar version in an array. Since the lanes and the order of operations are the same
//! everywhere (fused multiply-add included), all instruction sets give bit-identical results.
//!
//! A value of an implementing type is a witness that the CPU has the feature: it can only be had from `new`, which asks
//! the CPU. The methods without pointers are therefore safe.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use scalar::Scalar;

use crate::options::Isa;

/// Lanes of a vector, rows of a weight panel.
pub const LANES: usize = 16;

/// Code that is generic over the instruction set.
pub trait Visitor {
    /// What it gives.
    type Out;
    /// Runs it for one.
    fn visit<S: Simd>(self, s: S) -> Self::Out;
}

/// Runs `visitor` for the instruction set asked for; `None` when this CPU does not have it.
pub fn with<V: Visitor>(isa: Isa, visitor: V) -> Option<V::Out> {
    match isa {
        Isa::Auto => with(available()[0], visitor),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Avx512::new().map(|s| visitor.visit(s)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Avx2::new().map(|s| visitor.visit(s)),
        Isa::Scalar => Some(visitor.visit(Scalar)),
        #[cfg(not(target_arch = "x86_64"))]
        _ => None,
    }
}

/// Instruction sets this CPU can run, best first.
pub fn available() -> Vec<Isa> {
    let mut isas = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        isas.extend(Avx512::new().map(|_| Isa::Avx512));
        isas.extend(Avx2::new().map(|_| Isa::Avx2));
    }
    isas.push(Isa::Scalar);
    isas
}

/// Whether this is a CPU of Intel's.
pub fn is_intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let vendor = std::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx]
            .map(u32::to_le_bytes)
            .as_flattened()
            == b"GenuineIntel"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The instruction set asked for is not one of this CPU's.
#[derive(Debug, thiserror::Error)]
#[error("option \"isa\": this CPU cannot run \"{isa}\": choose one of {can}, or auto")]
pub struct Unavailable {
    isa: Isa,
    can: String,
}

/// The instruction set that option `isa` stands for on this CPU.
///
/// # Errors
/// [`Unavailable`] where the CPU does not have it.
pub fn choose(isa: Isa) -> Result<Isa, Unavailable> {
    let available = available();
    match isa {
        Isa::Auto => Ok(available[0]),
        isa if available.contains(&isa) => Ok(isa),
        isa => {
            let can: Vec<String> = available.iter().map(Isa::to_string).collect();
            Err(Unavailable {
                isa,
                can: can.join(", "),
            })
        }
    }
}

/// An instruction set. `F` is 16 `f32`, `I` 16 `i32`, `B` 64 bytes.
///
/// # Safety
/// An implementation may only be constructed on a CPU that has its features.
#[allow(
    clippy::missing_safety_doc,
    reason = "the pointer methods share one contract, stated on the trait's load group"
)]
pub unsafe trait Simd: Copy + Send + Sync + 'static {
    /// 16 lanes of `f32`.
    type F: Copy;
    /// 16 lanes of `i32`.
    type I: Copy;
    /// 64 bytes.
    type B: Copy;
    /// Partial sums of byte products for 16 rows; good for [`Simd::dots_max`] products.
    type Acc: Copy;

    /// Vectors of 16 lanes that the registers hold; 0 where there are no vectors.
    const REGISTERS: usize;
    /// Whether they are enough to sum the products of a panel with twelve tokens.
    const MANY: bool = Self::REGISTERS >= 32;

    /// Runs `f` compiled for this instruction set. Everything inside must be `#[inline(always)]`.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// # Safety
    /// `p` is readable for 16 `f32`, any alignment.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// # Safety
    /// `p` is writable for 16 `f32`, any alignment.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// # Safety
    /// `p` is readable for 16 half-precision floats (32 bytes), any alignment.
    unsafe fn load_f16(self, p: *const u8) -> Self::F;
    /// Rounds to nearest, ties to even.
    /// # Safety
    /// `p` is writable for 16 half-precision floats (32 bytes), any alignment.
    unsafe fn store_f16(self, p: *mut u8, v: Self::F);
    /// # Safety
    /// `p` is readable for 16 bfloat16 (32 bytes), any alignment.
    unsafe fn load_bf16(self, p: *const u8) -> Self::F;
    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Lane-wise maximum; `b` where `a` is not a number.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Lane-wise minimum; `b` where `a` is not a number.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// 1 in the lanes where `a > b`, 0 in the others.
    fn above(self, a: Self::F, b: Self::F) -> Self::F;
    /// The lanes, in order, for reductions outside the hot path.
    #[inline(always)]
    fn to_array(self, v: Self::F) -> [f32; LANES] {
        let mut a = [0.0; LANES];
        // SAFETY: `a` holds 16 f32.
        unsafe { self.store(a.as_mut_ptr(), v) };
        a
    }
    /// Sum of the lanes as a fixed tree: halves, quarters, pairs.
    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        let mut a = self.to_array(v);
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                a[i] += a[i + half];
            }
            half /= 2;
        }
        a[0]
    }
    /// Largest magnitude of all lanes of both; no number where one of them is none.
    ///
    /// Without their signs, floats are ordered as their bits are as integers, and what is no number stands above all others.
    fn peak(self, a: Self::F, b: Self::F) -> f32;
    /// Largest lane; all must be numbers.
    #[inline(always)]
    fn largest(self, v: Self::F) -> f32 {
        let mut a = self.to_array(v);
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                a[i] = if a[i] > a[i + half] {
                    a[i]
                } else {
                    a[i + half]
                };
            }
            half /= 2;
        }
        a[0]
    }

    /// All lanes `x`.
    fn i_splat(self, x: i32) -> Self::I;
    /// 16 unsigned bytes, widened.
    /// # Safety
    /// `p` is readable for 16 bytes.
    unsafe fn i_from_u8(self, p: *const u8) -> Self::I;
    /// 16 signed bytes, widened.
    /// # Safety
    /// `p` is readable for 16 bytes.
    unsafe fn i_from_i8(self, p: *const u8) -> Self::I;
    /// `a + b`, wrapping.
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a - b`, wrapping.
    fn i_sub(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a * b`, low 32 bits.
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I;
    /// Sum of the lanes, wrapping.
    fn i_sum(self, v: Self::I) -> i32;
    /// Bitwise and.
    fn i_and(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise or.
    fn i_or(self, a: Self::I, b: Self::I) -> Self::I;
    /// `a << n`.
    fn i_shl(self, a: Self::I, n: u32) -> Self::I;
    /// `a >> n`, zeros shifted in.
    fn i_shr(self, a: Self::I, n: u32) -> Self::I;
    /// Exact up to 2^24, else rounded to nearest even.
    fn i_to_f(self, a: Self::I) -> Self::F;
    /// Rounded to nearest even.
    fn f_to_i(self, a: Self::F) -> Self::I;
    /// The lanes' bits as `f32`.
    fn i_as_f(self, a: Self::I) -> Self::F;
    /// The lanes' bits as `i32`.
    fn f_as_i(self, a: Self::F) -> Self::I;
    /// The low byte of each lane; lanes must lie within -128..=127.
    /// # Safety
    /// `p` is writable for 16 bytes.
    unsafe fn i_store_i8(self, p: *mut i8, v: Self::I);

    /// Sixteen times four bytes, `stride` bytes apart, the first of four lowest.
    /// # Safety
    /// Each of `p + stride n`, `n` below 16, is readable for 4 bytes; `stride` is below 2^26.
    #[inline(always)]
    unsafe fn i_strided(self, p: *const u8, stride: usize) -> Self::I {
        let mut all = [[0; 4]; LANES];
        for (n, four) in all.iter_mut().enumerate() {
            // SAFETY: by contract.
            *four = unsafe { p.add(n * stride).cast::<[u8; 4]>().read() };
        }
        // SAFETY: an array of 64 bytes.
        self.b_as_i(unsafe { self.b_load(all.as_flattened().as_ptr()) })
    }
    /// # Safety
    /// `p` is writable for 64 bytes, any alignment.
    unsafe fn i_store(self, p: *mut u8, v: Self::I);

    /// # Safety
    /// `p` is readable for 64 bytes, any alignment.
    unsafe fn b_load(self, p: *const u8) -> Self::B;
    /// `(byte >> shift) & mask` in every byte; `shift` is at most 7.
    fn b_field(self, v: Self::B, shift: u32, mask: u8) -> Self::B;

    /// Four bytes to a lane, the first one lowest.
    fn b_as_i(self, v: Self::B) -> Self::I;
    /// The other way round.
    fn i_as_b(self, v: Self::I) -> Self::B;
    /// 64 zeros.
    fn b_zero(self) -> Self::B;
    /// `table[byte]` for every byte; bytes are below 16.
    fn b_lookup(self, table: [u8; 16], v: Self::B) -> Self::B;
    /// `count` (1, 2 or 4) tables of 16 bytes for [`Simd::b_choose`]: quarter `i` of 64 bytes has table `i mod count`.
    /// # Safety
    /// `p` is readable for `16 count` bytes, any alignment.
    unsafe fn b_tables(self, p: *const u8, count: usize) -> Self::B;
    /// `tables[16 q + byte]` for every byte of quarter `q`; bytes are below 16.
    fn b_choose(self, tables: Self::B, v: Self::B) -> Self::B;
    /// Bytes `r` of quarters 0, 2, 1 and 3 as bytes `4 r ..`.
    fn b_by_rows(self, v: Self::B) -> Self::B;
    /// `a + b`, wrapping.
    fn b_add(self, a: Self::B, b: Self::B) -> Self::B;
    /// # Safety
    /// `p` is writable for 64 bytes, any alignment.
    unsafe fn b_store(self, p: *mut u8, v: Self::B);
    /// `high << low_bits | low` in every byte; neither has more than four bits.
    fn b_join(self, high: Self::B, low: Self::B, low_bits: u32) -> Self::B;

    /// How many [`Simd::dot`]s with codes of `bits` bits (4 to 8) an `Acc` holds, at most eight; 0 where not even one.
    fn dots_max(bits: u32) -> usize;
    /// Sums that begin at `from`.
    fn dot_start(self, from: Self::I) -> Self::Acc;
    /// Adds to each row `r` the products of the four codes `w[4 r ..][..4]` with `x[..4]`.
    /// # Safety
    /// `x` is readable for 4 bytes.
    unsafe fn dot(self, acc: Self::Acc, w: Self::B, x: *const i8) -> Self::Acc;
    /// Adds to each row `r` the products of the four codes `w[4 r ..][..4]` with `x[4 r ..][..4]`.
    /// # Safety
    /// `x` is readable for 64 bytes.
    unsafe fn dot_rows(self, acc: Self::Acc, w: Self::B, x: *const i8) -> Self::Acc;
    /// Byte `n` of row `4 q + i` of result `j` is byte `i` of row `4 q + j` of `v[n]`: four rows of four bytes of four vectors,
    /// turned over.
    fn b_cross(self, v: [Self::B; 4]) -> [Self::B; 4];
    /// Rows `4 q ..` to `4 q + 3` of result `j` are row `4 q + j`.
    fn b_spread(self, v: Self::B) -> [Self::B; 4];
    /// The same value, at this point of the program: keeps the compiler from reordering a chain of [`Simd::dot`]s into
    /// one that needs more registers than there are.
    #[inline(always)]
    fn pin(self, acc: Self::Acc) -> Self::Acc {
        acc
    }
    /// The 16 row sums, which began at `from`.
    fn dot_sum(self, acc: Self::Acc, from: Self::I) -> Self::I;

    /// Hints that the cache line at `p` will be read; `p` may be any address.
    fn prefetch(self, p: *const u8);
    /// The same of a line that is to wait in the second cache. More of them can be on their way at once.
    fn prefetch_second(self, p: *const u8);
}
