//! Reads an answer as HTTP/1.1 frames it, wherever its bytes were cut. Pure.
//!
//! Source: RFC 9112, sections 4 to 7 and 9. Where it lets a reader choose, this one is
//! strict: what another reader might take for a longer or a shorter answer is refused.

use axum::http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response};

/// Largest head of an answer, bytes.
const LARGEST_HEAD: usize = 64 * 1024;

/// Most fields of a head, and of trailers.
const MOST_FIELDS: usize = 100;

/// Most bytes of trailers, and of what may stand beside the sizes of all chunks.
const LARGEST_EXTRA: usize = 16 * 1024;

/// What comes is no answer in HTTP/1.1, or more of it than is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// A part of an answer, in the order in which they come.
#[derive(Debug)]
pub enum Part<'b> {
    /// Status and fields.
    Head(Response<()>),
    /// Bytes of the body.
    Data(&'b [u8]),
    /// The fields after a body in chunks, if there are any.
    Trailers(HeaderMap),
    /// Nothing more belongs to this answer.
    End,
}

/// The reader of one answer.
#[derive(Debug)]
pub struct Reader {
    expects: Expects,
    /// What has come of a head or of trailers that are not whole.
    held: Vec<u8>,
    /// Bytes beside the sizes of chunks so far.
    beside: usize,
    /// Whether the question was one that is answered without a body.
    is_bodiless: bool,
    /// Whether the other side goes on after this answer.
    goes_on: bool,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Head,
    /// One of so many bytes of the body.
    Body(u64),
    /// One of the body, or the end of the connection.
    BodyToTheEnd,
    /// One of a chunk's size, of which this is known, if anything.
    Size(Option<u64>),
    /// One of what follows a size up to the end of its line: an extension once there
    /// was a semicolon.
    Beside {
        size: u64,
        is_extension: bool,
    },
    /// The LF after a size.
    SizeLf(u64),
    /// One of so many bytes of a chunk.
    Chunk(u64),
    /// The CR after a chunk.
    ChunkCr,
    /// The LF after a chunk.
    ChunkLf,
    Trailers,
    /// Nothing: the end is still to be told.
    End,
    Nothing,
}

impl Reader {
    /// The answer to a question, which may be `HEAD`: that has no body.
    pub fn new(is_head: bool) -> Self {
        Self {
            expects: Expects::Head,
            held: Vec::new(),
            beside: 0,
            is_bodiless: is_head,
            goes_on: false,
        }
    }

