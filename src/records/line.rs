//! A flat object of JSON, written straight into its text, since there is one for each
//! request. What stands in it is the business of whoever writes it.

use std::fmt::Write;

/// As long as the line of a usual request, bytes.
const USUAL: usize = 640;

/// An object that is being written.
pub(super) struct Line(String);

impl Line {
    /// An object without fields.
    pub(super) fn begin() -> Self {
        Self(String::with_capacity(USUAL))
    }

    /// The next field; its name is a word of the source.
    fn name(&mut self, name: &'static str) {
        let before = if self.0.is_empty() { "{\"" } else { ",\"" };
        self.0.extend([before, name, "\":"]);
    }

    /// A field that is a text, or null.
    pub(super) fn text(&mut self, name: &'static str, text: Option<&str>) -> &mut Self {
        self.name(name);
        // Without a way out early, which lets many bytes be looked at in one step.
        let is_plain = |byte: u8| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
        let all = |text: &str| text.bytes().fold(true, |all, byte| all & is_plain(byte));
        match text {
            None => self.0.push_str("null"),
            Some(text) if all(text) => self.0.extend(["\"", text, "\""]),
            Some(text) => self.0.push_str(&serde_json::Value::from(text).to_string()),
        }
        self
    }

    /// A field that is a whole number, or null.
    pub(super) fn number(&mut self, name: &'static str, number: Option<u64>) -> &mut Self {
        self.name(name);
        // Writing to a string cannot fail.
        let _ = match number {
            None => self.0.write_str("null"),
            Some(number) => write!(self.0, "{number}"),
        };
        self
    }

    /// The whole object, which has a field at least.
    pub(super) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_line_is_an_object_whatever_its_texts_hold() {
        let text = "a \"b\" \\ \n\u{1b}é";
        let mut line = Line::begin();
        line.text("a", Some(text))
            .text("b", None)
            .text("c", Some(""));
        line.number("d", Some(u64::MAX)).number("e", None);
        let read: Value = serde_json::from_str(&line.end()).expect("JSON");
        let expected = json!({"a": text, "b": null, "c": "", "d": u64::MAX, "e": null});
        assert_eq!(read, expected);
    }
}
