//! Text out of tokens, piece by piece, without ever splitting a character.

/// Turns a stream of bytes into text. Bytes of a character that has not ended yet wait for the next call; bytes that
/// are no UTF-8 become U+FFFD, one for each broken sequence.
#[derive(Debug, Default, Clone)]
pub struct Decoder {
    pending: Vec<u8>,
    text: String,
}

impl Decoder {
    /// A decoder with nothing pending.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Takes the bytes of one more token (see [`Tokenizer::token_bytes`](super::Tokenizer::token_bytes)) and returns
    /// the text that is complete now.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        self.pending.extend_from_slice(bytes);
        self.text.clear();
        let mut held = 0;
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.text.push_str(chunk.valid());
            let broken = chunk.invalid();
            if chunks.peek().is_none() && may_continue(broken) {
                held = broken.len();
            } else if !broken.is_empty() {
                self.text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.pending.drain(..self.pending.len() - held);
        &self.text
    }

    /// Ends the stream: a character that never ended becomes U+FFFD.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if !self.pending.is_empty() {
            self.pending.clear();
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        &self.text
    }
}

/// Whether more bytes could make `broken` a character.
fn may_continue(broken: &[u8]) -> bool {
    std::str::from_utf8(broken).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pushes: &[&[u8]], expect: &[&str]) {
        let mut decoder = Decoder::new();
        let mut texts: Vec<String> = pushes.iter().map(|b| decoder.push(b).to_owned()).collect();
        texts.push(decoder.finish().to_owned());
        assert_eq!(texts, expect, "{pushes:x?}");
    }

    #[test]
    fn characters_stay_whole() {
        check(&[b"ab", b"c"], &["ab", "c", ""]);
        check(&[b"\xE2\x82", b"\xAC!"], &["", "€!", ""]);
        check(
            &[b"x\xF0", b"\x9F", b"\x98", b"\x80y"],
            &["x", "", "", "😀y", ""],
        );
        check(&[b"", b""], &["", "", ""]);
    }

    #[test]
    fn broken_bytes_become_replacement_characters() {
        check(&[b"a\xFFb"], &["a\u{FFFD}b", ""]);
        check(&[b"\x80"], &["\u{FFFD}", ""]);
        check(&[b"\xE2", b"\xE2\x82\xAC"], &["", "\u{FFFD}€", ""]);
        check(&[b"\xE2\x82"], &["", "\u{FFFD}"]);
        check(&[b"\xF0\x9F", b"z"], &["", "\u{FFFD}z", ""]);
        check(&[b"\xC0\xAF"], &["\u{FFFD}\u{FFFD}", ""]);
    }

    #[test]
    fn any_split_gives_the_text_of_the_whole() {
        let bytes = "né日本😀\u{1F468}\u{200D}\u{1F469}!".as_bytes();
        for size in 1..bytes.len() {
            let mut decoder = Decoder::new();
            let mut text = String::new();
            for part in bytes.chunks(size) {
                text.push_str(decoder.push(part));
            }
            text.push_str(decoder.finish());
            assert_eq!(text.as_bytes(), bytes, "parts of {size} bytes");
        }
    }
}
