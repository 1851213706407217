//! The worker's HTTP over a true socket, with the scripted engine behind it.

use std::path::PathBuf;
use std::sync::mpsc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::*;
use crate::worker::{CALLER_HEADER, SECRET_HEADER, USAGE_TRAILER};

const SECRET: &str = "open sesame";

/// A worker in this process.
struct Worker {
    dir: tempfile::TempDir,
    tasks: Tasks,
}

impl Worker {
    fn start(script: Value) -> Self {
        let closed = std::fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().permissions(closed).tempdir();
        let dir = dir.expect("a folder");
        let config = json!({"model_type": "scripted"}).to_string();
        std::fs::write(dir.path().join("config.json"), config).expect("written");
        std::fs::write(dir.path().join("scripted.json"), script.to_string()).expect("written");
        let script = Script::read(dir.path()).expect("a script");
        let engine = Scripted::load(dir.path(), script, 4, |_| {}).expect("loaded");
        let source = source::scripted::Source::new(engine, 100);
        Self::serving(dir, Engine::Scripted(source))
    }

    /// A worker with the network that says the next higher byte.
    fn of_text(gate: Option<mpsc::Receiver<()>>) -> Self {
        let closed = std::fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().permissions(closed).tempdir();
        let source = source::text::tests::source_behind(gate);
        Self::serving(dir.expect("a folder"), Engine::Text(source))
    }

    /// A worker with the encoder that counts tokens.
    fn of_vectors() -> Self {
        let closed = std::fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().permissions(closed).tempdir();
        let source = source::vectors::tests::source();
        Self::serving(dir.expect("a folder"), Engine::Vectors(source))
    }

    /// A worker whose network counts the tokens of a query and a document.
    fn of_ranks() -> Self {
        let closed = std::fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().permissions(closed).tempdir();
        let source = source::ranks::tests::source();
        Self::serving(dir.expect("a folder"), Engine::Ranks(source))
    }

