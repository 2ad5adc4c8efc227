//! Random weights, fast enough to fill gigabytes.
//!
//! Every matrix is a sequence of units of a few blocks, each drawn anew from a pool. The pool holds up to
//! [`POOL_VALUES`] bell-shaped random values of the matrix's scale, quantised once by the format's own encoder. So
//! each block is what an encoder makes of random weights, rows are independent draws, and filling runs at the speed of
//! copying memory; what repeats are single units, not rows.

use crate::quant::FormatInfo;
use crate::rng::Rng;

/// Values in a pool at most; matrices smaller than that are drawn without repetition of the pool's size.
const POOL_VALUES: usize = 1 << 20;
/// Values of the smallest unit that is drawn from a pool.
const UNIT_VALUES: usize = 32;

/// How the values of a tensor are spread.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fill {
    /// Mean 0, this standard deviation.
    Bell(f32),
    /// Around 1, as norm weights are.
    AroundOne,
    /// These values.
    Values(Vec<f32>),
}

/// Quantised random values that tensors are filled from.
pub(super) struct Pool {
    bytes: Vec<u8>,
    unit_bytes: usize,
}

impl Pool {
    /// A pool for `n_values` values of standard deviation `std`.
    pub(super) fn new(format: &FormatInfo, n_values: u64, std: f32, rng: &mut Rng) -> Pool {
        let unit_values = format.block_len.max(UNIT_VALUES);
        let limit = (POOL_VALUES / unit_values) as u64;
        let units = n_values.div_ceil(unit_values as u64).clamp(1, limit) as usize;
        let unit_bytes = format.row_bytes(unit_values);
        let mut bytes = vec![0; units * unit_bytes];
        let mut values = vec![0.0; unit_values];
        for unit in bytes.chunks_exact_mut(unit_bytes) {
            values.fill_with(|| std * rng.bell());
            format.quantize(&values, &[], unit);
        }
        Pool { bytes, unit_bytes }
    }

    /// The units, one after the other.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Fills `out`, whole blocks, with units drawn at random; the last one may be cut between blocks.
    pub(super) fn fill(&self, out: &mut [u8], rng: &mut Rng) {
        let units = self.bytes.len() / self.unit_bytes;
        for chunk in out.chunks_mut(self.unit_bytes) {
            let start = rng.below(units) * self.unit_bytes;
            chunk.copy_from_slice(&self.bytes[start..start + chunk.len()]);
        }
    }

    /// Bytes of a unit: chunks of a tensor that are filled one after the other must be multiples of it.
    pub(super) fn unit_bytes(&self) -> usize {
        self.unit_bytes
    }
}

/// The values of a small tensor, as F32 bytes.
pub(super) fn small(fill: &Fill, n_values: u64, rng: &mut Rng) -> Vec<u8> {
    let draw = |rng: &mut Rng| match fill {
        Fill::Bell(std) => std * rng.bell(),
        _ => 1.0 + 0.1 * rng.bell(),
    };
    match fill {
        Fill::Values(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => (0..n_values)
            .flat_map(|_| draw(rng).to_le_bytes())
            .collect(),
    }
}
