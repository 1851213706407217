//! How requests are framed (group H): what is ambiguous is refused or has one
//! reading only, and the engine gets a request of our framing, or none. The
//! clients here write byte by byte what no library would.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::harness::{Home, Server, question};
use super::raw::Raw;

/// A server with the model `t/a`, and the files in which its worker writes down the
/// answers it began and the last body it got.
struct Place {
    server: Server,
    journal: PathBuf,
    last: PathBuf,
    _home: Home,
}

/// What became of a raw request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// 400, the connection closed, nothing at the worker.
    Refused,
    /// Answered by the worker from exactly the body that was meant, then closed or not.
    Answered,
}
use Fate::{Answered, Refused};

impl Place {
    async fn new() -> Self {
        let home = Home::new("models: { t/a: {} }\n");
        let script = json!({"tokens": 1, "journal": "journal", "last_body": "last"});
        let snapshot = home.scripted("t/a", script);
        let place = Self {
            server: home.serve(),
            journal: snapshot.join("journal"),
            last: snapshot.join("last"),
            _home: home,
        };
        let ready = place.server.chat(&question("t/a", "first", false)).await;
        assert_eq!(ready.status, 200, "{ready:?}");
        place
    }

    /// How many answers the worker has begun.
    fn begun(&self) -> usize {
        let journal = std::fs::read_to_string(&self.journal).unwrap_or_default();
        journal.matches("started").count()
    }

    /// Sends these bytes on a connection of their own, with `body` as the one that is
    /// meant, and closes the sending half: nobody waits for more.
    async fn check(&self, what: &str, request: impl AsRef<[u8]>, body: &str, fate: Fate) {
        let before = self.begun();
        let mut raw = Raw::connect(&self.server.inference).await;
        raw.send(request).await;
        let reply = raw.reply().await;
        let (status, begun) = match fate {
            Refused => (400, before),
            Answered => (200, before + 1),
        };
        assert_eq!(reply.status, status, "{what}: {reply:?}");
        if fate == Refused {
            raw.closed().await;
        } else {
            let last = std::fs::read_to_string(&self.last).expect("a body");
            assert_eq!(last, body, "{what}");
        }
        assert_eq!(self.begun(), begun, "{what}: what the worker began");
    }
}

fn body(nonce: &str) -> String {
    question("t/a", nonce, false).to_string()
}

/// The beginning of a request for a chat, without the end of its head.
const START: &str =
    "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

/// A whole request with these header lines and these bytes after the head.
fn request(lines: &str, after: &str) -> String {
    format!("{START}{lines}\r\n{after}")
}

/// A body as one chunk and the end.
fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

#[tokio::test]
async fn h01_with_two_framings_the_chunks_count_and_nothing_after_them() {
    let place = Place::new().await;
    let body = body("meant");
    let smuggled = request(
        &format!("Content-Length: {}\r\n", body.len()),
        &self::body("smuggled"),
    );
    for order in [0, 1] {
        let mut lines = ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"];
        lines.rotate_left(order);
        let plain = request(&lines.concat(), &chunked(&body));
        for (what, text) in [("plain", plain.clone()), ("smuggled", plain + &smuggled)] {
            let before = place.begun();
            let mut raw = Raw::connect(&place.server.inference).await;
            raw.send(text).await;
            let reply = raw.reply().await;
            assert!([200, 400].contains(&reply.status), "{what}: {reply:?}");
            raw.closed().await;
            let most = before + usize::from(reply.status == 200);
            assert_eq!(place.begun(), most, "{what}");
            let last = std::fs::read_to_string(&place.last).expect("a body");
            assert!(!last.contains("smuggled"), "{last}");
        }
    }
}

#[tokio::test]
async fn h02_two_lengths_are_refused_unless_they_are_one() {
    let place = Place::new().await;
    let body = body("n");
    let length = body.len();
    let check = async |lines: String, fate| {
        let what = lines.clone();
        place
            .check(&what, request(&lines, &body), &body, fate)
            .await;
    };
    let two = |first: usize, second: usize| {
        format!("Content-Length: {first}\r\nContent-Length: {second}\r\n")
    };
    check(two(length, length + 1), Refused).await;
    check(two(length + 1, length), Refused).await;
    check(
        format!("Content-Length: {length}, {}\r\n", length + 1),
        Refused,
    )
    .await;
    check(two(length, length), Answered).await;
}

