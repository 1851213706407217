//! Cuts what an engine sends into whole events. Everything up to the last blank
//! line that has arrived goes on at once; an incomplete tail waits. Pure.
//!
//! Source of the framing: the event stream format of the HTML standard (lines
//! end in LF, CR LF or CR; a blank line ends an event).

use bytes::{Bytes, BytesMut};

/// Longest incomplete event that is held back, bytes.
pub const LONGEST_TAIL: usize = 1024 * 1024;

/// The relay of one stream.
#[derive(Debug, Default)]
pub struct Relay {
    tail: BytesMut,
    ended: bool,
}

/// An event grew past [`LONGEST_TAIL`] without ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the engine has more than {LONGEST_TAIL} bytes")]
pub struct TooLong;

impl Relay {
    /// Takes what arrived; answers the whole events that can go on now.
    pub fn push(&mut self, arrived: &[u8]) -> Result<Option<Bytes>, TooLong> {
        let known = self.tail.len();
        self.tail.extend_from_slice(arrived);
        let Some(end) = last_blank_line(&self.tail, known) else {
            return if self.tail.len() > LONGEST_TAIL {
                Err(TooLong)
            } else {
                Ok(None)
            };
        };
        let events = self.tail.split_to(end).freeze();
        self.ended |= has_ending(&events);
        if self.tail.len() > LONGEST_TAIL {
            return Err(TooLong);
        }
        Ok(Some(events))
    }

    /// Whether the engine itself has ended the stream, with `[DONE]` or with an
    /// error event.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

/// The place after the last blank line; only what lies at or after `known - 3`
/// can be new.
fn last_blank_line(bytes: &[u8], known: usize) -> Option<usize> {
    let from = known.saturating_sub(3);
    (from..bytes.len()).rev().find_map(|at| match &bytes[at..] {
        [b'\n', b'\n', ..] | [b'\r', b'\r', ..] => Some(at + 2),
        [b'\n', b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// Whether one of these events is `[DONE]` or an error. Text of a model cannot
/// look so: inside JSON a line break is escaped.
fn has_ending(events: &[u8]) -> bool {
    events
        .split(|&byte| byte == b'\n' || byte == b'\r')
        .any(|line| {
            line.strip_prefix(b"data:").is_some_and(|data| {
                let data = data.strip_prefix(b" ").unwrap_or(data);
                data == b"[DONE]" || data.starts_with(b"{\"error\":")
            })
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whole_events_go_on_and_the_tail_waits() {
        let check = |parts: &[&str], expected: &[Option<&str>]| {
            let mut relay = Relay::default();
            let got: Vec<_> = parts
                .iter()
                .map(|part| relay.push(part.as_bytes()).expect("short"))
                .map(|events| events.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|text| text.map(str::to_owned))
                .collect();
            assert_eq!(got, expected, "{parts:?}");
        };
        check(&["data: a\n\ndata: b"], &[Some("data: a\n\n")]);
        check(
            &["data: a\n", "\ndata: b\n\n"],
            &[None, Some("data: a\n\ndata: b\n\n")],
        );
        check(&["data: a\r\n\r", "\n"], &[None, Some("data: a\r\n\r\n")]);
        check(&["data: a\r\r"], &[Some("data: a\r\r")]);
        check(&[": c\n\n: d\n\n: e"], &[Some(": c\n\n: d\n\n")]);
    }

    #[test]
    fn the_engines_own_ending_is_seen() {
        let check = |stream: &str, expected: bool| {
            let mut relay = Relay::default();
            relay.push(stream.as_bytes()).expect("short");
            assert_eq!(relay.ended(), expected, "{stream:?}");
        };
        check("data: [DONE]\n\n", true);
        check("data:[DONE]\r\n\r\n", true);
        check("data: {\"error\":{}}\n\n", true);
        check("data: [DONE]\n", false);
        check(
            "data: {\"content\":\"\\n\\ndata: [DONE]\\n\\n\"}\n\n",
            false,
        );
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut relay = Relay::default();
        let chunk = vec![b'x'; LONGEST_TAIL / 2];
        assert_eq!(relay.push(&chunk), Ok(None));
        assert_eq!(relay.push(&chunk), Ok(None));
        assert_eq!(relay.push(&chunk), Err(TooLong));
    }

    proptest! {
        #[test]
        fn e01_any_cut_gives_the_same_bytes(
            events in prop::collection::vec("[a-z{}: ]{0,12}", 0..12),
            cuts in prop::collection::vec(1usize..7, 1..40),
        ) {
            let stream: String = events.iter().map(|text| format!("data: {text}\n\n")).collect();
            let mut relay = Relay::default();
            let mut out = Vec::new();
            let mut rest = stream.as_bytes();
            let mut cut = cuts.iter().cycle();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(*cut.next().expect("endless")));
                if let Some(events) = relay.push(now).expect("short") {
                    prop_assert!(events.ends_with(b"\n\n"));
                    out.extend_from_slice(&events);
                }
                rest = later;
            }
            prop_assert_eq!(out, stream.into_bytes());
        }
    }
}
