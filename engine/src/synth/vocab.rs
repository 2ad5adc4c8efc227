//! A working byte-level BPE vocabulary of any size: every text can be encoded and comes back unchanged.

use crate::rng::Rng;
use std::collections::HashSet;

/// Control tokens, at the end of the vocabulary. The first one begins and ends texts.
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Smallest vocabulary: a token for every byte, and the control tokens.
pub(super) const SIZE_MIN: u32 = 256 + CONTROL.len() as u32;

/// Bytes that the left side of a merge has at most; longer tokens are merged no further.
const LEFT_BYTES_MAX: usize = 8;
/// Bytes that the right side of a merge has at most.
const RIGHT_BYTES_MAX: usize = 4;

/// A chat template in the control tokens of this vocabulary.
pub(super) const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' \
     + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Tokens, their kinds and the merges that make them.
#[derive(Debug)]
pub(super) struct Vocab {
    /// Tokens in order of their number, in the alphabet of [`spell`].
    pub(super) tokens: Vec<String>,
    /// Kind of each token: 1 normal, 3 control.
    pub(super) kinds: Vec<i32>,
    /// Merges by priority: the two tokens with a space between.
    pub(super) merges: Vec<String>,
    /// The token that begins and ends texts.
    pub(super) end_of_text: u32,
    /// The token that ends a turn of a chat.
    pub(super) end_of_turn: u32,
}

/// The character that stands for a byte in vocabularies of this kind: printable Latin-1 as itself, the rest moved up
/// behind U+0100 in order.
fn spell(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(256 + rank).unwrap_or('\u{fffd}')
}

/// A vocabulary of `size` tokens, at least [`SIZE_MIN`]: the bytes, seeded merges of letters, the control tokens.
///
/// Merges join a token of letters, which may start with a space, and one of letters alone; frequent letters are drawn
/// more often, so that English text gets shorter.
pub(super) fn vocab(size: u32, seed: u64) -> Vocab {
    let n_merges = size.max(SIZE_MIN) as usize - SIZE_MIN as usize;
    let mut tokens: Vec<String> = (0..=255).map(|byte| spell(byte).to_string()).collect();
    let mut merges = Vec::new();
    let mut known: HashSet<String> = tokens.iter().cloned().collect();
    let letters = "etaoinshrdlcumwfgypbvkjxqz";
    // Tokens of letters alone can stand on either side, those with a space in front only on the left.
    let mut right: Vec<String> = letters.chars().map(String::from).collect();
    let mut left: Vec<String> = [spell(b' ').to_string()]
        .into_iter()
        .chain(right.iter().cloned())
        .collect();
    let mut rng = Rng::of(seed, "merges");
    while merges.len() < n_merges {
        let a = &left[early(&mut rng, left.len())];
        let b = &right[early(&mut rng, right.len())];
        let joined = format!("{a}{b}");
        if !known.insert(joined.clone()) {
            continue;
        }
        merges.push(format!("{a} {b}"));
        if joined.len() <= RIGHT_BYTES_MAX && !joined.starts_with(spell(b' ')) {
            right.push(joined.clone());
        }
        if joined.len() <= LEFT_BYTES_MAX {
            left.push(joined.clone());
        }
        tokens.push(joined);
    }
    let end_of_text = tokens.len() as u32;
    let mut kinds = vec![1; tokens.len()];
    tokens.extend(CONTROL.map(String::from));
    kinds.extend([3; CONTROL.len()]);
    Vocab {
        tokens,
        kinds,
        merges,
        end_of_text,
        end_of_turn: end_of_text + 2,
    }
}

/// An index below `n`, the lower ones more often.
fn early(rng: &mut Rng, n: usize) -> usize {
    rng.below(n).min(rng.below(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelled_as_the_format_has_it() {
        let check = |byte, expect| assert_eq!(spell(byte), expect);
        check(b'A', 'A');
        check(b' ', '\u{120}');
        check(b'\n', '\u{10a}');
        check(0, '\u{100}');
        check(127, '\u{121}');
        check(173, '\u{143}');
        check(255, '\u{ff}');
        let all: HashSet<char> = (0..=255).map(spell).collect();
        assert_eq!(all.len(), 256);
    }

    #[test]
    fn vocabularies_have_the_size_asked_for_and_merges_that_make_their_tokens() {
        for size in [SIZE_MIN, 512, 49_152, 200_064] {
            let v = vocab(size, 7);
            assert_eq!(v.tokens.len(), size as usize);
            assert_eq!(v.kinds.len(), size as usize);
            let distinct: HashSet<&String> = v.tokens.iter().collect();
            assert_eq!(distinct.len(), v.tokens.len());
            for (i, merge) in v.merges.iter().enumerate() {
                let (a, b) = merge.split_once(' ').unwrap();
                assert_eq!(v.tokens[256 + i], format!("{a}{b}"));
                assert!(distinct.contains(&a.to_string()) && distinct.contains(&b.to_string()));
            }
            assert_eq!(v.tokens[v.end_of_text as usize], "<|endoftext|>");
            assert_eq!(v.tokens[v.end_of_turn as usize], "<|im_end|>");
            assert_eq!(v.kinds[v.end_of_text as usize], 3);
        }
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(vocab(600, 1).merges, vocab(600, 1).merges);
        assert_ne!(vocab(600, 1).merges, vocab(600, 2).merges);
    }
}