#[tokio::test]
async fn h03_a_length_that_is_no_plain_number_is_refused() {
    let place = Place::new().await;
    let body = body("n");
    let length = body.len();
    for value in [
        format!("+{length}"),
        "-1".to_owned(),
        format!("{length:#x}"),
        format!("{}_{}", length / 10, length % 10),
        format!("{length}.0"),
        format!("{length}abc"),
        "99999999999999999999".to_owned(),
        String::new(),
    ] {
        let text = request(&format!("Content-Length: {value}\r\n"), &body);
        place.check(&value, text, &body, Refused).await;
    }
    // Blanks around a value are no part of it (RFC 9112, 5.1); zeros before it are.
    for value in [
        format!(" {length}"),
        format!("{length} "),
        format!("0{length}"),
    ] {
        let text = request(&format!("Content-Length:{value}\r\n"), &body);
        place.check(&value, text, &body, Answered).await;
    }
}

#[tokio::test]
async fn h04_a_transfer_that_is_not_simply_chunked_is_refused() {
    let place = Place::new().await;
    let body = body("n");
    for lines in [
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: identity\r\n",
    ] {
        let text = request(lines, &chunked(&body));
        place.check(lines, text, &body, Refused).await;
    }
    // Said twice it is one framing, and the worker gets one of ours.
    for lines in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
    ] {
        let before = place.begun();
        let mut raw = Raw::connect(&place.server.inference).await;
        raw.send(request(lines, &chunked(&body))).await;
        let reply = raw.reply().await;
        assert!([200, 400].contains(&reply.status), "{lines}: {reply:?}");
        let begun = before + usize::from(reply.status == 200);
        assert_eq!(place.begun(), begun, "{lines}");
        if reply.status == 200 {
            let last = std::fs::read_to_string(&place.last).expect("a body");
            assert_eq!(last, body, "{lines}");
        }
    }
}

#[tokio::test]
async fn h06_chunks_are_read_exactly_and_leave_no_trace() {
    let place = Place::new().await;
    let body = body("n");
    let length = body.len();
    let lines = "Transfer-Encoding: chunked\r\n";
    let check = async |what: &str, after: String, fate| {
        let text = request(lines, &after);
        place.check(what, text, &body, fate).await;
    };
    check("0x", format!("{length:#x}\r\n{body}\r\n0\r\n\r\n"), Refused).await;
    check(
        "negative",
        format!("-{length:x}\r\n{body}\r\n0\r\n\r\n"),
        Refused,
    )
    .await;
    check(
        "17 digits",
        format!("1{length:016x}\r\n{body}\r\n0\r\n\r\n"),
        Refused,
    )
    .await;
    let long = "e".repeat(64 * 1024);
    check(
        "extension",
        format!("{length:x};{long}\r\n{body}\r\n0\r\n\r\n"),
        Refused,
    )
    .await;
    check("bare LF", format!("{length:x}\n{body}\n0\n\n"), Refused).await;
    check(
        "no CRLF after the data",
        format!("{length:x}\r\n{body}0\r\n\r\n"),
        Refused,
    )
    .await;
    check(
        "longer than it says",
        format!("{:x}\r\n{body}\r\n0\r\n\r\n", length - 1),
        Refused,
    )
    .await;
    check(
        "extension",
        format!("{length:x};a=b\r\n{body}\r\n0\r\n\r\n"),
        Answered,
    )
    .await;
    // What no text has in an extension is refused, or read over.
    let before = place.begun();
    let mut raw = Raw::connect(&place.server.inference).await;
    let odd = format!("{length:x};a=\0b\r\n{body}\r\n0\r\n\r\n");
    raw.send(request(lines, &odd)).await;
    let reply = raw.reply().await;
    assert!([200, 400].contains(&reply.status), "NUL: {reply:?}");
    if reply.status == 200 {
        let last = std::fs::read_to_string(&place.last).expect("a body");
        assert_eq!(last, body, "NUL");
    }
    let begun = before + usize::from(reply.status == 200);
    assert_eq!(place.begun(), begun, "NUL");
    // Trailers say nothing here: not who asks, not how long the body is.
    let trailers = "Authorization: Bearer x\r\nContent-Length: 5\r\nHost: elsewhere.example\r\n";
    let after = format!("{length:x}\r\n{body}\r\n0\r\n{trailers}\r\n");
    check("trailers", after, Answered).await;
    // In many small chunks it is the same body.
    let small: String = body
        .as_bytes()
        .chunks(7)
        .map(|piece| {
            format!(
                "{:x}\r\n{}\r\n",
                piece.len(),
                String::from_utf8_lossy(piece)
            )
        })
        .collect();
    check("small", format!("{small}0\r\n\r\n"), Answered).await;
}

