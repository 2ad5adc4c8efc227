//! Block formats of weights: how a file stores them, and how they stand in a panel.
//!
//! A format is one file with one type, and one line in [`FORMATS`]; loading, every instruction set, `engine info`, the
//! conformance test and the error texts follow from it. The block layouts are those of the GGUF format.
//!
//! # Panels
//! A matrix is stored as panels of 16 rows. A panel of a quantised format is a sequence of blocks of
//! [`Codes::BLOCK_LEN`] columns, each the scales of the 16 rows (format specific, [`Codes::pack_scales`]) and for every
//! group of 32 columns the high plane of the unsigned codes; behind all blocks follow the low planes, group after group. A
//! code is `high << LOW_BITS | low`, where the high plane holds the most significant bits, four of them but for codes of two
//! and three bits. So the scales and high planes alone are a coarser model that lies in one piece ([`Top`]). A plane of `b`
//! bits is `b` vectors
//! of 64 bytes; byte `4 r + i` of a vector belongs to row `r`, column `4 q + i`, and the field of quad `q` (0..8) lies in
//! vector `q b / 8` at bit `q b mod 8`. One vector therefore feeds 16 rows times four columns without a shuffle, and a
//! panel is exactly as large as the 16 rows are in the file. Codes that stand for unevenly spaced values are looked up
//! ([`Codes::TABLE`]) where they are multiplied.

#![allow(unsafe_code)]

mod float;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
mod top;
mod tq2_0;

pub use float::{BF16, F16, F32};
pub use iq4_nl::IQ4_NL;
pub use iq4_xs::IQ4_XS;
pub use mxfp4::MXFP4;
pub use q2_k::Q2_K;
pub use q3_k::Q3_K;
pub use q4_0::Q4_0;
pub use q4_1::Q4_1;
pub use q4_k::Q4_K;
pub use q5_0::Q5_0;
pub use q5_1::Q5_1;
pub use q5_k::Q5_K;
pub use q6_k::Q6_K;
pub use q8_0::Q8_0;
pub use top::Top;
pub use tq2_0::TQ2_0;

use crate::simd::{self, LANES, Simd};

/// Columns that share one activation scale, and the columns of a group of planes.
pub const GROUP: usize = 32;

/// Longest block of any format, in weights.
pub const BLOCK_LEN_MAX: usize = 256;

/// A block format as a file stores it.
pub trait Format: 'static {
    /// Name as in GGUF tools, upper case.
    const NAME: &'static str;
    /// Type number in GGUF files.
    const ID: u32;
    /// Number of a file whose matrices are of this format, `general.file_type`.
    const FILE_TYPE: u32;
    /// Name of the format that takes its place where rows are not whole blocks, as llama.cpp chooses it.
    const STAND_IN: Option<&'static str> = None;
    /// Weights in a block.
    const BLOCK_LEN: usize;
    /// Bytes of a block.
    const BLOCK_BYTES: usize;
    /// Decodes one block: `BLOCK_BYTES` bytes into `BLOCK_LEN` values.
    fn dequantize(block: &[u8], out: &mut [f32]);
    /// Encodes one block: `BLOCK_LEN` values into `BLOCK_BYTES` bytes, so that the squares of the errors, each times its
    /// value's weight (all positive), sum up to little.
    fn quantize<S: Simd>(s: S, values: &[f32], weights: &[f32], block: &mut [u8]);
}

