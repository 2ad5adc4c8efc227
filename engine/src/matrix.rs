//! Weight matrices as panels of 16 rows, and their products with the activations of a batch of tokens.
//!
//! All matrices of a model lie in one arena, in the order a pass reads them. The panels of a matrix are split over the
//! threads in contiguous shares; each thread writes (and so first touches) the panels it will read.
#![allow(unsafe_code)]

use crate::kernel::{Kernels, Row, RowMut, SUM_GROUP, TILE};
use crate::pool::SharedBuf;
use crate::quant::{FormatInfo, GROUP};
use crate::simd::LANES;
use crate::stage::Ledger;
use std::ops::Range;

/// A matrix `[rows, cols]` in the arena; `y = W x + bias`.
#[derive(Debug)]
pub struct Matrix {
    /// How the weights are stored.
    pub format: &'static FormatInfo,
    /// Output length.
    pub rows: usize,
    /// Input length.
    pub cols: usize,
    /// First byte in the arena.
    pub offset: usize,
    /// Added to the product; empty for none.
    pub bias: Vec<f32>,
}

impl Matrix {
    /// Panels of 16 rows; the last one may be padded with rows of zeros.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Bytes of one panel.
    pub fn panel_bytes(&self) -> usize {
        LANES * self.format.row_bytes(self.cols)
    }

    /// Bytes of all panels.
    pub fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// Where panel `p` lies in the arena.
    pub fn panel(&self, p: usize) -> Range<usize> {
        let start = self.offset + p * self.panel_bytes();
        start..start + self.panel_bytes()
    }

    /// Adds the bias of panel `p` to its 16 outputs.
    fn add_bias(&self, p: usize, out: &mut [f32; LANES]) {
        for (o, b) in out.iter_mut().zip(self.bias.iter().skip(p * LANES)) {
            *o += b;
        }
    }
}

/// The packed matrices of a model and the kernels that multiply them.
#[derive(Clone, Copy)]
pub struct Bank<'a> {
    /// Kernels of the instruction set chosen.
    pub kernels: &'a dyn Kernels,
    /// All panels.
    pub arena: &'a [u8],
}

impl Bank<'_> {
    /// Multiplies the panels `panels` of `N` matrices of equal shape with `tokens` rows of `x`, and gives each panel's
    /// 16 outputs for each token, one array per matrix, to `sink(first row, token, outputs)`.
    pub fn multiply<const N: usize>(
        &self,
        matrices: [&Matrix; N],
        panels: Range<usize>,
        x: &Activations,
        tokens: usize,
        ledger: &mut Ledger,
        mut sink: impl FnMut(usize, usize, &mut [[f32; LANES]; N]),
    ) {
        let k = matrices[0].cols;
        for p in panels {
            for first in (0..tokens).step_by(TILE) {
                let count = TILE.min(tokens - first);
                // SAFETY: between the barrier before this stage and the one after it, activations are only read.
                let rows: [Row<'_>; TILE] =
                    std::array::from_fn(|t| unsafe { x.row(first + t.min(count - 1), k) });
                let mut out = [[[0.0; LANES]; TILE]; N];
                for (m, out) in matrices.iter().zip(&mut out) {
                    let panel = &self.arena[m.panel(p)];
                    self.kernels.dot(m.format.id, panel, k, &rows[..count], out);
                }
                for t in first..first + count {
                    let mut one: [[f32; LANES]; N] = std::array::from_fn(|i| out[i][t - first]);
                    for (m, o) in matrices.iter().zip(&mut one) {
                        m.add_bias(p, o);
                    }
                    sink(p * LANES, t, &mut one);
                }
            }
            for m in matrices {
                ledger.weight_bytes += m.panel_bytes() as u64;
                ledger.activation_bytes += (tokens * Activations::row_bytes(m.format, k)) as u64;
            }
        }
    }
}

/// Activations of a batch of tokens, as values and as codes of 8 bits: `[tokens][cols]`.
#[derive(Debug)]
pub struct Activations {
    cols_max: usize,
    values: SharedBuf<f32>,
    codes: SharedBuf<i8>,
    scales: SharedBuf<f32>,
    scaled_sums: SharedBuf<f32>,
    sums: SharedBuf<i32>,
}

impl Activations {
    /// Room for `tokens` rows of at most `cols_max` values.
    pub fn new(tokens: usize, cols_max: usize) -> Activations {
        let cols_max = cols_max.next_multiple_of(GROUP);
        Activations {
            cols_max,
            values: SharedBuf::new(tokens * cols_max),
            codes: SharedBuf::new(tokens * cols_max),
            scales: SharedBuf::new(tokens * cols_max / GROUP),
            scaled_sums: SharedBuf::new(tokens * cols_max / GROUP),
            sums: SharedBuf::new(tokens * cols_max / SUM_GROUP),
        }
    }

    /// Bytes that a kernel of `format` reads of a row of `k` columns.
    fn row_bytes(format: &FormatInfo, k: usize) -> usize {
        if format.block_len == 1 {
            4 * k
        } else {
            k + 8 * (k / GROUP) + 4 * (k / SUM_GROUP)
        }
    }

    fn range(&self, token: usize, k: usize, per: usize) -> Range<usize> {
        let start = token * self.cols_max / per;
        start..start + k / per
    }

    /// The first `k` columns of a token.
    ///
    /// # Safety
    /// Until the result is dropped nobody writes this token's row.
    pub unsafe fn row(&self, token: usize, k: usize) -> Row<'_> {
        // SAFETY: by contract.
        unsafe {
            Row {
                values: self.values.read(self.range(token, k, 1)),
                codes: self.codes.read(self.range(token, k, 1)),
                scales: self.scales.read(self.range(token, k, GROUP)),
                scaled_sums: self.scaled_sums.read(self.range(token, k, GROUP)),
                sums: self.sums.read(self.range(token, k, SUM_GROUP)),
            }
        }
    }

    /// The first `k` columns of a token, to write.
    ///
    /// # Safety
    /// Until the result is dropped nobody else uses this token's row.
    pub unsafe fn row_mut(&self, token: usize, k: usize) -> RowMut<'_> {
        // SAFETY: by contract.
        unsafe {
            RowMut {
                values: self.values.write(self.range(token, k, 1)),
                codes: self.codes.write(self.range(token, k, 1)),
                scales: self.scales.write(self.range(token, k, GROUP)),
                scaled_sums: self.scaled_sums.write(self.range(token, k, GROUP)),
                sums: self.sums.write(self.range(token, k, SUM_GROUP)),
            }
        }
    }
}
