//! The hot loops, each written once over an instruction set ([`Simd`]) and, where weights are read, over a format.
//!
//! [`Kernels`] is the table formats x instruction sets: one implementation per instruction set, chosen at run time by
//! [`kernels`]. Every result is bit-identical between instruction sets, and the result for a token does not depend on
//! the tokens it is computed together with.
#![allow(unsafe_code)]

mod attend;
pub mod cache;
mod dot;
mod gemm;
mod lut;
mod ops;
mod strip;
mod sum;
mod tile;

pub use attend::{Attend, CHUNK, Partial, ROWS_MAX, room_len};
pub use dot::STREAMS;
pub use gemm::{FEW_TOKENS, PANELS};
pub use lut::TABLE_BYTES;
pub use strip::{Active, STRIP, StripCodes, Strips};

use crate::options::{Isa, Kernel, KvType, SideBySide};
use crate::quant::{self, Codes, Format, for_each_format};
use crate::simd::{self, LANES, Simd, Unavailable, Visitor};

/// Tokens that one call of [`Kernels::dot`] takes at most.
pub const TILE: usize = 4;

/// Columns of a panel that share one entry of `sums`.
pub const SUM_GROUP: usize = 16;

/// Tokens of a [`TileGroup`].
pub const TILE_TOKENS: usize = 4;

/// Which bits of the codes a product reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// All.
    All,
    /// Of formats with [`quant::has_top`] the high planes alone, see [`quant::Top`].
    Top,
}

/// What a feed-forward gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))` (SwiGLU, Shazeer 2020).
    Silu,
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016, by its approximation).
    Gelu,
}

/// 32 columns of the quantised activations of [`TILE_TOKENS`] tokens of a batch, as [`Kernels::dot_batch`] reads them.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct TileGroup {
    /// Signed codes of 8 bits: value = `scale * code`.
    pub codes: [[i8; quant::GROUP]; TILE_TOKENS],
    /// Scales.
    pub scales: [f32; TILE_TOKENS],
    /// Scale times the sum of the codes.
    pub scaled_sums: [f32; TILE_TOKENS],
    /// Minus the sum of the codes, times [`TileGroup::SUM_UNIT`].
    pub minus_sums: [i32; TILE_TOKENS],
    /// Minus the sums of 16 codes, times [`TileGroup::SUM_UNIT`].
    pub minus_half_sums: [[i32; quant::GROUP / SUM_GROUP]; TILE_TOKENS],
}

impl TileGroup {
    /// What the integer sums are multiplied by: what most formats subtract from their codes, or half of it, and so on.
    pub const SUM_UNIT: i32 = 8;
}

/// The quantised activations of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Tiles<'a> {
    /// Groups of columns, tile after tile.
    pub groups: &'a [TileGroup],
    /// Groups from one tile to the next.
    pub stride: usize,
}

/// One token's activations for a matrix with `k` columns.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The values, `[k]`, for weights stored as floats.
    pub values: &'a [f32],
    /// The values as signed codes of 8 bits, `[k]`: value = `scale * code`. Empty when `k` is no multiple of 32.
    pub codes: &'a [i8],
    /// Scales, `[k / 32]`.
    pub scales: &'a [f32],
    /// Scale times the sum of the codes, `[k / 32]`.
    pub scaled_sums: &'a [f32],
    /// Sums of 16 codes, `[k / 16]`.
    pub sums: &'a [i32],
}

/// The same, to be written.
#[derive(Debug)]
pub struct RowMut<'a> {
    /// See [`Row::values`].
    pub values: &'a mut [f32],
    /// See [`Row::codes`].
    pub codes: &'a mut [i8],
    /// See [`Row::scales`].
    pub scales: &'a mut [f32],
    /// See [`Row::scaled_sums`].
    pub scaled_sums: &'a mut [f32],
    /// See [`Row::sums`].
    pub sums: &'a mut [i32],
}

/// All hot loops of one instruction set.
pub trait Kernels: Send + Sync {
    /// Which instruction set this is.
    fn isa(&self) -> Isa;

    /// Rearranges 16 rows of a matrix, as they stand in the file, into a panel of the same size.
    ///
    /// # Panics
    /// If the rows do not have the same length or `panel` is not as large as all of them, or the format is not in the table.
    fn pack(&self, format: u32, rows: [&[u8]; LANES], panel: &mut [u8]);

