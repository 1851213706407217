//! What goes through the router byte for byte, and what does not go through at all:
//! bodies as they were written but for what a rule changes (must an engine see), events
//! as they were sent, and answers that are no sound HTTP (H-12). The engine is a script
//! that keeps what it is asked and sends what it is told to.

use std::fmt::Write as _;
use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::json;

use super::super::harness::{Answer, Home, Server, long, question};
use super::python;

/// A server with one entry of that engine.
pub struct Place {
    pub server: Server,
    pub folder: PathBuf,
    _home: Home,
}

/// An answer that any client takes.
const PLAIN: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

impl Place {
    /// With these further keys of the engine and of the entry.
    pub fn new(engine: &str, entry: &str) -> Self {
        let home = Home::new("");
        let folder = home.path().join("raw");
        std::fs::create_dir(&folder).expect("made");
        std::fs::write(folder.join("model.bin"), [7; 100]).expect("written");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/engines/raw.py");
        let command = json!([python(), script, "--port", "{port}", folder]);
        home.configure(&format!(
            "engines:\n  raw: {{ command: {command}, model: \"its own\", {engine} }}\n\
             models:\n  raw: {{ path: {}, engine: raw, memory: 100MB, {entry} }}\n",
            json!(folder),
        ));
        let place = Self {
            server: home.serve(),
            folder,
            _home: home,
        };
        place.replies(PLAIN);
        place
    }

    /// What the engine says from now on.
    pub fn replies(&self, reply: impl AsRef<[u8]>) {
        std::fs::write(self.folder.join("reply"), reply).expect("written");
    }

    /// The body that it got last.
    pub fn body(&self) -> String {
        self.kept("body").expect("a body")
    }

    /// A file of its folder.
    pub fn kept(&self, name: &str) -> Option<String> {
        let kept = std::fs::read(self.folder.join(name)).ok()?;
        Some(String::from_utf8(kept).expect("text"))
    }

    async fn asks(&self, body: String) -> Answer {
        self.posts("/v1/chat/completions", "application/json", body)
            .await
    }

    /// Posts a body of this kind.
    pub async fn posts(&self, path: &str, kind: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.server.request(Method::POST, path);
        let request = request.header("content-type", kind).body(body);
        Answer::read(request.send().await.expect("an answer")).await
    }

    async fn chat(&self, stream: bool) -> Answer {
        self.asks(question("raw", "n", stream).to_string()).await
    }
}

/// Texts of JSON in spellings that a writer of JSON would not choose.
struct Odd(StdRng);