    fn serving(dir: tempfile::TempDir, engine: Engine) -> Self {
        let served = Served {
            engine,
            name: "folder".to_owned(),
            secret: Secret::new(SECRET.to_owned()),
        };
        let tasks = Tasks::new();
        let listener = listen(&dir.path().join("socket")).expect("listens");
        tasks.spawn(http::accept(listener, Arc::new(served), tasks.clone()));
        Self { dir, tasks }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = tokio::net::UnixStream::connect(self.path("socket"));
        let io = TokioIo::new(stream.await.expect("connected"));
        let (sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .expect("HTTP");
        self.tasks.spawn(connection);
        sender
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let mut sender = self.connect().await;
        sender.send_request(request).await.expect("a response")
    }

    async fn post(&self, path: &str, body: Value) -> Answered {
        answered(self.send(post(path, &body)).await).await
    }

    async fn status(&self) -> Value {
        let request = Request::get("/status").header(SECRET_HEADER, SECRET);
        let request = request.header("host", "worker").body(Full::default());
        let answer = self.send(request.expect("a request")).await;
        answered(answer).await.json()
    }

    async fn chat(&self, more: Value) -> Answered {
        self.post("/v1/chat/completions", chat(more)).await
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.tasks.stop_signal().cancel();
    }
}

fn chat(more: Value) -> Value {
    let mut body = json!({"model": "served/name", "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("host", "worker")
        .header("te", "trailers")
        .header(SECRET_HEADER, SECRET)
        .body(Full::from(body.to_string()))
        .expect("a request")
}

/// A response that has been read to its end.
struct Answered {
    status: u16,
    headers: HeaderMap,
    body: String,
    usage: Option<String>,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// The events of a stream, the last of them by itself.
    fn events(&self) -> (Vec<Value>, &str) {
        let whole = self.body.strip_suffix("\n\n").expect("whole events");
        let mut events: Vec<&str> = whole.split("\n\n").collect();
        let last = events.pop().expect("an event");
        let parse = |event: &&str| {
            let data = event.strip_prefix("data: ").expect("data");
            serde_json::from_str(data).expect("JSON")
        };
        (events.iter().map(parse).collect(), last)
    }
}

async fn answered(response: Response<Incoming>) -> Answered {
    let (head, body) = response.into_parts();
    let collected = body.collect().await.expect("a whole body");
    let usage = collected
        .trailers()
        .and_then(|trailers| trailers.get(USAGE_TRAILER));
    Answered {
        status: head.status.as_u16(),
        headers: head.headers,
        usage: usage.map(|usage| usage.to_str().expect("text").to_owned()),
        body: String::from_utf8(collected.to_bytes().to_vec()).expect("text"),
    }
}

#[tokio::test]
async fn f08_only_the_holder_of_the_secret_is_answered() {
    let worker = Worker::start(json!({}));
    for secrets in [&[][..], &["wrong"], &["open sesame!"], &[SECRET, SECRET]] {
        for path in ["/health", "/status", "/elsewhere"] {
            let mut request = Request::get(path).header("host", "worker");
            for secret in secrets {
                request = request.header(SECRET_HEADER, *secret);
            }
            let request = request.body(Full::default()).expect("a request");
            let answer = answered(worker.send(request).await).await;
            assert_eq!((answer.status, answer.body.as_str()), (403, ""));
        }
    }
    let request = Request::get("/health").header(SECRET_HEADER, SECRET);
    let request = request.header("host", "worker").body(Full::default());
    let answer = answered(worker.send(request.expect("a request")).await).await;
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({"status": "ok"}))
    );
}

#[tokio::test]
async fn streams_have_the_canonical_shape() {
    let worker = Worker::start(json!({"tokens": 2}));
    let more = json!({"stream": true, "nonce": "n7", "stream_options": {"include_usage": true}});
    let answer = worker.chat(more).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    assert_eq!(
        answer.usage.as_deref(),
        Some("prompt=2 completion=2 finish=stop")
    );
    let (events, last) = answer.events();
    assert_eq!(last, "data: [DONE]");
    for event in &events {
        assert!(
            event["id"]
                .as_str()
                .is_some_and(|id| id.starts_with("chatcmpl-"))
        );
        assert_eq!(event["id"], events[0]["id"]);
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["model"], "served/name");
        assert!(event["created"].is_u64());
    }
    let choice = |event: usize| &events[event]["choices"][0];
    assert_eq!(
        *choice(0),
        json!({"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null})
    );
    for (event, chunk) in [(1, 0), (2, 1)] {
        let content = choice(event)["delta"]["content"].as_str().expect("content");
        let proof: Value = serde_json::from_str(content).expect("JSON");
        let name = worker.dir.path().file_name().expect("a name");
        let expected = json!({"nonce": "n7", "model": name.to_str(), "pid": std::process::id(), "chunk": chunk});
        assert_eq!(proof, expected);
        assert_eq!(choice(event)["finish_reason"], Value::Null);
    }
    assert_eq!(choice(3)["finish_reason"], "stop");
    assert_eq!(choice(3)["delta"], json!({}));
    assert_eq!(events[4]["choices"], json!([]));
    let usage = json!({"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 0}});
    assert_eq!(events[4]["usage"], usage);
    assert_eq!(events.len(), 5);
}

#[tokio::test]
async fn usage_is_in_a_stream_only_when_asked_for() {
    let worker = Worker::start(json!({"tokens": 1}));
    let answer = worker.chat(json!({"stream": true})).await;
    assert!(!answer.body.contains("usage"), "{}", answer.body);
    assert!(answer.usage.is_some());
}

#[tokio::test]
async fn whole_answers_have_the_canonical_shape() {
    let worker = Worker::start(json!({"text": "to be or not "}));
    let answer = worker
        .chat(json!({"max_tokens": 3, "n": 2, "user": "u"}))
        .await;
    assert_eq!(
        answer.usage.as_deref(),
        Some("prompt=2 completion=6 finish=length")
    );
    assert_eq!(answer.headers["x-roundhouse-ignored"], "user");
    assert!(answer.headers.get("x-roundhouse-limited").is_none());
    let whole = answer.json();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], "served/name");
    let choice = |index: usize| {
        json!({
            "index": index,
            "message": {"role": "assistant", "content": "to be or ", "refusal": null},
            "logprobs": null,
            "finish_reason": "length",
        })
    };
    assert_eq!(whole["choices"], json!([choice(0), choice(1)]));
    let usage = json!({"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0}});
    assert_eq!(whole["usage"], usage);
}

#[tokio::test]
async fn the_older_completions_have_their_own_shape() {
    let worker = Worker::start(json!({"text": "to be "}));
    let body = json!({"prompt": ["a b", "c"], "max_tokens": 2, "logprobs": 1});
    let answer = worker.post("/v1/completions", body.clone()).await;
    let whole = answer.json();
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(
        whole["model"], "folder",
        "the worker's own name where none was said"
    );
    assert_eq!(whole["usage"]["prompt_tokens"], 3);
    let logprobs = json!({
        "tokens": ["to ", "be "],
        "token_logprobs": [0.0, 0.0],
        "top_logprobs": [{"to ": 0.0}, {"be ": 0.0}],
        "text_offset": [0, 3],
    });
    let expected = |index: usize| json!({"index": index, "text": "to be ", "logprobs": logprobs, "finish_reason": "length"});
    assert_eq!(whole["choices"], json!([expected(0), expected(1)]));

    let mut body = body;
    body["stream"] = json!(true);
    body["prompt"] = json!("a");
    let answer = worker.post("/v1/completions", body).await;
    let (events, last) = answer.events();
    assert_eq!(last, "data: [DONE]");
    assert_eq!(events[0]["object"], "text_completion");
    assert_eq!(events[0]["choices"][0]["text"], "to ");
    assert_eq!(
        events[1]["choices"][0]["logprobs"]["text_offset"],
        json!([3])
    );
    assert_eq!(events[2]["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn chat_tells_log_probabilities() {
    let worker = Worker::start(json!({"text": "to "}));
    let more = json!({"logprobs": true, "top_logprobs": 1, "max_tokens": 1});
    let whole = worker.chat(more).await.json();
    let token = json!({"token": "to ", "logprob": 0.0, "bytes": [116, 111, 32]});
    let mut expected = token.clone();
    expected["top_logprobs"] = json!([token]);
    assert_eq!(
        whole["choices"][0]["logprobs"],
        json!({"content": [expected], "refusal": null})
    );
}

#[tokio::test]
async fn bounds_are_told() {
    let worker = Worker::start(json!({"tokens": 1000}));
    let answer = worker.chat(json!({"max_tokens": 500})).await;
    assert_eq!(answer.headers["x-roundhouse-limited"], "max_tokens=98");
    assert_eq!(
        answer.usage.as_deref(),
        Some("prompt=2 completion=98 finish=length")
    );
    let long = json!({"messages": [{"role": "user", "content": "word ".repeat(200)}]});
    let answer = worker.chat(long).await;
    let error = answer.json();
    assert_eq!(answer.status, 400);
    assert_eq!(error["error"]["code"], "context_length_exceeded");
    assert_eq!(error["error"]["param"], "messages");
    let message = error["error"]["message"].as_str().expect("a message");
    assert!(
        message.contains("100") && message.contains("201"),
        "{message}"
    );
}

#[tokio::test]
async fn a_model_does_what_it_is_for_and_nothing_else() {
    let body = json!({"model": "a/b", "input": ["abc", ""]});
    let (vectors, text) = (Worker::of_vectors(), Worker::of_text(None));
    let answer = vectors.post("/v1/embeddings", body.clone()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["data"][0]["embedding"], json!([5.0, 5.0]));
    assert_eq!(answer.json()["usage"]["prompt_tokens"], 7);
    assert_eq!(vectors.status().await["tokens"]["prompt"], 7);
    let ranks = Worker::of_ranks();
    let asked = json!({"model": "a/b", "query": "ab", "documents": ["", "xyz"]});
    let answer = ranks.post("/v1/rerank", asked.clone()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["results"][0]["index"], 1);
    assert_eq!(answer.json()["usage"]["prompt_tokens"], 9);
    assert_eq!(ranks.status().await["tokens"]["prompt"], 9);
    for refused in [
        ranks.chat(json!({})).await,
        ranks.post("/v1/embeddings", body.clone()).await,
        vectors.post("/v1/rerank", asked.clone()).await,
        text.post("/v1/rerank", asked).await,
        vectors.chat(json!({})).await,
        text.post("/v1/embeddings", body).await,
    ] {
        assert_eq!(refused.status, 400);
        assert_eq!(refused.json()["error"]["param"], "model");
    }
}

#[tokio::test]
async fn row15_words_are_told_in_the_shapes_of_other_servers() {
    let worker = Worker::of_text(None);
    let ask = async |path: &str, body: Value| {
        let answer = worker.post(path, body).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.headers["content-type"], "application/json");
        answer.json()
    };
    let tokens = json!({"tokens": [104, 105], "count": 2, "max_model_len": 100});
    assert_eq!(ask("/tokenize", json!({"content": "hi"})).await, tokens);
    assert_eq!(ask("/tokenize", json!({"prompt": "hi"})).await, tokens);
    let messages = json!({"messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(ask("/tokenize", messages.clone()).await, tokens);
    assert_eq!(
        ask("/apply-template", messages).await,
        json!({"prompt": "hi"})
    );
    assert_eq!(
        ask("/detokenize", json!({"tokens": [104, 105]})).await,
        json!({"content": "hi", "prompt": "hi"})
    );

    let refused = async |path: &str, body: Value, code: &str, param: &str| {
        let answer = worker.post(path, body).await;
        let error = &answer.json()["error"];
        assert_eq!(answer.status, 400, "{path} {error}");
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!(code), &json!(param))
        );
    };
    let stranger = json!({"tokens": [104, 1_000_000]});
    refused("/detokenize", stranger, "invalid_value", "tokens[1]").await;
    let long = json!({"content": "x".repeat(100 * 256 + 1)});
    refused("/tokenize", long, "context_length_exceeded", "content").await;
    let bare = json!({"messages": [{"role": "user", "content": "refuse me"}]});
    refused("/apply-template", bare, "invalid_value", "messages").await;
    let vectors = Worker::of_vectors();
    let answer = vectors.post("/tokenize", json!({"content": "hi"})).await;
    assert_eq!(answer.json()["error"]["param"], "model");
}

#[tokio::test]
async fn refusals_are_told_in_the_contract() {
    let worker = Worker::start(json!({}));
    let check = |answer: Answered, status: u16, code: &str, param: Value| {
        assert_eq!(answer.status, status);
        assert_eq!(answer.headers["content-type"], "application/json");
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!(code), &param),
            "{error}"
        );
    };
    check(
        worker.chat(json!({"n": 0})).await,
        400,
        "invalid_value",
        json!("n"),
    );
    check(
        worker.chat(json!({"scripted": {"load_ms": 1}})).await,
        400,
        "invalid_value",
        json!("scripted"),
    );
    check(
        worker.post("/v1/rerank", json!({})).await,
        400,
        "invalid_value",
        json!("query"),
    );
    check(
        worker.post("/v1/audio/speech", json!({})).await,
        404,
        "not_found",
        Value::Null,
    );
    let request = Request::get("/v1/completions").header(SECRET_HEADER, SECRET);
    let request = request.header("host", "worker").body(Full::default());
    let answer = answered(worker.send(request.expect("a request")).await).await;
    assert_eq!(answer.headers["allow"], "POST");
    check(answer, 405, "method_not_allowed", Value::Null);
}

#[tokio::test]
async fn a_dropped_connection_cancels() {
    let worker = Worker::start(json!({"tokens": 1_000_000, "token_ms": 1, "journal": "journal"}));
    for stream in [true, false] {
        let body = chat(
            json!({"stream": stream, "nonce": format!("{stream}"), "max_tokens": 90,
            "scripted": {"hang": {"at": "token", "token": 3}}}),
        );
        let mut sender = worker.connect().await;
        let mut pending = Box::pin(sender.send_request(post("/v1/chat/completions", &body)));
        let started = format!("started {stream}");
        if stream {
            // The body is read up to its first frame and then let go.
            let mut response = pending.as_mut().await.expect("a response");
            response
                .body_mut()
                .frame()
                .await
                .expect("a frame")
                .expect("data");
        } else {
            let waiting = wait_for(&worker, &started);
            tokio::select! {
                _ = pending.as_mut() => panic!("nothing can be answered"),
                () = waiting => {}
            }
        }
        drop(pending);
        drop(sender);
        wait_for(&worker, &format!("cancelled {stream} after")).await;
    }
}

/// Waits until the journal has a line that begins so.
async fn wait_for(worker: &Worker, line: &str) {
    let path = worker.path("journal");
    let look = async {
        while !std::fs::read_to_string(&path).is_ok_and(|journal| journal.contains(line)) {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), look).await;
    assert!(
        waited.is_ok(),
        "no line \"{line}\" in {:?}",
        std::fs::read_to_string(&path)
    );
}

#[tokio::test]
async fn odd_streams_never_look_complete() {
    let worker = Worker::start(json!({"tokens": 4}));
    let odd = async |kind: &str| {
        worker
            .chat(json!({"stream": true, "scripted": {"odd": kind, "odd_size": 100_000}}))
            .await
    };
    for kind in [
        "no_done",
        "half_event",
        "error_event",
        "huge_line",
        "empty_events",
    ] {
        let answer = odd(kind).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("\\\"chunk\\\":1"), "{kind}");
        assert!(!answer.body.contains("[DONE]"), "{kind}");
        assert!(!answer.body.contains("\"stop\""), "{kind}");
    }
    let failed = odd("error_event").await;
    assert!(
        failed.body.ends_with("\"code\":\"internal_error\"}}\n\n"),
        "{}",
        failed.body
    );
    assert_eq!(
        failed.usage.as_deref(),
        Some("prompt=2 completion=2 finish=error")
    );
    assert!(odd("huge_line").await.body.len() > 100_000);
    assert_eq!(odd("html").await.headers["content-type"], "text/html");
    assert_eq!(odd("empty").await.body, "");
    assert_eq!(odd("server_error").await.status, 500);
    assert_eq!(odd("gzip").await.headers["content-encoding"], "gzip");
    assert_eq!(odd("headers").await.headers["set-cookie"], "worker=1");
}

#[tokio::test]
async fn failures_before_the_first_chunk_are_plain_statuses() {
    let worker = Worker::start(json!({"tokens": 0, "odd": "error_event"}));
    let answer = worker.chat(json!({"stream": true})).await;
    assert_eq!(answer.status, 500);
    assert_eq!(answer.json()["error"]["code"], "internal_error");
}

#[tokio::test]
async fn status_counts() {
    let worker = Worker::start(json!({"tokens": 3, "memory_bytes": 5000}));
    worker.chat(json!({})).await;
    let status = worker.status().await;
    assert_eq!(status["device"], "scripted");
    assert_eq!(status["bytes_held"], 5000);
    assert_eq!(status["tokens"]["completion"], 3);
    assert_eq!(status["sequences"], json!({"running": 0, "waiting": 0}));
}

#[test]
fn a_socket_in_an_open_folder_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).expect("set");
    let error = listen(&dir.path().join("socket")).expect_err("refused");
    assert!(matches!(error, Failure::OpenFolder(0o755)), "{error}");
}