/// A format of integer codes with scales, which the integer kernels run.
pub trait Codes: Format + Sized {
    /// Bits of the high plane: 4 or 2.
    const HIGH_BITS: u32 = 4;
    /// Bits of the low plane: 0, 1, 2 or 4.
    const LOW_BITS: u32;
    /// What the codes of four bits stand for, if not for themselves.
    const TABLE: Option<[u8; 16]> = None;
    /// Subtracted from every code, after the table.
    const OFFSET: i32;
    /// Columns per scale: 32 or 16.
    const SUB: usize;
    /// Whether [`Codes::scales`] gives an additive term as well.
    const HAS_MIN: bool;
    /// Bytes of the scales of 16 rows in a panel block.
    const SCALE_BYTES: usize =
        LANES * Self::BLOCK_BYTES - LANES * Self::BLOCK_LEN * plane_bits::<Self>() / 8;
    /// The unsigned codes of a block, in column order.
    fn codes(block: &[u8], codes: &mut [u8]);
    /// Writes the scales of 16 rows' blocks into `out` (`SCALE_BYTES`), losslessly.
    fn pack_scales(blocks: [&[u8]; LANES], out: &mut [u8]);
    /// What the scales of a block have in common.
    type Common<S: Simd>: Copy;
    /// Reads it.
    ///
    /// # Safety
    /// `scales` is readable for `SCALE_BYTES` bytes.
    unsafe fn common<S: Simd>(s: S, scales: *const u8) -> Self::Common<S>;
    /// Scale and additive term of 16 rows for columns `SUB * sub ..` of the block: the weight is
    /// `scale * (code - OFFSET) + min`. `min` is only asked for where `HAS_MIN`.
    ///
    /// # Safety
    /// `scales` is readable for `SCALE_BYTES` bytes, and `sub < BLOCK_LEN / SUB`.
    unsafe fn scales<S: Simd>(
        s: S,
        common: Self::Common<S>,
        scales: *const u8,
        sub: usize,
    ) -> (S::F, S::F);
}

/// Whether the top bits alone are a model worth drafting with: at least two bits less to read.
pub const fn has_top<Q: Codes>() -> bool {
    Q::LOW_BITS >= 2
}

/// Whether products can be looked up bit by bit: codes of at most four bits that stand for themselves.
pub const fn has_lookup<Q: Codes>() -> bool {
    Q::TABLE.is_none() && plane_bits::<Q>() <= 4
}

/// Bits of a code as a panel stores it.
pub const fn plane_bits<Q: Codes>() -> usize {
    (Q::HIGH_BITS + Q::LOW_BITS) as usize
}

/// Bits of the lower part that a code is split into where it is multiplied: code = high part `<< low_bits` + low part.
pub const fn low_bits<Q: Codes>() -> u32 {
    if Q::TABLE.is_some() { 4 } else { Q::LOW_BITS }
}

/// Bytes of a panel's block of scales and high planes.
pub const fn head_bytes<Q: Codes>() -> usize {
    Q::SCALE_BYTES + Q::BLOCK_LEN / GROUP * plane_bytes(Q::HIGH_BITS)
}

/// Where the planes of a group lie.
#[derive(Debug, Clone, Copy)]
pub struct Planes {
    /// The high one.
    pub high: *const u8,
    /// The low one; anywhere for codes without.
    pub low: *const u8,
}

impl Planes {
    /// Those of group `group` of a panel of `k` columns of `Q`; nothing is read.
    #[inline(always)]
    pub fn of<Q: Codes>(panel: *const u8, k: usize, group: usize) -> Planes {
        let groups = Q::BLOCK_LEN / GROUP;
        let block = panel.wrapping_add(group / groups * head_bytes::<Q>());
        let in_block = Q::SCALE_BYTES + group % groups * plane_bytes(Q::HIGH_BITS);
        let heads = k / Q::BLOCK_LEN * head_bytes::<Q>();
        Planes {
            high: block.wrapping_add(in_block),
            low: panel.wrapping_add(heads + group * plane_bytes(Q::LOW_BITS)),
        }
    }

    /// Hints that what lies `ahead` bytes behind the planes of a group of `Q` will be read.
    #[inline(always)]
    pub fn prefetch<S: Simd, Q: Codes>(self, s: S, ahead: usize) {
        let (high, low) = (plane_bytes(Q::HIGH_BITS), plane_bytes(Q::LOW_BITS));
        for (plane, bytes) in [(self.high, high), (self.low, low)] {
            for line in (0..bytes).step_by(64) {
                s.prefetch(plane.wrapping_add(ahead + line));
            }
        }
    }
}

/// High and low parts of the codes of quad `quad` (0..8) of a group, in 64 bytes each; the low ones are zeros where there
/// are none.
///
/// # Safety
/// `planes` are readable.
#[inline(always)]
pub unsafe fn parts<S: Simd, Q: Codes>(s: S, planes: Planes, quad: usize) -> [S::B; 2] {
    // SAFETY: by contract.
    unsafe {
        let high = s.b_load(planes.high.add(vector_of(Q::HIGH_BITS, quad)));
        let low = match Q::LOW_BITS {
            0 => s.b_zero(),
            bits => s.b_load(planes.low.add(vector_of(bits, quad))),
        };
        parts_in::<S, Q>(s, high, low, quad)
    }
}

