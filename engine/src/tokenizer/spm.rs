//! SentencePiece vocabularies (Kudo and Richardson 2018): of all neighbours that together are a token, those with the
//! highest score are merged first, the leftmost of equals, until none are left. A character that is no token falls apart
//! into the tokens of its bytes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::TokenizerParts;
use crate::error::{Error, Result};

/// Stands for a space in the texts of tokens.
const SPACE: &str = "\u{2581}";

/// Tokens with scores.
pub(super) struct Spm {
    ids: HashMap<Box<[u8]>, u32>,
    /// Order of the tokens' scores.
    ranks: Vec<i32>,
    /// Bytes of the longest token.
    longest: usize,
    byte_ids: [u32; 256],
    /// Whether a space is put before a text, and before what follows a special token.
    pub(super) space_prefix: bool,
}

/// A stretch of the text that is one piece at the moment; of no length when merged away.
#[derive(Clone, Copy)]
struct Link {
    start: usize,
    len: usize,
    prev: usize,
    next: usize,
}

/// Neighbours that may be merged; ordered by score, then by position.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: i32,
    left: Reverse<usize>,
    right: usize,
    /// Bytes of both.
    len: usize,
}

const NONE: usize = usize::MAX;

impl Spm {
    /// The rules of a vocabulary whose sizes were checked.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where scores are missing or no numbers, or a byte has no token.
    pub(super) fn new(parts: &TokenizerParts) -> Result<Spm> {
        let n = parts.tokens.len();
        if parts.scores.len() != n || parts.scores.iter().any(|score| score.is_nan()) {
            return Err(Error::Tokenizer(format!(
                "there are {} scores for {n} tokens, expected a number for each: is the file damaged?",
                parts.scores.len()
            )));
        }
        let ids: HashMap<Box<[u8]>, u32> = (0..)
            .zip(&parts.tokens)
            .map(|(id, &token)| (token.into(), id))
            .collect();
        let mut byte_ids = [0; 256];
        for (byte, id) in (0..=u8::MAX).zip(&mut byte_ids) {
            let name = format!("<0x{byte:02X}>");
            let found = ids.get(name.as_bytes()).or_else(|| ids.get(&[byte][..]));
            *id = *found.ok_or_else(|| {
                Error::Tokenizer(format!(
                    "the vocabulary has no token \"{name}\", so that not every text could be encoded: is the file damaged?"
                ))
            })?;
        }
        Ok(Spm {
            longest: parts.tokens.iter().map(|t| t.len()).max().unwrap_or(0),
            ids,
            ranks: parts.scores.iter().map(|&score| rank(score)).collect(),
            byte_ids,
            space_prefix: parts.add_space_prefix.unwrap_or(true),
        })
    }

    /// Appends the tokens of `text` to `out`, after a space where `prefix`.
    ///
    /// Takes n log n steps for n characters, each of at most the length of the longest token.
    pub(super) fn encode(&self, text: &str, prefix: bool, out: &mut Vec<u32>) {
        let lead = if prefix { SPACE } else { "" };
        let text = format!("{lead}{}", text.replace(' ', SPACE));
        let mut links: Vec<Link> = text
            .char_indices()
            .enumerate()
            .map(|(at, (start, ch))| Link {
                start,
                len: ch.len_utf8(),
                prev: at.wrapping_sub(1),
                next: at + 1,
            })
            .collect();
        if let Some(last) = links.last_mut() {
            last.next = NONE;
        }
        let text = text.as_bytes();
        let mut heap = BinaryHeap::new();
        for right in 1..links.len() {
            self.consider(text, &links, right - 1, right, &mut heap);
        }
        while let Some(Candidate {
            left: Reverse(left),
            right,
            len,
            ..
        }) = heap.pop()
        {
            let (a, b) = (links[left], links[right]);
            if a.len == 0 || b.len == 0 || a.len + b.len != len {
                continue;
            }
            links[left].len = len;
            links[left].next = b.next;
            links[right].len = 0;
            if b.next != NONE {
                links[b.next].prev = left;
                self.consider(text, &links, left, b.next, &mut heap);
            }
            if a.prev != NONE {
                self.consider(text, &links, a.prev, left, &mut heap);
            }
        }
        for link in links.iter().filter(|link| link.len > 0) {
            let piece = &text[link.start..link.start + link.len];
            match self.ids.get(piece) {
                Some(&id) => out.push(id),
                None => out.extend(piece.iter().map(|&byte| self.byte_ids[usize::from(byte)])),
            }
        }
    }

    fn consider(
        &self,
        text: &[u8],
        links: &[Link],
        left: usize,
        right: usize,
        heap: &mut BinaryHeap<Candidate>,
    ) {
        let len = links[left].len + links[right].len;
        if len > self.longest {
            return;
        }
        let start = links[left].start;
        if let Some(&id) = self.ids.get(&text[start..start + len]) {
            heap.push(Candidate {
                rank: self.ranks[id as usize],
                left: Reverse(left),
                right,
                len,
            });
        }
    }
}

/// The bytes that a token stands for, its spaces as spaces.
pub(super) fn spaced(token: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(token) {
        Ok(text) => text.replace(SPACE, " ").into_bytes(),
        Err(_) => token.to_vec(),
    }
}

/// An integer that is ordered as `score` is among numbers.
fn rank(score: f32) -> i32 {
    // Adding zero makes both zeros one.
    let bits = (score + 0.0).to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_ordered_as_scores() {
        let scores = [
            f32::NEG_INFINITY,
            -1e9,
            -2.5,
            -1e-40,
            0.0,
            1e-40,
            3.0,
            f32::MAX,
        ];
        assert!(scores.map(rank).is_sorted_by(|a, b| a < b));
        assert_eq!(rank(-0.0), rank(0.0));
    }
}
