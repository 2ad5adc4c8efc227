//! Text to tokens and back: byte-level byte-pair encoding or SentencePiece, as the model file describes it.
//!
//! A text goes through these steps, each exactly as in llama.cpp: special tokens are cut out (`special`); then, for
//! byte-level vocabularies, the rest is cut into words by the file's pre-tokenizer (`pre`, `split`) and each word is merged
//! into tokens (`bpe`), and for SentencePiece the rest is merged as a whole (`spm`). Every step is linear in the text, but
//! for the logarithm of the merge queue, whatever the text and the vocabulary are.

mod alphabet;
mod bpe;
mod decoder;
mod pre;
mod special;
mod split;
mod spm;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use self::bpe::{Bpe, Scratch};
use self::pre::Pre;
use self::special::{Finder, Kind, Part};
use self::spm::Spm;
use crate::error::{Error, Result};
use crate::gguf::Gguf;

pub use self::decoder::Decoder;

/// Most tokens a vocabulary may have; the largest known ones have a quarter of it.
const MAX_TOKENS: usize = 1 << 20;
/// Most merges a vocabulary may have.
const MAX_MERGES: usize = 1 << 21;
/// Most bytes of one token or merge.
const MAX_TOKEN_BYTES: usize = 1 << 14;
/// Most bytes of a token that is looked for in texts.
const MAX_SPECIAL_TOKEN_BYTES: usize = 256;

/// BOS and EOS of SentencePiece where the file does not say.
const SPM_BOS: u32 = 1;
const SPM_EOS: u32 = 2;

/// Keys of further tokens that end a generation.
const END_KEYS: &[&str] = &[
    "eot_token_id",
    "eom_token_id",
    "fim_pad_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
];

/// What a tokenizer is made of; the names are those of the keys `tokenizer.ggml.*` of a GGUF file.
#[derive(Debug, Clone, Default)]
pub struct TokenizerParts<'a> {
    /// Kind of tokenizer: `gpt2` is byte-level BPE, `llama` is SentencePiece.
    pub model: &'a str,
    /// Name of the model, `general.name`.
    pub name: Option<&'a str>,
    /// Name of the pre-tokenizer; SentencePiece has none.
    pub pre: Option<&'a str>,
    /// Texts of the tokens, of byte-level BPE in the byte alphabet; the index is the id.
    pub tokens: Vec<&'a [u8]>,
    /// Type of each token; empty means all normal.
    pub types: Vec<i32>,
    /// Merges of byte-level BPE, best first: two pieces with a space between them.
    pub merges: Vec<&'a [u8]>,
    /// Scores of SentencePiece's tokens.
    pub scores: Vec<f32>,
    /// Whether SentencePiece puts a space before a text.
    pub add_space_prefix: Option<bool>,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Token that ends a text.
    pub eos: Option<u32>,
    /// Further tokens that the file names as ends of a generation.
    pub ends: Vec<u32>,
    /// Whether texts begin with BOS.
    pub add_bos: Option<bool>,
    /// Whether texts end with EOS.
    pub add_eos: Option<bool>,
}

/// How a text is encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Adds BOS and EOS where the file asks for them.
    pub add_special: bool,
    /// Takes the texts of control tokens for the tokens themselves.
    pub parse_special: bool,
}

/// A vocabulary with its rules.
pub struct Tokenizer {
    rules: Rules,
    always: Finder,
    parsed: Finder,
    kinds: Vec<Kind>,
    /// Bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Where each token's bytes begin, and where the last one's end.
    offsets: Vec<usize>,
    bos: Option<u32>,
    eos: Option<u32>,
    ends: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    names_pre: bool,
}

/// How text between special tokens becomes tokens.
enum Rules {
    Bpe(&'static Pre, Bpe),
    Spm(Spm),
}

impl Tokenizer {
    /// The tokenizer that `gguf` describes.
    ///
    /// # Errors
    /// [`Error::Gguf`] for keys of a wrong type; otherwise as [`Tokenizer::new`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let id = |name: &str| gguf.u32(&key(name));
        let list = |name: &str| match gguf.strings(&key(name))? {
            Some(texts) => Ok(texts),
            None => Err(Error::Tokenizer(format!(
                "\"{}\" is missing: use a file that has a vocabulary",
                key(name)
            ))),
        };
        let mut ends = Vec::new();
        for name in END_KEYS {
            ends.extend(id(name)?);
        }
        let model = gguf.require_str(&key("model"))?;
        let spm = is_spm(model)?;
        Tokenizer::new(&TokenizerParts {
            model,
            name: gguf.str("general.name")?,
            pre: gguf.str(&key("pre"))?,
            tokens: list("tokens")?,
            types: gguf.i32s(&key("token_type"))?.unwrap_or_default(),
            merges: if spm { Vec::new() } else { list("merges")? },
            scores: gguf.f32s(&key("scores"))?.unwrap_or_default(),
            add_space_prefix: gguf.bool(&key("add_space_prefix"))?,
            bos: id("bos_token_id")?.or(spm.then_some(SPM_BOS)),
            eos: id("eos_token_id")?.or(spm.then_some(SPM_EOS)),
            ends,
            add_bos: gguf.bool(&key("add_bos_token"))?,
            add_eos: gguf.bool(&key("add_eos_token"))?,
        })
    }

