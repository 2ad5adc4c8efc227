//! The KV cache: `[layer][kv head][panel of 16 positions]`, keys and values apart, each panel as [`cache`] says.
#![allow(unsafe_code)]

use crate::kernel::cache::{self, POSITIONS};
use crate::options::KvType;
use crate::pool::SharedBuf;
use std::ops::Range;

/// A cache line, so that panels never begin within one.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

const LINE_BYTES: usize = 64;

impl Default for Line {
    fn default() -> Self {
        Line([0; LINE_BYTES])
    }
}

/// Keys and values of all positions of one sequence.
#[derive(Debug)]
pub struct Kv {
    /// Positions there is room for.
    pub capacity: usize,
    /// How keys and values are stored.
    pub kind: KvType,
    heads: usize,
    /// Lines of a panel.
    panel_lines: usize,
    keys: SharedBuf<Line>,
    values: SharedBuf<Line>,
}

impl Kv {
    /// Room for `capacity` positions of `heads` KV heads of `dim` values in `layers` layers.
    pub fn new(kind: KvType, layers: usize, heads: usize, dim: usize, capacity: usize) -> Kv {
        let panel_lines = cache::panel_bytes(kind, dim) / LINE_BYTES;
        let lines = layers * heads * capacity.div_ceil(POSITIONS) * panel_lines;
        Kv {
            capacity,
            kind,
            heads,
            panel_lines,
            keys: SharedBuf::new(lines),
            values: SharedBuf::new(lines),
        }
    }

    /// Bytes of the cache, keys and values.
    pub fn bytes(&self) -> usize {
        2 * LINE_BYTES * self.keys.len()
    }

    /// Bytes of a panel of keys or of values.
    pub fn panel_bytes(&self) -> usize {
        self.panel_lines * LINE_BYTES
    }

    /// Lines of the panels of `positions`, which begin with a panel.
    fn lines(&self, layer: usize, head: usize, positions: Range<usize>) -> Range<usize> {
        assert!(
            positions.end <= self.capacity,
            "position beyond the capacity"
        );
        assert!(positions.start.is_multiple_of(POSITIONS));
        let start = (layer * self.heads + head) * self.capacity.div_ceil(POSITIONS);
        let (first, end) = (
            start + positions.start / POSITIONS,
            start + positions.end.div_ceil(POSITIONS),
        );
        first * self.panel_lines..end * self.panel_lines
    }

    /// Panels of keys and values of `positions`, of which the first begins a panel.
    ///
    /// # Safety
    /// Until the results are dropped nobody writes these panels of this head and layer.
    pub unsafe fn read(
        &self,
        layer: usize,
        head: usize,
        positions: Range<usize>,
    ) -> (&[u8], &[u8]) {
        let lines = self.lines(layer, head, positions);
        // SAFETY: by contract; a line is plain bytes.
        unsafe {
            (
                bytes(self.keys.read(lines.clone())),
                bytes(self.values.read(lines)),
            )
        }
    }

    /// The panels of keys and values that `position` lies in, to write, and its slot there.
    ///
    /// # Safety
    /// Until the results are dropped nobody else uses these panels of this head and layer.
    #[allow(clippy::mut_from_ref, reason = "exclusive by contract")]
    pub unsafe fn write(
        &self,
        layer: usize,
        head: usize,
        position: usize,
    ) -> ([&mut [u8]; 2], usize) {
        let slot = position % POSITIONS;
        let lines = self.lines(layer, head, position - slot..position + 1);
        // SAFETY: by contract.
        let panels = unsafe { [self.keys.write(lines.clone()), self.values.write(lines)] };
        (panels.map(bytes_mut), slot)
    }
}

fn bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 bytes without padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
}

fn bytes_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: a line is 64 bytes without padding, and any bytes are a line.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}
