//! How deep a body is nested and how many values it holds, by its brackets and
//! commas outside strings: whatever is no JSON at all is found later.

use memchr::memchr2;

use crate::api::error::{ApiError, Code};

/// Deepest nesting of a body, itself included. The worker reads each field with a
/// parser of its own, whose limit of 127 levels is this one without the body.
pub const DEEPEST: usize = 128;

/// What follows a string, of which this is what follows its first quote.
fn after_string(text: &[u8]) -> &[u8] {
    let mut at = 0;
    while let Some(found) = memchr2(b'"', b'\\', text.get(at..).unwrap_or_default()) {
        at += found;
        if text[at] == b'"' {
            return &text[at + 1..];
        }
        // With the byte that it escapes.
        at += 2;
    }
    &[]
}

/// Refuses bodies nested more than [`DEEPEST`] levels or of more than `most` values.
pub(super) fn check(body: &[u8], most: usize) -> Result<(), ApiError> {
    let (mut depth, mut values) = (0usize, 0usize);
    let mut rest = body.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'"' => rest = after_string(rest.as_slice()).iter(),
            b'{' | b'[' => {
                depth += 1;
                values += 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if depth > DEEPEST {
            let message = format!("the body is nested more than {DEEPEST} levels deep");
            return Err(ApiError::new(Code::InvalidJson, message));
        }
        if values > most {
            let message = format!("the body holds more than {most} values");
            return Err(ApiError::new(Code::InvalidValue, message));
        }
    }
    Ok(())
}
