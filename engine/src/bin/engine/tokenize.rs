//! `engine tokenize`: a text as tokens.

use crate::{open, text};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::Args;
use engine::gguf::Gguf;
use engine::tokenizer::{EncodeOptions, Tokenizer};
use engine::{Error, Result};

/// Most bytes read from standard input.
const MAX_TEXT_BYTES: u64 = 1 << 30;

/// Arguments of `engine tokenize`.
#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// Model file; only its vocabulary is read.
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// Prints the ids alone, on one line, separated by spaces.
    #[arg(long)]
    ids: bool,
    /// Takes each line of the text, without its end, for a text of its own; ids are then printed on a line for each.
    #[arg(long, requires = "ids")]
    lines: bool,
    /// Leaves out BOS and EOS where the file asks for them.
    #[arg(long)]
    no_special: bool,
    /// Takes the texts of control tokens for text.
    #[arg(long)]
    no_parse_special: bool,
    /// The text; "-" reads standard input.
    #[arg(value_name = "TEXT", default_value = "-")]
    text: String,
}

/// Prints the tokens of a text.
pub(crate) fn run(args: &TokenizeArgs) -> Result<()> {
    let tokenizer = open::tokenizer(&Gguf::open(&args.model)?)?;
    let text = match args.text.as_str() {
        "-" => read_text()?,
        text => text.to_owned(),
    };
    let options = EncodeOptions {
        add_special: !args.no_special,
        parse_special: !args.no_parse_special,
    };
    let texts = match args.lines {
        true => text
            .strip_suffix('\n')
            .unwrap_or(&text)
            .split('\n')
            .collect(),
        false => vec![text.as_str()],
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    texts
        .into_iter()
        .try_for_each(|text| {
            let ids = tokenizer.encode(text, options);
            write_tokens(&tokenizer, &ids, args.ids, &mut out)
        })
        .and_then(|()| out.flush())
        .map_err(text::stdout_error)
}

fn read_text() -> Result<String> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_TEXT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Io {
            action: "read",
            path: "standard input".into(),
            source,
        })?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(Error::Input(format!(
            "the text has more than {MAX_TEXT_BYTES} bytes: pass it in parts"
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        Error::Input(format!(
            "the text is not UTF-8 at byte {}: convert it first",
            error.utf8_error().valid_up_to()
        ))
    })
}

fn write_tokens(
    tokenizer: &Tokenizer,
    ids: &[u32],
    only_ids: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    for (at, &id) in ids.iter().enumerate() {
        match only_ids {
            true if at == 0 => write!(out, "{id}")?,
            true => write!(out, " {id}")?,
            false => writeln!(out, "{id:>7}  \"{}\"", escaped(tokenizer.token_bytes(id)))?,
        }
    }
    if only_ids {
        writeln!(out)?;
    }
    Ok(())
}

/// `bytes` as text on one line; `\xAB` for bytes that are no UTF-8.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.extend(chunk.valid().chars().flat_map(char::escape_debug));
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02X}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_escaped() {
        let check = |bytes: &[u8], expect: &str| assert_eq!(escaped(bytes), expect);
        check(b" the", " the");
        check("é日".as_bytes(), "é日");
        check(b"\n\t\0\"", "\\n\\t\\0\\\"");
        check(b"a\xE6\x97", "a\\xE6\\x97");
    }
}
