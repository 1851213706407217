//! The worker's HTTP: which paths there are, who may call them and what comes
//! back. It speaks HTTP/1.1 on the worker's own socket, and with the router alone.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use futures_util::{FutureExt, StreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};

use super::answer::Answer;
use super::body::{self, Event};
use super::embeddings;
use super::request::{self, Asked};
use super::rerank;
use super::source::scripted::disguised;
use super::source::{Begun, Engine};
use super::words;
use crate::api::error::{ApiError, Code};
use crate::api::fields::{DETOKENIZE, Endpoint, TEMPLATE, TOKENIZE};
use crate::engine::adapter::Chosen;
use crate::engine::prefix::Owner;
use crate::secret::Secret;
use crate::shutdown::Tasks;
use crate::worker::{
    ADAPTER_HEADER, CALLER_HEADER, FORGET_PATH, SECRET_HEADER, STATUS_PATH, USAGE_TRAILER,
};

/// The header with a mark that the scripted engine repeats.
const NONCE_HEADER: &str = "x-nonce";

/// What a worker serves.
pub struct Served {
    /// The engine that answers.
    pub engine: Engine,
    /// The model's name where a request says none.
    pub name: String,
    /// What every request must know.
    pub secret: Secret,
}

/// Whether a request knows the per-spawn secret.
fn knows<T>(secret: &Secret, request: &Request<T>) -> bool {
    let mut told = request.headers().get_all(SECRET_HEADER).iter();
    match (told.next(), told.next()) {
        (Some(told), None) => secret.is(told.as_bytes()),
        _ => false,
    }
}