impl Odd {
    fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.below(of.len())]
    }

    fn space(&mut self) -> &'static str {
        self.one(&["", "", "", " ", "\n\t", "\r\n  "])
    }

    fn text(&mut self) -> String {
        let mut text = "\"".to_owned();
        let length = match self.below(200) {
            0 => 20_000,
            1..20 => 300,
            _ => 8,
        };
        for _ in 0..self.below(length + 1) {
            text += self.one(&[
                "a",
                "B",
                " ",
                "é",
                "漢",
                "🦀",
                "{",
                "]",
                ":",
                ",",
                "'",
                "\\\"",
                "\\\\",
                "\\/",
                "\\n",
                "\\u0041",
                "\\u0000",
                "\\ud83d\\ude00",
                "\\uD800",
                "\\udc00",
                "\u{2028}",
                "\u{7f}",
                "data: [DONE]",
            ]);
        }
        text + "\""
    }

    fn value(&mut self, depth: usize) -> String {
        match self.below(if depth > 5 { 5 } else { 7 }) {
            0 | 1 => self.text(),
            2 | 3 => self
                .one(&[
                    "0",
                    "-0",
                    "1e0",
                    "1E+2",
                    "0.10",
                    "1e400",
                    "-1e-400",
                    "3.14159265358979323846264338",
                    "123456789012345678901234567890",
                    "9007199254740993",
                    "1.0",
                ])
                .to_owned(),
            4 => self.one(&["null", "true", "false"]).to_owned(),
            5 => {
                let mut text = "[".to_owned();
                for index in 0..self.below(4) {
                    let comma = if index > 0 { "," } else { "" };
                    let (before, value, after) =
                        (self.space(), self.value(depth + 1), self.space());
                    let _ = write!(text, "{comma}{before}{value}{after}");
                }
                text + "]"
            }
            _ => {
                let mut text = "{".to_owned();
                for index in 0..self.below(4) {
                    let comma = if index > 0 { "," } else { "" };
                    let (key, space, value) = (self.text(), self.space(), self.value(depth + 1));
                    let _ = write!(text, "{comma}{space}{key}{space}:{value}{space}");
                }
                text + "}"
            }
        }
    }

    /// A body, and what the engine is to get of it by the rules of the test.
    fn body(&mut self) -> (String, String) {
        // Key, value as it is sent, value as it arrives; nothing if it is taken out.
        let mut members: Vec<(String, String, Option<String>)> = Vec::new();
        let mut same =
            |key: &str, value: String| members.push((key.to_owned(), value.clone(), Some(value)));
        // What is counted is text to its last character.
        let content = self.text().replace("\\uD800", "x").replace("\\udc00", "y");
        same(
            "\"messages\"",
            format!("[{{\"role\":\"user\",\"content\":{content}}}]"),
        );
        for number in 0..self.below(6) {
            let value = self.value(0);
            same(&format!("\"x\\u005f{number}é\""), value);
        }
        if self.below(2) == 0 {
            let value = self
                .one(&["0.70", "1e0", "2", "null", "0.0000001e5"])
                .to_owned();
            same("\"temperature\"", value);
        }
        let model = self.one(&["\"model\"", "\"mod\\u0065l\""]).to_owned();
        let name = self.one(&["\"raw\"", "\"\\u0072aw\""]).to_owned();
        members.push((model, name, Some("\"its own\"".to_owned())));
        let bound = self.one(&["1", "512", "513", "999999", "null"]).to_owned();
        let lowered = match bound.as_str() {
            "513" | "999999" | "null" => "512".to_owned(),
            _ => bound.clone(),
        };
        members.push(("\"max_tokens\"".to_owned(), bound, Some(lowered)));
        let has_seed = self.below(2) == 0;
        if has_seed {
            members.push((
                "\"seed\"".to_owned(),
                "123".to_owned(),
                Some("7".to_owned()),
            ));
        }
        if self.below(2) == 0 {
            let value = self.value(0);
            members.push(("\"us\\u0065r\"".to_owned(), value, None));
        }
        for at in (1..members.len()).rev() {
            let other = self.below(at + 1);
            members.swap(at, other);
        }
        // What is taken out from the end takes the comma before it along.
        if members.last().is_some_and(|last| last.2.is_none()) {
            members.rotate_right(1);
        }
        let front = self.space();
        let (mut sent, mut got) = (format!("{front}{{"), format!("{front}{{"));
        if !has_seed {
            got += "\"seed\":7,";
        }
        let first = self.space();
        sent += first;
        got += first;
        let count = members.len();
        for (index, (key, value, arrives)) in members.into_iter().enumerate() {
            let (colon, after) = (format!("{}:{}", self.space(), self.space()), self.space());
            let comma = match index + 1 == count {
                true => String::new(),
                false => format!(",{}", self.space()),
            };
            let _ = write!(sent, "{key}{colon}{value}{after}{comma}");
            if let Some(arrives) = arrives {
                let _ = write!(got, "{key}{colon}{arrives}{after}{comma}");
            }
        }
        let end = self.space();
        (format!("{sent}}}{end}"), format!("{got}}}{end}"))
    }

    /// A stream of an engine: events in any spelling of the format, ended by it.
    fn stream(&mut self) -> String {
        let mut stream = String::new();
        for _ in 0..self.below(40) {
            let line_break = self.one(&["\n", "\r\n"]);
            let value = self.value(3).replace(['\n', '\r'], " ");
            let kind = self.one(&["data: ", "data:", ": ", "event: x\ndata: ", "id: "]);
            let _ = write!(stream, "{kind}{value}{line_break}{line_break}");
        }
        stream + "data: [DONE]\n\n"
    }
}

fn count() -> usize {
    if long() { 10_000 } else { 200 }
}

/// A stream as an answer, in chunks.
fn streamed(odd: &mut Odd, stream: &str) -> String {
    let mut reply =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_owned();
    let mut rest = stream;
    while !rest.is_empty() {
        let mut end = rest.len().min(1 + odd.below(300));
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (chunk, later) = rest.split_at(end);
        let _ = write!(reply, "{:x}\r\n{chunk}\r\n", chunk.len());
        rest = later;
    }
    reply + "0\r\n\r\n"
}

