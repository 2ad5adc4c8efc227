//! Which parts of a model passes use: drafts leave some out.

use crate::error::Result;
use crate::kernel::Bits;
use crate::matrix::Matrix;
use crate::model::Model;
use crate::options::speculation::refused;
use crate::quant::{FORMATS, FormatInfo};

/// The parts of a model that passes use; all of it at first.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Of each layer, whether it is left out.
    pub(super) skipped: Vec<bool>,
    pub(super) bits: Bits,
    /// The output's matrix, or the first rows of it.
    pub(super) head: Matrix,
}

impl Parts {
    /// All of `model`.
    pub fn all(model: &Model) -> Parts {
        Parts {
            skipped: vec![false; model.config().n_layers()],
            bits: Bits::All,
            head: model.head.clone(),
        }
    }

    /// Leaves out `layers`, counted from 0.
    ///
    /// # Errors
    /// When one is not there, or none would be left.
    pub fn skip_layers(&mut self, layers: &[usize]) -> Result<()> {
        self.skipped = skipped(layers, self.skipped.len())?;
        Ok(())
    }

    /// Of `model`, whose parts these are, reads only the top bits of the matrices' codes, in passes of up to four tokens.
    ///
    /// # Errors
    /// When no matrix is of a format whose codes have enough bits.
    pub fn read_top_bits(&mut self, model: &Model) -> Result<()> {
        require_top_bits(model.matrices().map(|m| m.format))?;
        self.bits = Bits::Top;
        Ok(())
    }

    /// Computes only the logits of the first `tokens` of the vocabulary.
    ///
    /// # Errors
    /// When there are none, or more than the vocabulary has.
    pub fn limit_vocabulary(&mut self, tokens: usize) -> Result<()> {
        check_vocabulary(tokens, self.head.rows)?;
        self.head.rows = tokens;
        Ok(())
    }
}

/// Refuses to draft from `tokens` of a vocabulary of `n_vocab`.
///
/// # Errors
/// When there are none, or not as many.
pub(crate) fn check_vocabulary(tokens: usize, n_vocab: usize) -> Result<()> {
    match (1..=n_vocab).contains(&tokens) {
        true => Ok(()),
        false => Err(refused(
            "speculation.draft_vocab",
            format!(
                "{tokens} is not within 1 to the {n_vocab} tokens of the vocabulary; 0 is for all"
            ),
        )),
    }
}

/// Refuses a model whose matrices, in these formats, have no codes to leave bits out of.
pub(crate) fn require_top_bits(
    mut formats: impl Iterator<Item = &'static FormatInfo>,
) -> Result<()> {
    let has_top = |format: &FormatInfo| format.top_bytes < format.block_bytes;
    if formats.any(has_top) {
        return Ok(());
    }
    let names = FORMATS.iter().filter(|f| has_top(f)).map(|f| f.name);
    let names: Vec<&str> = names.collect();
    let what = format!(
        "\"top\" takes one of {}, and no matrix of the model is of one: name the format of a copy, or take a model in one of them",
        names.join(", ")
    );
    Err(refused("speculation.draft_quant", what))
}

/// Which of `n` layers are skipped.
///
/// # Errors
/// When one is not there, or none is left.
pub(crate) fn skipped(layers: &[usize], n: usize) -> Result<Vec<bool>> {
    if let Some(layer) = layers.iter().find(|&&layer| layer >= n) {
        let what = format!(
            "layer {layer} cannot be skipped: the model has layers 0 to {}",
            n - 1
        );
        return Err(refused("speculation.skip_layers", what));
    }
    let mut skipped = vec![false; n];
    layers.iter().for_each(|&layer| skipped[layer] = true);
    match skipped.iter().all(|&skipped| skipped) {
        true => Err(refused(
            "speculation.skip_layers",
            "all layers are to be skipped: leave at least one".into(),
        )),
        false => Ok(skipped),
    }
}
