//! Reads passing events without holding or changing them: how many there are, whether
//! the engine itself ended the stream, and the usage it counts. Pure.
//!
//! Source of the format: server-sent events of the HTML standard (the lines `data` of
//! an event make its text, a blank line ends it; an event without data is none).

use std::borrow::Cow;

use memchr::memchr2;

use super::foreign;
use crate::records::usage::Usage;

/// What whole events of one stream have said so far.
#[derive(Debug, Default)]
pub struct Observer {
    /// Whether usage stands in the events: our own workers tell it beside them.
    reads_usage: bool,
    ended: bool,
    usage: Option<Usage>,
}

/// The data of the event that is being read.
#[derive(Default)]
enum Data<'e> {
    #[default]
    None,
    /// Usually one line.
    Some(Cow<'e, [u8]>),
}

impl Observer {
    /// Of a stream in which usage stands, or of one that tells it otherwise.
    pub fn new(reads_usage: bool) -> Self {
        Self {
            reads_usage,
            ..Self::default()
        }
    }

    /// Takes whole events as the relay passes them on; answers how many had data.
    pub fn see(&mut self, events: &[u8]) -> u64 {
        let mut count = 0;
        let mut data = Data::None;
        for line in lines(events) {
            if !line.is_empty() {
                data.add(line);
            } else if let Data::Some(text) = std::mem::take(&mut data) {
                count += 1;
                self.event(&text);
            }
        }
        count
    }

    /// Whether the engine has ended the stream, with `[DONE]` or with an error event.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The usage that was said last, as our own workers report it beside their events.
    pub fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref()
    }

    fn event(&mut self, data: &[u8]) {
        self.ended |= data == b"[DONE]" || data.starts_with(b"{\"error\":");
        if self.reads_usage
            && let Some(usage) = foreign::usage_of_event(data)
        {
            self.usage = Some(usage);
        }
    }
}

impl<'e> Data<'e> {
    /// Takes a line of the event: `data`, or another field, or a comment.
    fn add(&mut self, line: &'e [u8]) {
        let Some(rest) = line.strip_prefix(b"data") else {
            return;
        };
        let text = match rest {
            [] => rest,
            [b':', b' ', text @ ..] | [b':', text @ ..] => text,
            _ => return,
        };
        match self {
            Self::None => *self = Self::Some(text.into()),
            Self::Some(before) => {
                let before = before.to_mut();
                before.push(b'\n');
                before.extend_from_slice(text);
            }
        }
    }
}

/// The lines of bytes that end in a line break: of CR LF, LF, or CR.
fn lines(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = memchr2(b'\n', b'\r', rest)?;
        let pair = usize::from(rest[end..].starts_with(b"\r\n"));
        let line = &rest[..end];
        rest = &rest[end + 1 + pair..];
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_with_data_are_counted_whatever_ends_their_lines() {
        let check = |events: &str, expected: u64| {
            assert_eq!(
                Observer::default().see(events.as_bytes()),
                expected,
                "{events:?}"
            );
        };
        check("", 0);
        check("data: a\n\ndata: b\n\n", 2);
        check("data: a\r\n\r\ndata\r\n\r\n", 2);
        check("data: a\r\rdata: b\ndata: c\n\r", 2);
        check(": loading\n\nevent: x\nid: 1\n\n\n\ndatab: a\n\n", 0);
    }

    #[test]
    fn the_engines_own_ending_is_seen() {
        let check = |stream: &str, expected: bool| {
            let mut observer = Observer::default();
            observer.see(stream.as_bytes());
            assert_eq!(observer.ended(), expected, "{stream:?}");
        };
        check("data: [DONE]\n\n", true);
        check("data:[DONE]\r\n\r\n", true);
        check("data: {\"error\":{}}\n\n", true);
        check("data: x\ndata: [DONE]\n\n", false);
        check(
            "data: {\"content\":\"\\n\\ndata: [DONE]\\n\\n\"}\n\n",
            false,
        );
    }

    #[test]
    fn usage_is_the_last_that_was_said_where_it_is_looked_for() {
        let check = |events: &str, expected: Option<&str>| {
            let mut observer = Observer::new(true);
            observer.see(events.as_bytes());
            let usage = observer.usage().map(|usage| usage.text.as_str());
            assert_eq!(usage, expected, "{events}");
            let mut observer = Observer::new(false);
            observer.see(events.as_bytes());
            assert_eq!(observer.usage(), None, "{events}");
        };
        check("data: {\"choices\":[]}\n\n", None);
        check("data: {\"usage\":null}\n\ndata: [DONE]\n\n", None);
        let last = "data: {\"usage\":{\"prompt_tokens\":9}}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5,\"total_tokens\":8}}\n\ndata: [DONE]\n\n";
        check(last, Some("prompt=3 completion=5"));
        check(
            "data:{\"usage\":{\"prompt_tokens\":1}}\r\n\r\n",
            Some("prompt=1 completion=0"),
        );
        // Text of a model is no usage.
        check(
            "data: {\"content\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":9}\"}\n\n",
            None,
        );
    }
}