#[tokio::test]
async fn a_network_answers_over_the_socket() {
    let worker = Worker::of_text(None);
    let more = json!({"stream": true, "max_tokens": 3, "logprobs": true});
    let answer = worker.chat(more).await;
    let (events, last) = answer.events();
    assert_eq!(last, "data: [DONE]");
    let content = |event: &Value| {
        event["choices"][0]["delta"]["content"]
            .as_str()
            .map(str::to_owned)
    };
    let text: Vec<String> = events.iter().filter_map(content).collect();
    assert_eq!(text, ["", "j", "k", "l"], "what follows on hi");
    let told = &events[1]["choices"][0]["logprobs"]["content"][0];
    assert_eq!(
        (&told["token"], &told["bytes"]),
        (&json!("j"), &json!([106]))
    );
    assert!(told["logprob"].as_f64().is_some_and(|p| p <= 0.0), "{told}");
    assert_eq!(
        answer.usage.as_deref(),
        Some("prompt=2 completion=3 finish=length")
    );
    let status = worker.status().await;
    assert_eq!(status["device"], "cpu");
    assert_eq!(status["kv"], json!({"bytes_in_use": 0, "bytes_room": 800}));
    assert_eq!(status["tokens"], json!({"prompt": 2, "completion": 3}));
}

