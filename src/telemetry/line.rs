//! A flat object of JSON, written straight into its text, since there are several for
//! each request. What stands in it is the business of whoever writes it.

/// As long as the line of a usual request, bytes.
const USUAL: usize = 640;

/// An object that is being written.
pub struct Line(String);

impl Line {
    /// An object without fields.
    pub fn begin() -> Self {
        Self(String::with_capacity(USUAL))
    }

    /// The next field; its name is a word of the source.
    fn name(&mut self, name: &'static str) {
        self.0
            .push_str(if self.0.is_empty() { "{\"" } else { ",\"" });
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    /// A field that is a text, or null.
    pub fn text(&mut self, name: &'static str, text: Option<&str>) -> &mut Self {
        self.name(name);
        // Without a way out early, which lets many bytes be looked at in one step.
        let is_plain = |byte: u8| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
        let all = |text: &str| text.bytes().fold(true, |all, byte| all & is_plain(byte));
        match text {
            None => self.0.push_str("null"),
            Some(text) if all(text) => {
                self.0.push('"');
                self.0.push_str(text);
                self.0.push('"');
            }
            Some(text) => self.0.push_str(&serde_json::Value::from(text).to_string()),
        }
        self
    }

    /// A field that is a whole number, or null.
    pub fn number(&mut self, name: &'static str, number: Option<u64>) -> &mut Self {
        self.name(name);
        match number {
            None => self.0.push_str("null"),
            Some(number) => push_number(&mut self.0, number, 1),
        }
        self
    }

    /// A field of any other kind, as JSON writes it.
    pub fn json(&mut self, name: &'static str, json: &str) -> &mut Self {
        self.name(name);
        self.0.push_str(json);
        self
    }

    /// The whole object, which has a field at least.
    pub fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// Writes a number in decimal digits, with zeros before it if there are fewer than `least`
/// of those. The formatting of the standard library takes ten times as long, and a request
/// has two dozen numbers.
pub fn push_number(text: &mut String, mut number: u64, least: usize) {
    if number < 10 && least <= 1 {
        // As most are.
        text.push(char::from(b'0' + number as u8));
        return;
    }
    // As many as the largest number has.
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    while number > 0 || first > digits.len() - least {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    // They are digits, whatever the number.
    text.push_str(std::str::from_utf8(&digits[first..]).unwrap_or_default());
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
        line.json("f", "[true]");
        let read: Value = serde_json::from_str(&line.end()).expect("JSON");
        let expected =
            json!({"a": text, "b": null, "c": "", "d": u64::MAX, "e": null, "f": [true]});
        assert_eq!(read, expected);
    }

    #[test]
    fn numbers_have_the_digits_that_they_have() {
        let check = |number: u64, least: usize, expected: &str| {
            let mut text = String::from("n");
            push_number(&mut text, number, least);
            assert_eq!(text[1..], *expected);
        };
        for number in [0, 7, 10, 99, 100, 1_234_567, u64::MAX] {
            check(number, 1, &number.to_string());
        }
        check(0, 2, "00");
        check(7, 2, "07");
        check(123, 2, "123");
        check(42, 6, "000042");
    }
}
