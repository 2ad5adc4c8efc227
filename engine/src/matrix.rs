//! Weight matrices as panels of 16 rows, and their products with the activations of a batch of tokens.
//!
//! All matrices of a model lie in one arena, in the order a pass reads them. The panels of a matrix are split over the
//! threads in contiguous shares; each thread writes (and so first touches) the panels it will read.
#![allow(unsafe_code)]

use crate::kernel::{
    Bits, FEW_TOKENS, Kernels, PANELS, Row, RowMut, STREAMS, SUM_GROUP, TABLE_BYTES, TILE,
    TILE_TOKENS, TileGroup, Tiles,
};
use crate::options::Kernel;
use crate::pool::SharedBuf;
use crate::quant::{FormatInfo, GROUP};
use crate::simd::LANES;
use crate::stage::Ledger;
use std::ops::Range;

/// So many tokens are multiplied straight from the panel: reading it is what takes the time, and unpacking it first would
/// cost more than it saves.
pub const DIRECT_TOKENS: usize = TILE;

/// Tokens that share the unpacking of a panel. Their activations stay near while the panels of a block pass by, and so do a
/// panel's sums while its groups do.
const CHUNK_TOKENS: usize = 128;

/// Panels that a kernel is given at a time for many tokens.
const CALL_PANELS: usize = PANELS;

/// Panels that pass by all chunks of tokens before the next ones are read.
const BLOCK_PANELS: usize = 3 * CALL_PANELS;

/// A matrix `[rows, cols]` in the arena; `y = W x + bias`.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// How the weights are stored.
    pub format: &'static FormatInfo,
    /// Output length.
    pub rows: usize,
    /// Input length.
    pub cols: usize,
    /// Whether the panels are in the order of [`Kernel::Lut`].
    pub lookup: bool,
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

    /// Weights, those of padding left out.
    pub(crate) fn weights(&self) -> usize {
        self.rows * self.cols
    }

    /// Bytes of one panel.
    pub fn panel_bytes(&self) -> usize {
        LANES * self.format.row_bytes(self.cols)
    }

    /// Bytes of all panels.
    pub fn bytes(&self) -> usize {
        self.panels() * self.panel_bytes()
    }

    /// Where the panels `p` lie in the arena.
    pub fn panels_bytes(&self, p: Range<usize>) -> Range<usize> {
        let at = |p| self.offset + p * self.panel_bytes();
        at(p.start)..at(p.end)
    }

    /// Adds the bias of panel `p` to its 16 outputs for each token.
    fn add_bias(&self, p: usize, out: &mut [[f32; LANES]]) {
        let bias = self.bias.get(p * LANES..).unwrap_or(&[]);
        if bias.is_empty() {
            return;
        }
        for out in out {
            out.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
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
    /// What is read of the codes where the tokens are few; of more all bits are.
    pub bits: Bits,
    /// Room for [`PANELS`] panels on this thread, where there are any in the order of [`Kernel::Lut`].
    pub panels: &'a SharedBuf<u8>,
}

impl Bank<'_> {
    /// Multiplies the panels `panels` of `N` matrices of equal shape with the rows `tokens` of `x`, which were set as so many
    /// and of more than [`DIRECT_TOKENS`] begin a tile, and gives each panel's outputs for some tokens, `[tokens][16]` of
    /// each matrix, to `sink(first row, first token, outputs)`.
    pub fn multiply<const N: usize>(
        &self,
        matrices: [&Matrix; N],
        panels: Range<usize>,
        x: &Activations,
        tokens: Range<usize>,
        ledger: &mut Ledger,
        mut sink: impl FnMut(usize, usize, [&mut [[f32; LANES]]; N]),
    ) {
        let (sink, n) = (&mut sink, tokens.len());
        if n <= DIRECT_TOKENS {
            self.multiply_chunks::<N, STREAMS, DIRECT_TOKENS>(
                matrices,
                panels.clone(),
                x,
                tokens,
                sink,
            );
        } else if n <= FEW_TOKENS {
            self.multiply_chunks::<N, STREAMS, FEW_TOKENS>(
                matrices,
                panels.clone(),
                x,
                tokens,
                sink,
            );
        } else {
            self.multiply_chunks::<N, CALL_PANELS, CHUNK_TOKENS>(
                matrices,
                panels.clone(),
                x,
                tokens,
                sink,
            );
        }
        for m in matrices {
            let read = (panels.len() * self.read_bytes(m, n)) as u64;
            ledger.weight_bytes += read;
            if m.lookup && n <= DIRECT_TOKENS {
                ledger.lookup_bytes += read;
            }
            let row = Activations::row_bytes(m, n);
            ledger.activation_bytes += (panels.len() * n * row) as u64;
        }
    }

    /// Bytes that are read of a panel for `tokens`.
    fn read_bytes(&self, m: &Matrix, tokens: usize) -> usize {
        match self.bits {
            Bits::Top if tokens <= DIRECT_TOKENS => {
                LANES * m.cols / m.format.block_len * m.format.top_bytes
            }
            _ => m.panel_bytes(),
        }
    }

    /// The same for at most `P` panels and `C` tokens at a time.
    fn multiply_chunks<const N: usize, const P: usize, const C: usize>(
        &self,
        matrices: [&Matrix; N],
        panels: Range<usize>,
        x: &Activations,
        tokens: Range<usize>,
        sink: &mut impl FnMut(usize, usize, [&mut [[f32; LANES]]; N]),
    ) {
        let mut out = [[[[0.0; LANES]; C]; P]; N];
        let n = tokens.len();
        for (block, chunk) in blocks(panels, tokens, C) {
            for first in block.clone().step_by(P) {
                let these = first..block.end.min(first + P);
                for (m, out) in matrices.iter().zip(&mut out) {
                    let bytes = &self.arena[m.panels_bytes(these.clone())];
                    let out = &mut out.as_flattened_mut()[..these.len() * chunk.len()];
                    x.dot(self, m, bytes, chunk.clone(), n, out);
                }
                for (i, p) in these.enumerate() {
                    let outputs = row(i, chunk.len());
                    let mut each = out
                        .each_mut()
                        .map(|out| &mut out.as_flattened_mut()[outputs.clone()]);
                    for (m, out) in matrices.iter().zip(&mut each) {
                        m.add_bias(p, out);
                    }
                    sink(p * LANES, chunk.start, each);
                }
            }
        }
    }
}

