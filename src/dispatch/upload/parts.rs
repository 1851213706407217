//! Reads `multipart/form-data` as it comes in, piece by piece, for two things: the parts
//! `model` and `stream`. What two readers could take for different things is refused, since what is
//! read here has to be what the engine reads. Pure.
//!
//! Source of the form: RFC 7578 and, for the boundary, RFC 2046, 5.1.1.

use std::ops::Range;

use axum::http::HeaderValue;

/// Longest head of a part, bytes.
const LONGEST_HEAD: usize = 4096;

/// Longest name of a model that is looked at, bytes; far more than any may have.
const LONGEST_NAME: usize = 1024;

/// Longest boundary (RFC 2046).
const LONGEST_BOUNDARY: usize = 70;

/// Why a body is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// The content type has no boundary, or one that is none.
    #[error("the content-type must be multipart/form-data with one boundary")]
    Boundary,
    /// It does not begin with the boundary.
    #[error("the body does not begin with its boundary")]
    Start,
    /// The boundary stands where it is no line.
    #[error("the boundary of the body stands where no part begins or ends")]
    Delimiter,
    /// The head of a part is too long or not well formed.
    #[error("the head of a part is not one that everybody reads alike")]
    Head,
    /// The part `model` stands twice.
    #[error("the part model stands twice")]
    Twice,
    /// The part `model` is a file, encoded, no text or far too long.
    #[error("the part model is not the name of a model")]
    Name,
    /// The part `stream` stands twice, or is neither true nor false.
    #[error("the part stream has to be true or false, once")]
    Stream,
    /// It ends before its last boundary, or goes on after it.
    #[error("the body does not end with its boundary")]
    End,
}

/// The boundary that a content type names.
///
/// # Errors
/// It is not `multipart/form-data`, or has no sound boundary.
pub fn boundary(kind: &HeaderValue) -> Result<String, Unclear> {
    let text = kind.to_str().map_err(|_| Unclear::Boundary)?;
    let (essence, rest) = text.split_once(';').ok_or(Unclear::Boundary)?;
    if !essence.trim().eq_ignore_ascii_case("multipart/form-data") {
        return Err(Unclear::Boundary);
    }
    let parameters = parameters(rest.as_bytes()).ok_or(Unclear::Boundary)?;
    let mut named = parameters.iter().filter(|(name, _)| name == "boundary");
    let (Some((_, boundary)), None) = (named.next(), named.next()) else {
        return Err(Unclear::Boundary);
    };
    let is_sound = (1..=LONGEST_BOUNDARY).contains(&boundary.len())
        && boundary.iter().all(|byte| byte.is_ascii_graphic());
    match (is_sound, std::str::from_utf8(boundary)) {
        (true, Ok(boundary)) => Ok(boundary.to_owned()),
        _ => Err(Unclear::Boundary),
    }
}

/// A name and its value, such as `name="model"`.
type Parameter = (String, Vec<u8>);

/// `; a=b; c="d"` without the first semicolon. No value is escaped.
fn parameters(mut text: &[u8]) -> Option<Vec<Parameter>> {
    let mut found = Vec::new();
    loop {
        let equals = text.iter().position(|&byte| byte == b'=')?;
        let name = std::str::from_utf8(text[..equals].trim_ascii()).ok()?;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
        if name.is_empty() || !name.bytes().all(is_word) {
            return None;
        }
        text = &text[equals + 1..];
        let value = if let Some(quoted) = text.strip_prefix(b"\"") {
            let end = quoted.iter().position(|&byte| byte == b'"')?;
            text = &quoted[end + 1..];
            &quoted[..end]
        } else {
            let end = text.iter().position(|&byte| byte == b';');
            let (value, rest) = text.split_at(end.unwrap_or(text.len()));
            text = rest;
            value.trim_ascii_end()
        };
        if value.iter().any(|&byte| byte == b'\\' || byte == b'"') {
            return None;
        }
        found.push((name.to_ascii_lowercase(), value.to_owned()));
        text = text.trim_ascii();
        match text {
            [] => return Some(found),
            [b';', rest @ ..] => text = rest,
            _ => return None,
        }
    }
}

/// Where the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the first boundary.
    Start,
    /// In the head of a part.
    Head,
    /// In what a part holds.
    Content(Part),
    /// After the last boundary.
    End,
}

/// Which part it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Model,
    Stream,
    File,
    Other,
}

/// Where a part begins, or the body ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where in the body its delimiter begins.
    pub at: usize,
    /// The name of the part; nothing at the end.
    pub name: Option<String>,
}