#[tokio::test]
async fn e170_the_usage_tells_what_was_in_the_prompt_cache_of_the_caller() {
    let worker = Worker::of_text(None);
    let ask = async |mark: Option<&str>, stream: bool| {
        let more = json!({"stream": stream, "stream_options": {"include_usage": true},
            "max_tokens": 3, "n": 2, "messages": [{"role": "user", "content": "abcdefgh"}]});
        let mut request = post("/v1/chat/completions", &chat(more));
        if let Some(mark) = mark {
            let mark = axum::http::HeaderValue::from_str(mark).expect("a value");
            request.headers_mut().insert(CALLER_HEADER, mark);
        }
        let answer = answered(worker.send(request).await).await;
        let usage = match stream {
            true => answer.events().0.pop().expect("an event")["usage"].clone(),
            false => answer.json()["usage"].clone(),
        };
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        let told = match cached {
            Some(0) => "prompt=8 completion=6 finish=length".to_owned(),
            _ => "prompt=8 cached=7 completion=6 finish=length".to_owned(),
        };
        assert_eq!(answer.usage, Some(told));
        cached.expect("a number")
    };
    let anne = Some("0123456789abcdef0123456789abcdef");
    assert_eq!(ask(anne, false).await, 0);
    assert_eq!(ask(anne, false).await, 7);
    assert_eq!(ask(anne, true).await, 7);
    // Neither another one nor nobody.
    assert_eq!(ask(Some("1"), true).await, 0);
    assert_eq!(ask(None, false).await, 0);
    assert_eq!(ask(Some("no mark"), false).await, 0);
    let kept = worker.status().await["prompt_cache"].clone();
    // Other answers to the same prompt may have found what the first one left.
    assert!(kept["saved"].as_u64() >= Some(4 * 7), "{kept}");
}