    /// The next part, taken from the beginning of `bytes`; nothing until more has come.
    ///
    /// # Errors
    /// It is framed in a way that is not clear, or something is larger than is taken.
    pub fn next<'b>(&mut self, bytes: &mut &'b [u8]) -> Result<Option<Part<'b>>, Malformed> {
        loop {
            match self.expects {
                Expects::Head => match self.head(bytes)? {
                    Some(head) => return Ok(Some(Part::Head(head))),
                    None if bytes.is_empty() => return Ok(None),
                    // An answer before the answer, such as 100.
                    None => {}
                },
                Expects::End => {
                    self.expects = Expects::Nothing;
                    return Ok(Some(Part::End));
                }
                Expects::Trailers => return self.trailers(bytes),
                Expects::Nothing => return Ok(None),
                _ if bytes.is_empty() => return Ok(None),
                Expects::BodyToTheEnd => return Ok(Some(Part::Data(std::mem::take(bytes)))),
                Expects::Body(left) => {
                    let (data, left) = some(bytes, left);
                    self.expects = body(left);
                    return Ok(Some(Part::Data(data)));
                }
                Expects::Chunk(left) => {
                    let (data, left) = some(bytes, left);
                    self.expects = match left {
                        0 => Expects::ChunkCr,
                        left => Expects::Chunk(left),
                    };
                    return Ok(Some(Part::Data(data)));
                }
                _ => {
                    let (first, rest) = (bytes[0], &bytes[1..]);
                    self.expects = self.after(first)?;
                    *bytes = rest;
                }
            }
        }
    }

    /// The connection has ended, which is how some answers do.
    ///
    /// # Errors
    /// There should have been more of this one.
    pub fn finish(&mut self) -> Result<(), Malformed> {
        match std::mem::replace(&mut self.expects, Expects::Nothing) {
            Expects::BodyToTheEnd | Expects::End | Expects::Nothing => Ok(()),
            _ => Err(Malformed("the connection was closed before its end")),
        }
    }

    /// Whether the whole answer has been told.
    pub fn has_ended(&self) -> bool {
        self.expects == Expects::Nothing
    }

    /// Whether another question may follow on the same connection.
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// The head, once it is whole; nothing for one that announces another.
    fn head(&mut self, bytes: &mut &[u8]) -> Result<Option<Response<()>>, Malformed> {
        if self.held.is_empty() {
            let (length, head) = match read_head(bytes)? {
                Some(read) => read,
                None => {
                    self.hold(bytes);
                    return self.not_too_large();
                }
            };
            *bytes = &bytes[length..];
            return self.begin(head);
        }
        let before = self.held.len();
        let is_line_ended = bytes.contains(&b'\n');
        self.held.extend_from_slice(bytes);
        let read = match is_line_ended {
            true => read_head(&self.held)?,
            false => None,
        };
        let Some((length, head)) = read else {
            *bytes = &[];
            return self.not_too_large();
        };
        self.held.clear();
        *bytes = &bytes[length - before..];
        self.begin(head)
    }

    fn hold(&mut self, bytes: &mut &[u8]) {
        self.held.extend_from_slice(std::mem::take(bytes));
    }

    fn not_too_large(&self) -> Result<Option<Response<()>>, Malformed> {
        match self.held.len() > LARGEST_HEAD {
            true => Err(Malformed("its head is too large")),
            false => Ok(None),
        }
    }

    /// What follows a head.
    fn begin(&mut self, head: Head) -> Result<Option<Response<()>>, Malformed> {
        let status = head.response.status().as_u16();
        match status {
            101 => return Err(Malformed("it changes to another protocol")),
            100..=199 => return Ok(None),
            204 | 304 => self.is_bodiless = true,
            _ => {}
        }
        let headers = head.response.headers();
        let length = length(headers)?;
        let is_chunked = is_chunked(headers)?;
        if is_chunked && !head.is_current {
            return Err(Malformed("chunks were not known to its version of HTTP"));
        }
        let is_last = headers.get_all(CONNECTION).iter().any(|value| {
            let mut options = value.as_bytes().split(|&byte| byte == b',');
            options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
        });
        // With two framings the chunks count, and nothing after them is believed.
        self.goes_on = head.is_current && !is_last && !(is_chunked && length.is_some());
        self.expects = match (is_chunked, length) {
            _ if self.is_bodiless => Expects::End,
            (true, _) => Expects::Size(None),
            (false, Some(length)) => body(length),
            (false, None) => {
                self.goes_on = false;
                Expects::BodyToTheEnd
            }
        };
        Ok(Some(head.response))
    }

    /// What is expected after this byte of what frames chunks.
    fn after(&mut self, byte: u8) -> Result<Expects, Malformed> {
        let unclear = Err(Malformed("a chunk has no clear size or end"));
        Ok(match (self.expects, byte) {
            (Expects::Size(size), digit) if digit.is_ascii_hexdigit() => {
                let digit = char::from(digit).to_digit(16).unwrap_or_default();
                let size = size.unwrap_or_default().checked_mul(16);
                match size.and_then(|size| size.checked_add(digit.into())) {
                    Some(size) => Expects::Size(Some(size)),
                    None => return unclear,
                }
            }
            (Expects::Size(Some(size)), b'\r') | (Expects::Beside { size, .. }, b'\r') => {
                Expects::SizeLf(size)
            }
            (Expects::Size(Some(size)), b' ' | b'\t' | b';')
            | (
                Expects::Beside {
                    size,
                    is_extension: false,
                },
                b' ' | b'\t' | b';',
            ) => {
                self.count_beside()?;
                Expects::Beside {
                    size,
                    is_extension: byte == b';',
                }
            }
            (
                Expects::Beside {
                    size,
                    is_extension: true,
                },
                byte,
            ) if byte != b'\n' => {
                self.count_beside()?;
                Expects::Beside {
                    size,
                    is_extension: true,
                }
            }
            (Expects::SizeLf(0), b'\n') => Expects::Trailers,
            (Expects::SizeLf(size), b'\n') => Expects::Chunk(size),
            (Expects::ChunkCr, b'\r') => Expects::ChunkLf,
            (Expects::ChunkLf, b'\n') => Expects::Size(None),
            _ => return unclear,
        })
    }

    fn count_beside(&mut self) -> Result<(), Malformed> {
        self.beside += 1;
        match self.beside > LARGEST_EXTRA {
            true => Err(Malformed("too much stands beside the sizes of its chunks")),
            false => Ok(()),
        }
    }

    /// The fields after the last chunk, which end with an empty line.
    fn trailers<'b>(&mut self, bytes: &mut &'b [u8]) -> Result<Option<Part<'b>>, Malformed> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if byte == b'\n' && self.held.last() != Some(&b'\r') {
                return Err(Malformed("a line of its trailers does not end in CR LF"));
            }
            self.held.push(byte);
            *bytes = rest;
            if self.held == b"\r\n" {
                self.held.clear();
                self.expects = Expects::Nothing;
                return Ok(Some(Part::End));
            }
            if self.held.ends_with(b"\r\n\r\n") {
                let trailers = read_trailers(&self.held)?;
                self.held.clear();
                self.expects = Expects::End;
                return Ok(Some(Part::Trailers(trailers)));
            }
            if self.held.len() > LARGEST_EXTRA {
                return Err(Malformed("its trailers are too large"));
            }
        }
        Ok(None)
    }
}

