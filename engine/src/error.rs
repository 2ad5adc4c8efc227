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
    #[error("\"{}\": {}", path.display(), readable(what))]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// The file is valid GGUF, but the model in it cannot be run.
    #[error("model: {}", readable(.0))]
    Model(String),
    /// The vocabulary or a text cannot be handled.
    #[error("tokenizer: {}", readable(.0))]
    Tokenizer(String),
    /// An option is impossible on this machine or for this model.
    #[error("option \"{option}\": {what}")]
    Option {
        /// Name of the field of [`crate::Options`], or of a flag; of one within a table, behind a dot.
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

impl From<kernels::simd::Unavailable> for Error {
    fn from(error: kernels::simd::Unavailable) -> Error {
        let text = error.to_string();
        let what = text.strip_prefix("option \"isa\": ").unwrap_or(&text);
        Error::Option {
            option: "isa",
            what: what.into(),
        }
    }
}

impl Error {
    /// This error about a file, as one about the option that names the file.
    pub(crate) fn of_option(self, option: &'static str) -> Error {
        match self {
            Error::Option { .. } => self,
            Error::Io { ref source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                let what = format!(
                    "{self}: name a file that is there; in a scenario, paths start at its folder"
                );
                Error::Option { option, what }
            }
            other => Error::Option {
                option,
                what: other.to_string(),
            },
        }
    }
}

/// Characters of an error's text that are shown, at either end.
const SHOWN: usize = 600;

/// `text` on one line and without its middle if it is long: it can quote a name in a damaged file, and that can be anything.
fn readable(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    let boundary = |n| line.char_indices().nth(n).map_or(line.len(), |(at, _)| at);
    let n = line.chars().count();
    match n > 2 * SHOWN {
        true => {
            let (head, tail) = (&line[..boundary(SHOWN)], &line[boundary(n - SHOWN)..]);
            format!("{head} [{} characters left out] {tail}", n - 2 * SHOWN)
        }
        false => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_quotes_anything_is_one_short_line() {
        let name = format!("a\nb\u{1b}[31m{}end", "é".repeat(70_000));
        let shown = Error::Model(format!("tensor \"{name}\" is missing")).to_string();
        assert!(shown.starts_with("model: tensor \"a\u{fffd}b\u{fffd}[31mé"));
        assert!(shown.ends_with("éend\" is missing"));
        assert!(shown.chars().count() < 1300 && shown.contains("characters left out"));
        let short = "tensor \"é\" is missing";
        assert_eq!(readable(short), short);
    }
}
