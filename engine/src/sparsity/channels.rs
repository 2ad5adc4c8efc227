//! A matrix by channels, so that one can be left out: by columns, each with all outputs, or by rows, each with all inputs.
//!
//! Of a matrix by columns a *slice* is the same strips of all channels, one channel after the other, and a *block* some hundred
//! channels: one block of one slice is what a thread takes at a time. Slices are as long as they can be, since a core reads
//! memory slowly where it is torn: half of the channels, each of 27 cache lines, come at four fifths of the speed of all.
//! Slices and blocks depend on the matrix alone, and sums of blocks are added in their order, so that results do not depend on
//! the number of threads.

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::kernel::{Kernels, STRIP, Strips};
use crate::mmap::Anon;
use crate::pool::Pool;
use crate::quant::{BLOCK_LEN_MAX, FormatInfo, GROUP};
use crate::quantize::Planned;
use crate::simd::LANES;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Blocks and slices that a matrix is divided into, about, so that many threads can share it.
const ITEMS: usize = 16;

/// Strips of a slice at most: several kilobytes of each channel.
const STRIPS_MAX: usize = 16;

/// Channels of a block at least; blocks begin at whole blocks of every format.
const CHANNELS_MIN: usize = BLOCK_LEN_MAX;

/// Formats that blocks of 32 weights with one scale take in place of others, from the smallest on.
const STAND_INS: [&str; 3] = ["Q4_0", "Q5_0", "Q8_0"];

/// Rows of a tensor that are a matrix, or a part of one.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) planned: &'a Planned,
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    pub(crate) bias: &'a [f32],
}

/// Matrices that share their inputs, by channels.
pub(crate) struct Channels {
    pub(crate) format: &'static FormatInfo,
    /// How many there are.
    pub(crate) len: usize,
    /// Strips of a channel, those of a slice, and channels of a block.
    strips: usize,
    slice: usize,
    block: usize,
    memory: Anon,
    /// Norms of the channels, as they are in the file.
    pub(crate) norms: Vec<f32>,
    /// Added to the sums, by output; empty for none.
    pub(crate) bias: Vec<f32>,
}

/// A block of a slice.
pub(crate) struct Item {
    /// Number of the block, and its channels.
    pub(crate) block: usize,
    pub(crate) channels: Range<usize>,
    /// Strips of the slice.
    pub(crate) strips: Range<usize>,
}

/// The format of a matrix by channels: that of its panels, if its blocks are of 32 weights with one scale, or one that is as
/// large or a little larger.
pub fn strip_format(format: &'static FormatInfo) -> &'static FormatInfo {
    if format.block_len == GROUP {
        return format;
    }
    let large = |f: &&FormatInfo| f.block_bytes * format.block_len >= format.block_bytes * GROUP;
    let by_name = |name| FormatInfo::by_name(name).expect("one of the formats");
    let [smallest, middle, largest] = STAND_INS.map(by_name);
    [smallest, middle]
        .into_iter()
        .find(large)
        .unwrap_or(largest)
}

/// Where the weights of channels come from, and what packs them.
pub(crate) struct Packer<'a> {
    pub(crate) gguf: &'a Gguf,
    pub(crate) kernels: &'a dyn Kernels,
    pub(crate) pool: &'a Pool,
    pub(crate) huge_pages: bool,
}

