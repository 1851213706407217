//! TLS by a pair of files.

mod http2;

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

use super::harness::{Home, PATIENCE, Server};

/// A home with a certificate.
struct Secured {
    home: Home,
}

impl Secured {
    fn new(more: &str) -> Self {
        let home = Home::new(&format!(
            "log: info,roundhouse=debug\nserver: {{ tls: {{ cert: cert.pem, key: key.pem }}, {more} }}\nmodels: {{ t/a: {{}} }}\n"
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
        let args = ["--management", "127.0.0.1:0", "--listen", "0.0.0.0:0"];
        let server = secured.home.serve_as(&args, &[]);
        if warned {
            server.logged(&["clear text"]);
        }
        // What is logged at the end stands after everything said at the start.
        server.signal(rustix::process::Signal::TERM);
        server.logged(&["stopping"]);
        assert_eq!(server.log().contains("clear text"), warned);
    }
}