    /// Products of the 16 rows of each of some panels of format number `format`, one behind the other, with up to
    /// [`TILE`] tokens; `out`: `[panels][tokens][16]`.
    ///
    /// # Panics
    /// If `panels` is no whole number of panels of `k` columns of 16 rows, a row of activations is shorter than `k`, `out`
    /// is too short, or the format is not in the table.
    fn dot(
        &self,
        format: u32,
        bits: Bits,
        panels: &[u8],
        k: usize,
        x: &[Row<'_>],
        out: &mut [[f32; LANES]],
    );

    /// Rearranges a panel from the other kernel's order to that of `to`, in place.
    ///
    /// # Panics
    /// If `panel` is no whole number of blocks of 16 rows, or the format is none of [`quant::has_lookup`].
    fn rearrange(&self, format: u32, to: Kernel, panel: &mut [u8]);

    /// Fills the tables that [`Kernels::lookup`] takes the activations' `codes` from, [`TABLE_BYTES`] for each.
    ///
    /// # Panics
    /// If `codes` are no whole groups of 32, or `tables` are of another length.
    fn tables(&self, codes: &[i8], tables: &mut [u8]);

    /// Products of the 16 rows of each of some panels in the order of [`Kernel::Lut`] with one token, by its tables; `out`:
    /// `[panels][16]`, bit-identical to [`Kernels::dot`].
    ///
    /// # Panics
    /// As [`Kernels::dot`], and if `tables` are too short or the format is none of [`quant::has_lookup`].
    fn lookup(
        &self,
        format: u32,
        panels: &[u8],
        k: usize,
        x: Row<'_>,
        tables: &[u8],
        out: &mut [[f32; LANES]],
    );

    /// Asks for the cache lines of `bytes`, which will be read soon.
    fn prefetch(&self, bytes: &[u8]);

    /// Products of the 16 rows of each of some panels of codes, one behind the other, with the tokens of a batch; `out`:
    /// `[panels][tokens][16]`, bit-identical to [`Kernels::dot`].
    ///
    /// # Panics
    /// If `panels` is no whole number of panels of `k` columns of 16 rows, `out` does not hold equally many outputs of each,
    /// `x` does not cover `k` columns of as many tokens, or the format is none of codes.
    fn dot_batch(
        &self,
        format: u32,
        panels: &[u8],
        k: usize,
        x: Tiles<'_>,
        out: &mut [[f32; LANES]],
    );

    /// Sums of the channels `active` of `strips`, each times its value, in an order of their own that [`Kernels::collect`]
    /// undoes; `out`, of as many sums as a channel has weights, is overwritten. The first channels of `next`, which are added
    /// afterwards, are fetched meanwhile.
    ///
    /// Values times scales are rounded, see `sum`.
    ///
    /// # Panics
    /// If a channel is not there, `out` does not have the length of a channel, or the format is none of blocks of 32 codes
    /// with one scale.
    fn add_channels(
        &self,
        format: u32,
        strips: Strips<'_>,
        active: &[Active],
        next: &[Active],
        out: &mut [f32],
    );

    /// Products of the channels `active` of `strips` with `x`, as [`Kernels::arrange`] gives it; their values are not asked
    /// for.
    ///
    /// # Panics
    /// If a channel is not there, `x` does not have the length of a channel, `out` has not one output for each, or the format
    /// is none of blocks of 32 codes with one scale.
    fn dot_channels(
        &self,
        format: u32,
        strips: Strips<'_>,
        active: &[Active],
        x: &[StripCodes],
        out: &mut [f32],
    );

    /// Puts the codes of `x` in the order of strips; zeros follow them.
    ///
    /// # Panics
    /// If there are too few strips.
    fn arrange(&self, x: &Row<'_>, out: &mut [StripCodes]);

    /// Adds up the sums of a strip that stand `stride` values apart in `parts`, and puts them in the order of outputs.
    fn collect(&self, parts: &[f32], stride: usize, out: &mut [f32; STRIP]);

    /// Root-mean-square norm (Zhang and Sennrich 2019): `out = x / rms(x) * weight`.
    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);

    /// The same, added to `out`.
    fn add_rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);