impl Channels {
    /// The columns of `parts`, one below the other, each beginning with a whole strip if they are `apart`.
    ///
    /// # Errors
    /// When there is no memory, or a value is not finite.
    pub(crate) fn by_columns(p: &Packer<'_>, parts: &[Part<'_>], apart: bool) -> Result<Channels> {
        let len = parts[0].planned.from.dims[0] as usize;
        let mut outputs: Vec<(usize, Part<'_>)> = Vec::new();
        let mut end = 0usize;
        for part in parts {
            let first = if apart {
                end.next_multiple_of(STRIP)
            } else {
                end
            };
            outputs.push((first, *part));
            end = first + part.rows;
        }
        let strips = end.div_ceil(STRIP);
        let slice = (1..=STRIPS_MAX)
            .rev()
            .find(|slice| strips.is_multiple_of(*slice))
            .expect("1 divides all");
        let blocks = ITEMS
            .div_ceil(strips / slice)
            .min(len.div_ceil(CHANNELS_MIN));
        let block = len.div_ceil(blocks).next_multiple_of(CHANNELS_MIN);
        let mut channels = Channels::empty(p, parts, [len, strips, slice, block])?;
        if parts.iter().any(|part| !part.bias.is_empty()) {
            channels.bias = vec![0.0; strips * STRIP];
            for (first, part) in &outputs {
                channels.bias[*first..][..part.bias.len()].copy_from_slice(part.bias);
            }
        }
        channels.fill(p, parts, |channels, item, bytes, squares| {
            pack_columns(p, &outputs, channels, item, bytes, squares)
        })?;
        Ok(channels)
    }

    /// The rows of `part`.
    ///
    /// # Errors
    /// As [`Channels::by_columns`].
    pub(crate) fn by_rows(p: &Packer<'_>, part: Part<'_>) -> Result<Channels> {
        let strips = (part.planned.from.dims[0] as usize).div_ceil(STRIP);
        let shape = [part.rows, strips, strips, CHANNELS_MIN];
        let mut channels = Channels::empty(p, &[part], shape)?;
        channels.bias = part.bias.to_vec();
        channels.fill(p, &[part], |channels, item, bytes, _| {
            pack_rows(p, part, channels, item, bytes)
        })?;
        Ok(channels)
    }

    fn empty(
        p: &Packer<'_>,
        parts: &[Part<'_>],
        [len, strips, slice, block]: [usize; 4],
    ) -> Result<Channels> {
        let format = parts[0].planned.engine_format().expect("checked at load");
        let format = strip_format(format);
        let bytes = len * strips * LANES * format.block_bytes;
        let memory = Anon::zeroed(bytes, p.huge_pages).map_err(|e| {
            Error::Model(format!(
                "{bytes} bytes for a matrix by channels are not to be had ({e}): close other programs, use a smaller model or no sparsity"
            ))
        })?;
        Ok(Channels {
            format,
            len,
            strips,
            slice,
            block,
            memory,
            norms: Vec::new(),
            bias: Vec::new(),
        })
    }

    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> usize {
        self.memory.bytes().len()
    }

    /// Bytes of one.
    pub(crate) fn channel_bytes(&self) -> usize {
        self.strips * self.strip_bytes()
    }

    /// Bytes of one in a slice: what lies together.
    pub(crate) fn run_bytes(&self) -> usize {
        self.slice * self.strip_bytes()
    }

    fn strip_bytes(&self) -> usize {
        LANES * self.format.block_bytes
    }

    /// Sums that each block of a matrix by columns has.
    pub(crate) fn sums(&self) -> usize {
        self.strips * STRIP
    }

    /// Channels of a block.
    pub(crate) fn block(&self) -> usize {
        self.block
    }

    /// Number of blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.len.div_ceil(self.block)
    }

    /// What threads take.
    pub(crate) fn items(&self) -> usize {
        self.strips / self.slice * self.blocks()
    }

    /// Item `i`: the blocks of the first slice, then those of the next.
    pub(crate) fn item(&self, i: usize) -> Item {
        let (slice, block) = (i / self.blocks(), i % self.blocks());
        Item {
            block,
            channels: block * self.block..self.len.min((block + 1) * self.block),
            strips: slice * self.slice..(slice + 1) * self.slice,
        }
    }

    /// All channels of the slice with the strips of `item`.
    pub(crate) fn slice(&self, item: &Item) -> Strips<'_> {
        let start = item.strips.start * self.len * self.strip_bytes();
        let bytes = self.len * self.run_bytes();
        Strips {
            bytes: &self.memory.bytes()[start..start + bytes],
            per_channel: self.slice,
        }
    }

    /// All channels of a matrix by rows.
    pub(crate) fn rows(&self) -> Strips<'_> {
        Strips {
            bytes: self.memory.bytes(),
            per_channel: self.strips,
        }
    }

    /// Has `pack` fill the bytes of every item and add the squares of its channels' weights; whether all are finite.
    fn fill(
        &mut self,
        p: &Packer<'_>,
        parts: &[Part<'_>],
        pack: impl Fn(&Channels, &Item, &mut [u8], &mut [f32]) -> bool + Sync,
    ) -> Result<()> {
        let none = Anon::zeroed(0, false).expect("nothing");
        let mut memory = std::mem::replace(&mut self.memory, none);
        let mut rest = memory.bytes_mut();
        let per_channel = self.run_bytes();
        let mut parts_of_memory = Vec::new();
        for i in 0..self.items() {
            let n = self.item(i).channels.len();
            let (bytes, after) = rest.split_at_mut(n * per_channel);
            rest = after;
            parts_of_memory.push(Mutex::new((bytes, vec![0.0; n])));
        }
        let finite = AtomicBool::new(true);
        p.pool.run(&|ctx| {
            for i in ctx.share(self.items()) {
                let mut part = parts_of_memory[i].lock().expect("one thread each");
                let (bytes, squares) = &mut *part;
                if !pack(self, &self.item(i), bytes, squares) {
                    finite.store(false, Relaxed);
                }
            }
        });
        let mut norms = vec![0.0f32; self.len];
        for (i, part) in parts_of_memory.into_iter().enumerate() {
            let (_, squares) = part.into_inner().expect("no thread panicked");
            let of_item = &mut norms[self.item(i).channels];
            of_item.iter_mut().zip(squares).for_each(|(n, s)| *n += s);
        }
        self.norms = norms.into_iter().map(f32::sqrt).collect();
        self.memory = memory;
        for part in parts {
            p.gguf.drop_pages(&part.planned.from);
        }
        match finite.into_inner() {
            true => Ok(()),
            false => Err(parts[0].planned.not_finite()),
        }
    }
}

