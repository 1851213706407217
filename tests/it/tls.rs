//! TLS by a pair of files, and HTTP/2, which is spoken there alone: its floods
//! are sent as raw frames (RFC 9113, RFC 7541).

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::harness::{Home, PATIENCE, Server, long};

/// A home with a certificate.
struct Secured {
    home: Home,
}

impl Secured {
    fn new(more: &str) -> Self {
        let home = Home::new(&format!(
            "server: {{ tls: {{ cert: cert.pem, key: key.pem }}, {more} }}\nmodels: {{ t/a: {{}} }}\n"
        ));
        home.scripted("t/a", json!({"tokens": 3}));
        let secured = Self { home };
        secured.renew();
        secured
    }

    fn files(&self) -> (PathBuf, PathBuf) {
        (
            self.home.path().join("cert.pem"),
            self.home.path().join("key.pem"),
        )
    }

    /// Lays down a new pair; answers its certificate.
    fn renew(&self) -> CertificateDer<'static> {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(names).expect("a pair");
        let (cert_file, key_file) = self.files();
        std::fs::write(&key_file, signing_key.serialize_pem()).expect("written");
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600))
            .expect("closed");
        std::fs::write(cert_file, cert.pem()).expect("written");
        cert.der().clone()
    }
}

/// Shakes hands with whoever shows this certificate.
async fn connect(
    server: &Server,
    certificate: &CertificateDer<'static>,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let address = server.inference.strip_prefix("https://").expect("TLS");
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// Asks for the health over HTTP/1.1; answers the status line and body.
async fn health(server: &Server, certificate: &CertificateDer<'static>) -> std::io::Result<String> {
    let mut stream = connect(server, certificate, &["http/1.1"]).await?;
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn tls_is_spoken_where_there_is_a_pair_and_nothing_else() {
    let secured = Secured::new("");
    let certificate = secured.renew();
    let server = secured.home.serve();
    assert!(
        server.management.starts_with("https://"),
        "{}",
        server.management
    );
    let text = health(&server, &certificate).await.expect("an answer");
    assert!(
        text.starts_with("HTTP/1.1 200") && text.ends_with(r#"{"status":"ok"}"#),
        "{text}"
    );
    let clear = server.inference.replace("https://", "http://");
    let answer = reqwest::Client::new()
        .get(format!("{clear}/health"))
        .send()
        .await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(
        server.status().await["requests"]["running"],
        0,
        "the control socket is in clear"
    );
}

#[tokio::test]
async fn a_renewed_pair_is_taken_up_and_a_bad_one_is_not() {
    let secured = Secured::new("");
    let first = secured.renew();
    let server = secured.home.serve();
    assert!(health(&server, &first).await.is_ok());
    let second = secured.renew();
    let start = Instant::now();
    while health(&server, &second).await.is_err() {
        assert!(start.elapsed() < PATIENCE, "not taken up\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        health(&server, &first).await.is_err(),
        "the first one is gone"
    );
    let (cert, key) = secured.files();
    std::fs::write(&cert, "no certificate").expect("written");
    until_log(&server, "not renewed", 1).await;
    assert!(
        health(&server, &second).await.is_ok(),
        "the one before stays in force"
    );
    secured.renew();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("opened");
    until_log(&server, "chmod 600", 1).await;
    let last = secured.renew();
    let start = Instant::now();
    while health(&server, &last).await.is_err() {
        assert!(start.elapsed() < PATIENCE, "not taken up\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_log(server: &Server, words: &str, times: usize) {
    let start = Instant::now();
    while server.log().matches(words).count() < times {
        assert!(
            start.elapsed() < PATIENCE,
            "never {words:?}\n{}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_pair_that_cannot_be_used_is_refused_before_a_port_opens() {
    let check = |spoil: &dyn Fn(&Secured), words: &str| {
        let secured = Secured::new("");
        spoil(&secured);
        let (code, out, error) = secured.home.run(&["serve", "--json"]);
        assert_eq!((code, out.as_str()), (78, ""), "{words}: {error}");
        assert!(error.contains(words), "{words}: {error}");
    };
    check(
        &|secured| std::fs::remove_file(secured.files().0).expect("removed"),
        "cert.pem",
    );
    check(
        &|secured| std::fs::write(secured.files().0, "x").expect("written"),
        "a certificate",
    );
    check(
        &|secured| std::fs::write(secured.files().1, "x").expect("written"),
        "a private key",
    );
    let open = std::fs::Permissions::from_mode(0o640);
    check(
        &|secured| std::fs::set_permissions(secured.files().1, open.clone()).expect("opened"),
        "chmod 600",
    );
    check(
        &|secured| {
            let (cert, _) = secured.files();
            let first = std::fs::read(&cert).expect("read");
            secured.renew();
            std::fs::write(cert, first).expect("written");
        },
        "do not go together",
    );
}

#[tokio::test]
async fn a_handshake_has_its_time() {
    let secured = Secured::new("limits: { header_time: 1s }");
    let server = secured.home.serve();
    let address = server.inference.strip_prefix("https://").expect("TLS");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let start = Instant::now();
    let mut space = [0; 16];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut space))
        .await
        .expect("in time");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let lasted = start.elapsed();
    assert!(
        lasted > Duration::from_millis(800) && lasted < Duration::from_secs(3),
        "{lasted:?}"
    );
}

#[test]
fn a_reachable_address_in_clear_text_is_warned_of() {
    for (tls, warned) in [(false, true), (true, false)] {
        let secured = Secured::new("");
        if !tls {
            secured.home.configure("models: { t/a: {} }\n");
        }
        secured.home.run(&["keys", "new"]);
        let args = [
            "serve",
            "--json",
            "--scripted-engine",
            "--management",
            "127.0.0.1:0",
            "--listen",
            "0.0.0.0:0",
        ];
        let server = secured.home.start(secured.home.command(&args));
        assert_eq!(
            server.log().contains("clear text"),
            warned,
            "{}",
            server.log()
        );
    }
}

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
        assert!(text.starts_with("HTTP/1.1 200") && start.elapsed() < Duration::from_millis(500));
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
        let text = health(&server, &certificate).await.expect("an answer");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }
    let grown = memory(server.pid()).saturating_sub(before);
    println!("CONTINUATION flood: {grown} bytes more");
    assert!(grown < 32_000_000, "{grown} bytes more");
}
