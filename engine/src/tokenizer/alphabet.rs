//! The byte alphabet of byte-level BPE: one printable character stands for each byte.
//!
//! Printable Latin-1 characters stand for themselves; the other 68 bytes, in order, for U+0100 and up. So the space
//! is `Ġ` (U+0120) and the line feed `Ċ` (U+010A) in a vocabulary.

/// Number of bytes that do not stand for themselves.
const REMAPPED: u32 = 68;

/// The byte that the vocabulary character `c` stands for.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(code as u8),
        0x100.. if code < 0x100 + REMAPPED => Some(match (code - 0x100) as u8 {
            n @ 0..=0x20 => n,
            n @ 0x21..=0x42 => n - 0x21 + 0x7F,
            _ => 0xAD,
        }),
        _ => None,
    }
}

/// The bytes that the vocabulary text `text` stands for, or `None` where it holds anything outside the alphabet.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    std::str::from_utf8(text)
        .ok()?
        .chars()
        .map(byte_of)
        .collect()
}

/// The vocabulary character that stands for `byte`.
#[cfg(test)]
pub(super) fn char_of(byte: u8) -> char {
    (0..0x100 + REMAPPED)
        .filter_map(char::from_u32)
        .find(|&c| byte_of(c) == Some(byte))
        .expect("every byte has a character")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen = [0usize; 256];
        for c in (0..0x200).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(c) {
                seen[usize::from(byte)] += 1;
            }
        }
        assert_eq!(seen, [1; 256]);
    }

    #[test]
    fn texts_decode_to_bytes() {
        let check = |text: &str, expect: Option<&[u8]>| {
            assert_eq!(decode(text.as_bytes()).as_deref(), expect, "{text:?}");
        };
        check("Ġthe", Some(b" the"));
        check("Ċ", Some(b"\n"));
        check("Ã©", Some("é".as_bytes()));
        check("ł", Some(&[0xA0]));
        check("Ń", Some(&[0xAD]));
        check("", Some(b""));
        check("a b", None);
        check("日", None);
        assert_eq!(decode(&[0xFF]), None);
    }
}
