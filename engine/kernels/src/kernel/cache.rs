//! How keys and values of 16 positions of a KV head stand in memory.
//!
//! | type | keys | values |
//! |---|---|---|
//! | f16 | `[dim][16 positions]` | `[16 positions][dim]` |
//! | q8_0 | per 32 values of `dim`: 16 scales in half precision, `[32][16 positions]` | the same scales, `[16 positions][32]` |
//!
//! Keys stand across, so that one vector holds a dimension of 16 positions and scores need no sum over lanes.
//! q8_0 is llama.cpp's: value = scale * code, codes of 8 bits, the largest one 127.
#![allow(unsafe_code)]

use super::ops;
use crate::options::KvType;
use crate::quant::GROUP;
use crate::simd::{LANES, Simd};
use half::f16;

/// Positions of a panel.
pub const POSITIONS: usize = LANES;

/// Positions that are read at a time.
pub(super) const BLOCK: usize = 2 * POSITIONS;

/// Bytes of the scales of 32 values of 16 positions.
const SCALE_BYTES: usize = 2 * POSITIONS;

/// Bytes of 32 values of 16 positions in q8_0.
const GROUP_BYTES: usize = SCALE_BYTES + POSITIONS * GROUP;

/// Values of which a head must have a multiple.
pub fn dim_unit(kind: KvType) -> usize {
    match kind {
        KvType::F16 => LANES,
        KvType::Q8_0 => GROUP,
    }
}

