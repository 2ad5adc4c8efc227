//! Block formats of weights: how a file stores them, and how they stand in a panel.
//!
//! A format is one file with one type, and one line in [`FORMATS`]; loading, every instruction set, `engine info`, the
//! conformance test and the error texts follow from it. The block layouts are those of the GGUF format.
//!
//! # Panels
//! A matrix is stored as panels of 16 rows. A panel of a quantised format is a sequence of blocks of
//! [`Codes::BLOCK_LEN`] columns: first the scales of the 16 rows (format specific, [`Codes::pack_scales`]), then for
//! every group of 32 columns the unsigned codes as bit planes. A code is `high << LOW_BITS | low`, where the high plane
//! holds the four most significant bits. A plane of `b` bits is `b` vectors of 64 bytes; byte `4 r + i` of a vector
//! belongs to row `r`, column `4 q + i`, and the field of quad `q` (0..8) lies in vector `q b / 8` at bit `q b mod 8`.
//! One vector therefore feeds 16 rows times four columns without a shuffle, and a panel is exactly as large as the
//! 16 rows are in the file.

#![allow(unsafe_code)]

mod float;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_k;
mod q6_k;
mod q8_0;

pub use float::{BF16, F16, F32};
pub use q4_0::Q4_0;
pub use q4_1::Q4_1;
pub use q4_k::Q4_K;
pub use q5_0::Q5_0;
pub use q5_k::Q5_K;
pub use q6_k::Q6_K;
pub use q8_0::Q8_0;

use crate::simd::{LANES, Simd};

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
    /// Weights in a block.
    const BLOCK_LEN: usize;
    /// Bytes of a block.
    const BLOCK_BYTES: usize;
    /// Decodes one block: `BLOCK_BYTES` bytes into `BLOCK_LEN` values.
    fn dequantize(block: &[u8], out: &mut [f32]);
    /// Encodes one block: `BLOCK_LEN` values into `BLOCK_BYTES` bytes.
    fn quantize(values: &[f32], block: &mut [u8]);
}

/// A format of integer codes with scales, which the integer kernels run.
pub trait Codes: Format {
    /// Bits of the low plane; the high plane has four.
    const LOW_BITS: u32;
    /// Subtracted from every code.
    const OFFSET: i32;
    /// Columns per scale: 32 or 16.
    const SUB: usize;
    /// Whether [`Codes::scales`] gives an additive term as well.
    const HAS_MIN: bool;
    /// Bytes of the scales of 16 rows in a panel block.
    const SCALE_BYTES: usize =
        LANES * Self::BLOCK_BYTES - LANES * Self::BLOCK_LEN * (4 + Self::LOW_BITS as usize) / 8;
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
    /// Weights in a block.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    decode: fn(&[u8], &mut [f32]),
    encode: fn(&[f32], &mut [u8]),
}

impl FormatInfo {
    const fn of<F: Format>() -> FormatInfo {
        FormatInfo {
            name: F::NAME,
            id: F::ID,
            block_len: F::BLOCK_LEN,
            block_bytes: F::BLOCK_BYTES,
            decode: F::dequantize,
            encode: F::quantize,
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

    /// Encodes whole blocks: `values` into `row_bytes(values.len())` bytes, rounding to nearest.
    pub fn quantize(&self, values: &[f32], out: &mut [u8]) {
        for (v, b) in values
            .chunks_exact(self.block_len)
            .zip(out.chunks_exact_mut(self.block_bytes))
        {
            (self.encode)(v, b);
        }
    }
}

/// Calls the macro `$then` with every format's type, floats and codes apart: the one list of formats.
macro_rules! for_each_format {
    ($then:ident) => {
        $then! { floats: [F32, F16, BF16], codes: [Q4_0, Q4_1, Q5_0, Q8_0, Q4_K, Q5_K, Q6_K] }
    };
}

pub(crate) use for_each_format;

macro_rules! infos {
    (floats: [$($f:ident),*], codes: [$($c:ident),*]) => {
        &[$(FormatInfo::of::<$f>(),)* $(FormatInfo::of::<$c>(),)*]
    };
}

/// Every format the engine runs.
pub const FORMATS: &[FormatInfo] = for_each_format!(infos);

/// The half-precision value at byte `at` of `block`.
fn f16_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Stores `x` in half precision at byte `at` of `block`; returns the value stored.
fn put_f16(block: &mut [u8], at: usize, x: f32) -> f32 {
    let h = half::f16::from_f32(x);
    block[at..at + 2].copy_from_slice(&h.to_le_bytes());
    h.to_f32()
}

/// Copies the two bytes at `at` of each row's block into the 32 bytes of `out`.
fn gather_f16(blocks: &[&[u8]; LANES], at: usize, out: &mut [u8]) {
    for (b, o) in blocks.iter().zip(out.chunks_exact_mut(2)) {
        o.copy_from_slice(&b[at..at + 2]);
    }
}

/// `1 / x`, or 0 for 0, so that a block of zeros encodes as zeros.
fn recip(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// The value of largest magnitude, with its sign.
fn peak(values: &[f32]) -> f32 {
    values
        .iter()
        .fold(0.0, |m: f32, &x| if x.abs() > m.abs() { x } else { m })
}

/// Smallest and largest value, 0 included.
fn span(values: &[f32]) -> (f32, f32) {
    values.iter().fold((0.0, 0.0), |(lo, hi): (f32, f32), &x| {
        (lo.min(x), hi.max(x))
    })
}

/// Code of `x` rounded to nearest within `0..=max`.
fn code(x: f32, max: u8) -> u8 {
    x.round().clamp(0.0, f32::from(max)) as u8
}