/// Row `i` of rows of `len` values.
pub fn row(i: usize, len: usize) -> Range<usize> {
    i * len..(i + 1) * len
}

/// Panels that are handed out at a time, where any thread may take them, for a pass of `tokens`.
pub fn tail_panels(tokens: usize) -> usize {
    if tokens <= FEW_TOKENS {
        STREAMS
    } else {
        CALL_PANELS
    }
}

/// Splits panels and tokens into blocks that are multiplied one after the other: the activations of a chunk of tokens stay
/// near while the panels of a block pass by, and those in the third cache until all chunks have.
fn blocks(
    panels: Range<usize>,
    tokens: Range<usize>,
    chunk_tokens: usize,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    panels.clone().step_by(BLOCK_PANELS).flat_map(move |p| {
        let block = p..panels.end.min(p + BLOCK_PANELS);
        let end = tokens.end;
        (tokens.start..end)
            .step_by(chunk_tokens)
            .map(move |t| (block.clone(), t..end.min(t + chunk_tokens)))
    })
}

/// Activations of a batch of tokens, as values, `[tokens][cols]`, and as codes of 8 bits: of at most
/// [`DIRECT_TOKENS`] that are multiplied together in rows, of more in tiles.
#[derive(Debug)]
pub struct Activations {
    cols_max: usize,
    values: SharedBuf<f32>,
    codes: SharedBuf<i8>,
    scales: SharedBuf<f32>,
    scaled_sums: SharedBuf<f32>,
    sums: SharedBuf<i32>,
    /// What products are looked up in; empty where none are.
    tables: SharedBuf<u8>,
    tiles: SharedBuf<TileGroup>,
}

