//! A service elsewhere, as plain as can be: a thread for each connection, what was
//! asked is kept, what is answered is written as it is given.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The request line and the headers.
    pub head: String,
    pub body: String,
}

impl Asked {
    /// A header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// What is answered.
pub enum Reply {
    /// These bytes, and the connection stays.
    Bytes(String),
    /// These bytes, and the connection ends.
    Cut(String),
    /// Nothing, for good.
    Hang,
}

/// The service. It lives as long as the test does.
pub struct Fake {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
}

type Answer = dyn Fn(&Asked) -> Reply + Send + Sync;

impl Fake {
    /// In clear text.
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::run(None, answer)
    }

    /// Within TLS.
    pub fn secured(
        tls: Arc<ServerConfig>,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::run(Some(tls), answer)
    }

    fn run(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let fake = Self {
            port: listener.local_addr().expect("an address").port(),
            asked: Arc::default(),
            connections: Arc::default(),
        };
        let answer: Arc<Answer> = Arc::new(answer);
        let (asked, connections) = (fake.asked.clone(), fake.connections.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                connections.fetch_add(1, Ordering::SeqCst);
                let (tls, answer, asked) = (tls.clone(), answer.clone(), asked.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &*answer, &asked),
                    Some(tls) => {
                        let session = ServerConnection::new(tls).expect("a session");
                        serve(StreamOwned::new(session, stream), &*answer, &asked);
                    }
                });
            }
        });
        fake
    }

    /// What an upstream of the file is called by.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("kept").clone()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Requests of one connection, one after the other, until it ends.
fn serve(stream: impl Read + Write, answer: &Answer, asked: &Mutex<Vec<Asked>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match stream.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let mut request = Asked {
            head,
            body: String::new(),
        };
        let length = request.header("content-length").map(str::parse);
        let mut body = vec![0; length.and_then(Result::ok).unwrap_or(0)];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        request.body = String::from_utf8(body).expect("text");
        asked.lock().expect("kept").push(request.clone());
        let (bytes, ends) = match answer(&request) {
            Reply::Bytes(bytes) => (bytes, false),
            Reply::Cut(bytes) => (bytes, true),
            Reply::Hang => {
                // Until the other side has enough.
                let _ = stream.read(&mut [0]);
                return;
            }
        };
        let stream = stream.get_mut();
        let written = stream
            .write_all(bytes.as_bytes())
            .and_then(|()| stream.flush());
        if ends || written.is_err() {
            return;
        }
    }
}

/// A server that knows only this version of TLS, an old one: it answers the beginning of a
/// handshake with a choice that is not on offer, and keeps what it is told.
pub struct OldTls {
    pub port: u16,
    told: Arc<Mutex<Vec<u8>>>,
}

impl OldTls {
    pub fn start(version: [u8; 2]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let old = Self {
            port: listener.local_addr().expect("an address").port(),
            told: Arc::default(),
        };
        let told = old.told.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut head = [0; 5];
                if stream.read_exact(&mut head).is_err() {
                    continue;
                }
                let mut hello = vec![0; u16::from_be_bytes([head[3], head[4]]).into()];
                let _ = stream.read_exact(&mut hello);
                let _ = stream.write_all(&server_hello(version));
                // What follows is for a handshake that came about.
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest);
                let mut told = told.lock().expect("kept");
                told.extend(head.into_iter().chain(hello).chain(rest));
            }
        });
        old
    }

    /// The kinds of the records that it was told, and all of what they hold.
    pub fn told(&self) -> (Vec<u8>, Vec<u8>) {
        let told = self.told.lock().expect("kept").clone();
        let (mut kinds, mut at) = (Vec::new(), 0);
        while let Some(head) = told.get(at..at + 5) {
            kinds.push(head[0]);
            at += 5 + usize::from(u16::from_be_bytes([head[3], head[4]]));
        }
        (kinds, told)
    }
}

/// A `ServerHello` (RFC 5246, 7.4.1.3) of this version in a record of its own.
fn server_hello(version: [u8; 2]) -> Vec<u8> {
    // The version, random bytes, no session, TLS_RSA_WITH_AES_128_CBC_SHA, no compression.
    let body = [&version[..], &[7; 32], &[0, 0x00, 0x2f, 0]].concat();
    let handshake = [&[2, 0, 0, body.len() as u8], body.as_slice()].concat();
    let record = [0x16, version[0], version[1], 0, handshake.len() as u8];
    [&record[..], &handshake].concat()
}

/// A listener that notes whether anybody calls.
pub struct Canary {
    listener: TcpListener,
}

impl Canary {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("set");
        Self { listener }
    }

    pub fn url(&self) -> String {
        format!(
            "http://{}/v1",
            self.listener.local_addr().expect("an address")
        )
    }

    pub fn assert_untouched(&self) {
        let called: std::io::Result<(TcpStream, _)> = self.listener.accept();
        assert!(called.is_err(), "{called:?}");
    }
}

/// An authority of our own, and what it signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// A certificate for this name that is valid until then.
    pub fn server(&self, name: &str, last_year: i32) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("params");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a pair");
        Arc::new(config)
    }
}

/// A whole answer of a status.
pub fn whole(status: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Bytes(format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    ))
}

/// An answer to a chat, streamed if that was asked for.
pub fn chat(asked: &Asked, text: &str) -> Reply {
    let usage = r#""usage":{"prompt_tokens":3,"completion_tokens":5}"#;
    if !asked.body.contains("\"stream\":true") {
        let body = format!(
            r#"{{"model":"theirs","choices":[{{"message":{{"content":"{text}"}}}}],{usage}}}"#
        );
        return whole(
            "200 OK",
            "Set-Cookie: theirs=1\r\nServer: theirs\r\n",
            &body,
        );
    }
    let events = [
        format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#),
        format!(r#"{{"choices":[],{usage}}}"#),
        "[DONE]".to_owned(),
    ];
    let body: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    Reply::Bytes(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}
