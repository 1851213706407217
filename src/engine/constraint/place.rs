//! Where in a JSON document its text so far has come to: which brackets are open, whether in
//! a string, a name or a number. It takes the text for what it is and checks nothing.

/// A bracket that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bracket {
    /// Of an object.
    Object,
    /// Of an array.
    Array,
}

/// A place.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    open: Vec<Bracket>,
    in_string: bool,
    is_escaped: bool,
    in_number: bool,
    /// The string that is here, or the next one, is the name of a member.
    at_name: bool,
    /// What there is of the string.
    text: Vec<u8>,
}

impl Place {
    /// How many brackets are open.
    pub fn depth(&self) -> u32 {
        u32::try_from(self.open.len()).unwrap_or(u32::MAX)
    }

    /// The innermost bracket that is open.
    pub fn bracket(&self) -> Option<Bracket> {
        self.open.last().copied()
    }

    /// Whether a string has begun and not ended.
    pub fn in_string(&self) -> bool {
        self.in_string
    }

    /// Whether the last letter was one of a number.
    pub fn in_number(&self) -> bool {
        self.in_number
    }

    /// What there is of the string that is here.
    pub fn string(&self) -> Option<&[u8]> {
        self.in_string.then_some(self.text.as_slice())
    }

    /// What there is of the name of a member, where one is here or has to come next.
    pub fn name(&self) -> Option<&[u8]> {
        self.at_name.then(|| self.string().unwrap_or_default())
    }

    /// Takes in a byte.
    pub fn take(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => {
                    self.in_string = false;
                    return;
                }
                _ => {}
            }
            self.text.push(byte);
            return;
        }
        let digit = byte.is_ascii_digit();
        self.in_number = digit || byte == b'-' || self.in_number && b".eE+".contains(&byte);
        match byte {
            b'"' => {
                self.in_string = true;
                self.text.clear();
            }
            b'{' => self.open.push(Bracket::Object),
            b'[' => self.open.push(Bracket::Array),
            b'}' | b']' => drop(self.open.pop()),
            _ => {}
        }
        match byte {
            b'{' | b',' => self.at_name = self.bracket() == Some(Bracket::Object),
            b':' | b'[' | b'}' | b']' => self.at_name = false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str) -> Place {
        let mut place = Place::default();
        text.bytes().for_each(|byte| place.take(byte));
        place
    }

    #[test]
    fn a_text_tells_where_it_is() {
        let check = |text: &str, depth: u32, is: &str, name: Option<&str>| {
            let place = after(text);
            assert_eq!(place.depth(), depth, "{text}");
            assert_eq!(place.in_string(), is.contains('"'), "{text}");
            assert_eq!(place.in_number(), is.contains('1'), "{text}");
            assert_eq!(place.name(), name.map(str::as_bytes), "{text}");
        };
        check("", 0, "", None);
        check("[-", 1, "1", None);
        check("[1.5e+", 1, "1", None);
        check("[true", 1, "", None);
        check("[1, ", 1, "", None);
        check("[\"1, {", 1, "\"", None);
        check("[\"\\\"", 1, "\"", None);
        check("[\"\\\\\"", 1, "", None);
        check("{ ", 1, "", Some(""));
        check("{\"", 1, "\"", Some(""));
        check("{\"na\\\"", 1, "\"", Some("na\\\""));
        check("{\"a\": \"", 1, "\"", None);
        check("{\"a\": \"b\",", 1, "", Some(""));
        check("{\"a\": \"b\", \"", 1, "\"", Some(""));
        check("{\"a\": [\"b\", \"", 2, "\"", None);
        check("{\"a\": [], \"c", 1, "\"", Some("c"));
        check("{\"a\": {}}", 0, "", None);
        assert_eq!(after("[\"a\", \"b\\\"").string(), Some(&b"b\\\""[..]));
        assert_eq!(after("[\"a\"").string(), None);
        assert_eq!(after("[{").bracket(), Some(Bracket::Object));
        assert_eq!(after("[{}").bracket(), Some(Bracket::Array));
        assert_eq!(after("[{}]").bracket(), None);
    }
}