impl Activations {
    /// Room for `tokens` rows of at most `cols_max` values, to be multiplied together; with `lookup` also for tables.
    pub fn new(tokens: usize, cols_max: usize, lookup: bool) -> Activations {
        Activations::with_rows(tokens, tokens.min(DIRECT_TOKENS), cols_max, lookup)
    }

    /// Room for `slots` rows of at most `cols_max` values, of which neighbours may be multiplied apart.
    pub fn in_slots(slots: usize, cols_max: usize, lookup: bool) -> Activations {
        Activations::with_rows(slots, slots, cols_max, lookup)
    }

    /// Room for `tokens` rows, the first `rows` of them as codes in rows, and with `lookup` tables, too.
    fn with_rows(tokens: usize, rows: usize, cols_max: usize, lookup: bool) -> Activations {
        let cols_max = cols_max.next_multiple_of(GROUP);
        let rows = rows * cols_max;
        Activations {
            cols_max,
            values: SharedBuf::new(tokens * cols_max),
            codes: SharedBuf::new(rows),
            scales: SharedBuf::new(rows / GROUP),
            scaled_sums: SharedBuf::new(rows / GROUP),
            sums: SharedBuf::new(rows / SUM_GROUP),
            tables: SharedBuf::new(if lookup { rows * TABLE_BYTES } else { 0 }),
            tiles: SharedBuf::new(tokens.div_ceil(TILE_TOKENS) * cols_max / GROUP),
        }
    }

    /// Bytes that a kernel reads of one of `tokens` rows for a panel of `m`.
    fn row_bytes(m: &Matrix, tokens: usize) -> usize {
        let k = m.cols;
        let of_code = if m.lookup { TABLE_BYTES } else { 1 };
        match (m.format.is_float(), tokens) {
            (true, _) => 4 * k,
            (false, ..=DIRECT_TOKENS) => of_code * k + 8 * (k / GROUP) + 4 * (k / SUM_GROUP),
            (false, _) => size_of::<TileGroup>() / TILE_TOKENS * (k / GROUP),
        }
    }

    /// The first `k` columns of a token, in a buffer with one entry for every `per` of them.
    fn row(&self, token: usize, k: usize, per: usize) -> Range<usize> {
        let start = token * self.cols_max / per;
        start..start + k / per
    }

    /// The tables of `k` columns of a token.
    fn tables(&self, token: usize, k: usize) -> Range<usize> {
        let start = token * self.cols_max * TABLE_BYTES;
        start..start + k * TABLE_BYTES
    }

    /// The groups of `k` columns of a token's tile.
    fn tile(&self, token: usize, k: usize) -> Range<usize> {
        let start = token / TILE_TOKENS * (self.cols_max / GROUP);
        start..start + k / GROUP
    }

    /// Lets `fill` write the first `k` values of `token`, one of `tokens` that are multiplied together, and quantises them.
    ///
    /// # Safety
    /// Meanwhile nobody else uses it, or where `tokens` are more than [`DIRECT_TOKENS`] any of its tile: [`TILE_TOKENS`]
    /// consecutive ones from a multiple of that.
    pub unsafe fn set(
        &self,
        kernels: &dyn Kernels,
        token: usize,
        tokens: usize,
        k: usize,
        fill: impl FnOnce(&mut [f32]),
    ) {
        // SAFETY: by contract; values, codes and tiles are buffers of their own.
        unsafe {
            let values = self.values.write(self.row(token, k, 1));
            fill(values);
            if !k.is_multiple_of(GROUP) {
                return;
            }
            if tokens > DIRECT_TOKENS {
                let tile = self.tiles.write(self.tile(token, k));
                kernels.quantize_tile(values, token % TILE_TOKENS, tile);
                return;
            }
            kernels.quantize(&mut RowMut {
                values,
                codes: self.codes.write(self.row(token, k, 1)),
                scales: self.scales.write(self.row(token, k, GROUP)),
                scaled_sums: self.scaled_sums.write(self.row(token, k, GROUP)),
                sums: self.sums.write(self.row(token, k, SUM_GROUP)),
            });
            if !self.tables.is_empty() {
                let codes = self.codes.read(self.row(token, k, 1));
                kernels.tables(codes, self.tables.write(self.tables(token, k)));
            }
        }
    }

