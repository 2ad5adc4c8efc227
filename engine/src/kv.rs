//! The KV cache: `[layer][kv head][position][dim]` in half precision, keys and values apart.
#![allow(unsafe_code)]

use crate::pool::SharedBuf;
use std::ops::Range;

/// Keys and values of all positions of one sequence.
#[derive(Debug)]
pub struct Kv {
    /// Positions there is room for.
    pub capacity: usize,
    dim: usize,
    heads: usize,
    keys: SharedBuf<u16>,
    values: SharedBuf<u16>,
}

impl Kv {
    /// Room for `capacity` positions of `heads` KV heads of `dim` values in `layers` layers.
    pub fn new(layers: usize, heads: usize, dim: usize, capacity: usize) -> Kv {
        let len = layers * heads * capacity * dim;
        Kv {
            capacity,
            dim,
            heads,
            keys: SharedBuf::new(len),
            values: SharedBuf::new(len),
        }
    }

    /// Bytes of the cache, keys and values.
    pub fn bytes(&self) -> usize {
        2 * size_of::<u16>() * self.keys.len()
    }

    fn range(&self, layer: usize, head: usize, positions: Range<usize>) -> Range<usize> {
        assert!(
            positions.end <= self.capacity,
            "position beyond the capacity"
        );
        let start = (layer * self.heads + head) * self.capacity;
        (start + positions.start) * self.dim..(start + positions.end) * self.dim
    }

    /// Keys and values of `positions`, `[positions][dim]` each.
    ///
    /// # Safety
    /// Until the results are dropped nobody writes these positions of this head and layer.
    pub unsafe fn read(
        &self,
        layer: usize,
        head: usize,
        positions: Range<usize>,
    ) -> (&[u16], &[u16]) {
        let range = self.range(layer, head, positions);
        // SAFETY: by contract.
        unsafe { (self.keys.read(range.clone()), self.values.read(range)) }
    }

    /// Key and value of one position, to write.
    ///
    /// # Safety
    /// Until the results are dropped nobody else uses this position of this head and layer.
    #[allow(clippy::mut_from_ref, reason = "exclusive by contract")]
    pub unsafe fn write(
        &self,
        layer: usize,
        head: usize,
        position: usize,
    ) -> (&mut [u16], &mut [u16]) {
        let range = self.range(layer, head, position..position + 1);
        // SAFETY: by contract.
        unsafe { (self.keys.write(range.clone()), self.values.write(range)) }
    }
}
