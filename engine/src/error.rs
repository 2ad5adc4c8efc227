//! The one error type of the engine. Texts are lower case, quote the thing, say what was expected and found, and what to do.

use std::path::PathBuf;

/// Result with the engine's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong in the engine, with a text that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, mapped, read or written.
    #[error("cannot {action} \"{}\": {source}", path.display())]
    Io {
        /// What was being done, as a verb: `open`, `map`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not a GGUF file this reader accepts; the text names the field and the way out.
    #[error("\"{}\": {what}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// The file is valid GGUF, but the model in it cannot be run.
    #[error("model: {0}")]
    Model(String),
    /// The vocabulary or a text cannot be handled.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// An option is impossible on this machine or for this model.
    #[error("option \"{option}\": {what}")]
    Option {
        /// Name of the field of [`crate::Options`].
        option: &'static str,
        /// What was expected, what was found, what to do.
        what: String,
    },
    /// The prompt or the requested tokens do not fit the context.
    #[error(
        "{needed} tokens do not fit the context of {capacity}: shorten the prompt{}",
        match capacity < trained {
            true => format!(", generate fewer tokens, or raise option \"ctx\" (the model was trained for {trained})"),
            false => " or generate fewer tokens; the model was trained for no more".into(),
        }
    )]
    ContextFull {
        /// Positions needed.
        needed: usize,
        /// Positions there are.
        capacity: usize,
        /// Context length the model was trained for.
        trained: usize,
    },
    /// A model cannot be made up: its shape or format is unknown or impossible.
    #[error("{0}")]
    Synth(String),
    /// A token id outside the vocabulary, or an empty prompt.
    #[error("{0}")]
    Input(String),
}