/// The reader of one body.
#[derive(Debug)]
pub struct Scanner {
    /// What stands before and after every part: two dashes and the boundary.
    delimiter: Vec<u8>,
    place: Place,
    /// What has come and is not done with.
    held: Vec<u8>,
    /// Where in the body that begins.
    at: usize,
    model: Option<(Range<usize>, String)>,
    stream: Option<bool>,
    has_file: bool,
    /// Where the last delimiter began.
    delimiter_at: usize,
    /// The parts whose heads were read since they were taken, and the end.
    marks: Vec<Mark>,
}

impl Scanner {
    /// For a body with this boundary.
    pub fn new(boundary: &str) -> Self {
        Self {
            delimiter: format!("--{boundary}").into_bytes(),
            place: Place::Start,
            held: Vec::new(),
            at: 0,
            model: None,
            stream: None,
            has_file: false,
            delimiter_at: 0,
            marks: Vec::new(),
        }
    }

    /// The name of the model and where in the body it stands, once it has come.
    pub fn model(&self) -> Option<&(Range<usize>, String)> {
        self.model.as_ref()
    }

    /// Whether the answer is to be a stream, as far as it was said.
    pub fn stream(&self) -> bool {
        self.stream.unwrap_or_default()
    }

    /// Whether a file has begun: what is to be known of a body stands before it.
    pub fn has_file(&self) -> bool {
        self.has_file
    }

    /// The parts that have come since this was asked last, and the end.
    pub fn take_marks(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.marks)
    }

    /// To where in the body it is known which part each byte belongs to.
    pub fn decided(&self) -> usize {
        match self.place {
            Place::Start => 0,
            // The delimiter goes with the part of which this is the head.
            Place::Head => self.delimiter_at,
            // What is held may be the beginning of a delimiter.
            Place::Content(_) => self.at,
            Place::End => self.at + self.held.len(),
        }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// The body is one that is not taken.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Unclear> {
        self.held.extend_from_slice(piece);
        while self.step()? {}
        Ok(())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// Its last part has not.
    pub fn finish(&self) -> Result<(), Unclear> {
        match self.place {
            Place::End => Ok(()),
            _ => Err(Unclear::End),
        }
    }

    /// One step; whether there may be another with what is held.
    fn step(&mut self) -> Result<bool, Unclear> {
        match self.place {
            Place::Start => self.start(),
            Place::Head => self.head(),
            Place::Content(part) => self.content(part),
            Place::End => match self.held.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                true => Ok(self.drop_held(self.held.len())),
                false => Err(Unclear::End),
            },
        }
    }

    /// Is done with so many bytes; nothing is left to do until there are more.
    fn drop_held(&mut self, count: usize) -> bool {
        self.held.drain(..count);
        self.at += count;
        false
    }

    /// Goes on after so many bytes.
    fn go(&mut self, count: usize, place: Place) -> bool {
        self.drop_held(count);
        self.place = place;
        true
    }

    fn start(&mut self) -> Result<bool, Unclear> {
        let seen = self.held.len().min(self.delimiter.len());
        if self.held[..seen] != self.delimiter[..seen] {
            return Err(Unclear::Start);
        }
        self.after_delimiter(0)
    }

    /// What follows the delimiter that begins at `from`: a line break before another
    /// part, or two dashes.
    fn after_delimiter(&mut self, from: usize) -> Result<bool, Unclear> {
        let end = from + self.delimiter.len();
        let at = self.at + from;
        match self.held.get(end..end + 2) {
            None => Ok(false),
            Some(b"\r\n") => {
                self.delimiter_at = at;
                Ok(self.go(end + 2, Place::Head))
            }
            Some(b"--") => {
                self.marks.push(Mark { at, name: None });
                Ok(self.go(end + 2, Place::End))
            }
            Some(_) => Err(Unclear::Delimiter),
        }
    }

    fn head(&mut self) -> Result<bool, Unclear> {
        let Some(end) = find(&self.held, b"\r\n\r\n").filter(|end| *end <= LONGEST_HEAD) else {
            return match self.held.len() > LONGEST_HEAD {
                true => Err(Unclear::Head),
                false => Ok(false),
            };
        };
        let (part, name) = part(&self.held[..end])?;
        self.marks.push(Mark {
            at: self.delimiter_at,
            name: Some(name),
        });
        match part {
            Part::Model if self.model.is_some() => return Err(Unclear::Twice),
            Part::Stream if self.stream.is_some() => return Err(Unclear::Stream),
            Part::File => self.has_file = true,
            _ => {}
        }
        Ok(self.go(end + 4, Place::Content(part)))
    }

    fn content(&mut self, part: Part) -> Result<bool, Unclear> {
        let too_long = match part {
            Part::Model => Some(Unclear::Name),
            Part::Stream => Some(Unclear::Stream),
            Part::File | Part::Other => None,
        };
        let Some(at) = find(&self.held, &self.delimiter) else {
            if let Some(too_long) = too_long {
                return match self.held.len() > LONGEST_NAME + self.delimiter.len() {
                    true => Err(too_long),
                    false => Ok(false),
                };
            }
            // A delimiter may have begun, with the line break before it.
            let kept = self.delimiter.len() + 1;
            return Ok(self.drop_held(self.held.len().saturating_sub(kept)));
        };
        if at < 2 || &self.held[at - 2..at] != b"\r\n" {
            return Err(Unclear::Delimiter);
        }
        if let Some(too_long) = too_long.filter(|_| at > LONGEST_NAME) {
            return Err(too_long);
        }
        let text = &self.held[..at - 2];
        match part {
            Part::Model => {
                let name = std::str::from_utf8(text).map_err(|_| Unclear::Name)?;
                self.model = Some((self.at..self.at + at - 2, name.to_owned()));
            }
            // As Python and JSON write it, and forms.
            Part::Stream => {
                self.stream = Some(match text.to_ascii_lowercase().as_slice() {
                    b"true" | b"1" => true,
                    b"false" | b"0" | b"" => false,
                    _ => return Err(Unclear::Stream),
                });
            }
            Part::File | Part::Other => {}
        }
        self.after_delimiter(at)
    }
}