    /// Builds a tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the vocabulary is empty, too large or broken, or needs rules that are not known.
    pub fn new(parts: &TokenizerParts) -> Result<Tokenizer> {
        let spm = is_spm(parts.model)?;
        let pre = if spm {
            None
        } else {
            Some(pre::find(parts.pre)?)
        };
        check_sizes(parts)?;
        check_ids(parts)?;
        let n = parts.tokens.len();
        let add_bos = parts.add_bos.unwrap_or(pre.is_none_or(|pre| pre.add_bos));
        let add_eos = parts.add_eos.unwrap_or(false);
        if add_bos && parts.bos.is_none() || add_eos && parts.eos.is_none() {
            return Err(Error::Tokenizer(
                "texts shall begin with BOS or end with EOS, but the file names no such token: is the file damaged?"
                    .into(),
            ));
        }

        let mut kinds = vec![Kind::Normal; n];
        for (kind, &number) in kinds.iter_mut().zip(&parts.types) {
            *kind = Kind::from_gguf(number);
        }
        let named: Vec<u32> = parts.ends.iter().copied().chain(parts.eos).collect();
        let ends = special::correct(&parts.tokens, &mut kinds, &named);
        let ids = |kinds_wanted: &[Kind]| -> Vec<u32> {
            (0..n as u32)
                .filter(|&id| kinds_wanted.contains(&kinds[id as usize]))
                .collect()
        };
        let swallows = special::swallow_spaces(parts.name);
        let always = Finder::new(&parts.tokens, ids(&[Kind::UserDefined]), swallows)?;
        let parsed = Finder::new(
            &parts.tokens,
            ids(&[Kind::UserDefined, Kind::Control, Kind::Unknown]),
            swallows,
        )?;

        let decode = |token: &&[u8]| match pre {
            Some(_) => alphabet::decode(token).filter(|bytes| !bytes.is_empty()),
            None => Some(spm::spaced(token)),
        };
        let decoded: Vec<Option<Vec<u8>>> = parts.tokens.iter().map(decode).collect();
        let rules = match pre {
            Some(pre) => {
                let tokens = decoded.iter().map(Option::as_deref);
                let merges = merges(&parts.merges)?.into_iter();
                Rules::Bpe(pre, Bpe::new(tokens, merges))
            }
            None => Rules::Spm(Spm::new(parts)?),
        };
        let mut bytes = Vec::new();
        let mut offsets = vec![0];
        for ((&token, decoded), &kind) in parts.tokens.iter().zip(&decoded).zip(&kinds) {
            bytes.extend(piece(token, decoded.as_deref(), kind));
            offsets.push(bytes.len());
        }
        Ok(Tokenizer {
            rules,
            always,
            parsed,
            kinds,
            bytes,
            offsets,
            bos: parts.bos,
            eos: parts.eos,
            ends,
            add_bos,
            add_eos,
            names_pre: spm || parts.pre.is_some(),
        })
    }

    /// The tokens of `text`.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let mut out = Vec::new();
        if options.add_special && self.add_bos {
            out.extend(self.bos);
        }
        let finder = if options.parse_special {
            &self.parsed
        } else {
            &self.always
        };
        let mut scratch = Scratch::default();
        let mut after_token = true;
        for part in finder.parts(text) {
            match (part, &self.rules) {
                (Part::Token(id), _) => out.push(id),
                (Part::Text(text), Rules::Spm(spm)) => {
                    spm.encode(text, spm.space_prefix && after_token, &mut out);
                }
                (Part::Text(text), Rules::Bpe(pre, bpe)) => {
                    split::words(text, pre.passes, |word| {
                        let word = word.as_bytes();
                        let whole = pre.whole_words.then(|| bpe.token(word));
                        match whole.flatten() {
                            Some(id) => out.push(id),
                            None => bpe.encode_word(word, &mut scratch, &mut out),
                        }
                    })
                }
            }
            after_token = matches!(part, Part::Token(_));
        }
        if options.add_special && self.add_eos {
            out.extend(self.eos);
        }
        out
    }

    /// The text of `ids`, control tokens included; U+FFFD for bytes that are no UTF-8. The space that encoding puts before
    /// a text is taken off again.
    ///
    /// # Errors
    /// [`Error::Input`] where an id is outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut bytes = Vec::new();
        for &id in ids {
            if id as usize >= self.n_vocab() {
                return Err(Error::Input(format!(
                    "token {id} is outside the vocabulary of {} tokens: is this the model the tokens came from?",
                    self.n_vocab()
                )));
            }
            bytes.extend_from_slice(self.token_bytes(id));
        }
        if matches!(&self.rules, Rules::Spm(spm) if spm.space_prefix)
            && bytes.first() == Some(&b' ')
        {
            bytes.remove(0);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The bytes that `id` stands for; nothing for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let at = id as usize;
        match (self.offsets.get(at), self.offsets.get(at + 1)) {
            (Some(&start), Some(&end)) => &self.bytes[start..end],
            _ => &[],
        }
    }

    /// Number of tokens.
    pub fn n_vocab(&self) -> usize {
        self.kinds.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether it is known how texts are cut into words: a file with a byte-level vocabulary that names no pre-tokenizer is read
    /// with "default", as llama.cpp does, and may have been trained with another.
    pub fn names_pre_tokenizer(&self) -> bool {
        self.names_pre
    }

    /// Whether encoding with `add_special` puts BOS before a text.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether `id` ends a generation.
    pub fn is_eog(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// Whether `id` steers the model and is no text to show.
    pub fn is_control(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&Kind::Control)
    }
}

