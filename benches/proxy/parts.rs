//! The parts of the proxy benchmark that are not a router: an upstream that
//! answers at once, a proxy that does nothing but pass on (the floor), and a
//! loader that measures. One thread each, so that each can be pinned to a core.
//! `peer.py` and `streams.py` beside it start them and the routers; nothing here knows
//! which router stands between.

mod streams;

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{LocalSet, spawn_local};

type Failed = Box<dyn Error>;
type Body = UnsyncBoxBody<Bytes, Infallible>;

const USAGE: &str = "usage: proxy upstream ADDRESS | floor ADDRESS UPSTREAM | load ADDRESS JSON | streams ADDRESS JSON";

fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    match words.as_slice() {
        ["upstream", address] => runtime.block_on(local.run_until(upstream(address.parse()?))),
        ["floor", address, upstream] => {
            runtime.block_on(local.run_until(floor(address.parse()?, upstream.parse()?)))
        }
        ["load", address, wish] => {
            let wish = Wish::read(&serde_json::from_str(wish)?)?;
            let told = runtime.block_on(local.run_until(load(address.parse()?, wish)))?;
            println!("{told}");
            Ok(())
        }
        ["streams", address, wish] => {
            let wish = streams::Wish::read(&serde_json::from_str(wish)?);
            let told = runtime.block_on(local.run_until(streams::load(address.parse()?, wish)))?;
            println!("{told}");
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}

/// Answers completions at once: a small JSON text, or, if it is to `stream`, as many
/// events as `max_completion_tokens` says (some routers drop fields of our own making).
/// Each comes `gap_us` after the one before, the second at `start_us` since 1970 if that
/// is said; with numbers and times if they are to be `stamped`, and each in several
/// writes if they are to be in `pieces`.
async fn upstream(address: SocketAddr) -> Result<(), Failed> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = service_fn(|request: Request<Incoming>| async {
            Ok::<_, Infallible>(play(request).await)
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), answer);
        spawn_local(async move {
            // A router that hangs up is no news.
            let _ = connection.await;
        });
    }
}

/// One event of a stream, of the size that chat completions have.
const EVENT: &str = "data: {\"id\":\"chatcmpl-0ca60ed36cd6ff4d4a972df65b106171\",\"object\":\"chat.completion.chunk\",\"created\":1795290954,\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";

/// A short completion.
const WHOLE: &str = "{\"id\":\"chatcmpl-0ca60ed36cd6ff4d4a972df65b106171\",\"object\":\"chat.completion\",\"created\":1795290954,\"model\":\"bench\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The capital of France is Paris.\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":37,\"completion_tokens\":8,\"total_tokens\":45}}";

/// What is told of models; some routers send a request only where its model is.
const MODELS: &str = "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1795290954,\"owned_by\":\"bench\"}]}";

async fn play(request: Request<Incoming>) -> Response<Body> {
    let full = |text: &'static str| Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync();
    let is_post = request.method() == hyper::Method::POST;
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    if !is_post {
        return Response::new(full(MODELS));
    }
    let number = |name: &[u8]| {
        let at = body.windows(name.len()).position(|bytes| bytes == name)?;
        let digits = body[at + name.len()..].iter();
        let digits = digits.take_while(|byte| byte.is_ascii_digit());
        Some(digits.fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0')))
    };
    let has = |text: &[u8]| memchr::memmem::find(&body, text).is_some();
    let events = match has(b"\"stream\":true") {
        true => number(b"\"max_completion_tokens\":").unwrap_or(1),
        false => 0,
    };
    let (body, kind) = match events {
        0 => (full(WHOLE), "application/json"),
        _ => {
            let gap = Duration::from_micros(number(b"\"gap_us\":").unwrap_or(0));
            let is_stamped = has(b"\"stamped\":true");
            let pause = match number(b"\"start_us\":") {
                Some(start) => Duration::from_micros(start.saturating_sub(streams::now_us())),
                None => gap,
            };
            let body = stream(events, pause, gap, is_stamped);
            let body = match has(b"\"pieces\":true") {
                true => streams::in_pieces(body),
                false => body,
            };
            (body, "text/event-stream")
        }
    };
    let mut response = Response::new(body);
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Events at the times that are due, however late one of them was: the first at once,
/// the second after `pause`, the others each `gap` after the one before.
fn stream(events: u64, pause: Duration, gap: Duration, is_stamped: bool) -> Body {
    let began = tokio::time::Instant::now();
    let next = move |sent: u64| async move {
        let gaps = u32::try_from(sent.saturating_sub(1)).unwrap_or(u32::MAX);
        let due = pause + gap.saturating_mul(gaps);
        if sent > 0 && sent <= events && !due.is_zero() {
            tokio::time::sleep_until(began + due).await;
        }
        let bytes = match sent.cmp(&events) {
            std::cmp::Ordering::Less if is_stamped => streams::event(sent),
            std::cmp::Ordering::Less => Bytes::from_static(EVENT.as_bytes()),
            std::cmp::Ordering::Equal => Bytes::from_static(streams::DONE.as_bytes()),
            std::cmp::Ordering::Greater => return None,
        };
        Some((Ok::<_, Infallible>(Frame::data(bytes)), sent + 1))
    };
    let frames = futures_util::stream::unfold(0, next);
    http_body_util::StreamBody::new(frames).boxed_unsync()
}

/// Passes on what comes, with kept connections, and looks at nothing.
async fn floor(address: SocketAddr, upstream: SocketAddr) -> Result<(), Failed> {
    let listener = TcpListener::bind(address).await?;
    let kept: Arc<Mutex<Vec<SendRequest<Incoming>>>> = Arc::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let kept = kept.clone();
        let pass = service_fn(move |request: Request<Incoming>| {
            let kept = kept.clone();
            async move {
                let mut way = loop {
                    let waiting = kept.lock().await.pop();
                    match waiting {
                        Some(way) if way.is_closed() => continue,
                        Some(way) => break way,
                        None => {
                            break connect(upstream).await.map_err(|error| error.to_string())?;
                        }
                    }
                };
                way.ready().await.map_err(|error| error.to_string())?;
                let response = way.send_request(request).await;
                let response = response.map_err(|error| error.to_string())?;
                spawn_local(async move {
                    if way.ready().await.is_ok() {
                        kept.lock().await.push(way);
                    }
                });
                Ok::<_, String>(response)
            }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), pass);
        spawn_local(async move {
            let _ = connection.await;
        });
    }
}

async fn connect<B>(address: SocketAddr) -> Result<SendRequest<B>, Failed>
where
    B: hyper::body::Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (way, connection) = handshake(TokioIo::new(stream)).await?;
    spawn_local(async move {
        let _ = connection.await;
    });
    Ok(way)
}