/// Must show 5: bodies as they were written but for what a rule changed.
#[tokio::test]
async fn generated_bodies_arrive_byte_for_byte_but_for_the_rules() {
    let rules = "request: { set: { seed: 7 }, limits: { max_tokens: 512 }, strip: [user] }";
    let place = Place::new("", rules);
    let mut odd = Odd(StdRng::seed_from_u64(5));
    for number in 0..count() {
        let (sent, expected) = odd.body();
        let answer = place.asks(sent.clone()).await;
        assert_eq!(answer.status, 200, "{number}: {sent}\n{answer:?}");
        assert!(
            place.body() == expected,
            "{number}: {sent}\n{}\n{expected}",
            place.body()
        );
    }
}

/// Must show 5, the other way.
#[tokio::test]
async fn e01_generated_streams_arrive_byte_for_byte() {
    let place = Place::new("", "");
    let mut odd = Odd(StdRng::seed_from_u64(6));
    for number in 0..count() / 5 {
        let stream = odd.stream();
        place.replies(streamed(&mut odd, &stream));
        let answer = place.chat(true).await;
        assert_eq!(answer.status, 200, "{number}: {answer:?}");
        assert!(
            answer.text == stream,
            "{number}: {:?}\n{stream:?}",
            answer.text
        );
    }
}

#[tokio::test]
async fn h12_what_an_engine_says_amiss_is_taken_out_or_502() {
    let place = Place::new("", "");
    let chunk = "data: {\"choices\":[]}\n\ndata: [DONE]\n\n";
    let many = |count: usize| -> String { (0..count).map(|n| format!("x-{n}: y\r\n")).collect() };
    for stream in [false, true] {
        let (kind, body) = match stream {
            true => ("text/event-stream", chunk),
            false => ("application/json", "{}"),
        };
        let reply = |status: &str, lines: &str| {
            let length = body.len();
            format!(
                "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{lines}content-length: {length}\r\n\r\n{body}"
            )
        };
        let unsafe_ones = "Set-Cookie: a=b\r\nAccess-Control-Allow-Origin: *\r\nLocation: http://192.0.2.1/\r\n\
             Server: x\r\nConnection: keep-alive, cache-control\r\nCache-Control: public\r\n\
             Keep-Alive: timeout=9\r\nX-Request-Id: theirs\r\nX-Roundhouse-Model: theirs\r\n";
        place.replies(reply("200 OK", unsafe_ones));
        let answer = place.chat(stream).await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (200, body),
            "{answer:?}"
        );
        assert_eq!(answer.header("content-type"), Some(kind), "{answer:?}");
        assert_eq!(
            answer.header("x-roundhouse-model"),
            Some("raw"),
            "{answer:?}"
        );
        assert_ne!(answer.header("x-request-id"), Some("theirs"), "{answer:?}");
        let ours = stream.then_some("no-cache");
        assert_eq!(answer.header("cache-control"), ours, "{answer:?}");
        for name in [
            "set-cookie",
            "access-control-allow-origin",
            "location",
            "server",
            "keep-alive",
        ] {
            assert_eq!(answer.header(name), None, "{answer:?}");
        }
        let two_lengths = reply("200 OK", "Content-Length: 7\r\n");
        for (what, bytes) in [
            ("two lengths", two_lengths),
            ("1,000 fields", reply("200 OK", &many(1000))),
            ("CR in a value", reply("200 OK", "X-A: a\rb\r\n")),
            ("NUL in a value", reply("200 OK", "X-A: a\0b\r\n")),
            (
                "a line without a colon",
                reply("200 OK", "X-A: a\r\nno field\r\n"),
            ),
            ("status 999", reply("999 Odd", "")),
            ("status 99", reply("99 Odd", "")),
            (
                "status 302",
                reply("302 Found", "Location: http://192.0.2.1/\r\n"),
            ),
            ("status 500", reply("500 Odd", "")),
            ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned()),
            (
                "HTTP/2",
                reply("200 OK", "").replace("HTTP/1.1", "HTTP/2.0"),
            ),
        ] {
            place.replies(bytes.replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1));
            let answer = place.chat(stream).await;
            let code = answer.code();
            assert_eq!(
                (answer.status, code.as_str()),
                (502, "bad_upstream_response"),
                "{what} {stream}: {answer:?}"
            );
            assert!(!answer.text.contains("192.0.2.1"), "{what}: {answer:?}");
        }
        // A value that holds what would be two lines is two lines, and neither passes.
        place.replies(reply("200 OK", "X-A: a\r\nSet-Cookie: b=c\r\n"));
        assert_eq!(place.chat(stream).await.header("set-cookie"), None);
    }
}