/// As many of the bytes as belong to what has `left` bytes, and how many it has left then.
fn some<'b>(bytes: &mut &'b [u8], left: u64) -> (&'b [u8], u64) {
    let count = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    let (data, rest) = bytes.split_at(count);
    *bytes = rest;
    (data, left - count as u64)
}

/// A body of so many bytes.
fn body(length: u64) -> Expects {
    match length {
        0 => Expects::End,
        length => Expects::Body(length),
    }
}

/// A head as it was read.
struct Head {
    response: Response<()>,
    /// Whether it is of HTTP/1.1 and not of what was before.
    is_current: bool,
}

/// A head at the beginning of `bytes` and its length, if it is whole.
fn read_head(bytes: &[u8]) -> Result<Option<(usize, Head)>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= LARGEST_HEAD => length,
        Ok(httparse::Status::Complete(_)) => return Err(Malformed("its head is too large")),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed("its head is none of HTTP/1.1")),
    };
    let response = Response::builder().status(head.code.unwrap_or_default());
    let mut response = response
        .body(())
        .map_err(|_| Malformed("its status is none"))?;
    *response.headers_mut() = fields_of(head.headers)?;
    let is_current = head.version == Some(1);
    Ok(Some((
        length,
        Head {
            response,
            is_current,
        },
    )))
}

/// Trailers that end with an empty line.
fn read_trailers(bytes: &[u8]) -> Result<HeaderMap, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    match httparse::parse_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == bytes.len() => {
            fields_of(fields)
        }
        _ => Err(Malformed("its trailers are no fields")),
    }
}

fn fields_of(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Malformed("a field of it is none"));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

/// How long it says that the body is. Several lengths must be one.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for item in value.as_bytes().split(|&byte| byte == b',') {
            let item = item.trim_ascii();
            let is_number = !item.is_empty() && item.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(item).ok().filter(|_| is_number);
            let number = number.and_then(|text| text.parse::<u64>().ok());
            match (number, length) {
                (Some(number), None) => length = Some(number),
                (Some(number), Some(before)) if number == before => {}
                _ => return Err(Malformed("its length is no number, or several")),
            }
        }
    }
    Ok(length)
}

/// Whether the body comes in chunks; no other coding was asked for.
fn is_chunked(headers: &HeaderMap) -> Result<bool, Malformed> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(Malformed("its transfer is not simply chunked")),
    }
}

#[cfg(test)]
mod tests;