/// Which part this is the head of, and its name.
fn part(head: &[u8]) -> Result<(Part, String), Unclear> {
    let mut disposition = None;
    let mut is_encoded = false;
    let is_bare = |at: usize| head[at] == b'\n' && (at == 0 || head[at - 1] != b'\r');
    if (0..head.len()).any(is_bare) {
        return Err(Unclear::Head);
    }
    for line in head.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let colon = line.iter().position(|&byte| byte == b':');
        let (name, value) = line.split_at(colon.ok_or(Unclear::Head)?);
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty()
            || !name.iter().all(is_token)
            || line.iter().any(|&b| b == b'\r' || b == 0)
        {
            return Err(Unclear::Head);
        }
        if name.eq_ignore_ascii_case(b"content-disposition") {
            if disposition.replace(&value[1..]).is_some() {
                return Err(Unclear::Head);
            }
        } else if name.eq_ignore_ascii_case(b"content-transfer-encoding") {
            is_encoded = true;
        }
    }
    let disposition = disposition.ok_or(Unclear::Head)?;
    let semicolon = disposition.iter().position(|&byte| byte == b';');
    let (kind, rest) = disposition.split_at(semicolon.ok_or(Unclear::Head)?);
    if !kind.trim_ascii().eq_ignore_ascii_case(b"form-data") {
        return Err(Unclear::Head);
    }
    let parameters = parameters(&rest[1..]).ok_or(Unclear::Head)?;
    let mut names = parameters.iter().filter(|(name, _)| name == "name");
    let (Some((_, name)), None) = (names.next(), names.next()) else {
        return Err(Unclear::Head);
    };
    if parameters.iter().any(|(name, _)| name == "name*") {
        return Err(Unclear::Head);
    }
    let is_file = parameters
        .iter()
        .any(|(name, _)| name.starts_with("filename"));
    let part = match (name.as_slice(), is_file || is_encoded) {
        (b"model", true) => return Err(Unclear::Name),
        (b"stream", true) => return Err(Unclear::Stream),
        (b"model", false) => Part::Model,
        (b"stream", false) => Part::Stream,
        _ if is_file => Part::File,
        _ => Part::Other,
    };
    Ok((part, String::from_utf8_lossy(name).into_owned()))
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIELD: &str = "Content-Disposition: form-data; name=";

    /// What is read of a body with the boundary `b`, in pieces of this length.
    fn read(body: &[u8], length: usize) -> Result<Option<(Range<usize>, String)>, Unclear> {
        let mut scanner = Scanner::new("b");
        for piece in body.chunks(length) {
            scanner.push(piece)?;
        }
        scanner.finish()?;
        Ok(scanner.model().cloned())
    }

    #[test]
    fn the_part_stream_says_whether_the_answer_is_one() {
        let check = |parts: &str, expected: Result<(bool, bool), Unclear>| {
            let mut scanner = Scanner::new("b");
            let body = format!("{parts}--b--\r\n");
            let read = scanner.push(body.as_bytes());
            let read = read.map(|()| (scanner.stream(), scanner.has_file()));
            assert_eq!(read, expected, "{parts}");
        };
        let stream = |text: &str| format!("--b\r\n{FIELD}stream\r\n\r\n{text}\r\n");
        let file = format!("--b\r\n{FIELD}file; filename=a\r\n\r\nabc\r\n");
        check("", Ok((false, false)));
        check(&file, Ok((false, true)));
        for (text, expected) in [
            ("true", true),
            ("True", true),
            ("1", true),
            ("false", false),
            ("", false),
        ] {
            check(&stream(text), Ok((expected, false)));
        }
        check(&stream("yes"), Err(Unclear::Stream));
        check(&(stream("true") + &stream("true")), Err(Unclear::Stream));
        let as_file = format!("--b\r\n{FIELD}stream; filename=a\r\n\r\ntrue\r\n");
        check(&as_file, Err(Unclear::Stream));
    }

    #[track_caller]
    fn check(body: &str, expected: Result<Option<&str>, Unclear>) {
        for length in [1, 2, 7, 1000] {
            let found = read(body.as_bytes(), length);
            let name = found
                .as_ref()
                .map(|found| found.as_ref().map(|found| found.1.as_str()));
            assert_eq!(
                name.map_err(|error| *error),
                expected,
                "{body:?} by {length}"
            );
            if let Ok(Some((at, name))) = found {
                assert_eq!(&body[at], name, "{body:?} by {length}");
            }
        }
    }

    #[test]
    fn the_part_model_is_found_wherever_it_stands() {
        let model = format!("{FIELD}\"model\"\r\n\r\nwhisper\r\n");
        let file = "content-disposition:form-data; name=file; filename=\"a;b.mp3\"\r\nContent-Type: audio/mpeg\r\n\r\n\0\r\n-b --\r\n--\r\n";
        check(
            &format!("--b\r\n{model}--b\r\n{file}--b--\r\n"),
            Ok(Some("whisper")),
        );
        check(
            &format!("--b\r\n{file}--b\r\n{model}--b--"),
            Ok(Some("whisper")),
        );
        check(&format!("--b\r\n{file}--b--\r\n"), Ok(None));
        check("--b--\r\n", Ok(None));
        check(
            &format!("--b\r\n{FIELD}\"Model\"\r\n\r\nx\r\n--b--"),
            Ok(None),
        );
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let part =
            |head: &str, content: &str| format!("--b\r\n{head}\r\n\r\n{content}\r\n--b--\r\n");
        let named = |name: &str| part(&format!("{FIELD}{name}"), "x");
        let twice = format!("--b\r\n{FIELD}\"model\"\r\n\r\nx\r\n{}", named("\"model\""));
        check(&twice, Err(Unclear::Twice));
        check(&named("\"mo\\del\""), Err(Unclear::Head));
        check(&named("x; name=\"model\""), Err(Unclear::Head));
        check(&named("x; name*=utf-8''model"), Err(Unclear::Head));
        check(&named("\"model\"; filename=\"x\""), Err(Unclear::Name));
        check(&part("X: y", "x"), Err(Unclear::Head));
        check(
            &part(&format!("{FIELD}x\r\n{FIELD}model"), "x"),
            Err(Unclear::Head),
        );
        check(
            &part(&format!("X: y\r\n {FIELD}model"), "x"),
            Err(Unclear::Head),
        );
        check(
            &part(&format!("{FIELD}x\nX: y\r\r"), "x"),
            Err(Unclear::Head),
        );
        check(
            &part(&format!("{FIELD}x"), "a\n--b\r\nc"),
            Err(Unclear::Delimiter),
        );
        check(
            &part(&format!("{FIELD}x"), "a\r\n--bc\r\nc"),
            Err(Unclear::Delimiter),
        );
        check(
            &part(&format!("{FIELD}model"), &"x".repeat(3000)),
            Err(Unclear::Name),
        );
        check(
            &part(&format!("X: {}\r\n{FIELD}x", "y".repeat(5000)), "x"),
            Err(Unclear::Head),
        );
        check(&format!(" {}", named("x")), Err(Unclear::Start));
        check(&format!("{}--b\r\n", named("x")), Err(Unclear::End));
        check(&format!("--b\r\n{FIELD}x\r\n\r\nx"), Err(Unclear::End));
    }

    #[test]
    fn a_boundary_is_one_that_everybody_reads_alike() {
        let check = |kind: &'static str, expected: Option<&str>| {
            let found = boundary(&HeaderValue::from_static(kind)).ok();
            assert_eq!(found.as_deref(), expected, "{kind}");
        };
        check("multipart/form-data; boundary=abc", Some("abc"));
        check(
            "Multipart/Form-Data;charset=x; BOUNDARY=\"a:b\"",
            Some("a:b"),
        );
        check("multipart/form-data", None);
        check("multipart/form-data; boundary=", None);
        check("multipart/form-data; boundary=a; boundary=b", None);
        check("multipart/form-data; boundary=\"a b\"", None);
        check("multipart/mixed; boundary=a", None);
        check("application/json", None);
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_answer(
            pieces in prop::collection::vec("--b|--b--|\r\n|\r\n\r\n|[ab\r\n-]{1,3}|content-disposition: form-data; name=model|x", 0..14),
            length in 1usize..9,
        ) {
            let body = pieces.concat();
            prop_assert_eq!(read(body.as_bytes(), length), read(body.as_bytes(), 1));
        }
    }
}