    /// Fills codes, scales and sums of `row` from its values; does nothing when the length is no multiple of 32.
    fn quantize(&self, row: &mut RowMut<'_>);

    /// Quantises the values of token `t` of a tile into `groups`, as [`Kernels::quantize`] does.
    ///
    /// # Panics
    /// If the number of values is no multiple of 32 or there are too few groups.
    fn quantize_tile(&self, values: &[f32], t: usize, groups: &mut [TileGroup]);

    /// `gate = activation(gate) * up` on a panel's 16 rows for each token.
    fn gate(&self, activation: Activation, gate: &mut [[f32; LANES]], up: &[[f32; LANES]]);

    /// `x = cap tanh(x / cap)` (Gemma Team 2024).
    fn soft_cap(&self, cap: f32, x: &mut [f32]);

    /// Writes key and value of one position to slot `slot` of its panels, see [`cache`].
    ///
    /// # Panics
    /// If the lengths do not fit each other, or there is no such slot.
    fn store_kv(&self, kind: KvType, kv: [&[f32]; 2], slot: usize, panels: [&mut [u8]; 2]);

    /// Attention of some query rows over one chunk of at most [`CHUNK`] positions of their common KV head.
    ///
    /// Softmax states go to `out`, `[rows]`, and weighted sums to `values`, `[rows][dim]`; `room` is working memory of
    /// [`room_len`] values. Rows are ordered by token, then by head.
    ///
    /// # Panics
    /// If a length does not fit, or there are more than [`ROWS_MAX`] rows.
    fn attend(&self, a: &Attend<'_>, out: &mut [Partial], values: &mut [f32], room: &mut [f32]);
}

/// The implementation of every kernel for one instruction set.
struct On<S> {
    s: S,
    isa: Isa,
    reading: Reading,
}

/// How panels of weights are read.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Several in turn, where the tokens are few.
    side_by_side: bool,
    /// How far ahead those read alone are fetched, in bytes; 0 for not at all.
    ahead: usize,
    /// Lines at the head of each of the next ones that are fetched while several are read in turn.
    head_lines: usize,
}

macro_rules! dot_match {
    (floats: [$($f:ident),*], codes: [$($c:ident),*]) => {
        #[allow(clippy::too_many_arguments, reason = "a product's operands")]
        fn dot_any<S: Simd>(
            s: S,
            format: u32,
            bits: Bits,
            panels: &[u8],
            k: usize,
            x: &[Row<'_>],
            reading: Reading,
            out: &mut [[f32; LANES]],
        ) {
            match format {
                $(quant::$f::ID => dot::floats::<S, quant::$f>(s, panels, k, x, reading, out),)*
                $(quant::$c::ID => {
                    if const { quant::has_top::<quant::$c>() } && bits == Bits::Top {
                        dot::codes::<S, quant::Top<quant::$c>>(s, panels, k, x, reading, out);
                    } else {
                        dot::codes::<S, quant::$c>(s, panels, k, x, reading, out);
                    }
                })*
                _ => unreachable!("format {format} is not in the table; the loader checks"),
            }
        }

        fn dot_batch_any<S: Simd>(s: S, format: u32, panels: &[u8], k: usize, x: Tiles<'_>, reading: Reading, out: &mut [[f32; LANES]]) {
            match format {
                $(quant::$c::ID => gemm::codes::<S, quant::$c>(s, panels, k, x, reading, out),)*
                _ => unreachable!("format {format} is none of codes; the matrix checks"),
            }
        }

        #[allow(clippy::too_many_arguments, reason = "a product's operands")]
        fn lookup_any<S: Simd>(
            s: S,
            format: u32,
            panels: &[u8],
            k: usize,
            x: Row<'_>,
            tables: &[u8],
            reading: Reading,
            out: &mut [[f32; LANES]],
        ) {
            match format {
                $(quant::$c::ID => {
                    if const { quant::has_lookup::<quant::$c>() } {
                        lut::codes::<S, quant::$c>(s, panels, k, x, tables, reading, out);
                    } else {
                        no_lookup(format);
                    }
                })*
                _ => no_lookup(format),
            }
        }

        #[inline(always)]
        fn rearrange_any<S: Simd>(s: S, format: u32, to: Kernel, panel: &mut [u8]) {
            match format {
                $(quant::$c::ID => {
                    if const { quant::has_lookup::<quant::$c>() } {
                        lut::rearrange::<S, quant::$c>(s, to, panel);
                    } else {
                        no_lookup(format);
                    }
                })*
                _ => no_lookup(format),
            }
        }

        fn add_any<S: Simd>(
            s: S,
            format: u32,
            strips: Strips<'_>,
            active: &[Active],
            next: &[Active],
            reading: Reading,
            out: &mut [f32],
        ) {
            match format {
                $(quant::$c::ID => sum::channels::<S, quant::$c>(s, strips, active, next, reading, out),)*
                _ => unreachable!("format {format} is none of codes; the loader checks"),
            }
        }

        fn dot_channels_any<S: Simd>(
            s: S,
            format: u32,
            strips: Strips<'_>,
            active: &[Active],
            x: &[StripCodes],
            reading: Reading,
            out: &mut [f32],
        ) {
            match format {
                $(quant::$c::ID => strip::dot::<S, quant::$c>(s, strips, active, x, reading, out),)*
                _ => unreachable!("format {format} is none of codes; the loader checks"),
            }
        }

        #[inline(always)]
        fn pack_any<S: Simd>(s: S, format: u32, rows: [&[u8]; LANES], panel: &mut [u8]) {
            match format {
                $(quant::$f::ID => dot::pack_floats::<quant::$f>(rows, panel),)*
                $(quant::$c::ID => dot::pack_codes::<S, quant::$c>(s, rows, panel),)*
                _ => unreachable!("format {format} is not in the table; the loader checks"),
            }
        }
    };
}
for_each_format!(dot_match);

impl<S: Simd> Kernels for On<S> {
    fn isa(&self) -> Isa {
        self.isa
    }
    fn pack(&self, format: u32, rows: [&[u8]; LANES], panel: &mut [u8]) {
        assert_eq!(panel.len(), rows.iter().map(|r| r.len()).sum::<usize>());
        self.s.vectorize(
            #[inline(always)]
            || pack_any(self.s, format, rows, panel),
        );
    }
    fn dot(
        &self,
        format: u32,
        bits: Bits,
        panels: &[u8],
        k: usize,
        x: &[Row<'_>],
        out: &mut [[f32; LANES]],
    ) {
        dot_any(self.s, format, bits, panels, k, x, self.reading, out);
    }
    fn rearrange(&self, format: u32, to: Kernel, panel: &mut [u8]) {
        self.s.vectorize(
            #[inline(always)]
            || rearrange_any(self.s, format, to, panel),
        );
    }
    fn tables(&self, codes: &[i8], tables: &mut [u8]) {
        self.s.vectorize(
            #[inline(always)]
            || lut::tables(self.s, codes, tables),
        );
    }
    fn lookup(
        &self,
        format: u32,
        panels: &[u8],
        k: usize,
        x: Row<'_>,
        tables: &[u8],
        out: &mut [[f32; LANES]],
    ) {
        lookup_any(self.s, format, panels, k, x, tables, self.reading, out);
    }
    fn prefetch(&self, bytes: &[u8]) {
        for line in bytes.chunks(64) {
            self.s.prefetch(line.as_ptr());
        }
    }
    fn dot_batch(
        &self,
        format: u32,
        panels: &[u8],
        k: usize,
        x: Tiles<'_>,
        out: &mut [[f32; LANES]],
    ) {
        dot_batch_any(self.s, format, panels, k, x, self.reading, out);
    }
    fn add_channels(
        &self,
        format: u32,
        strips: Strips<'_>,
        active: &[Active],
        next: &[Active],
        out: &mut [f32],
    ) {
        add_any(self.s, format, strips, active, next, self.reading, out);
    }
    fn dot_channels(
        &self,
        format: u32,
        strips: Strips<'_>,
        active: &[Active],
        x: &[StripCodes],
        out: &mut [f32],
    ) {
        dot_channels_any(self.s, format, strips, active, x, self.reading, out);
    }
    fn arrange(&self, x: &Row<'_>, out: &mut [StripCodes]) {
        self.s.vectorize(
            #[inline(always)]
            || strip::arrange(x, out),
        );
    }
    fn collect(&self, parts: &[f32], stride: usize, out: &mut [f32; STRIP]) {
        self.s.vectorize(
            #[inline(always)]
            || sum::collect(parts, stride, out),
        );
    }
    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let s = self.s;
        s.vectorize(
            #[inline(always)]
            || ops::rms_norm::<S, false>(s, x, weight, eps, out),
        );
    }
    fn add_rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let s = self.s;
        s.vectorize(
            #[inline(always)]
            || ops::rms_norm::<S, true>(s, x, weight, eps, out),
        );
    }
    fn quantize(&self, row: &mut RowMut<'_>) {
        let s = self.s;
        s.vectorize(
            #[inline(always)]
            || ops::quantize(s, row),
        );
    }
    fn quantize_tile(&self, values: &[f32], t: usize, groups: &mut [TileGroup]) {
        let s = self.s;
        s.vectorize(
            #[inline(always)]
            || ops::quantize_tile(s, values, t, groups),
        );
    }
    fn gate(&self, activation: Activation, gate: &mut [[f32; LANES]], up: &[[f32; LANES]]) {
        let s = self.s;
        s.vectorize(
            #[inline(always)]
            || {
                for (gate, up) in gate.iter_mut().zip(up) {
                    ops::gate(s, activation, gate, up);
                }
            },
        );
    }
    fn soft_cap(&self, cap: f32, x: &mut [f32]) {
        let s = self.s;
        s.vectorize(
            #[inline(always)]
            || ops::soft_cap(s, cap, x),
        );
    }
    fn store_kv(&self, kind: KvType, kv: [&[f32]; 2], slot: usize, panels: [&mut [u8]; 2]) {
        let s = self.s;
        s.vectorize(
            #[inline(always)]
            || cache::store(s, kind, kv, slot, panels),
        );
    }
    fn attend(&self, a: &Attend<'_>, out: &mut [Partial], values: &mut [f32], room: &mut [f32]) {
        let s = self.s;
        s.vectorize(
            #[inline(always)]
            || attend::attend(s, a, out, values, room),
        );
    }
}

/// Puts the kernels of an instruction set behind one type.
struct Boxed {
    isa: Isa,
    reading: Reading,
}

impl Visitor for Boxed {
    type Out = Box<dyn Kernels>;
    fn visit<S: Simd>(self, s: S) -> Box<dyn Kernels> {
        Box::new(On {
            s,
            isa: self.isa,
            reading: self.reading,
        })
    }
}

/// What kernels are chosen by; the options of the same names.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// Instruction set.
    pub isa: Isa,
    /// Whether panels are read side by side.
    pub side_by_side: SideBySide,
    /// How far ahead weights are fetched.
    pub prefetch_bytes: usize,
    /// Bytes of the head of the next panels that are fetched.
    pub head_prefetch_bytes: usize,
}