/// The same out of the vectors of the planes that hold the quad, see [`vector_of`].
#[inline(always)]
pub fn parts_in<S: Simd, Q: Codes>(s: S, high: S::B, low: S::B, quad: usize) -> [S::B; 2] {
    let high = field(s, high, Q::HIGH_BITS, quad);
    if let Some(table) = Q::TABLE {
        return [
            s.b_lookup(table.map(|c| c >> 4), high),
            s.b_lookup(table.map(|c| c & 15), high),
        ];
    }
    if Q::LOW_BITS == 0 {
        return [high, s.b_zero()];
    }
    [high, field(s, low, Q::LOW_BITS, quad)]
}

/// First byte of the vector that holds quad `quad` (0..8) in a plane of `bits` bits.
#[inline(always)]
pub const fn vector_of(bits: u32, quad: usize) -> usize {
    quad * bits as usize / 8 * VECTOR
}

/// The fields of quad `quad` in its vector of a plane of `bits` bits.
#[inline(always)]
fn field<S: Simd>(s: S, vector: S::B, bits: u32, quad: usize) -> S::B {
    let shift = (quad as u32 * bits) % 8;
    s.b_field(vector, shift, ((1u32 << bits) - 1) as u8)
}

/// Bytes of a vector of codes.
const VECTOR: usize = 4 * LANES;

/// Bytes of a group's plane of so many bits.
pub const fn plane_bytes(bits: u32) -> usize {
    VECTOR * bits as usize
}

/// A format of floating-point values, panel layout `[column][row]`.
pub trait Floats: Format {
    /// The weights of 16 rows in one column.
    ///
    /// # Safety
    /// `p` is readable for `16 * BLOCK_BYTES` bytes.
    unsafe fn column<S: Simd>(s: S, p: *const u8) -> S::F;
}

/// What [`FORMATS`] knows of a format: its numbers and its scalar codecs.
#[derive(Debug, Clone, Copy)]
pub struct FormatInfo {
    /// Name as in GGUF tools.
    pub name: &'static str,
    /// Type number in GGUF files.
    pub id: u32,
    /// Number of a file whose matrices are of this format.
    pub file_type: u32,
    /// Weights in a block.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Bytes that a product with the top bits of the codes reads of a block: all, where it makes no difference.
    pub top_bytes: usize,
    /// Whether products can be looked up, see [`crate::options::Kernel`].
    pub lookup: bool,
    stand_in: Option<&'static str>,
    decode: fn(&[u8], &mut [f32]),
    encode: fn(&[f32], &[f32], &mut [u8]),
}

impl FormatInfo {
    const fn of_codes<Q: Codes>() -> FormatInfo {
        FormatInfo {
            top_bytes: if has_top::<Q>() {
                head_bytes::<Q>() / LANES
            } else {
                Q::BLOCK_BYTES
            },
            lookup: has_lookup::<Q>(),
            ..FormatInfo::of::<Q>()
        }
    }

    const fn of<F: Format>() -> FormatInfo {
        FormatInfo {
            name: F::NAME,
            id: F::ID,
            file_type: F::FILE_TYPE,
            block_len: F::BLOCK_LEN,
            block_bytes: F::BLOCK_BYTES,
            top_bytes: F::BLOCK_BYTES,
            lookup: false,
            stand_in: F::STAND_IN,
            decode: F::dequantize,
            encode: encode::<F>,
        }
    }