/// Bytes of a panel of keys or of values, a multiple of 64, for heads of `dim` values.
pub fn panel_bytes(kind: KvType, dim: usize) -> usize {
    match kind {
        KvType::F16 => 2 * POSITIONS * dim,
        KvType::Q8_0 => (dim / GROUP * GROUP_BYTES).next_multiple_of(64),
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
    assert!(value.len() == dim && dim.is_multiple_of(dim_unit(kind)) && slot < POSITIONS);
    let bytes = panel_bytes(kind, dim);
    assert!(keys.len() == bytes && values.len() == bytes);
    match kind {
        KvType::F16 => {
            for (d, key) in key.chunks_exact(LANES).enumerate() {
                let half = ops::to_f16(s, key);
                let column = &mut keys[2 * (d * LANES * POSITIONS + slot)..];
                for (half, out) in half.chunks_exact(2).zip(column.chunks_mut(2 * POSITIONS)) {
                    out[..2].copy_from_slice(half);
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
        KvType::Q8_0 => {
            for (key, group) in key
                .chunks_exact(GROUP)
                .zip(keys.chunks_exact_mut(GROUP_BYTES))
            {
                let (scale, codes) = quantize(s, key);
                let (scales, column) = group.split_at_mut(SCALE_BYTES);
                scales[2 * slot..][..2].copy_from_slice(&scale);
                for (code, out) in codes.iter().zip(column.chunks_exact_mut(POSITIONS)) {
                    out[slot] = *code as u8;
                }
            }
            let groups = values.chunks_exact_mut(GROUP_BYTES);
            for (value, group) in value.chunks_exact(GROUP).zip(groups) {
                let (scale, codes) = quantize(s, value);
                let (scales, rows) = group.split_at_mut(SCALE_BYTES);
                scales[2 * slot..][..2].copy_from_slice(&scale);
                let row = &mut rows[slot * GROUP..][..GROUP];
                row.iter_mut().zip(codes).for_each(|(o, c)| *o = c as u8);
            }
        }
    }
}

/// Scale in half precision and codes of 32 values.
#[inline(always)]
fn quantize<S: Simd>(s: S, x: &[f32]) -> ([u8; 2], [i8; GROUP]) {
    let mut codes = [0; GROUP];
    assert!(x.len() == GROUP);
    // SAFETY: 32 values.
    let halves = unsafe { [s.load(x.as_ptr()), s.load(x.as_ptr().add(LANES))] };
    let peak = s.peak(halves[0], halves[1]);
    let scale = f16::from_f32(peak / 127.0);
    let inverse = if scale == f16::ZERO {
        0.0
    } else {
        1.0 / scale.to_f32()
    };
    for (half, codes) in halves.into_iter().zip(codes.chunks_exact_mut(LANES)) {
        // A scale that was rounded down would let the peak exceed the codes.
        let code = s.mul(half, s.splat(inverse));
        let code = s.min(s.max(code, s.splat(-127.0)), s.splat(127.0));
        // SAFETY: 16 codes, each within -127..=127.
        unsafe { s.i_store_i8(codes.as_mut_ptr(), s.f_to_i(code)) };
    }
    (scale.to_le_bytes(), codes)
}

/// Where vectors of 16 values are read from.
pub(super) trait Source {
    /// # Safety
    /// `p` is readable for 16 values.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F;
}

/// Half precision.
pub(super) struct Half;

impl Source for Half {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: by contract.
        unsafe { s.load_f16(p) }
    }
}

/// Single precision.
pub(super) struct Single;

impl Source for Single {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::F {
        // SAFETY: by contract.
        unsafe { s.load(p.cast()) }
    }
}

/// Vectors of up to [`BLOCK`] positions: vector `i` of column `c` lies at `at + i * step + c * column` bytes.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) at: *const u8,
    /// Bytes from a vector to what is to be prefetched when it is read.
    pub(super) ahead: usize,
    pub(super) step: usize,
    pub(super) column: usize,
}

/// Reading a cache of one type. Panels of `dim` values are given by the address of the first one of a block, `next` is
/// where the next block to be read begins, and `room` holds `BLOCK * dim` values.
pub(super) trait Reader {
    /// What the views hold.
    type Vectors: Source;

    /// Keys: a step is a dimension, a column a panel.
    ///
    /// # Safety
    /// `panels` panels are readable, and `dim` is a multiple of [`dim_unit`].
    unsafe fn keys<S: Simd>(
        s: S,
        at: *const u8,
        panels: usize,
        dim: usize,
        next: *const u8,
        room: &mut [f32],
    ) -> View;

    /// Values: a step is a position, a column 16 dimensions.
    ///
    /// # Safety
    /// As [`Reader::keys`].
    unsafe fn values<S: Simd>(
        s: S,
        at: *const u8,
        panels: usize,
        dim: usize,
        next: *const u8,
        room: &mut [f32],
    ) -> View;
}

/// Half precision is read as it stands.
pub(super) struct F16;

impl Reader for F16 {
    type Vectors = Half;

    #[inline(always)]
    unsafe fn keys<S: Simd>(
        _s: S,
        at: *const u8,
        _panels: usize,
        dim: usize,
        next: *const u8,
        _room: &mut [f32],
    ) -> View {
        View {
            at,
            ahead: next.addr().wrapping_sub(at.addr()),
            step: 2 * LANES,
            column: 2 * POSITIONS * dim,
        }
    }

    #[inline(always)]
    unsafe fn values<S: Simd>(
        _s: S,
        at: *const u8,
        _panels: usize,
        dim: usize,
        next: *const u8,
        _room: &mut [f32],
    ) -> View {
        View {
            at,
            ahead: next.addr().wrapping_sub(at.addr()),
            step: 2 * dim,
            column: 2 * LANES,
        }
    }
}

/// Codes are decoded into `room`.
pub(super) struct Q8;

impl Q8 {
    /// The 16 codes at `p`, decoded.
    ///
    /// # Safety
    /// `p` is readable for 16 bytes.
    #[inline(always)]
    unsafe fn decode<S: Simd>(s: S, p: *const u8, scale: S::F) -> S::F {
        // SAFETY: by contract.
        s.mul(s.i_to_f(unsafe { s.i_from_i8(p) }), scale)
    }

    /// Asks for a group as far into the next block as this one lies in its own.
    #[inline(always)]
    fn prefetch<S: Simd>(s: S, p: *const u8) {
        for line in (0..GROUP_BYTES).step_by(64) {
            s.prefetch(p.wrapping_add(line));
        }
    }
}

impl Reader for Q8 {
    type Vectors = Single;

    #[inline(always)]
    unsafe fn keys<S: Simd>(
        s: S,
        at: *const u8,
        panels: usize,
        dim: usize,
        next: *const u8,
        room: &mut [f32],
    ) -> View {
        assert!(room.len() >= panels * POSITIONS * dim);
        let panel_bytes = panel_bytes(KvType::Q8_0, dim);
        for panel in 0..panels {
            for g in 0..dim / GROUP {
                let offset = panel * panel_bytes + g * GROUP_BYTES;
                Q8::prefetch(s, next.wrapping_add(offset));
                let out = &mut room[(panel * dim + g * GROUP) * POSITIONS..][..GROUP * POSITIONS];
                // SAFETY: the group lies in the panel: 16 scales, then 16 codes of each of 32 dimensions.
                unsafe {
                    let group = at.add(offset);
                    let scale = s.load_f16(group);
                    for d in 0..GROUP {
                        let key = Q8::decode(s, group.add(SCALE_BYTES + d * POSITIONS), scale);
                        s.store(out.as_mut_ptr().add(d * POSITIONS), key);
                    }
                }
            }
        }
        View {
            at: room.as_ptr().cast(),
            ahead: 0,
            step: 4 * LANES,
            column: 4 * POSITIONS * dim,
        }
    }

    #[inline(always)]
    unsafe fn values<S: Simd>(
        s: S,
        at: *const u8,
        panels: usize,
        dim: usize,
        next: *const u8,
        room: &mut [f32],
    ) -> View {
        assert!(room.len() >= panels * POSITIONS * dim);
        let panel_bytes = panel_bytes(KvType::Q8_0, dim);
        for panel in 0..panels {
            for g in 0..dim / GROUP {
                let offset = panel * panel_bytes + g * GROUP_BYTES;
                Q8::prefetch(s, next.wrapping_add(offset));
                let out = &mut room[panel * POSITIONS * dim..][..POSITIONS * dim];
                // SAFETY: the group lies in the panel: 16 scales, then 32 codes of each of 16 positions.
                unsafe {
                    let group = at.add(offset);
                    let scales = s.to_array(s.load_f16(group));
                    for (p, scale) in scales.into_iter().enumerate() {
                        let row = group.add(SCALE_BYTES + p * GROUP);
                        let out = out.as_mut_ptr().add(p * dim + g * GROUP);
                        let scale = s.splat(scale);
                        s.store(out, Q8::decode(s, row, scale));
                        s.store(out.add(LANES), Q8::decode(s, row.add(LANES), scale));
                    }
                }
            }
        }
        View {
            at: room.as_ptr().cast(),
            ahead: 0,
            step: 4 * dim,
            column: 4 * LANES,
        }
    }
}