#[tokio::test]
async fn a_dropped_connection_cancels_a_network_within_a_step() {
    let (open, gate) = mpsc::channel();
    let worker = Worker::of_text(Some(gate));
    for streamed in [true, false] {
        let body = chat(json!({"stream": streamed, "ignore_eos": true}));
        let mut sender = worker.connect().await;
        let mut pending = Box::pin(sender.send_request(post("/v1/chat/completions", &body)));
        let before = worker.status().await["tokens"]["completion"].clone();
        if streamed {
            open.send(()).expect("an engine");
            let mut response = pending.as_mut().await.expect("a response");
            response
                .body_mut()
                .frame()
                .await
                .expect("a frame")
                .expect("data");
        } else {
            tokio::select! {
                _ = pending.as_mut() => panic!("nothing can be answered"),
                () = async { while worker.status().await["sequences"]["running"] == 0 {} } => {}
            }
        }
        drop(pending);
        drop(sender);
        // Nothing is made until a step is let through; the connection's end is seen
        // while these questions are answered.
        for _ in 0..20 {
            worker.status().await;
        }
        open.send(()).expect("an engine");
        while worker.status().await["sequences"] != json!({"running": 0, "waiting": 0}) {}
        let after = worker.status().await["tokens"]["completion"].clone();
        let made = after
            .as_u64()
            .zip(before.as_u64())
            .map(|(after, before)| after - before);
        assert!(made.is_some_and(|made| made <= 2), "{made:?} tokens of 78");
    }
}