    /// The format with this GGUF type number, if the engine has it.
    pub fn by_id(id: u32) -> Option<&'static FormatInfo> {
        FORMATS.iter().find(|f| f.id == id)
    }

    /// The format with this name, in any case.
    pub fn by_name(name: &str) -> Option<&'static FormatInfo> {
        FORMATS.iter().find(|f| f.name.eq_ignore_ascii_case(name))
    }

    /// The format for rows of `row_len` values: itself, the one that takes its place, or F16.
    pub fn for_rows(&'static self, row_len: u64) -> &'static FormatInfo {
        [Some(self.name), self.stand_in]
            .into_iter()
            .flatten()
            .filter_map(FormatInfo::by_name)
            .find(|format| row_len.is_multiple_of(format.block_len as u64))
            .unwrap_or_else(|| FormatInfo::by_name("F16").expect("one of the formats"))
    }

    /// Whether weights are stored as floats, one a block.
    pub fn is_float(&self) -> bool {
        self.block_len == 1
    }

    /// Bytes of a row of `len` weights; `len` is a multiple of `block_len`.
    pub fn row_bytes(&self, len: usize) -> usize {
        len / self.block_len * self.block_bytes
    }

    /// Decodes whole blocks: `bytes` into `out.len()` values.
    pub fn dequantize(&self, bytes: &[u8], out: &mut [f32]) {
        for (b, o) in bytes
            .chunks_exact(self.block_bytes)
            .zip(out.chunks_exact_mut(self.block_len))
        {
            (self.decode)(b, o);
        }
    }

    /// Encodes whole blocks: `values`, all finite, into `row_bytes(values.len())` bytes, with scales searched for.
    /// `importance` has an entry for every value, mean squares of what it is multiplied with, or none at all.
    pub fn quantize(&self, values: &[f32], importance: &[f32], out: &mut [u8]) {
        (self.encode)(values, importance, out);
    }
}

/// See [`FormatInfo::quantize`]. All instruction sets give the same bytes.
fn encode<F: Format>(values: &[f32], importance: &[f32], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(s) = simd::Avx2::new() {
        return encode_blocks::<_, F>(s, values, importance, out);
    }
    encode_blocks::<_, F>(simd::Scalar, values, importance, out);
}

fn encode_blocks<S: Simd, F: Format>(s: S, values: &[f32], importance: &[f32], out: &mut [u8]) {
    s.vectorize(
        #[inline(always)]
        || {
            let mut weights = [0.0; BLOCK_LEN_MAX];
            let weights = &mut weights[..F::BLOCK_LEN];
            for (i, (v, b)) in values
                .chunks_exact(F::BLOCK_LEN)
                .zip(out.chunks_exact_mut(F::BLOCK_BYTES))
                .enumerate()
            {
                if F::BLOCK_LEN > 1 {
                    let importance = importance.get(i * F::BLOCK_LEN..).unwrap_or(&[]);
                    weigh(v, importance, weights);
                }
                F::quantize(s, v, weights, b);
            }
        },
    );
}

/// What the squared errors of a block's values weigh: more where values are large, times the importance if there is one.
#[inline(always)]
fn weigh(values: &[f32], importance: &[f32], weights: &mut [f32]) {
    let mean = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
    let floor = if mean > 0.0 { mean } else { 1.0 };
    for (w, v) in weights.iter_mut().zip(values) {
        *w = (floor + v * v).sqrt();
    }
    let total: f32 = importance.iter().take(values.len()).sum();
    if total > 0.0 && total.is_finite() {
        // A column that nothing was seen in counts a little all the same.
        let least = 1e-4 * total / values.len() as f32;
        weights
            .iter_mut()
            .zip(importance)
            .for_each(|(w, i)| *w *= i.max(least) / total);
    }
}

/// Calls the macro `$then` with every format's type, floats and codes apart: the one list of formats.
macro_rules! for_each_format {
    ($then:ident) => {
        $then! {
            floats: [F32, F16, BF16],
            codes: [
                Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, TQ2_0, MXFP4
            ]
        }
    };
}

pub(crate) use for_each_format;

macro_rules! infos {
    (floats: [$($f:ident),*], codes: [$($c:ident),*]) => {
        &[$(FormatInfo::of::<$f>(),)* $(FormatInfo::of_codes::<$c>(),)*]
    };
}

/// Every format the engine runs.
pub const FORMATS: &[FormatInfo] = for_each_format!(infos);

/// The half-precision value at byte `at` of `block`.
fn f16_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Stores `x` in half precision at byte `at` of `block`; returns the value stored.
#[inline(always)]
fn put_f16(block: &mut [u8], at: usize, x: f32) -> f32 {
    let h = half::f16::from_f32(x);
    block[at..at + 2].copy_from_slice(&h.to_le_bytes());
    h.to_f32()
}

