//! Special tokens: which tokens are, which of them end a generation, and how they are found in a text.
//!
//! The rules are those of llama.cpp: the file's token types, corrected for tokens whose text gives away what they are.
//! White space beside a special token stays but in Phi-3, where special tokens swallow what follows them.

use aho_corasick::{AhoCorasick, Input, MatchKind};

use super::MAX_SPECIAL_TOKEN_BYTES;
use crate::error::{Error, Result};

/// What a token is for, as `tokenizer.ggml.token_type` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Normal,
    /// Stands for unknown text; found in a text only where special tokens are parsed.
    Unknown,
    /// Steers the model; found in a text only where special tokens are parsed.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Means nothing.
    Unused,
    /// One byte, written `<0xAB>`.
    Byte,
}

impl Kind {
    /// The kind with this number in a GGUF file.
    pub(super) fn from_gguf(number: i32) -> Kind {
        match number {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            6 => Kind::Byte,
            _ => Kind::Unused,
        }
    }
}

/// Tokens that steer the model whatever type the file gives them, and end a generation.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Tokens that steer the model whatever type the file gives them, and end nothing.
const CONTROLS: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

/// Tokens that are always parsed and shown: they carry the structure of an answer.
const SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Corrects `kinds` for tokens with telling texts and returns the ids that end a generation, in order. `named` are the
/// ids that the file itself names as ends.
pub(super) fn correct(tokens: &[&[u8]], kinds: &mut [Kind], named: &[u32]) -> Vec<u32> {
    let mut ends = named.to_vec();
    for (id, token) in (0u32..).zip(tokens) {
        let Ok(text) = std::str::from_utf8(token) else {
            continue;
        };
        let kind = &mut kinds[id as usize];
        if ENDS.contains(&text) {
            *kind = Kind::Control;
            ends.push(id);
        } else if CONTROLS.contains(&text) {
            *kind = Kind::Control;
        } else if SHOWN.contains(&text) {
            *kind = Kind::UserDefined;
        }
    }
    let mut except = |text: &str, kind: Kind, others: &[&str]| {
        let end = |text: &str| {
            ends.iter()
                .position(|&id| tokens[id as usize] == text.as_bytes())
        };
        if others.iter().all(|other| end(other).is_some())
            && let Some(at) = end(text)
        {
            kinds[ends[at] as usize] = kind;
            let id = ends[at];
            ends.retain(|&other| other != id);
        }
    };
    except("<|end|>", Kind::UserDefined, &["<|return|>", "<|call|>"]);
    except("<|end|>", Kind::UserDefined, &["<|return|>", "<|calls|>"]);
    except("<|end|>", Kind::UserDefined, &["<|flush|>", "<|call|>"]);
    except("<|end|>", Kind::UserDefined, &["<|flush|>", "<|calls|>"]);
    except("</s>", Kind::Normal, &["<|tool_response>"]);
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// Whether a token with this text, if special, swallows the white space behind it.
pub(super) type Swallows = fn(&[u8]) -> bool;

/// Which special tokens swallow the white space behind them in a model of this name: files do not say it, so that
/// llama.cpp goes by the name, too.
pub(super) fn swallow_spaces(model_name: Option<&str>) -> Swallows {
    let name = model_name.unwrap_or("").to_lowercase();
    if name.contains("phi-3") || name.contains("phi3") {
        |token| !matches!(token, b"<unk>" | b"<s>" | b"<|endoftext|>")
    } else {
        |_| false
    }
}

/// A stretch of a text on the way to tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

/// Finds a set of special tokens in texts: the longest ones take their places first, wherever they stand.
pub(super) struct Finder {
    /// Tokens of one length each, longest first.
    groups: Vec<Group>,
}

struct Group {
    finder: AhoCorasick,
    ids: Vec<u32>,
    /// Whether each token swallows the white space behind it.
    swallows: Vec<bool>,
}

impl Finder {
    /// A finder of the tokens `ids`.
    pub(super) fn new(tokens: &[&[u8]], mut ids: Vec<u32>, swallows: Swallows) -> Result<Finder> {
        let len = |id: u32| tokens[id as usize].len();
        if let Some(&id) = ids.iter().find(|&&id| len(id) > MAX_SPECIAL_TOKEN_BYTES) {
            return Err(Error::Tokenizer(format!(
                "special token {id} has {} bytes, expected at most {MAX_SPECIAL_TOKEN_BYTES}: is the file damaged?",
                len(id)
            )));
        }
        ids.retain(|&id| {
            std::str::from_utf8(tokens[id as usize]).is_ok_and(|text| !text.is_empty())
        });
        ids.sort_by_key(|&id| std::cmp::Reverse(len(id)));
        let groups = ids.chunk_by(|&a, &b| len(a) == len(b)).map(|ids| {
            let texts = ids.iter().map(|&id| tokens[id as usize]);
            let finder = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostFirst)
                .build(texts)
                .map_err(|error| {
                    Error::Tokenizer(format!("cannot index the special tokens: {error}"))
                })?;
            Ok(Group {
                finder,
                ids: ids.to_vec(),
                swallows: ids
                    .iter()
                    .map(|&id| swallows(tokens[id as usize]))
                    .collect(),
            })
        });
        Ok(Finder {
            groups: groups.collect::<Result<_>>()?,
        })
    }

    /// The parts of `text`, in order.
    pub(super) fn parts<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut parts = vec![Part::Text(text)];
        let mut next = Vec::new();
        for group in &self.groups {
            next.clear();
            for &part in &parts {
                match part {
                    Part::Text(text) => group.cut(text, &mut next),
                    token => next.push(token),
                }
            }
            std::mem::swap(&mut parts, &mut next);
        }
        parts
    }
}