#[tokio::test]
async fn h07_control_characters_in_a_head_are_refused() {
    let place = Place::new().await;
    let body = body("n");
    let length = format!("Content-Length: {}\r\n", body.len());
    for odd in [
        &b"X-A: a\0b\r\n"[..],
        b"X-A: a\rb\r\n",
        b"X\0A: a\r\n",
        b"X A: a\r\n",
        b"X-A: a\r\n b\r\n",
        "X-\u{e9}: a\r\n".as_bytes(),
        b": a\r\n",
        b"X-A\r\n",
    ] {
        let what = format!("{:?}", String::from_utf8_lossy(odd));
        let text = [
            START.as_bytes(),
            length.as_bytes(),
            odd,
            b"\r\n",
            body.as_bytes(),
        ]
        .concat();
        place.check(&what, text, &body, Refused).await;
    }
}

#[tokio::test]
async fn h07_what_is_read_over_in_a_head_is_not_handed_on() {
    let place = Place::new().await;
    let body = body("n");
    let length = body.len();
    for (what, text) in [
        (
            "bare LF",
            request(&format!("Content-Length: {length}\r\nX-A: a\n"), &body),
        ),
        (
            "bare LF before a length",
            request(&format!("X-A: a\nContent-Length: {length}\r\n"), &body),
        ),
        (
            "not ASCII in a value",
            request(
                &format!("X-A: \u{e9}\r\nContent-Length: {length}\r\n"),
                &body,
            ),
        ),
    ] {
        let before = place.begun();
        let mut raw = Raw::connect(&place.server.inference).await;
        raw.send(text).await;
        let reply = raw.reply().await;
        assert!([200, 400].contains(&reply.status), "{what}: {reply:?}");
        let begun = before + usize::from(reply.status == 200);
        assert_eq!(place.begun(), begun, "{what}");
        if reply.status == 200 {
            let last = std::fs::read_to_string(&place.last).expect("a body");
            assert_eq!(last, body, "{what}");
        }
    }
}

/// What the client says of its connection changes neither what the engine is asked nor
/// what the client gets back. That nothing else of its head goes on is shown where an
/// engine tells what it got (`engines.rs`).
#[tokio::test]
async fn h10_what_the_client_says_of_its_connection_ends_here() {
    let place = Place::new().await;
    let body = body("n");
    let lines = format!(
        "Connection: authorization, x-request-id, host, content-length, keep-alive\r\n\
         Keep-Alive: timeout=1\r\nTE: trailers, deflate\r\nTrailer: X-Sum\r\n\
         Proxy-Authorization: Basic eDp5\r\nProxy-Connection: close\r\nX-Request-Id: h10-one\r\n\
         Content-Length: {}\r\n",
        body.len()
    );
    let mut raw = Raw::connect(&place.server.inference).await;
    raw.send(request(&lines, &body)).await;
    let reply = raw.reply().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("x-request-id"), Some("h10-one"), "{reply:?}");
    for name in [
        "keep-alive",
        "te",
        "trailer",
        "proxy-authorization",
        "transfer-encoding",
    ] {
        assert_eq!(reply.header(name), None, "{reply:?}");
    }
    let last: Value =
        serde_json::from_str(&std::fs::read_to_string(&place.last).expect("a body")).expect("JSON");
    assert_eq!(last["nonce"], "n");
}

#[tokio::test]
async fn h14_no_spelling_of_a_path_leads_elsewhere() {
    let place = Place::new().await;
    for path in [
        "/v1/../admin/status",
        "/v1/%2e%2e/admin/status",
        "/v1/..%2fadmin/status",
        "//v1/models",
        "/v1//models",
        "/v1;x/models",
        "/V1/models",
        "/v1/models%00",
        "/v1/models/%c0%ae%c0%ae",
        "/v1/models/%ff",
        "/%76%31/models",
        "/admin/status",
        "http://localhost/admin/status",
        "*",
    ] {
        let mut raw = Raw::connect(&place.server.inference).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
            .await;
        let reply = raw.reply().await;
        assert!([400, 404].contains(&reply.status), "{path}: {reply:?}");
        assert!(!reply.body.contains("\"models\""), "{path}: {reply:?}");
    }
}
