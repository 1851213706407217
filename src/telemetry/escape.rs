//! Text in which nothing can steer a terminal or break a line: control characters
//! and those that change the direction of writing are spelled out.

use std::borrow::Cow;

/// A text with such characters spelled as `\u{1b}`.
pub fn text(text: &str) -> Cow<'_, str> {
    replaced(text, |character| character.escape_unicode().collect())
}

/// A line of JSON with such characters spelled as `\u001b`. JSON's own escaping
/// leaves DEL, C1 controls and the marks of direction as they are; they can only
/// stand inside strings, so the line means the same.
pub fn json(line: &str) -> Cow<'_, str> {
    replaced(line, |character| format!("\\u{:04x}", character as u32))
}

/// Whether a text is printable ASCII: nearly every line is, and that is far quicker
/// to tell than by characters.
pub fn is_plain(text: &[u8]) -> bool {
    // Without a way out early, which lets many bytes be looked at in one step.
    let is_plain = |plain, byte: &u8| plain & matches!(byte, b' '..=b'~');
    text.iter().fold(true, is_plain)
}

fn replaced(text: &str, spell: impl Fn(char) -> String) -> Cow<'_, str> {
    if is_plain(text.as_bytes()) || !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match steers(character) {
            true => safe.push_str(&spell(character)),
            false => safe.push(character),
        }
    }
    Cow::Owned(safe)
}

/// Whether a character controls a terminal, ends a line (also Unicode's own line
/// and paragraph separators) or changes the direction of writing (Unicode's
/// `Bidi_Control`).
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'
                | '\u{2029}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_steers_the_terminal() {
        let check = |given: &str, expected: &str| assert_eq!(super::text(given), expected);
        check("plain é", "plain é");
        check("\x1b[31mred\x07", "\\u{1b}[31mred\\u{7}");
        check("a\u{202e}b\u{9b}c", "a\\u{202e}b\\u{9b}c");
        check("one\r\ntwo\u{2028}", "one\\u{d}\\u{a}two\\u{2028}");
    }

    #[test]
    fn a_line_of_json_keeps_its_meaning() {
        let value = serde_json::json!({"a": "\u{7f}\u{9b}\u{202e}\n\u{1b}é"});
        let plain = value.to_string();
        let line = super::json(&plain);
        assert!(!line.chars().any(super::steers), "{line}");
        let again: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(again, value);
    }
}