impl Group {
    fn cut<'t>(&self, text: &'t str, out: &mut Vec<Part<'t>>) {
        let push_text = |text: &'t str, out: &mut Vec<Part<'t>>| {
            if !text.is_empty() {
                out.push(Part::Text(text));
            }
        };
        let mut end = 0;
        while let Some(found) = self.finder.find(Input::new(text).range(end..)) {
            push_text(&text[end..found.start()], out);
            let which = found.pattern().as_usize();
            out.push(Part::Token(self.ids[which]));
            end = found.end();
            if self.swallows[which] {
                let space = |c: char| c.is_ascii_whitespace() || c == '\u{B}';
                end = text.len() - text[end..].trim_start_matches(space).len();
            }
        }
        push_text(&text[end..], out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokens: &[&str], text: &str, expect: &[Part]) {
        let tokens: Vec<&[u8]> = tokens.iter().map(|t| t.as_bytes()).collect();
        let ids = (0..tokens.len() as u32).collect();
        let finder = Finder::new(&tokens, ids, swallow_spaces(None)).unwrap();
        assert_eq!(finder.parts(text), expect, "{text:?}");
    }

    #[test]
    fn special_tokens_of_phi_3_swallow_spaces() {
        use Part::{Text, Token};
        let tokens: [&[u8]; 2] = [b"<|end|>", b"<s>"];
        let swallows = swallow_spaces(Some("Phi-3 mini"));
        let finder = Finder::new(&tokens, vec![0, 1], swallows).unwrap();
        let expect = [
            Text("a "),
            Token(0),
            Text("b"),
            Token(1),
            Text(" "),
            Token(0),
        ];
        assert_eq!(finder.parts("a <|end|> \n\tb<s> <|end|> "), expect);
    }

    #[test]
    fn the_longest_token_takes_its_place_first() {
        use Part::{Text, Token};
        check(&["<a>"], "", &[]);
        check(&[], "x", &[Text("x")]);
        check(
            &["<a>"],
            "x<a>y<a>",
            &[Text("x"), Token(0), Text("y"), Token(0)],
        );
        check(&["<a>", "<a>b"], "<a>b<a>", &[Token(1), Token(0)]);
        check(&["xab", "abcd"], "xabcd", &[Text("x"), Token(1)]);
        check(&["  ", "   "], "     ", &[Token(1), Token(0)]);
        check(&["é"], "aéb", &[Text("a"), Token(0), Text("b")]);
    }

    #[test]
    fn overlong_special_tokens_are_refused() {
        let long = vec![b'x'; MAX_SPECIAL_TOKEN_BYTES + 1];
        let error = Finder::new(&[&long], vec![0], swallow_spaces(None))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("special token 0 has 257 bytes"), "{error}");
    }

    #[test]
    fn telling_texts_correct_kinds_and_ends() {
        let check = |tokens: &[&str], named: &[u32], kinds: &[Kind], ends: &[u32]| {
            let texts: Vec<&[u8]> = tokens.iter().map(|t| t.as_bytes()).collect();
            let mut found = vec![Kind::Normal; tokens.len()];
            assert_eq!(correct(&texts, &mut found, named), ends, "{tokens:?}");
            assert_eq!(found, kinds, "{tokens:?}");
        };
        use Kind::{Control, Normal, UserDefined};
        check(&["a", "<|im_end|>"], &[0], &[Normal, Control], &[0, 1]);
        check(&["<PRE>", "<|start|>"], &[], &[Control, UserDefined], &[]);
        check(
            &["<|end|>", "<|return|>", "<|call|>"],
            &[0, 1],
            &[UserDefined, Control, Control],
            &[1, 2],
        );
        check(&["<|end|>", "<|call|>"], &[], &[Control, Control], &[0, 1]);
        check(&["</s>", "<|tool_response>"], &[], &[Normal, Control], &[1]);
    }
}