/// Whether a vocabulary of the kind `model` is SentencePiece; otherwise it is byte-level BPE.
fn is_spm(model: &str) -> Result<bool> {
    match model {
        "gpt2" => Ok(false),
        "llama" => Ok(true),
        _ => Err(Error::Tokenizer(format!(
            "model \"{model}\" is not supported, expected byte-level BPE, \"gpt2\", or SentencePiece, \"llama\": use a \
             file with such a vocabulary"
        ))),
    }
}

/// Checks that the ids the file names are tokens.
fn check_ids(parts: &TokenizerParts) -> Result<()> {
    let n = parts.tokens.len();
    let named = parts.bos.iter().chain(&parts.eos).chain(&parts.ends);
    match named.copied().find(|&id| id as usize >= n) {
        Some(id) => Err(Error::Tokenizer(format!(
            "the file names token {id} as BOS, EOS or another end, but there are {n} tokens: is the file damaged?"
        ))),
        None => Ok(()),
    }
}

/// Checks numbers and lengths, and that no two tokens are equal.
fn check_sizes(parts: &TokenizerParts) -> Result<()> {
    let refuse = |what: String| Err(Error::Tokenizer(what));
    let n = parts.tokens.len();
    if n == 0 || n > MAX_TOKENS {
        return refuse(format!(
            "the vocabulary has {n} tokens, expected 1 to {MAX_TOKENS}: is the file damaged?"
        ));
    }
    if parts.merges.len() > MAX_MERGES {
        return refuse(format!(
            "the vocabulary has {} merges, expected at most {MAX_MERGES}: is the file damaged?",
            parts.merges.len()
        ));
    }
    if !parts.types.is_empty() && parts.types.len() < n {
        return refuse(format!(
            "there are {n} tokens, but {} token types: is the file damaged?",
            parts.types.len()
        ));
    }
    let named = parts.tokens.iter().map(|t| ("token", t)).zip(0..);
    for ((what, text), at) in named.chain(parts.merges.iter().map(|m| ("merge", m)).zip(0..)) {
        if text.len() > MAX_TOKEN_BYTES {
            return refuse(format!(
                "{what} {at} has {} bytes, expected at most {MAX_TOKEN_BYTES}: is the file damaged?",
                text.len()
            ));
        }
    }
    let mut seen = HashMap::with_capacity(n);
    for (id, &token) in parts.tokens.iter().enumerate() {
        if let Some(first) = seen.insert(token, id).filter(|_| !token.is_empty()) {
            return refuse(format!(
                "tokens {first} and {id} are both \"{}\": is the file damaged?",
                String::from_utf8_lossy(token)
            ));
        }
    }
    Ok(())
}

/// The two sides of each merge as bytes; `None` where a side holds what no text can produce.
#[allow(
    clippy::type_complexity,
    reason = "a pair of byte strings needs no name of its own"
)]
fn merges(texts: &[&[u8]]) -> Result<Vec<Option<(Vec<u8>, Vec<u8>)>>> {
    let sides = texts.iter().enumerate().map(|(at, text)| {
        let Some(space) = text.iter().skip(1).position(|&b| b == b' ') else {
            return Err(Error::Tokenizer(format!(
                "merge {at} is \"{}\", expected two pieces with a space between them: is the file damaged?",
                String::from_utf8_lossy(text)
            )));
        };
        let (left, right) = (&text[..space + 1], &text[space + 2..]);
        let sides = alphabet::decode(left).zip(alphabet::decode(right));
        Ok(sides.filter(|(left, right)| !left.is_empty() && !right.is_empty()))
    });
    sides.collect()
}

/// What a token stands for in a text.
fn piece(token: &[u8], decoded: Option<&[u8]>, kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Normal => decoded.unwrap_or(token).to_vec(),
        Kind::Control | Kind::Unknown | Kind::UserDefined => token.to_vec(),
        Kind::Byte => hex_byte(token).map_or(token.to_vec(), |byte| vec![byte]),
        Kind::Unused => Vec::new(),
    }
}

/// The byte of a token like `<0xAB>`.
fn hex_byte(token: &[u8]) -> Option<u8> {
    let digits = token.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
