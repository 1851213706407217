//! What a worker writes, line by line, bounded and harmless: a worker may run a
//! hostile checkpoint, and its words end up on a person's terminal.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};

use crate::telemetry::escape;

/// The longest line of standard error that is passed on, bytes.
const LONGEST_LINE: usize = 8 * 1024;

/// Writes each line of a worker's standard error to the log, until its end. What engines
/// that are not ours write while they load (`is_foreign`) is for those who ask for more
/// than the usual log.
pub async fn log(stderr: impl AsyncRead + Unpin, model: &str, pid: u32, is_foreign: bool) {
    let mut stderr = BufReader::new(stderr);
    while let Ok(Some(line)) = next(&mut stderr, LONGEST_LINE).await {
        let line = printable(&line);
        match is_foreign {
            true => tracing::debug!(model, pid, "{line}"),
            false => tracing::info!(model, pid, "{line}"),
        }
    }
}

/// The next line without its end; what goes beyond `limit` bytes is left out.
/// Nothing at the end of the stream.
pub async fn next(
    reader: &mut (impl AsyncBufRead + Unpin),
    limit: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut has_begun = false;
    loop {
        let buffer = reader.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(has_begun.then_some(line));
        }
        has_begun = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        let room = limit - line.len();
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

/// Text in which nothing can steer a terminal.
pub fn printable(bytes: &[u8]) -> String {
    escape::text(String::from_utf8_lossy(bytes).trim_end()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_and_the_rest_is_left_out() {
        let mut reader = BufReader::with_capacity(3, &b"short\n\nmuch too long\nend"[..]);
        let mut lines = Vec::new();
        while let Some(line) = next(&mut reader, 8).await.expect("no error") {
            lines.push(String::from_utf8(line).expect("ASCII"));
        }
        assert_eq!(lines, ["short", "", "much too", "end"]);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        let check = |bytes: &[u8], expected: &str| assert_eq!(printable(bytes), expected);
        check(b"plain \xc3\xa9\r", "plain é");
        check(b"\x1b[31mred\x07", "\\u{1b}[31mred\\u{7}");
        check("a\u{202e}b\u{9b}c".as_bytes(), "a\\u{202e}b\\u{9b}c");
        check(b"\xff", "\u{fffd}");
    }
}
