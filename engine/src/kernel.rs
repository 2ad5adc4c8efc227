//! The kernels that options ask for; what they are is in the crate `kernels`.

use crate::error::Result;
use crate::options::Options;
pub use kernels::kernel::*;

/// The kernels that `options` ask for (`isa`, `side_by_side`, `prefetch_bytes`, `head_prefetch_bytes`).
///
/// # Errors
/// When this CPU does not have them.
pub fn kernels(options: &Options) -> Result<Box<dyn Kernels>> {
    Ok(kernels::kernel::kernels(Choice {
        isa: options.isa,
        side_by_side: options.side_by_side,
        prefetch_bytes: options.prefetch_bytes,
        head_prefetch_bytes: options.head_prefetch_bytes,
    })?)
}
