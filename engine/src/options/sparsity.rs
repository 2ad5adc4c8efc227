//! Options of activation sparsity.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Which channels of which matrices are left out. All but `none` change what the model says: they are lossy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// None: dense, to compare with.
    None,
    /// Small feed-forward values are taken as 0, and everything is read all the same (thresholds as in FATReLU, Kurtz et al.
    /// 2020).
    FatreluMasked,
    /// The same, with the down projection by channels: those of small values are not read.
    FatreluTransposed,
    /// Where the activated gate is small, neither the row of the up projection nor the channel of the down projection is read
    /// (CATS, Lee et al. 2024).
    Gated,
    /// At every matrix, channels of small inputs are not read (TEAL, Liu et al. 2024).
    Teal,
    /// The same, where an input is small if its magnitude times the norm of its column is (WINA, Chen et al. 2025).
    Wina,
}

/// `[engine.sparsity]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sparsity {
    /// What is left out.
    pub method: Method,
    /// Below it a value is small, in all layers and at all matrices.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub threshold: f32,
    /// File with a threshold for every layer and matrix, made by `engine calibrate`; empty for none.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub thresholds: PathBuf,
}

fn is_zero(threshold: &f32) -> bool {
    *threshold == 0.0
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// An error about a key of `[engine.sparsity]`, `sparsity.KEY`.
pub(crate) fn refused(option: &'static str, what: String) -> Error {
    Error::Option { option, what }
}

impl Sparsity {
    /// Whether the model says something else than without it.
    pub(crate) fn is_lossy(&self) -> bool {
        self.method != Method::None
    }

    /// Refuses what does not fit together. What a method has no use for is permitted, so that a scenario can sweep over
    /// methods.
    ///
    /// # Errors
    /// [`Error::Option`] names what is out of its range.
    pub fn check(&self) -> Result<()> {
        if !(self.threshold >= 0.0 && self.threshold.is_finite()) {
            let what = format!("{} is not 0 or more", self.threshold);
            return Err(refused("sparsity.threshold", what));
        }
        if self.threshold > 0.0 && !is_empty(&self.thresholds) {
            let what = "threshold and thresholds are both given: leave one out".into();
            return Err(refused("sparsity.thresholds", what));
        }
        Ok(())
    }
}
