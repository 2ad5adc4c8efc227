//! Where the numbers and texts of a GGUF file stand, and a file with another vocabulary.

use std::ops::Range;

/// What a field of the head is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// How many tensors, keys, elements or dimensions there are, or how long a text is.
    Count,
    /// Type of a value, of an array's elements, or of a tensor.
    Type,
    /// A dimension of a tensor, or where it begins.
    Place,
    /// A number of the metadata.
    Number,
    /// A text: a key, a value, a name.
    Text,
}

/// One field of the head.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) role: Role,
    pub(crate) at: Range<usize>,
}

/// The head of a file.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) fields: Vec<Field>,
    /// Metadata entries with their keys.
    entries: Vec<(String, Range<usize>)>,
    /// Where the descriptions of the tensors begin.
    tensors: usize,
    /// Where the head ends.
    pub(crate) end: usize,
}

/// Value types of metadata, as the format numbers them.
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Alignment of the tensors.
const ALIGNMENT: usize = 32;

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    fields: Vec<Field>,
}

impl Reader<'_> {
    /// A number of so many bytes.
    fn number(&mut self, role: Role, bytes: usize) -> u64 {
        let at = self.at..self.at + bytes;
        self.at = at.end;
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(&self.file[at.clone()]);
        self.fields.push(Field { role, at });
        u64::from_le_bytes(wide)
    }

    fn text(&mut self) -> String {
        let len = self.number(Role::Count, 8) as usize;
        let at = self.at..self.at + len;
        self.at = at.end;
        let text = String::from_utf8_lossy(&self.file[at.clone()]).into_owned();
        self.fields.push(Field {
            role: Role::Text,
            at,
        });
        text
    }

    fn value(&mut self, kind: u32) {
        match kind {
            STRING => drop(self.text()),
            ARRAY => {
                let kind = self.number(Role::Type, 4) as u32;
                for _ in 0..self.number(Role::Count, 8) {
                    self.value(kind);
                }
            }
            _ => {
                let bytes = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8][kind as usize];
                self.number(Role::Number, bytes);
            }
        }
    }
}

/// The head of a sound file.
pub(crate) fn head(file: &[u8]) -> Head {
    let mut r = Reader {
        file,
        at: 4,
        fields: Vec::new(),
    };
    r.number(Role::Number, 4);
    let (n_tensors, n_keys) = (r.number(Role::Count, 8), r.number(Role::Count, 8));
    let mut entries = Vec::new();
    for _ in 0..n_keys {
        let start = r.at;
        let key = r.text();
        let kind = r.number(Role::Type, 4) as u32;
        r.value(kind);
        entries.push((key, start..r.at));
    }
    let tensors = r.at;
    for _ in 0..n_tensors {
        r.text();
        for _ in 0..r.number(Role::Count, 4) {
            r.number(Role::Place, 8);
        }
        r.number(Role::Type, 4);
        r.number(Role::Place, 8);
    }
    Head {
        entries,
        tensors,
        end: r.at,
        fields: r.fields,
    }
}

/// `file` with a SentencePiece vocabulary of `n_vocab` tokens in place of its own.
pub(crate) fn with_sentence_piece(file: &[u8], n_vocab: usize) -> Vec<u8> {
    let head = head(file);
    let kept = |key: &str| !key.starts_with("tokenizer.ggml.");
    let mut entries: Vec<Vec<u8>> = head
        .entries
        .iter()
        .filter(|(key, _)| kept(key))
        .map(|(_, at)| file[at.clone()].to_vec())
        .collect();
    entries.extend(sentence_piece(n_vocab));
    let mut out = file[..16].to_vec();
    out.extend((entries.len() as u64).to_le_bytes());
    out.extend(entries.concat());
    out.extend(&file[head.tensors..head.end]);
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out.extend(&file[head.end.next_multiple_of(ALIGNMENT)..]);
    out
}

/// Metadata of a vocabulary: three control tokens, all bytes, letters, and pairs of them.
fn sentence_piece(n_vocab: usize) -> Vec<Vec<u8>> {
    let control = ["<unk>", "<s>", "</s>"].map(String::from);
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let letters: Vec<String> = "\u{2581}etaoinshrdlcumwfgypbvkjxqz"
        .chars()
        .map(String::from)
        .collect();
    let pairs = letters
        .iter()
        .flat_map(|a| letters[1..].iter().map(move |b| format!("{a}{b}")));
    let all = control.into_iter().chain(bytes);
    let all = all.chain(letters.iter().cloned()).chain(pairs);
    let tokens: Vec<String> = all.take(n_vocab).collect();
    let kind = |at: usize| match at {
        0 => 2,
        1 | 2 => 3,
        3..259 => 6,
        _ => 1i32,
    };
    let scores = (0..n_vocab).map(|at| -(at as f32));
    let texts = tokens.iter().map(|token| text(token));
    vec![
        entry("model", STRING, text("llama")),
        entry("tokens", ARRAY, array(STRING, texts)),
        entry(
            "token_type",
            ARRAY,
            array(5, (0..n_vocab).map(|at| kind(at).to_le_bytes().to_vec())),
        ),
        entry(
            "scores",
            ARRAY,
            array(6, scores.map(|s| s.to_le_bytes().to_vec())),
        ),
        entry("add_bos_token", 7, vec![1]),
    ]
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn array(kind: u32, elements: impl ExactSizeIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut out = kind.to_le_bytes().to_vec();
    out.extend((elements.len() as u64).to_le_bytes());
    elements.for_each(|element| out.extend(element));
    out
}

fn entry(key: &str, kind: u32, value: Vec<u8>) -> Vec<u8> {
    let key = text(&format!("tokenizer.ggml.{key}"));
    [&key[..], &kind.to_le_bytes(), &value].concat()
}