/// Takes connections until the tasks are told to stop.
pub async fn accept(listener: UnixListener, served: Arc<Served>, tasks: Tasks) {
    let stop = tasks.stop_signal();
    loop {
        let taken = tokio::select! {
            () = stop.cancelled() => return,
            taken = listener.accept() => taken,
        };
        match taken {
            Ok((stream, _)) => {
                let (served, stop) = (Arc::clone(&served), stop.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection(stream, served) => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(?error, "a connection could not be taken");
                // Out of file descriptors, most likely: give others time to end.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one connection. When its other end is gone, the answer in progress is
/// dropped, and that cancels it.
async fn connection(stream: UnixStream, served: Arc<Served>) {
    let service = service_fn(move |request| {
        let served = Arc::clone(&served);
        async move { Ok::<_, Infallible>(guarded(&served, request).await) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(?error, "a connection ended early");
    }
}

/// Answers a request; a panic costs this request alone.
async fn guarded(served: &Served, request: Request<Incoming>) -> Response<Body> {
    match AssertUnwindSafe(answer(served, request))
        .catch_unwind()
        .await
    {
        Ok(response) => response,
        Err(_) => ApiError::new(Code::InternalError, "the engine failed to answer").into_response(),
    }
}

async fn answer(served: &Served, request: Request<Incoming>) -> Response<Body> {
    if !knows(&served.secret, &request) {
        let mut refused = Response::new(Body::empty());
        *refused.status_mut() = StatusCode::FORBIDDEN;
        return refused;
    }
    let path = request.uri().path().to_owned();
    let answered = match (request.method(), path.as_str()) {
        (&Method::GET, "/health") => Ok(json_response(&json!({"status": "ok"}))),
        (&Method::GET, STATUS_PATH) => Ok(json_response(&served.engine.status().json())),
        (&Method::POST, FORGET_PATH) => {
            served.engine.forget();
            Ok(json_response(&json!({})))
        }
        (&Method::POST, "/v1/chat/completions") => generate(served, Endpoint::Chat, request).await,
        (&Method::POST, "/v1/completions") => {
            generate(served, Endpoint::Completions, request).await
        }
        (&Method::POST, "/v1/embeddings") => embed(served, request).await,
        (&Method::POST, "/v1/rerank") => rank(served, request).await,
        (&Method::POST, TOKENIZE | DETOKENIZE | TEMPLATE) => words(served, &path, request).await,
        (_, "/health" | STATUS_PATH) => Ok(wrong_method("GET")),
        (_, FORGET_PATH | TOKENIZE | DETOKENIZE | TEMPLATE) => Ok(wrong_method("POST")),
        (_, "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings" | "/v1/rerank") => {
            Ok(wrong_method("POST"))
        }
        _ => Err(ApiError::new(
            Code::NotFound,
            "there is nothing at this path",
        )),
    };
    answered.unwrap_or_else(ApiError::into_response)
}

fn json_response(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn wrong_method(allowed: &'static str) -> Response<Body> {
    let message = format!("expected {allowed} at this path");
    let mut response = ApiError::new(Code::MethodNotAllowed, message).into_response();
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

/// The body of a request, and its nonce if a header says one. The scripted engine
/// may want to keep it.
async fn take(
    served: &Served,
    request: Request<Incoming>,
) -> Result<(bytes::Bytes, Option<String>), ApiError> {
    let nonce = request.headers().get(NONCE_HEADER);
    let nonce = nonce
        .and_then(|nonce| nonce.to_str().ok())
        .map(str::to_owned);
    let body = read_body(request).await?;
    // Without the embedded engine there is only one kind.
    #[cfg_attr(not(any(feature = "mlx", test)), expect(irrefutable_let_patterns))]
    if let Engine::Scripted(source) = &served.engine {
        source.keep(&body);
    }
    Ok((body, nonce))
}

/// Vectors of texts.
async fn embed(served: &Served, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let (body, nonce) = take(served, request).await?;
    let mut asked = embeddings::read(&body)?;
    drop(body);
    asked.nonce = nonce.or(asked.nonce);
    let name = asked.model.take().unwrap_or_else(|| served.name.clone());
    let (form, ignored) = (asked.form, std::mem::take(&mut asked.ignored));
    let embedded = served.engine.embed(asked).await?;
    let body = embeddings::answer(&name, form, &embedded).map_err(|error| {
        tracing::error!(?error, "vectors could not be written");
        ApiError::new(Code::InternalError, "the engine failed to answer")
    })?;
    Ok(told(body, "application/json", &ignored, None))
}

/// How well documents fit a query.
async fn rank(served: &Served, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let (body, nonce) = take(served, request).await?;
    let mut asked = rerank::read(&body)?;
    drop(body);
    asked.nonce = nonce.or(asked.nonce);
    let name = asked.model.take().unwrap_or_else(|| served.name.clone());
    let ranked = served.engine.rank(&asked).await?;
    let body = rerank::answer(&name, &asked, &ranked).map_err(|error| {
        tracing::error!(?error, "ranks could not be written");
        ApiError::new(Code::InternalError, "the engine failed to answer")
    })?;
    Ok(told(body, "application/json", &asked.ignored, None))
}

/// Tokens, texts and prompts.
async fn words(
    served: &Served,
    path: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let (body, _) = take(served, request).await?;
    let (asked, ignored) = words::read(path, &body)?;
    drop(body);
    let answer = words::answer(&served.engine.words(asked).await?).to_string();
    let mut response = told(Body::from(answer), "application/json", &ignored, None);
    // Nothing was made, so there is no usage after it.
    response.headers_mut().remove(header::TRAILER);
    Ok(response)
}

async fn generate(
    served: &Served,
    endpoint: Endpoint,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let (owner, adapter) = (owner(&request), adapter(&request)?);
    let (body, nonce) = take(served, request).await?;
    let mut asked = request::read(endpoint, &body)?;
    drop(body);
    asked.nonce = nonce.or(asked.nonce);
    asked.owner = match &adapter {
        Some(adapter) => owner.map(|owner| adapter.apart(owner)),
        None => owner,
    };
    asked.adapter = adapter;
    respond(served, asked).await
}

/// Whose prompt it is, if that may be kept.
fn owner(request: &Request<Incoming>) -> Option<Owner> {
    let mark = request.headers().get(CALLER_HEADER)?.to_str().ok()?;
    u128::from_str_radix(mark, 16).ok().map(Owner)
}

/// The adapter that it is for. One that cannot be read is no reason to answer without it.
fn adapter(request: &Request<Incoming>) -> Result<Option<Chosen>, ApiError> {
    let Some(value) = request.headers().get(ADAPTER_HEADER) else {
        return Ok(None);
    };
    let chosen = value.to_str().ok().and_then(Chosen::parse);
    let broken = || ApiError::new(Code::InternalError, "the adapter was not told as it is");
    chosen.ok_or_else(broken).map(Some)
}

/// The whole body. How large it may be is the router's business, and nobody else
/// knows the secret.
async fn read_body(request: Request<Incoming>) -> Result<bytes::Bytes, ApiError> {
    match request.into_body().collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(_) => Err(ApiError::new(Code::BadRequest, "the body ended early")),
    }
}

/// Begins the answer and waits for its first sign, so that what fails before it
/// is a plain status; then the response goes out.
async fn respond(served: &Served, mut asked: Asked) -> Result<Response<Body>, ApiError> {
    let name = asked.model.take().unwrap_or_else(|| served.name.clone());
    let answer = Answer::new(asked.endpoint, name, asked.logprobs.is_some());
    let (stream, include_usage) = (asked.stream, asked.include_usage);
    let ignored = std::mem::take(&mut asked.ignored);
    let Begun {
        mut events,
        choices,
        prompt,
        limited,
        odd,
    } = served.engine.begin(asked).await?;
    let (body, kind) = if stream {
        let first = match events.next().await {
            Some(Event::Failed(error)) => return Err(error),
            first => first,
        };
        let events = stream::iter(first).chain(events).boxed();
        let body = body::streamed(answer, events, choices, prompt, include_usage);
        (body, "text/event-stream")
    } else {
        let body = body::whole(answer, events, choices, prompt).await?;
        (body, "application/json")
    };
    let response = told(body, kind, &ignored, limited);
    Ok(match odd {
        Some(odd) => disguised(odd, response),
        None => response,
    })
}

/// A body as a response, with what had no effect and what holds instead of a larger
/// `max_tokens`.
fn told(
    body: Body,
    kind: &'static str,
    ignored: &[String],
    limited: Option<u32>,
) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::TRAILER, HeaderValue::from_static(USAGE_TRAILER));
    let mut tell = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    if !ignored.is_empty() {
        tell("x-roundhouse-ignored", ignored.join(", "));
    }
    if let Some(limited) = limited {
        tell("x-roundhouse-limited", format!("max_tokens={limited}"));
    }
    response
}