/// The kernels of a choice.
///
/// # Errors
/// [`Unavailable`] when this CPU does not have them.
pub fn kernels(choice: Choice) -> Result<Box<dyn Kernels>, Unavailable> {
    let isa = simd::choose(choice.isa)?;
    let boxed = Boxed {
        isa,
        reading: Reading {
            side_by_side: match choice.side_by_side {
                SideBySide::Auto => !simd::is_intel(),
                asked => asked == SideBySide::On,
            },
            ahead: choice.prefetch_bytes,
            head_lines: choice.head_prefetch_bytes.div_ceil(dot::LINE),
        },
    };
    Ok(simd::with(isa, boxed).expect("the CPU has what was chosen"))
}

fn no_lookup(format: u32) -> ! {
    unreachable!("format {format} is none to look up; the loader checks")
}

/// Bytes of a panel of `k` columns.
fn panel_bytes<F: Format>(k: usize) -> usize {
    LANES * (k / F::BLOCK_LEN) * F::BLOCK_BYTES
}

/// Asserts that there are columns, in whole blocks; the kernels' reads stay within what is checked here and below.
fn check_columns<F: Format>(k: usize) {
    assert!(
        k > 0 && k.is_multiple_of(F::BLOCK_LEN),
        "{k} columns are no multiple of the block of {}",
        F::NAME
    );
}

/// Asserts that `panels` holds whole panels of `k` columns, and that `x` and `out` fit them.
fn check_shapes<F: Format>(panels: &[u8], k: usize, x: &[Row<'_>], out: &[[f32; LANES]]) {
    check_columns::<F>(k);
    let panel_bytes = panel_bytes::<F>(k);
    assert!(
        panels.len().is_multiple_of(panel_bytes),
        "{} bytes are no whole number of panels",
        panels.len()
    );
    assert!(
        x.len() <= TILE && out.len() >= panels.len() / panel_bytes * x.len(),
        "at most {TILE} tokens, one output each of every panel"
    );
}

/// Asserts that the quantised activations of `x` cover `k` columns.
fn check_codes<Q: Codes>(k: usize, x: &[Row<'_>]) {
    for row in x {
        assert!(
            row.codes.len() >= k && row.sums.len() >= k / SUM_GROUP,
            "activations too short"
        );
        assert!(row.scales.len() >= k / quant::GROUP && row.scaled_sums.len() >= k / quant::GROUP);
    }
    const {
        assert!(
            Q::SUB == 16 || Q::SUB == 32,
            "scales cover 16 or 32 columns"
        )
    };
}