/// What the loader is to do.
struct Wish {
    /// Connections, each with one request at a time.
    connections: usize,
    /// For how long.
    time: Duration,
    /// At most so many requests for each connection.
    requests: u64,
    /// The whole body of a request.
    body: Bytes,
    /// The key that is shown, if any.
    key: Option<String>,
    /// How many events an answer has; none for one that is not a stream.
    events: u64,
}

impl Wish {
    fn read(wish: &Value) -> Result<Self, Failed> {
        let number = |name: &str, other: u64| wish[name].as_u64().unwrap_or(other);
        let events = number("events", 0);
        let filling = "x".repeat(number("filling", 60) as usize);
        let mut body = json!({
            "model": wish["model"],
            "messages": [{"role": "user", "content": filling}],
            "temperature": 0.5,
        });
        if events > 0 {
            body["stream"] = json!(true);
            body["max_completion_tokens"] = json!(events);
            body["gap_us"] = json!(number("gap_us", 0));
        }
        Ok(Self {
            connections: number("connections", 1) as usize,
            time: Duration::from_millis(number("time_ms", 1000)),
            requests: number("requests", u64::MAX),
            body: Bytes::from(body.to_string()),
            key: wish["key"].as_str().map(str::to_owned),
            events,
        })
    }
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    /// From the request to the end of each answer, nanoseconds.
    whole: Vec<u64>,
    /// From the request to the first byte of each body.
    first: Vec<u64>,
    /// Bytes of all bodies.
    bytes: u64,
    events: u64,
}

/// Asks for as long as it is to; what it saw as JSON, times in microseconds.
async fn load(address: SocketAddr, wish: Wish) -> Result<Value, Failed> {
    let wish = Arc::new(wish);
    let mut ways = Vec::new();
    for _ in 0..wish.connections {
        ways.push(connect::<Full<Bytes>>(address).await?);
    }
    let began = Instant::now();
    let asked = ways
        .into_iter()
        .map(|way| ask(way, address, wish.clone(), began));
    let mut all = Seen::default();
    for seen in join_all(asked).await {
        let seen = seen?;
        all.whole.extend(seen.whole);
        all.first.extend(seen.first);
        all.bytes += seen.bytes;
        all.events += seen.events;
    }
    let seconds = began.elapsed().as_secs_f64();
    all.whole.sort_unstable();
    all.first.sort_unstable();
    let part = |list: &[u64], share: f64| {
        let at = ((list.len() as f64 - 1.0) * share).round() as usize;
        list.get(at).map(|nanoseconds| *nanoseconds as f64 / 1000.0)
    };
    Ok(json!({
        "requests": all.whole.len(),
        "per_second": all.whole.len() as f64 / seconds,
        "seconds": seconds,
        "p50": part(&all.whole, 0.5),
        "p99": part(&all.whole, 0.99),
        "first_p50": part(&all.first, 0.5),
        "first_p99": part(&all.first, 0.99),
        "events": all.events,
        "bytes": all.bytes,
    }))
}

async fn ask(
    mut way: SendRequest<Full<Bytes>>,
    address: SocketAddr,
    wish: Arc<Wish>,
    began: Instant,
) -> Result<Seen, Failed> {
    let mut seen = Seen::default();
    for _ in 0..wish.requests {
        if began.elapsed() >= wish.time {
            break;
        }
        let mut request = Request::post("/v1/chat/completions")
            .header(header::HOST, address.to_string())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &wish.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Full::new(wish.body.clone()))?;
        let asked = Instant::now();
        way.ready().await?;
        let response = way.send_request(request).await?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let text = response.into_body().collect().await?.to_bytes();
            return Err(format!("{status}: {}", String::from_utf8_lossy(&text)).into());
        }
        let mut body = response.into_body();
        let (mut first, mut events) = (None, Events::default());
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                first.get_or_insert_with(|| asked.elapsed());
                seen.bytes += data.len() as u64;
                events.count(&data);
            }
        }
        if wish.events > 0 && events.ended != wish.events + 1 {
            return Err(format!("{} events instead of {}", events.ended, wish.events + 1).into());
        }
        seen.events += events.ended;
        seen.whole.push(asked.elapsed().as_nanos() as u64);
        seen.first.push(first.unwrap_or_default().as_nanos() as u64);
    }
    Ok(seen)
}

/// Counts the blank lines of a stream, wherever it is cut.
#[derive(Default)]
struct Events {
    ended: u64,
    after_line: bool,
}

impl Events {
    fn count(&mut self, data: &[u8]) {
        for byte in data {
            let is_end = *byte == b'\n';
            self.ended += u64::from(is_end && self.after_line);
            self.after_line = is_end && !self.after_line;
        }
    }
}