/// Copies the two bytes at `at` of each row's block into the 32 bytes of `out`.
#[inline(always)]
fn gather_f16(blocks: &[&[u8]; LANES], at: usize, out: &mut [u8]) {
    for (b, o) in blocks.iter().zip(out.chunks_exact_mut(2)) {
        o.copy_from_slice(&b[at..at + 2]);
    }
}

/// `1 / x`, or 0 for 0, so that a block of zeros encodes as zeros.
#[inline(always)]
fn recip(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// The value of largest magnitude, with its sign.
#[inline(always)]
fn peak(values: &[f32]) -> f32 {
    values
        .iter()
        .fold(0.0, |m: f32, &x| if x.abs() > m.abs() { x } else { m })
}

/// Packs integers of 0 to 63, `N` for each row, for [`six_bits`]: the lower four bits of two in a byte, then the upper two
/// of four; three quarters of `N` bytes a row.
fn pack_six_bits<const N: usize>(rows: [[u8; N]; LANES], out: &mut [u8]) {
    let (low, high) = out.split_at_mut(N / 2 * LANES);
    low.fill(0);
    high.fill(0);
    for (r, row) in rows.iter().enumerate() {
        for (i, v) in row.iter().enumerate() {
            low[i / 2 * LANES + r] |= (v & 15) << (i % 2 * 4);
            high[i / 4 * LANES + r] |= (v >> 4) << (i % 4 * 2);
        }
    }
}

/// Integer `i` of every row out of what [`pack_six_bits`] wrote for `n` a row.
///
/// # Safety
/// `p` is readable for three quarters of `16 n` bytes, and `i < n`.
#[inline(always)]
unsafe fn six_bits<S: Simd>(s: S, p: *const u8, n: usize, i: usize) -> S::I {
    // SAFETY: the lower bits lie in the first `8 n` bytes, the upper ones in the `4 n` behind.
    let (low, high) = unsafe {
        (
            s.i_from_u8(p.add(i / 2 * LANES)),
            s.i_from_u8(p.add((n / 2 + i / 4) * LANES)),
        )
    };
    let low = s.i_and(s.i_shr(low, (i % 2 * 4) as u32), s.i_splat(15));
    let high = s.i_and(s.i_shr(high, (i % 4 * 2) as u32), s.i_splat(3));
    s.i_or(low, s.i_shl(high, 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Visitor;
    use std::marker::PhantomData;

    /// Encodes on an instruction set.
    struct Encode<'a, F>(&'a [f32], &'a [f32], PhantomData<F>);

    impl<F: Format> Visitor for Encode<'_, F> {
        type Out = Vec<u8>;
        fn visit<S: Simd>(self, s: S) -> Vec<u8> {
            let mut out = vec![0; self.0.len() / F::BLOCK_LEN * F::BLOCK_BYTES];
            encode_blocks::<S, F>(s, self.0, self.1, &mut out);
            out
        }
    }

    fn same_bytes<F: Format>() {
        let mut seed = 3u64;
        let mut random = || {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut values: Vec<f32> = (0..8 * BLOCK_LEN_MAX).map(|_| random().powi(3)).collect();
        // Zeros, values of one sign, of one value, and tiny and large ones.
        values[..BLOCK_LEN_MAX].fill(0.0);
        for (i, v) in values[BLOCK_LEN_MAX..5 * BLOCK_LEN_MAX]
            .iter_mut()
            .enumerate()
        {
            *v = match i / BLOCK_LEN_MAX {
                0 => v.abs() + 0.5,
                1 => -0.25,
                2 => *v * 1e-6,
                _ => *v * 1e3,
            };
        }
        let importance: Vec<f32> = values.iter().map(|_| random().abs()).collect();
        for importance in [&importance[..], &[]] {
            let on = |isa| simd::with(isa, Encode::<F>(&values, importance, PhantomData));
            let expect = on(crate::options::Isa::Scalar).expect("everywhere");
            for isa in simd::available() {
                assert!(on(isa).expect("available") == expect, "{} {isa}", F::NAME);
            }
        }
    }

    #[test]
    fn all_instruction_sets_encode_to_the_same_bytes() {
        macro_rules! each {
            (floats: [$($f:ident),*], codes: [$($c:ident),*]) => {
                $(same_bytes::<$f>();)* $(same_bytes::<$c>();)*
            };
        }
        for_each_format!(each);
    }
}