/// Packs the columns of an item: strip by strip its 512 rows are decoded, as far as they are its channels, and each channel's
/// values encoded anew in blocks along the rows.
fn pack_columns(
    p: &Packer<'_>,
    outputs: &[(usize, Part<'_>)],
    channels: &Channels,
    item: &Item,
    bytes: &mut [u8],
    squares: &mut [f32],
) -> bool {
    let (n, format, strip_bytes) = (item.channels.len(), channels.format, channels.strip_bytes());
    let mut finite = true;
    let mut decoded = vec![0.0f32; STRIP * n];
    let mut encoded = vec![0u8; strip_bytes];
    for (u, strip) in item.strips.clone().enumerate() {
        decoded.fill(0.0);
        for (r, values) in decoded.chunks_exact_mut(n).enumerate() {
            let output = strip * STRIP + r;
            let part = outputs
                .iter()
                .find(|(first, part)| (*first..first + part.rows).contains(&output));
            if let Some((first, part)) = part {
                decode(p.gguf, part, output - first, item.channels.clone(), values);
                finite &= values.iter().all(|v| v.is_finite());
            }
        }
        if !finite {
            return false;
        }
        for c in 0..n {
            let mut block = [0.0; GROUP];
            for (b, encoded) in encoded.chunks_exact_mut(format.block_bytes).enumerate() {
                for (j, v) in block.iter_mut().enumerate() {
                    *v = decoded[(b * GROUP + j) * n + c];
                    squares[c] += *v * *v;
                }
                format.quantize(&block, &[], encoded);
            }
            let blocks =
                std::array::from_fn(|b| &encoded[b * format.block_bytes..][..format.block_bytes]);
            let at = (c * item.strips.len() + u) * strip_bytes;
            p.kernels
                .pack(format.id, blocks, &mut bytes[at..][..strip_bytes]);
        }
    }
    true
}

/// Decodes the columns `cols` of row `row` of a part; they begin at a whole block.
fn decode(gguf: &Gguf, part: &Part<'_>, row: usize, cols: Range<usize>, out: &mut [f32]) {
    let from = FormatInfo::by_id(part.planned.from.format_id).expect("checked at load");
    let row_bytes = from.row_bytes(part.planned.from.dims[0] as usize);
    let at = (part.first_row + row) * row_bytes + from.row_bytes(cols.start);
    let bytes = &gguf.data(&part.planned.from)[at..][..from.row_bytes(cols.len())];
    from.dequantize(bytes, out);
}

/// Packs the rows of an item as they are, or encoded anew where the format has to be another one.
fn pack_rows(
    p: &Packer<'_>,
    part: Part<'_>,
    channels: &Channels,
    item: &Item,
    bytes: &mut [u8],
) -> bool {
    let (format, planned) = (channels.format, part.planned);
    let cols = planned.from.dims[0] as usize;
    let padded = cols.next_multiple_of(GROUP);
    let mut values = vec![0.0; padded];
    let mut zero = vec![0u8; format.block_bytes];
    format.quantize(&[0.0; GROUP], &[], &mut zero);
    let mut row = zero.repeat(channels.strips * LANES);
    let row_bytes = format.row_bytes(padded);
    let data = p.gguf.data(&planned.from);
    for (c, out) in item
        .channels
        .clone()
        .zip(bytes.chunks_exact_mut(channels.channel_bytes()))
    {
        let at = part.first_row + c;
        let same = planned.engine_format().is_some_and(|f| f.id == format.id);
        match &planned.encode {
            Some(encode) if same => {
                if !encode.rows(data, at..at + 1, &mut row[..row_bytes]) {
                    return false;
                }
            }
            None if same => row[..row_bytes].copy_from_slice(&data[at * row_bytes..][..row_bytes]),
            _ => {
                decode(p.gguf, &part, c, 0..cols, &mut values[..cols]);
                if !values.iter().all(|v| v.is_finite()) {
                    return false;
                }
                format.quantize(&values, &[], &mut row[..row_bytes]);
            }
        }
        let strip_bytes = channels.strip_bytes();
        for (blocks, out) in row
            .chunks_exact(strip_bytes)
            .zip(out.chunks_exact_mut(strip_bytes))
        {
            let blocks =
                std::array::from_fn(|b| &blocks[b * format.block_bytes..][..format.block_bytes]);
            p.kernels.pack(format.id, blocks, out);
        }
    }
    true
}
