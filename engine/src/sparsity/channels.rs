//! A matrix by channels, so that one can be left out: by columns, each with all outputs, or by rows, each with all inputs.
//!
//! Of a matrix by columns a *slice* is the same strips of all channels, one channel after the other, and a *block* some hundred
//! channels: one block of one slice is what a thread takes at a time. Slices are as long as they can be, since a core reads
//! memory slowly where it is torn: half of the channels, each of 27 cache lines, come at four fifths of the speed of all.
//! Slices and blocks depend on the matrix alone, and sums of blocks are added in their order, so that results do not depend on
//! the number of threads.

use crate::error::Result;
use crate::gguf::Gguf;
use crate::kernel::{Kernels, STRIP, Strips};
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

/// Channels that show whether a matrix would be packed so again.
const SEEN_CHANNELS: usize = 8;

/// Matrices begin at whole lines of a cache, in bytes.
const LINE_BYTES: usize = 64;

/// Rows of a tensor that are a matrix, or a part of one.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) planned: &'a Planned,
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    pub(crate) bias: &'a [f32],
}

/// Matrices that share their inputs, by channels; their bytes lie in the arena of all.
pub(crate) struct Channels {
    pub(crate) format: &'static FormatInfo,
    /// How many there are.
    pub(crate) len: usize,
    /// Strips of a channel, those of a slice, and channels of a block.
    strips: usize,
    slice: usize,
    block: usize,
    /// Where they begin in the arena.
    offset: usize,
    /// Norms of the channels, as they are in the file; zeros for rows.
    pub(crate) norms: Vec<f32>,
    /// Added to the sums, by output; empty for none.
    pub(crate) bias: Vec<f32>,
}

/// Matrices by channels, to be made or to be found made: how they lie, and what they are made of.
pub(crate) struct Layout<'a> {
    pub(crate) channels: Channels,
    pub(crate) side: Side,
    /// Each with its first output.
    pub(crate) parts: Vec<(usize, Part<'a>)>,
}

/// What a channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// A column, with all outputs.
    Columns,
    /// A row, with all inputs.
    Rows,
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
}

