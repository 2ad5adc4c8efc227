//! A text as windows of tokens, as llama.cpp's tools cut it.

use engine::tokenizer::{EncodeOptions, Tokenizer};
use engine::{Error, Result};

/// Windows of `ctx` tokens, at most `chunks`; the first token of each is BOS if the vocabulary asks for it.
///
/// # Errors
/// When the text does not fill one.
pub(crate) fn of(
    tokenizer: &Tokenizer,
    text: &str,
    ctx: usize,
    chunks: Option<usize>,
) -> Result<Vec<Vec<u32>>> {
    let encode = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    let tokens = tokenizer.encode(text, encode);
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let windows: Vec<Vec<u32>> = tokens
        .chunks_exact(ctx)
        .take(chunks.unwrap_or(usize::MAX))
        .map(|window| {
            let mut window = window.to_vec();
            window[0] = bos.unwrap_or(window[0]);
            window
        })
        .collect();
    if windows.is_empty() {
        return Err(Error::Input(format!(
            "the text has {} tokens, not one window of {ctx}: use a longer text or a smaller --ctx",
            tokens.len()
        )));
    }
    Ok(windows)
}
