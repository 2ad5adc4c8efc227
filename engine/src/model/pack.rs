//! Packing: the matrices of a file become panels, each thread its own share.

use super::Model;
use super::weights::{EMBEDDING, Source};
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::mmap::Anon;
use crate::options::Kernel;
use crate::pool::Pool;
use crate::quantize::Planned;
use crate::simd::LANES;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

impl Model {
    /// Encodes the embedding, if it is not to stay as it is in the file.
    pub(super) fn encode_embedding(&mut self, index: usize, pool: &Pool) -> Result<()> {
        let planned = &self.tensors[index];
        let Some(encode) = &planned.encode else {
            return Ok(());
        };
        let data = self.gguf.data(&planned.from);
        let row_bytes = encode.to.row_bytes(self.config.n_embd);
        let mut encoded = vec![0; self.config.n_vocab * row_bytes];
        let parts = split(&mut encoded, self.config.n_vocab, row_bytes, pool.threads());
        let finite = AtomicBool::new(true);
        pool.run(&|ctx| {
            let mut part = parts[ctx.index].lock().expect("one thread each");
            let rows = part.0..part.0 + part.1.len() / row_bytes;
            if !encode.rows(data, rows, part.1) {
                finite.store(false, Relaxed);
            }
        });
        if !finite.into_inner() {
            return Err(planned.not_finite());
        }
        self.gguf.drop_pages(&planned.from);
        self.embedding = encoded;
        Ok(())
    }

    /// Packs every matrix from the file into an arena of so many bytes: each thread the panels it will multiply.
    ///
    /// # Errors
    /// When there is no memory for it, or a value to be encoded is not finite.
    pub(super) fn pack(
        &self,
        sources: &[Source],
        arena_bytes: usize,
        pool: &Pool,
        huge_pages: bool,
    ) -> Result<Anon> {
        let mut arena = Anon::zeroed(arena_bytes, huge_pages).map_err(|e| {
            Error::Model(format!(
                "{arena_bytes} bytes for the weights are not to be had ({e}): close other programs or use a smaller model"
            ))
        })?;
        let mut tail = arena.bytes_mut();
        for (matrix, source) in self.matrices().zip(sources) {
            let (panels, after) = tail.split_at_mut(matrix.bytes());
            tail = after;
            let planned = &self.tensors[source.tensor];
            let parts = split(
                panels,
                matrix.panels(),
                matrix.panel_bytes(),
                pool.threads(),
            );
            let finite = AtomicBool::new(true);
            pool.run(&|ctx| {
                let mut part = parts[ctx.index].lock().expect("one thread each");
                let first = part.0;
                for (i, panel) in part.1.chunks_exact_mut(matrix.panel_bytes()).enumerate() {
                    if !self.pack_panel(matrix, planned, source.first_row, first + i, panel) {
                        finite.store(false, Relaxed);
                    }
                }
            });
            if !finite.into_inner() {
                return Err(planned.not_finite());
            }
            self.gguf.drop_pages(&planned.from);
        }
        Ok(arena)
    }

    /// Packs panel `p` of a matrix whose rows begin at `first_row` of the tensor `planned`, encoded first if they are to be;
    /// rows past the end are zeros. Whether all values that were encoded are finite.
    pub(super) fn pack_panel(
        &self,
        matrix: &Matrix,
        planned: &Planned,
        first_row: usize,
        p: usize,
        panel: &mut [u8],
    ) -> bool {
        let row_bytes = matrix.format.row_bytes(matrix.cols);
        let n = LANES.min(matrix.rows - p * LANES);
        let first = first_row + p * LANES;
        let file = self.gguf.data(&planned.from);
        let mut encoded = Vec::new();
        let mut finite = true;
        let rows = match &planned.encode {
            Some(_) if planned.from.name == EMBEDDING && !self.embedding.is_empty() => {
                &self.embedding[first * row_bytes..]
            }
            Some(encode) => {
                encoded.resize(n * row_bytes, 0);
                finite = encode.rows(file, first..first + n, &mut encoded);
                &encoded
            }
            None => &file[first * row_bytes..],
        };
        let zeros = vec![0; if n < LANES { row_bytes } else { 0 }];
        let rows = std::array::from_fn(|r| match r < n {
            true => &rows[r * row_bytes..][..row_bytes],
            false => &zeros[..],
        });
        self.kernels.pack(matrix.format.id, rows, panel);
        if matrix.lookup {
            self.kernels.rearrange(matrix.format.id, Kernel::Lut, panel);
        }
        finite
    }
}

/// The `n` pieces of `all`, of `bytes` each, in contiguous shares for `threads`, each with the number of its first one.
fn split(all: &mut [u8], n: usize, bytes: usize, threads: usize) -> Vec<Mutex<(usize, &mut [u8])>> {
    let mut left = all;
    let mut part = |i: usize| {
        let (first, end) = (n * i / threads, n * (i + 1) / threads);
        let (part, others) = std::mem::take(&mut left).split_at_mut((end - first) * bytes);
        left = others;
        Mutex::new((first, part))
    };
    (0..threads).map(&mut part).collect()
}
