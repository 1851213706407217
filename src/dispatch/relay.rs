//! Cuts what an engine sends into whole events. Everything up to the last blank
//! line that has arrived goes on at once; an incomplete tail waits. Pure.
//!
//! Source of the framing: the event stream format of the HTML standard (lines
//! end in LF, CR LF or CR; a blank line ends an event).

use bytes::{Bytes, BytesMut};
use memchr::{memchr2_iter, memmem, memrchr2_iter};

/// Longest incomplete event that is held back, bytes.
pub const LONGEST_TAIL: usize = 1024 * 1024;

/// The relay of one stream.
#[derive(Debug, Default)]
pub struct Relay {
    tail: BytesMut,
    /// How much of the tail is known to hold no blank line.
    known: usize,
    ended: bool,
}

/// Some whole events.
#[derive(Debug, PartialEq, Eq)]
pub struct Events {
    /// As they came.
    pub bytes: Bytes,
    /// How many there are; blank lines beyond the end of one count too.
    pub count: u64,
}

/// An event grew past [`LONGEST_TAIL`] without ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the engine has more than {LONGEST_TAIL} bytes")]
pub struct TooLong;

impl Relay {
    /// Takes what arrived.
    pub fn push(&mut self, arrived: &[u8]) {
        self.tail.extend_from_slice(arrived);
    }

    /// How many bytes it holds.
    pub fn held(&self) -> usize {
        self.tail.len()
    }

    /// The whole events of all that arrived, which can go on now.
    ///
    /// # Errors
    /// If what is left is longer than an event may be.
    pub fn events(&mut self) -> Result<Option<Events>, TooLong> {
        let end = last_blank_line(&self.tail, self.known);
        let bytes = end.map(|end| self.tail.split_to(end).freeze());
        self.known = self.tail.len();
        self.ended |= bytes.as_deref().is_some_and(has_ending);
        if self.tail.len() > LONGEST_TAIL {
            return Err(TooLong);
        }
        Ok(bytes.map(|bytes| Events {
            count: memmem::find_iter(&bytes, b"\n\n").count() as u64,
            bytes,
        }))
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
    let breaks = memrchr2_iter(b'\n', b'\r', &bytes[from..]);
    breaks
        .map(|at| from + at)
        .find_map(|at| match &bytes[at..] {
            [b'\n', b'\n', ..] | [b'\r', b'\r', ..] => Some(at + 2),
            [b'\n', b'\r', b'\n', ..] => Some(at + 3),
            _ => None,
        })
}

/// Whether one of these events is `[DONE]` or an error. Text of a model cannot
/// look so: inside JSON a line break is escaped.
fn has_ending(events: &[u8]) -> bool {
    let may = |text: &[u8]| memmem::find(events, text).is_some();
    // Nearly all events hold neither of the two, and that is quick to tell.
    (may(b"[DONE]") || may(b"{\"error\":")) && lines(events).any(is_ending)
}

fn lines(events: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = memchr2_iter(b'\n', b'\r', events).chain([events.len()]);
    ends.scan(0, |start, end| {
        Some(&events[std::mem::replace(start, end + 1)..end])
    })
}

fn is_ending(line: &[u8]) -> bool {
    line.strip_prefix(b"data:").is_some_and(|data| {
        let data = data.strip_prefix(b" ").unwrap_or(data);
        data == b"[DONE]" || data.starts_with(b"{\"error\":")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What goes on after this arrived.
    fn push(relay: &mut Relay, arrived: &[u8]) -> Result<Option<Bytes>, TooLong> {
        relay.push(arrived);
        Ok(relay.events()?.map(|events| events.bytes))
    }

    #[test]
    fn whole_events_go_on_and_the_tail_waits() {
        let check = |parts: &[&str], expected: &[Option<&str>]| {
            let mut relay = Relay::default();
            let got: Vec<_> = parts
                .iter()
                .map(|part| push(&mut relay, part.as_bytes()).expect("short"))
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
    fn what_arrived_in_pieces_goes_on_in_one() {
        let mut relay = Relay::default();
        for part in ["data: a\n\n", "data: b\n", "\ndata: c\n\nda"] {
            relay.push(part.as_bytes());
        }
        let bytes = Bytes::from_static(b"data: a\n\ndata: b\n\ndata: c\n\n");
        assert_eq!(relay.events(), Ok(Some(Events { bytes, count: 3 })));
        assert_eq!((relay.events(), relay.held()), (Ok(None), 2));
    }

    #[test]
    fn the_engines_own_ending_is_seen() {
        let check = |stream: &str, expected: bool| {
            let mut relay = Relay::default();
            push(&mut relay, stream.as_bytes()).expect("short");
            assert_eq!(relay.ended(), expected, "{stream:?}");
        };
        check("data: [DONE]\n\n", true);
        check("data:[DONE]\r\n\r\n", true);
        check("data: {\"error\":{}}\n\n", true);
        check("data: [DONE]\n", false);
        check("data: a [DONE]\n\n", false);
        check("data: a\r\rdata: [DONE]\r\r", true);
        check(
            "data: {\"content\":\"\\n\\ndata: [DONE]\\n\\n\"}\n\n",
            false,
        );
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut relay = Relay::default();
        let chunk = vec![b'x'; LONGEST_TAIL / 2];
        assert_eq!(push(&mut relay, &chunk), Ok(None));
        assert_eq!(push(&mut relay, &chunk), Ok(None));
        assert_eq!(push(&mut relay, &chunk), Err(TooLong));
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
                if let Some(events) = push(&mut relay, now).expect("short") {
                    prop_assert!(events.ends_with(b"\n\n"));
                    out.extend_from_slice(&events);
                }
                rest = later;
            }
            prop_assert_eq!(out, stream.into_bytes());
        }
    }
}
