//! The client against a real HTTP server behind a real socket.

#![expect(
    clippy::disallowed_methods,
    reason = "the tasks of a test end with its runtime"
)]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::{HeaderMap, HeaderName, Request, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::*;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A worker's listener, its connections counted, and when a body was dropped.
struct Server {
    client: Client,
    connections: Arc<AtomicUsize>,
    cancelled: mpsc::UnboundedReceiver<()>,
    _folder: tempfile::TempDir,
}

/// Says so when it is dropped.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// `/echo` answers what it got, `/usage` has a trailer, `/endless` never ends,
/// `/away` redirects, `/hang-up` closes without a word.
async fn answer(
    request: Request<Incoming>,
    cancelled: mpsc::UnboundedSender<()>,
) -> Result<Answer, std::io::Error> {
    let full = |text: String| Full::new(Bytes::from(text)).boxed_unsync();
    let header = |name: HeaderName| {
        let value = request.headers().get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or("none").to_owned()
    };
    let path = request.uri().path().to_owned();
    if path == "/hang-up" {
        return Err(std::io::Error::other("as told"));
    }
    if path == "/echo" {
        let head = format!(
            "{} {} {}",
            header(SECRET_HEADER),
            header(TE),
            header(HeaderName::from_static("x-own"))
        );
        let body = request
            .into_body()
            .collect()
            .await
            .map_err(std::io::Error::other)?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        return Ok(Response::new(full(format!("{head} {body}"))));
    }
    if path == "/away" {
        let mut away = Response::new(full(String::new()));
        *away.status_mut() = StatusCode::FOUND;
        away.headers_mut()
            .insert("location", HeaderValue::from_static("/echo"));
        return Ok(away);
    }
    let (frames, received) = mpsc::channel::<Frame<Bytes>>(4);
    let body = StreamBody::new(futures_util::stream::unfold(
        received,
        async |mut received| {
            let frame = received.recv().await?;
            Some((Ok::<_, Infallible>(frame), received))
        },
    ));
    tokio::spawn(async move {
        let _dropped = Dropped(cancelled);
        let _ = frames.send(Frame::data("data: one\n\n".into())).await;
        match path.as_str() {
            "/usage" => {
                let mut trailers = HeaderMap::new();
                let usage = HeaderValue::from_static("prompt=1 completion=2 finish=stop");
                trailers.insert(crate::worker::USAGE_TRAILER, usage);
                let _ = frames.send(Frame::trailers(trailers)).await;
            }
            _ => {
                while frames
                    .send(Frame::data(
                        "data: more

"
                        .into(),
                    ))
                    .await
                    .is_ok()
                {}
            }
        }
    });
    let mut answer = Response::new(body.boxed_unsync());
    let announced = HeaderValue::from_static(crate::worker::USAGE_TRAILER);
    answer.headers_mut().insert("trailer", announced);
    Ok(answer)
}

fn serve() -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("s");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let connections = Arc::new(AtomicUsize::new(0));
    let (cancel, cancelled) = mpsc::unbounded_channel();
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let cancel = cancel.clone();
            let service = service_fn(move |request| answer(request, cancel.clone()));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    Server {
        client: Client::new(&socket, "s3cret").expect("a client"),
        connections,
        cancelled,
        _folder: folder,
    }
}

impl Server {
    async fn send(&self, path: &str) -> Result<Response<Body>, Failure> {
        let mut headers = Fields::default();
        headers.set(
            HeaderName::from_static("x-own"),
            HeaderValue::from_static("own"),
        );
        let body = Full::new(Bytes::from_static(b"question"));
        self.client.send(Method::POST, path, headers, body).await
    }
}

#[tokio::test]
async fn it_says_the_secret_and_reuses_connections_that_were_read_to_the_end() {
    let server = serve();
    for _ in 0..3 {
        let answer = server.send("/echo").await.expect("an answer");
        let body = answer
            .into_body()
            .collect()
            .await
            .expect("whole")
            .to_bytes();
        assert_eq!(body, "s3cret trailers own question");
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn trailers_come_through() {
    let server = serve();
    let answer = server.send("/usage").await.expect("an answer");
    let collected = answer.into_body().collect().await.expect("whole");
    let trailers = collected.trailers().expect("trailers").clone();
    assert_eq!(
        trailers[crate::worker::USAGE_TRAILER],
        "prompt=1 completion=2 finish=stop"
    );
    assert_eq!(collected.to_bytes(), "data: one\n\n");
}

#[tokio::test]
async fn dropping_an_answer_closes_the_connection() {
    let mut server = serve();
    let mut answer = server.send("/endless").await.expect("an answer");
    let first = answer.body_mut().frame().await.expect("a frame");
    assert!(first.is_ok_and(|frame| frame.is_data()));
    assert!(server.cancelled.try_recv().is_err(), "it still writes");
    drop(answer);
    server.cancelled.recv().await.expect("the worker noticed");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server = serve();
    let answer = server.send("/away").await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::FOUND);
}

#[tokio::test]
async fn a_worker_that_broke_off_and_one_that_was_never_reached_are_told_apart() {
    let server = serve();
    let hung_up = server.send("/hang-up").await.map(drop);
    assert!(matches!(hung_up, Err(Failure::Gone(_))), "{hung_up:?}");
    let nobody = Client::new("/nonexistent/socket".as_ref(), "s3cret").expect("a client");
    let refused = nobody
        .send(Method::GET, "/echo", Fields::default(), Full::default())
        .await
        .map(drop);
    let Err(Failure::Unreached(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(!text.contains("s3cret"), "{text}");
}