    /// Products of some panels of `m`, with the tokens of `chunk`, which begins a tile, of `tokens` in all; `out` as in
    /// [`Kernels::dot`].
    fn dot(
        &self,
        bank: &Bank<'_>,
        m: &Matrix,
        panels: &[u8],
        chunk: Range<usize>,
        tokens: usize,
        out: &mut [[f32; LANES]],
    ) {
        let (k, tiled) = (m.cols, tokens > DIRECT_TOKENS);
        let per_panel = m.panel_bytes();
        let outputs = out.len() / (panels.len() / per_panel);
        // SAFETY: between the barrier before this stage and the one after it, activations are only read; the room for panels
        // is this thread's.
        unsafe {
            if tiled && !m.format.is_float() {
                let last = self.tile(chunk.end - 1, k);
                let groups = self.tiles.read(self.tile(chunk.start, k).start..last.end);
                let stride = self.cols_max / GROUP;
                let x = Tiles { groups, stride };
                if !m.lookup {
                    return bank.kernels.dot_batch(m.format.id, panels, k, x, out);
                }
                let panels = panels.chunks(PANELS * per_panel);
                for (from, out) in panels.zip(out.chunks_mut(PANELS * outputs)) {
                    let room = bank.panels.write(0..from.len());
                    room.copy_from_slice(from);
                    for panel in room.chunks_mut(per_panel) {
                        bank.kernels.rearrange(m.format.id, Kernel::Dot, panel);
                    }
                    bank.kernels.dot_batch(m.format.id, room, k, x, out);
                }
                return;
            }
            if m.lookup {
                let at_once = match chunk.len() {
                    1 => panels.len() / per_panel,
                    _ => 1,
                };
                let panels = panels.chunks(at_once * per_panel);
                for (panels, out) in panels.zip(out.chunks_mut(at_once * outputs)) {
                    for (t, out) in chunk.clone().zip(out.chunks_mut(at_once)) {
                        let tables = self.tables.read(self.tables(t, k));
                        let x = self.token(t, k, k);
                        bank.kernels.lookup(m.format.id, panels, k, x, tables, out);
                    }
                }
                return;
            }
            // Float kernels of a batch read values alone.
            let row = |t| self.token(t, k, if tiled { 0 } else { k });
            let (per_part, per_call) = match tiled {
                true => (per_panel, TILE),
                false => (panels.len(), out.len()),
            };
            let outputs = out.len() / (panels.len() / per_part);
            for (panels, out) in panels.chunks(per_part).zip(out.chunks_mut(outputs)) {
                for (i, out) in out.chunks_mut(per_call).enumerate() {
                    let first = chunk.start + i * TILE;
                    let n = TILE.min(chunk.end - first);
                    let rows: [Row<'_>; TILE] = std::array::from_fn(|t| row(first + t.min(n - 1)));
                    bank.kernels
                        .dot(m.format.id, bank.bits, panels, k, &rows[..n], out);
                }
            }
        }
    }

    /// The first `k` columns of token `t`, the first `coded` of them as codes too.
    ///
    /// # Safety
    /// Nobody writes them meanwhile.
    pub unsafe fn token(&self, t: usize, k: usize, coded: usize) -> Row<'_> {
        let at = if coded == 0 { 0 } else { t };
        // SAFETY: by contract.
        unsafe {
            Row {
                values: self.values.read(self.row(t, k, 1)),
                codes: self.codes.read(self.row(at, coded, 1)),
                scales: self.scales.read(self.row(at, coded, GROUP)),
                scaled_sums: self.scaled_sums.read(self.row(at, coded, GROUP)),
                sums: self.sums.read(self.row(at, coded, SUM_GROUP)),
            }
        }
    }
}
