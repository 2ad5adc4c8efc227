//! How keys and values of 16 positions of a KV head stand in memory.
//!
//! | type | keys | values |
//! |---|---|---|
//! | f16 | `[dim][16 positions]` | `[16 positions][dim]` |
//!
//! Keys stand across, so that one vector holds a dimension of 16 positions and scores need no sum over lanes.
#![allow(unsafe_code)]

use super::ops;
use crate::options::KvType;
use crate::simd::{LANES, Simd};

/// Positions of a panel.
pub const POSITIONS: usize = LANES;

/// Bytes of a panel of keys or of values, a multiple of 64 for heads of `dim` values, `dim` a multiple of 16.
pub fn panel_bytes(kind: KvType, dim: usize) -> usize {
    match kind {
        KvType::F16 => 2 * POSITIONS * dim,
    }
}

/// See [`super::Kernels::store_kv`].
#[inline(always)]
pub(super) fn store<S: Simd>(
    s: S,
    kind: KvType,
    [key, value]: [&[f32]; 2],
    slot: usize,
    [keys, values]: [&mut [u8]; 2],
) {
    let dim = key.len();
    assert!(value.len() == dim && dim.is_multiple_of(LANES) && slot < POSITIONS);
    let bytes = panel_bytes(kind, dim);
    assert!(keys.len() == bytes && values.len() == bytes);
    match kind {
        KvType::F16 => {
            for (d, key) in key.chunks_exact(LANES).enumerate() {
                let half = ops::to_f16(s, key);
                for (i, bytes) in half.chunks_exact(2).enumerate() {
                    let at = 2 * ((d * LANES + i) * POSITIONS + slot);
                    keys[at..at + 2].copy_from_slice(bytes);
                }
            }
            let row = &mut values[2 * slot * dim..][..2 * dim];
            for (value, out) in value
                .chunks_exact(LANES)
                .zip(row.chunks_exact_mut(2 * LANES))
            {
                out.copy_from_slice(&ops::to_f16(s, value));
            }
        }
    }
}
