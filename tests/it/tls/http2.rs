//! HTTP/2, which is spoken within TLS alone. Its floods are sent as raw frames
//! (RFC 9113, RFC 7541).

use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::super::harness::{PATIENCE, Server, long};
use super::{Secured, connect, health};

/// HTTP/2 by hand.
struct Frames {
    stream: TlsStream<TcpStream>,
    read: Vec<u8>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame as it goes over the wire.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a length")
        .to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that is in no table, without compression.
fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| vec![u8::try_from(text.len()).expect("short")];
    [
        vec![0],
        length(name),
        name.into(),
        length(value),
        value.into(),
    ]
    .concat()
}

/// The head of `GET path`.
fn get(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", path),
        (":authority", "localhost"),
    ];
    fields
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

impl Frames {
    async fn connect(server: &Server, certificate: &CertificateDer<'static>) -> Self {
        let mut stream = connect(server, certificate, &["h2"])
            .await
            .expect("connected");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .expect("sent");
        stream
            .write_all(&frame(SETTINGS, 0, 0, &[]))
            .await
            .expect("sent");
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// Sends; answers whether the server still takes it.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// The next frame: kind, flags, stream, payload; nothing at the end.
    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let Some(head) = self.read.get(..9) {
                let length =
                    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let (kind, flags) = (head[3], head[4]);
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                if self.read.len() >= 9 + length {
                    let payload = self.read[9..9 + length].to_vec();
                    self.read.drain(..9 + length);
                    return Some((kind, flags, stream, payload));
                }
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Waits for the end of the connection; answers whether it was told (GOAWAY).
    async fn ends(&mut self) -> bool {
        let mut told = false;
        let until = async {
            while let Some((kind, ..)) = self.next().await {
                told |= kind == GOAWAY;
            }
        };
        tokio::time::timeout(PATIENCE, until).await.expect("an end");
        told
    }
}

#[tokio::test]
async fn http2_is_spoken_by_those_who_ask_for_it_in_the_handshake() {
    let secured = Secured::new("");
    let certificate = secured.renew();
    let server = secured.home.serve();
    let mut frames = Frames::connect(&server, &certificate).await;
    frames
        .send(&frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            1,
            &get("/health"),
        ))
        .await;
    let (mut settings, mut good, mut body) = (None, false, Vec::new());
    while let Some((kind, flags, stream, payload)) = frames.next().await {
        match (kind, stream) {
            (SETTINGS, 0) if flags == 0 => settings = Some(payload),
            // Field 8 of the static table: ":status: 200".
            (HEADERS, 1) => good = payload.first() == Some(&0x88),
            (DATA, 1) => body.extend(payload),
            _ => {}
        }
        if stream == 1 && flags & END_STREAM != 0 {
            break;
        }
    }
    assert!(good && body == br#"{"status":"ok"}"#, "{body:?}");
    let settings = settings.expect("settings");
    let value = |id: u8| {
        let one = settings
            .chunks(6)
            .find(|one| one[..2] == [0, id])
            .expect("a setting");
        u32::from_be_bytes([one[2], one[3], one[4], one[5]])
    };
    assert_eq!(
        (value(3), value(6)),
        (128, 64 * 1024),
        "streams at once; size of heads"
    );
}

#[tokio::test]
async fn l03_an_answer_over_http2_that_is_not_taken_is_given_up() {
    let secured = Secured::new("limits: { write_stall: 1s }");
    let certificate = secured.renew();
    let server = secured.home.serve();
    let mut frames = Frames::connect(&server, &certificate).await;
    // SETTINGS_INITIAL_WINDOW_SIZE 0: nothing of a body may be sent.
    frames
        .send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]))
        .await;
    frames
        .send(&frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            1,
            &get("/v1/models"),
        ))
        .await;
    let start = Instant::now();
    let reset = async {
        loop {
            let (kind, _, stream, _) = frames.next().await.expect("the connection lives");
            assert!((kind, stream) != (DATA, 1), "a body without room for it");
            if (kind, stream) == (RST_STREAM, 1) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reset)
        .await
        .expect("given up");
    let lasted = start.elapsed();
    assert!(
        lasted > Duration::from_millis(800) && lasted < Duration::from_secs(5),
        "{lasted:?}"
    );
    // The connection serves other streams.
    let room = [&[0, 4][..], &65_535u32.to_be_bytes()].concat();
    frames.send(&frame(SETTINGS, 0, 0, &room)).await;
    frames
        .send(&frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            3,
            &get("/health"),
        ))
        .await;
    while let Some((kind, _, stream, _)) = frames.next().await {
        if (kind, stream) == (DATA, 3) {
            return;
        }
    }
    panic!("no answer on the same connection");
}

