//! An answer of an engine, cut at any places: what is read of it, beside what a plain
//! reading of RFC 9112 finds in all of it at once.

use axum::http::HeaderMap;
use roundhouse::worker::client::answer::{Part, Reader};

/// What an answer was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// How many bytes were read.
    taken: usize,
    /// Whether another answer may follow.
    goes_on: bool,
}

/// The first byte says how many of those after it are lengths of pieces, used again
/// and again; the rest is the answer.
pub fn answer(data: &[u8]) {
    let Some((&count, rest)) = data.split_first() else {
        return;
    };
    let (cuts, answer) = rest.split_at(rest.len().min(count.into()));
    let whole = read(answer, &[]);
    assert_eq!(read(answer, cuts), whole, "it depends on the cuts");
    assert_eq!(read(answer, &[1]), whole, "it depends on the cuts");
    if let Some(seen) = whole {
        check(answer, &seen);
    }
}

/// The answer in pieces of these lengths, or in one; nothing if it is refused or not whole.
fn read(answer: &[u8], cuts: &[u8]) -> Option<Seen> {
    let mut reader = Reader::new(false);
    let mut seen = Seen::default();
    let mut cuts = cuts.iter().cycle();
    let mut rest = answer;
    while !rest.is_empty() && !reader.has_ended() {
        let length = cuts
            .next()
            .map_or(usize::MAX, |&cut| usize::from(cut).max(1));
        let (mut piece, later) = rest.split_at(rest.len().min(length));
        let before = piece.len();
        while let Some(part) = reader.next(&mut piece).ok()? {
            match part {
                Part::Head(head) => {
                    seen.status = head.status().as_u16();
                    seen.headers = head.headers().clone();
                }
                Part::Data(data) => seen.body.extend_from_slice(data),
                Part::Trailers(trailers) => seen.trailers = Some(trailers),
                Part::End => break,
            }
        }
        seen.taken += before - piece.len();
        rest = later;
    }
    reader.finish().ok()?;
    seen.goes_on = reader.goes_on();
    Some(seen)
}

/// The same from all of it. Heads whose lines end in LF alone are left out.
fn check(answer: &[u8], seen: &Seen) {
    assert!((100..1000).contains(&seen.status) && seen.status / 100 != 1);
    let mut rest = answer;
    let (fields, body) = loop {
        // Empty lines before a head are passed over.
        while let Some(later) = rest.strip_prefix(b"\r\n") {
            rest = later;
        }
        let Some(end) = find(rest, b"\r\n\r\n") else {
            return;
        };
        let (head, after) = (&rest[..end], &rest[end + 4..]);
        if head.iter().filter(|&&byte| byte == b'\n').count() != lines(head).len() - 1 {
            return;
        }
        let is_interim = head.get(9) == Some(&b'1');
        if !is_interim {
            break (lines(head), after);
        }
        rest = after;
    };
    assert!(fields[0].starts_with(b"HTTP/1."));
    let is_first = fields[0].starts_with(b"HTTP/1.1");
    let values = |name: &str| -> Vec<String> {
        let fields = fields[1..].iter().filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let is_it = line[..colon].eq_ignore_ascii_case(name.as_bytes());
            is_it.then(|| {
                String::from_utf8_lossy(&line[colon + 1..])
                    .trim()
                    .to_owned()
            })
        });
        fields.collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    let lengths: Vec<u64> = lengths
        .iter()
        .flat_map(|value| value.split(','))
        .map(|item| item.trim().parse().expect("a length that was taken"))
        .collect();
    assert!(lengths.windows(2).all(|two| two[0] == two[1]));
    let before = answer.len() - body.len();
    if matches!(seen.status, 204 | 304) {
        assert_eq!((seen.body.len(), seen.taken), (0, before));
    } else if let Some(coding) = codings.first() {
        assert!(codings.len() == 1 && coding.eq_ignore_ascii_case("chunked") && is_first);
        let (chunks, taken) = chunks(body).expect("chunks that were read");
        assert_eq!((&seen.body, seen.taken), (&chunks, before + taken));
        assert!(lengths.is_empty() || !seen.goes_on);
    } else if let Some(&length) = lengths.first() {
        assert_eq!(seen.body.len() as u64, length);
        assert!(body.starts_with(&seen.body));
        assert_eq!(seen.taken, before + seen.body.len());
    } else {
        assert_eq!(seen.body, body);
        assert!(!seen.goes_on);
    }
    assert!(is_first || !seen.goes_on);
}

/// What chunks hold, and how long they are with what frames them.
fn chunks(all: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut rest) = (Vec::new(), all);
    loop {
        let end = find(rest, b"\r\n")?;
        let line = std::str::from_utf8(&rest[..end]).ok();
        let digits = match line {
            Some(line) => line.split([';', ' ', '\t']).next()?.to_owned(),
            None => {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit());
                digits.map(|&byte| char::from(byte)).collect()
            }
        };
        let size = usize::from_str_radix(&digits, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            let end = match rest.starts_with(b"\r\n") {
                true => 2,
                false => find(rest, b"\r\n\r\n")? + 4,
            };
            return Some((body, all.len() - rest.len() + end));
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The lines of a head.
fn lines(mut head: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(end) = find(head, b"\r\n") {
        lines.push(&head[..end]);
        head = &head[end + 2..];
    }
    lines.push(head);
    lines
}
