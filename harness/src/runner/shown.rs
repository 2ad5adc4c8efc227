//! What a child wrote, made fit for a terminal.

/// The start of a text with its control characters escaped, cut after `chars_max` characters. Of what was no text before it
/// was made one, everything but ASCII is escaped.
pub fn shown(text: &str, chars_max: usize) -> String {
    let mut out = String::new();
    let is_text = !text.contains(char::REPLACEMENT_CHARACTER);
    let mut chars = text.trim().chars();
    for c in chars.by_ref().take(chars_max) {
        match c.is_control() || !(is_text || c.is_ascii()) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_is_left() {
        let check = |text: &str, expect: &str| assert_eq!(shown(text, 12), expect);
        check(" plain \"text\"\n", "plain \"text\"");
        check("naïve", "naïve");
        check("naï\u{fffd}", "na\\u{ef}\\u{fffd}");
        check("\u{1b}[2J\u{0}\r\u{9b}x", "\\u{1b}[2J\\u{0}\\r\\u{9b}x");
        check("größer als zwölf Zeichen", "größer als z…");
        check("", "");
        let rubbish = String::from_utf8_lossy(&[0xff, 0x1b, 0x07, b'a']).into_owned();
        check(&rubbish, "\\u{fffd}\\u{1b}\\u{7}a");
    }
}
