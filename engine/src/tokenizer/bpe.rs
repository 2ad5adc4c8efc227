//! Byte-pair merges: the pair with the lowest rank first, the leftmost of equals, until no pair is left.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Merge rules over piece ids. Ids below the vocabulary's size are tokens; above it stand pieces that merges name or
/// make, but that are no tokens.
pub(super) struct Bpe {
    n_tokens: u32,
    pieces: HashMap<Box<[u8]>, u32>,
    /// Texts of the pieces that are no tokens, from id `n_tokens` on.
    beyond: Vec<Box<[u8]>>,
    byte_pieces: [u32; 256],
    merges: HashMap<(u32, u32), Merge>,
}

#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    piece: u32,
}

/// One link of the list of pieces that a word is made of at the moment.
#[derive(Clone, Copy)]
struct Link {
    piece: u32,
    prev: usize,
    next: usize,
}

/// A pair that may be merged; ordered by rank, then by position.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: usize,
    left_piece: u32,
    right_piece: u32,
    merged: u32,
}

/// Working memory of [`Bpe::encode_word`], reused from word to word.
#[derive(Default)]
pub(super) struct Scratch {
    links: Vec<Link>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

const NONE: usize = usize::MAX;
const MERGED_AWAY: u32 = u32::MAX;

impl Bpe {
    /// Rules from the vocabulary's tokens (as bytes; `None` for those that text cannot produce) and the merges in
    /// order of rank (`None` for those that can never apply).
    pub(super) fn new<'a>(
        tokens: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
        merges: impl Iterator<Item = Option<(Vec<u8>, Vec<u8>)>>,
    ) -> Bpe {
        let n_tokens = tokens.len() as u32;
        let pieces = tokens
            .zip(0..)
            .filter_map(|(bytes, id)| Some((bytes?.into(), id)))
            .collect();
        let mut bpe = Bpe {
            n_tokens,
            pieces,
            beyond: Vec::new(),
            byte_pieces: [0; 256],
            merges: HashMap::new(),
        };
        for byte in 0..=u8::MAX {
            bpe.byte_pieces[usize::from(byte)] = bpe.piece(vec![byte]);
        }
        for (merge, rank) in merges.zip(0..) {
            let Some((left, right)) = merge else { continue };
            let merged = [left.as_slice(), &right].concat();
            let pair = (bpe.piece(left), bpe.piece(right));
            let piece = bpe.piece(merged);
            bpe.merges.entry(pair).or_insert(Merge { rank, piece });
        }
        bpe
    }

    /// The id of the piece with these bytes; a new one where there is none yet.
    fn piece(&mut self, bytes: Vec<u8>) -> u32 {
        if let Some(&id) = self.pieces.get(bytes.as_slice()) {
            return id;
        }
        let id = self.n_tokens + self.beyond.len() as u32;
        let bytes = bytes.into_boxed_slice();
        self.beyond.push(bytes.clone());
        self.pieces.insert(bytes, id);
        id
    }

    /// The token with exactly these bytes.
    pub(super) fn token(&self, bytes: &[u8]) -> Option<u32> {
        let id = *self.pieces.get(bytes)?;
        (id < self.n_tokens).then_some(id)
    }

    /// Appends the tokens of `word` to `out`. Takes n log n steps for n bytes, whatever the merges are.
    pub(super) fn encode_word(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { links, heap } = scratch;
        links.clear();
        heap.clear();
        let last = word.len().wrapping_sub(1);
        links.extend(word.iter().enumerate().map(|(at, &byte)| Link {
            piece: self.byte_pieces[usize::from(byte)],
            prev: if at == 0 { NONE } else { at - 1 },
            next: if at == last { NONE } else { at + 1 },
        }));
        for right in 1..links.len() {
            self.consider(links, right - 1, right, heap);
        }
        while let Some(Reverse(best)) = heap.pop() {
            let Link { piece, prev, next } = links[best.left];
            if piece != best.left_piece || next == NONE || links[next].piece != best.right_piece {
                continue;
            }
            let after = links[next].next;
            links[next].piece = MERGED_AWAY;
            links[best.left] = Link {
                piece: best.merged,
                prev,
                next: after,
            };
            if after != NONE {
                links[after].prev = best.left;
                self.consider(links, best.left, after, heap);
            }
            if prev != NONE {
                self.consider(links, prev, best.left, heap);
            }
        }
        for link in links.iter().filter(|link| link.piece != MERGED_AWAY) {
            self.emit(link.piece, out);
        }
    }

    fn consider(
        &self,
        links: &[Link],
        left: usize,
        right: usize,
        heap: &mut BinaryHeap<Reverse<Candidate>>,
    ) {
        let (left_piece, right_piece) = (links[left].piece, links[right].piece);
        if let Some(&Merge { rank, piece }) = self.merges.get(&(left_piece, right_piece)) {
            heap.push(Reverse(Candidate {
                rank,
                left,
                left_piece,
                right_piece,
                merged: piece,
            }));
        }
    }

    /// Appends the token `piece`; a piece that is no token falls apart into its printable ASCII bytes, and what has no
    /// token then is dropped, as in llama.cpp. No vocabulary with all 256 bytes and the products of its merges gets here.
    fn emit(&self, piece: u32, out: &mut Vec<u32>) {
        if piece < self.n_tokens {
            out.push(piece);
            return;
        }
        let bytes = &self.beyond[(piece - self.n_tokens) as usize];
        out.extend(
            bytes
                .iter()
                .filter(|byte| byte.is_ascii_graphic())
                .map(|&byte| self.byte_pieces[usize::from(byte)])
                .filter(|&id| id < self.n_tokens),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
        let (left, right) = text.split_once(' ')?;
        Some((left.into(), right.into()))
    }

    fn check(tokens: &[&str], merges: &[&str], word: &str, expect: &[u32]) {
        let bpe = Bpe::new(
            tokens.iter().map(|t| Some(t.as_bytes())),
            merges.iter().map(|m| merge(m)),
        );
        let mut out = Vec::new();
        bpe.encode_word(word.as_bytes(), &mut Scratch::default(), &mut out);
        assert_eq!(out, expect, "{word:?} with {merges:?}");
    }

    #[test]
    fn merges_apply_by_rank_then_from_the_left() {
        let tokens = ["a", "b", "c", "ab", "bc", "abc", "aa", "aab"];
        check(&tokens, &[], "abc", &[0, 1, 2]);
        check(&tokens, &["a b"], "abab", &[3, 3]);
        check(&tokens, &["b c", "a b"], "abc", &[0, 4]);
        check(&tokens, &["a b", "b c"], "abc", &[3, 2]);
        check(&tokens, &["a b", "ab c"], "abcab", &[5, 3]);
        check(&tokens, &["a a"], "aaa", &[6, 0]);
        check(&tokens, &["a a", "aa b", "a b"], "aaab", &[6, 3]);
        check(&tokens, &["a a", "aa b"], "aaab", &[6, 0, 1]);
        check(&tokens, &["a b"], "", &[]);
    }

    #[test]
    fn the_first_of_equal_merges_counts() {
        check(
            &["a", "b", "c", "ab", "bc"],
            &["b c", "a b", "b c"],
            "abc",
            &[0, 4],
        );
    }

    #[test]
    fn pieces_without_a_token_fall_apart() {
        check(&["a", "b"], &["a b"], "abab", &[0, 1, 0, 1]);
        check(&["a", "b", "abc"], &["a b", "ab c"], "abc", &[2]);
        check(&["a"], &[], "a\u{1}b", &[0]);
    }
}