/// Resident bytes.
fn memory(process: u32) -> u64 {
    roundhouse::platform::resident_memory(process)
        .expect("a living process")
        .0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset_ends_its_connection_and_disturbs_nobody() {
    let secured = Secured::new("");
    let certificate = secured.renew();
    let server = secured.home.serve();
    health(&server, &certificate).await.expect("an answer");
    let before = memory(server.pid());
    let (connections, most) = if long() { (50, 200_000) } else { (5, 20_000) };
    // In one write, and each reset after the server had time to begin the request.
    for at_once in [true, false] {
        for _ in 0..connections {
            let mut frames = Frames::connect(&server, &certificate).await;
            let mut sent = 0;
            for id in (1..2 * most).step_by(2) {
                let asked = frame(HEADERS, END_STREAM | END_HEADERS, id, &get("/v1/models"));
                let given_up = frame(RST_STREAM, 0, id, &8u32.to_be_bytes());
                let taken = match at_once {
                    true => frames.send(&[asked, given_up].concat()).await,
                    false => frames.send(&asked).await && frames.send(&given_up).await,
                };
                if !taken {
                    break;
                }
                sent += 1;
            }
            assert!(sent < most, "the flood was taken whole");
            frames.ends().await;
        }
        let start = Instant::now();
        let text = health(&server, &certificate).await.expect("an answer");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let took = start.elapsed();
        println!("health after the flood: {took:?}");
        // How quick it is depends on what else the machine does; the long run has it alone.
        assert!(!long() || took < Duration::from_millis(500), "{took:?}");
    }
    let grown = memory(server.pid()).saturating_sub(before);
    println!("rapid reset: {grown} bytes more");
    assert!(grown < 32_000_000, "{grown} bytes more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_continuation_flood_ends_its_connection_and_disturbs_nobody() {
    let secured = Secured::new("");
    let certificate = secured.renew();
    let server = secured.home.serve();
    health(&server, &certificate).await.expect("an answer");
    let before = memory(server.pid());
    let connections = if long() { 50 } else { 5 };
    let fields: Vec<u8> = (0..80)
        .flat_map(|n| field(&format!("x-{n}"), &"y".repeat(100)))
        .collect();
    for payload in [&fields[..], &[]] {
        for _ in 0..connections {
            let mut frames = Frames::connect(&server, &certificate).await;
            frames
                .send(&frame(HEADERS, END_STREAM, 1, &get("/health")))
                .await;
            let flood = frame(CONTINUATION, 0, 1, payload);
            let mut sent = 0;
            while sent < 100_000 && frames.send(&flood).await {
                sent += 1;
            }
            assert!(sent < 100_000, "the flood was taken whole");
            frames.ends().await;
        }
        let asked = Instant::now();
        let text = health(&server, &certificate).await.expect("an answer");
        let took = asked.elapsed();
        assert!(text.starts_with("HTTP/1.1 200"), "{text:?} after {took:?}");
    }
    let grown = memory(server.pid()).saturating_sub(before);
    println!("CONTINUATION flood: {grown} bytes more");
    assert!(grown < 32_000_000, "{grown} bytes more");
}
