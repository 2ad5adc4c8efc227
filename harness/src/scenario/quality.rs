//! `[quality]`: a text, windows of it, and a base.

use super::check::{TIMEOUT_S_MAX, TOKENS_MAX, range};
use super::problem::Problem;
use super::{PROMPT_BYTES_MAX, read_text, wire};
use crate::record::hex;
use engine::quality::WINDOW_TOKENS_MIN;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Most windows of a text.
const WINDOWS_MAX: u32 = 1 << 16;
/// What the name of a model file ends in.
const MODEL_FILE: &str = ".gguf";

/// What quality is measured on and held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QualitySpec {
    /// The text.
    pub corpus: PathBuf,
    /// SHA-256 of the text, hex.
    pub corpus_sha256: String,
    /// Tokens of a window.
    pub ctx: u32,
    /// Windows that are read at most.
    pub windows: Option<u32>,
    /// Whose predictions are the base.
    pub base: BaseSpec,
    /// Time that predicting the text may take, in seconds.
    pub timeout_s: u64,
}

/// Whose predictions others are held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseSpec {
    /// The model of the case itself, its matrices in this format.
    Own(String),
    /// The model in a file.
    File(PathBuf),
}

/// Windows in which predictions count, and a base that there is.
pub(super) fn check(quality: &wire::Quality) -> Result<(), Problem> {
    let least = WINDOW_TOKENS_MIN as u32;
    range("quality.ctx", quality.ctx, least, TOKENS_MAX)?;
    range("quality.timeout_s", quality.timeout_s, 1, TIMEOUT_S_MAX)?;
    if let Some(windows) = quality.windows {
        range("quality.windows", windows, 1, WINDOWS_MAX)?;
    }
    let options = engine::Options {
        quant: quality.base.clone(),
        ..engine::Options::default()
    };
    let is_format = !options.is_mixed() && engine::check::options(&options).is_ok();
    match is_format || quality.base.ends_with(MODEL_FILE) {
        true => Ok(()),
        false => {
            let what = format!("\"quality.base\" is \"{}\"", quality.base);
            let help = "expected \"native\", a format such as \"F32\", or a file \"NAME.gguf\"";
            Err(Problem::new("quality.base", what).help(help))
        }
    }
}

/// What quality is measured on; the text is read, paths start at the scenario's folder.
pub(super) fn spec(
    read: Option<&wire::Quality>,
    folder: &Path,
) -> Result<Option<QualitySpec>, Problem> {
    let Some(read) = read else { return Ok(None) };
    let path = folder.join(&read.corpus);
    let text = read_text(&path, PROMPT_BYTES_MAX);
    let text = text.map_err(|e| Problem::new("quality.corpus", format!("{e:#}")))?;
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    Ok(Some(QualitySpec {
        corpus: absolute(path),
        corpus_sha256: hex(&Sha256::digest(&text)),
        ctx: read.ctx,
        windows: read.windows,
        base: match read.base.ends_with(MODEL_FILE) {
            true => BaseSpec::File(absolute(folder.join(&read.base))),
            false => BaseSpec::Own(read.base.clone()),
        },
        timeout_s: read.timeout_s,
    }))
}