impl<'a> Layout<'a> {
    /// The columns of `parts`, one below the other, each beginning with a whole strip if they are `apart`.
    pub(crate) fn by_columns(parts: &[Part<'a>], apart: bool) -> Layout<'a> {
        let len = parts[0].planned.from.dims[0] as usize;
        let mut outputs: Vec<(usize, Part<'a>)> = Vec::new();
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
        let mut bias = Vec::new();
        if parts.iter().any(|part| !part.bias.is_empty()) {
            bias = vec![0.0; strips * STRIP];
            for (first, part) in &outputs {
                bias[*first..][..part.bias.len()].copy_from_slice(part.bias);
            }
        }
        Layout::new(Side::Columns, outputs, [len, strips, slice, block], bias)
    }

    /// The rows of `part`.
    pub(crate) fn by_rows(part: Part<'a>) -> Layout<'a> {
        let strips = (part.planned.from.dims[0] as usize).div_ceil(STRIP);
        let shape = [part.rows, strips, strips, CHANNELS_MIN];
        Layout::new(Side::Rows, vec![(0, part)], shape, part.bias.to_vec())
    }

    fn new(
        side: Side,
        parts: Vec<(usize, Part<'a>)>,
        [len, strips, slice, block]: [usize; 4],
        bias: Vec<f32>,
    ) -> Layout<'a> {
        let format = parts[0].1.planned.engine_format().expect("checked at load");
        let channels = Channels {
            format: strip_format(format),
            len,
            strips,
            slice,
            block,
            offset: 0,
            norms: Vec::new(),
            bias,
        };
        Layout {
            channels,
            side,
            parts,
        }
    }

    /// Gives it its place in the arena, from `start` on. Where the next one may begin.
    pub(crate) fn put(&mut self, start: usize) -> usize {
        self.channels.offset = start;
        (start + self.channels.bytes()).next_multiple_of(LINE_BYTES)
    }

    /// All that its bytes depend on, in words, but for the weights and what packs them.
    pub(crate) fn words(&self) -> String {
        let c = &self.channels;
        let shape = [c.len, c.strips, c.slice, c.block, c.offset];
        let mut words = format!("{:?} {} {shape:?}", self.side, c.format.name);
        for (first, part) in &self.parts {
            let (from, rows) = (&part.planned.from, [*first, part.first_row, part.rows]);
            let what = (&from.name, from.format_id, part.planned.format, rows);
            words += &format!(" {what:?}");
        }
        words
    }

    /// Whether a part is encoded anew for it.
    pub(crate) fn encodes(&self, part: &Part<'_>) -> bool {
        self.side == Side::Columns || !self.is_format_of(part.planned)
    }

    /// Whether a matrix has this format by rows, too.
    fn is_format_of(&self, planned: &Planned) -> bool {
        let format = planned.engine_format();
        format.is_some_and(|f| f.id == self.channels.format.id)
    }

    /// Fills `bytes`, those of all channels, and gives the norms of these.
    ///
    /// # Errors
    /// When a value is not finite.
    pub(crate) fn fill(&self, p: &Packer<'_>, bytes: &mut [u8]) -> Result<Vec<f32>> {
        let channels = &self.channels;
        let mut rest = bytes;
        let per_channel = channels.run_bytes();
        let mut parts_of_memory = Vec::new();
        for i in 0..channels.items() {
            let n = channels.item(i).channels.len();
            let (bytes, after) = rest.split_at_mut(n * per_channel);
            rest = after;
            parts_of_memory.push(Mutex::new((bytes, vec![0.0; n])));
        }
        let finite = AtomicBool::new(true);
        p.pool.run(&|ctx| {
            for i in ctx.share(channels.items()) {
                let mut part = parts_of_memory[i].lock().expect("one thread each");
                let (bytes, squares) = &mut *part;
                if !self.pack(p, &channels.item(i), bytes, squares) {
                    finite.store(false, Relaxed);
                }
            }
        });
        let mut norms = vec![0.0f32; channels.len];
        for (i, part) in parts_of_memory.into_iter().enumerate() {
            let (_, squares) = part.into_inner().expect("no thread panicked");
            let of_item = &mut norms[channels.item(i).channels];
            of_item.iter_mut().zip(squares).for_each(|(n, s)| *n += s);
        }
        self.drop_pages(p);
        match finite.into_inner() {
            true => Ok(norms.into_iter().map(f32::sqrt).collect()),
            false => Err(self.parts[0].1.planned.not_finite()),
        }
    }

    /// Whether `bytes` and `norms` are what [`Layout::fill`] would give, as far as some channels of one block show, the block and
    /// the strip by the matrix's `turn` among several. Norms take all outputs, and so the whole matrix from the file: the
    /// first one shows them.
    pub(crate) fn would_fill(
        &self,
        p: &Packer<'_>,
        turn: usize,
        bytes: &[u8],
        norms: &[f32],
    ) -> bool {
        let c = &self.channels;
        let first = turn % c.blocks() * c.block;
        let seen = first..c.len.min(first + SEEN_CHANNELS);
        let strip = turn % c.strips;
        let (strips, of_a_piece) = match (turn, self.side) {
            (1.., Side::Columns) => (strip..strip + 1, 1),
            _ => (0..c.strips, c.slice),
        };
        let mut sums = vec![0.0f32; seen.len()];
        let same = strips.step_by(of_a_piece).all(|strip| {
            let start = strip / c.slice * c.len * c.run_bytes();
            let within = strip % c.slice * c.strip_bytes();
            let piece_bytes = of_a_piece * c.strip_bytes();
            let item = Item {
                block: first / c.block,
                channels: seen.clone(),
                strips: strip..strip + of_a_piece,
            };
            let mut packed = vec![0; seen.len() * piece_bytes];
            let mut squares = vec![0.0; seen.len()];
            let finite = self.pack(p, &item, &mut packed, &mut squares);
            sums.iter_mut().zip(squares).for_each(|(n, s)| *n += s);
            let mut pairs = seen.clone().zip(packed.chunks_exact(piece_bytes));
            let found = |channel| &bytes[start + channel * c.run_bytes() + within..][..piece_bytes];
            finite && pairs.all(|(channel, packed)| packed == found(channel))
        });
        self.drop_pages(p);
        let found = norms[seen].iter().map(|n| n.to_bits());
        same && (turn > 0 || found.eq(sums.iter().map(|s| s.sqrt().to_bits())))
    }

    /// Lets go of the file's pages that it is made of.
    fn drop_pages(&self, p: &Packer<'_>) {
        for (_, part) in &self.parts {
            p.gguf.drop_pages(&part.planned.from);
        }
    }

    /// Packs the channels of an item into `bytes`, and adds the squares of their weights to `squares`. Whether all are finite.
    fn pack(&self, p: &Packer<'_>, item: &Item, bytes: &mut [u8], squares: &mut [f32]) -> bool {
        match self.side {
            Side::Columns => self.pack_columns(p, item, bytes, squares),
            Side::Rows => self.pack_rows(p, item, bytes),
        }
    }

    /// Packs the columns of an item: strip by strip its 512 rows are decoded, as far as they are its channels, and each
    /// channel's values encoded anew in blocks along the rows.
    fn pack_columns(
        &self,
        p: &Packer<'_>,
        item: &Item,
        bytes: &mut [u8],
        squares: &mut [f32],
    ) -> bool {
        let (format, strip_bytes) = (self.channels.format, self.channels.strip_bytes());
        // Rows are decoded in whole blocks of every format.
        let first = item.channels.start / BLOCK_LEN_MAX * BLOCK_LEN_MAX;
        let end = item.channels.end.next_multiple_of(BLOCK_LEN_MAX);
        let cols = first..end.min(self.channels.len);
        let (n, skipped) = (cols.len(), item.channels.start - first);
        let mut finite = true;
        let mut decoded = vec![0.0f32; STRIP * n];
        let mut encoded = vec![0u8; strip_bytes];
        for (u, strip) in item.strips.clone().enumerate() {
            decoded.fill(0.0);
            for (r, values) in decoded.chunks_exact_mut(n).enumerate() {
                let output = strip * STRIP + r;
                let mut parts = self.parts.iter();
                let part =
                    parts.find(|(first, part)| (*first..first + part.rows).contains(&output));
                if let Some((first, part)) = part {
                    decode(p.gguf, part, output - first, cols.clone(), values);
                    finite &= values.iter().all(|v| v.is_finite());
                }
            }
            if !finite {
                return false;
            }
            for c in 0..item.channels.len() {
                let mut block = [0.0; GROUP];
                for (b, encoded) in encoded.chunks_exact_mut(format.block_bytes).enumerate() {
                    for (j, v) in block.iter_mut().enumerate() {
                        *v = decoded[(b * GROUP + j) * n + skipped + c];
                        squares[c] += *v * *v;
                    }
                    format.quantize(&block, &[], encoded);
                }
                let blocks = std::array::from_fn(|b| {
                    &encoded[b * format.block_bytes..][..format.block_bytes]
                });
                let at = (c * item.strips.len() + u) * strip_bytes;
                p.kernels
                    .pack(format.id, blocks, &mut bytes[at..][..strip_bytes]);
            }
        }
        true
    }

    /// Packs the rows of an item as they are, or encoded anew where the format has to be another one.
    fn pack_rows(&self, p: &Packer<'_>, item: &Item, bytes: &mut [u8]) -> bool {
        let (channels, part) = (&self.channels, self.parts[0].1);
        let (format, planned) = (channels.format, part.planned);
        let cols = planned.from.dims[0] as usize;
        let padded = cols.next_multiple_of(GROUP);
        let mut values = vec![0.0; padded];
        let mut zero = vec![0u8; format.block_bytes];
        format.quantize(&[0.0; GROUP], &[], &mut zero);
        let mut row = zero.repeat(channels.strips * LANES);
        let row_bytes = format.row_bytes(padded);
        let data = p.gguf.data(&planned.from);
        let same = self.is_format_of(planned);
        for (c, out) in item
            .channels
            .clone()
            .zip(bytes.chunks_exact_mut(channels.channel_bytes()))
        {
            let at = part.first_row + c;
            match &planned.encode {
                Some(encode) if same => {
                    if !encode.rows(data, at..at + 1, &mut row[..row_bytes]) {
                        return false;
                    }
                }
                None if same => {
                    row[..row_bytes].copy_from_slice(&data[at * row_bytes..][..row_bytes])
                }
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
                let blocks = std::array::from_fn(|b| {
                    &blocks[b * format.block_bytes..][..format.block_bytes]
                });
                p.kernels.pack(format.id, blocks, out);
            }
        }
        true
    }
}

impl Channels {
    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> usize {
        self.len * self.channel_bytes()
    }

    /// Those in the arena.
    pub(crate) fn place(&self) -> Range<usize> {
        self.offset..self.offset + self.bytes()
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

    /// All channels of the slice with the strips of `item`, in the arena.
    pub(crate) fn slice<'a>(&self, arena: &'a [u8], item: &Item) -> Strips<'a> {
        let start = self.offset + item.strips.start * self.len * self.strip_bytes();
        let bytes = self.len * self.run_bytes();
        Strips {
            bytes: &arena[start..start + bytes],
            per_channel: self.slice,
        }
    }

    /// All channels of a matrix by rows, in the arena.
    pub(crate) fn rows<'a>(&self, arena: &'a [u8]) -> Strips<'a> {
        Strips {
            bytes: &arena[self.place()],
            per_channel: self.strips,
        }
    }
}

/// Decodes the columns `cols` of row `row` of a part; they begin at a whole block.
fn decode(gguf: &Gguf, part: &Part<'_>, row: usize, cols: Range<usize>, out: &mut [f32]) {
    let from = FormatInfo::by_id(part.planned.from.format_id).expect("checked at load");
    let row_bytes = from.row_bytes(part.planned.from.dims[0] as usize);
    let at = (part.first_row + row) * row_bytes + from.row_bytes(cols.start);
    let bytes = &gguf.data(&part.planned.from)[at..][..from.row_bytes(cols.len())];
    from.dequantize(bytes, out);
}
