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
    /// What has arrived of an event that has not ended. It begins with a line.
    tail: BytesMut,
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
        let events = last_blank_line(&self.tail, known).map(|end| self.tail.split_to(end).freeze());
        match self.tail.len() > LONGEST_TAIL {
            true => Err(TooLong),
            false => Ok(events),
        }
    }
}

/// The place after the last blank line of bytes that begin with a line; before `known`
/// there is none. A CR is taken for the whole end of its line when nothing has come
/// after it: the LF that may follow goes on as soon as it is there.
fn last_blank_line(bytes: &[u8], known: usize) -> Option<usize> {
    let is_break = |at: usize| matches!(bytes[at], b'\n' | b'\r');
    let is_pair = |at: usize| bytes[at..].starts_with(b"\r\n");
    let ends_blank_line =
        |&at: &usize| is_break(at) && (at == 0 || is_break(at - 1) && !is_pair(at - 1));
    let at = (known..bytes.len()).rev().find(ends_blank_line)?;
    Some(at + if is_pair(at) { 2 } else { 1 })
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
        // Nobody knows yet whether the blank line ends in CR or in CR LF.
        check(
            &["data: a\r\n\r", "\ndata: b\r\n"],
            &[Some("data: a\r\n\r"), Some("\n")],
        );
        check(&["data: a\r", "\ndata: b\r", "\n"], &[None, None, None]);
        check(&["data: a\n\rdata: b"], &[Some("data: a\n\r")]);
        check(&["\n", "\r\ndata: a"], &[Some("\n"), Some("\r\n")]);
        check(&["data: a\r\r"], &[Some("data: a\r\r")]);
        check(&[": c\n\n: d\n\n: e"], &[Some(": c\n\n: d\n\n")]);
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
