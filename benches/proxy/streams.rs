//! Many streams at once that an upstream paces by itself: the events, which say which
//! one they are and when they were sent, and the loader that opens all streams, reads
//! every event and tells what was lost and how late the others were. A stream has its
//! first event at once; the others begin when all streams are to be open.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{StreamExt, stream as streams};
use http_body_util::{BodyDataStream, BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::{Request, StatusCode, header};
use memchr::memmem;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;

use super::{Body, Failed, connect};

/// So many streams are being opened at the same time.
const OPENING: usize = 64;

/// What stands before the number of an event and before its time.
const NUMBER: &[u8] = b"\"content\":\" ";
const DIGITS: usize = 8;
const TIME_DIGITS: usize = 16;

/// The last event of a stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// An event of the size that chat completions have, with its number and the time.
pub fn event(number: u64) -> Bytes {
    let now = now_us();
    Bytes::from(format!(
        "data: {{\"id\":\"chatcmpl-0ca60ed36cd6ff4d4a972df65b106171\",\
         \"object\":\"chat.completion.chunk\",\"created\":1795290954,\"model\":\"bench\",\
         \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" {number:08}@{now:016}\"}},\
         \"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
    ))
}

/// The same bytes in pieces, each in a write of its own: every eighth frame byte by byte,
/// the others cut where a small generator says.
pub fn in_pieces(body: Body) -> Body {
    let pieces = BodyDataStream::new(body)
        .enumerate()
        .flat_map(|(number, data)| {
            let mut data = data.unwrap_or_default();
            let mut state = number as u64;
            let cut = std::iter::from_fn(move || {
                // Knuth's MMIX generator; its upper bits are the random ones.
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let length = match number % 8 {
                    7 => 1,
                    _ => 1 + (state >> 33) as usize % 100,
                };
                (!data.is_empty()).then(|| data.split_to(length.min(data.len())))
            });
            // Whoever serves the body writes what there is when nothing more is ready.
            streams::iter(cut).then(|piece| async {
                tokio::task::yield_now().await;
                Ok(Frame::data(piece))
            })
        });
    StreamBody::new(pieces).boxed_unsync()
}

/// Microseconds since 1970, of the clock that both processes see.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as u64
}

/// What is asked: all streams at once, each of so many events.
pub struct Wish {
    streams: usize,
    events: u64,
    /// Between two events of a stream, microseconds.
    gap: u64,
    /// For opening all of them, microseconds.
    opening: u64,
    /// Whether the upstream writes each event in pieces.
    pieces: bool,
    models: Vec<String>,
    key: Option<String>,
}

impl Wish {
    /// `streams`, `opening_ms` until they have to be open, `seconds` that they last then,
    /// `gap_us` between the events of one, whether they come in `pieces`, `models` that
    /// take turns, and `key`.
    pub fn read(wish: &Value) -> Self {
        let number = |name: &str, other: u64| wish[name].as_u64().unwrap_or(other);
        let gap = number("gap_us", 200_000).max(1);
        let models = wish["models"].as_array().into_iter().flatten();
        Self {
            streams: number("streams", 1) as usize,
            events: 1 + number("seconds", 30) * 1_000_000 / gap,
            gap,
            opening: number("opening_ms", 10_000) * 1000,
            pieces: wish["pieces"].as_bool().unwrap_or(false),
            models: models
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            key: wish["key"].as_str().map(str::to_owned),
        }
    }

    /// The body of one stream's request. The second events of all are spread over one gap.
    fn body(&self, which: usize, began: u64) -> Bytes {
        let phase = self.gap * which as u64 / self.streams as u64;
        let body = json!({
            "model": self.models[which % self.models.len()],
            "messages": [{"role": "user", "content": "x".repeat(60)}],
            "stream": true,
            "max_completion_tokens": self.events,
            "gap_us": self.gap,
            "start_us": began + self.opening + phase,
            "stamped": true,
            "pieces": self.pieces,
        });
        Bytes::from(body.to_string())
    }
}

/// What is known of all streams.
#[derive(Default)]
struct Tally {
    /// Streams of which one event has come.
    begun: Cell<usize>,
    /// Whether all had when the second event of the first of them came.
    in_time: Cell<Option<bool>>,
    events: Cell<u64>,
    /// How long events took once all streams were open, microseconds.
    late: RefCell<Vec<u32>>,
    /// Why streams failed.
    failed: RefCell<Vec<String>>,
}

fn count(cell: &Cell<usize>) -> usize {
    cell.set(cell.get() + 1);
    cell.get()
}

/// Opens all streams, says `open` on standard output when each of them has had an
/// event, reads them to their ends, and answers what it saw.
pub async fn load(address: SocketAddr, wish: Wish) -> Result<Value, Failed> {
    let (wish, tally) = (Rc::new(wish), Rc::new(Tally::default()));
    let opening = Rc::new(Semaphore::new(OPENING));
    let began = now_us();
    let mut tasks = Vec::new();
    for which in 0..wish.streams {
        let (wish, tally) = (wish.clone(), tally.clone());
        let body = wish.body(which, began);
        let opening = opening.clone();
        tasks.push(spawn_local(async move {
            if let Err(error) = stream(address, body, &wish, &tally, &opening).await {
                tally.failed.borrow_mut().push(error.to_string());
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    let seconds = (now_us() - began) as f64 / 1e6;
    let mut late = tally.late.take();
    late.sort_unstable();
    let part = |share: f64| {
        let at = ((late.len() as f64 - 1.0) * share).round() as usize;
        late.get(at).copied()
    };
    let failed = tally.failed.take();
    Ok(json!({
        "streams": wish.streams,
        "expected": wish.events * wish.streams as u64,
        "events": tally.events.get(),
        "failed": failed.len(),
        "reason": failed.first(),
        "in_time": tally.in_time.get(),
        "seconds": seconds,
        "measured": late.len(),
        "p50": part(0.5),
        "p99": part(0.99),
        "p999": part(0.999),
        "most": part(1.0),
    }))
}

/// One stream to its end. Every event has to be there, in order and once.
async fn stream(
    address: SocketAddr,
    body: Bytes,
    wish: &Wish,
    tally: &Tally,
    opening: &Semaphore,
) -> Result<(), Failed> {
    let place = opening.acquire().await?;
    let mut way = connect::<Full<Bytes>>(address).await?;
    let mut request = Request::post("/v1/chat/completions")
        .header(header::HOST, address.to_string())
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(key) = &wish.key {
        request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
    }
    let request = request.body(Full::new(body))?;
    let response = way.send_request(request).await?;
    if response.status() != StatusCode::OK {
        let status = response.status();
        let text = response.into_body().collect().await?.to_bytes();
        return Err(format!("{status}: {}", String::from_utf8_lossy(&text)).into());
    }
    drop(place);
    let mut body = response.into_body();
    let (mut reader, mut next) = (Reader::default(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let now = now_us();
        for (number, sent) in reader.read(&data) {
            if number != next {
                return Err(format!("event {number} instead of {next}").into());
            }
            next += 1;
            tally.events.set(tally.events.get() + 1);
            if next == 1 {
                if count(&tally.begun) == wish.streams {
                    println!("open");
                }
                continue;
            }
            if tally.in_time.get().is_none() {
                tally.in_time.set(Some(tally.begun.get() == wish.streams));
            }
            let late = u32::try_from(now.saturating_sub(sent)).unwrap_or(u32::MAX);
            tally.late.borrow_mut().push(late);
        }
    }
    match reader.is_done && next == wish.events {
        true => Ok(()),
        false => Err(format!("ended after {next} of {} events", wish.events).into()),
    }
}

/// Finds the events, wherever the stream is cut.
#[derive(Default)]
struct Reader {
    tail: Vec<u8>,
    is_done: bool,
}

impl Reader {
    /// Number and time of each event that is whole now.
    fn read(&mut self, data: &[u8]) -> Vec<(u64, u64)> {
        self.tail.extend_from_slice(data);
        let mut found = Vec::new();
        let mut begin = 0;
        while let Some(length) = memmem::find(&self.tail[begin..], b"\n\n") {
            let event = &self.tail[begin..begin + length + 2];
            begin += length + 2;
            self.is_done |= event == DONE.as_bytes();
            if let Some(at) = memmem::find(event, NUMBER) {
                let digits = &event[at + NUMBER.len()..];
                let value = |range: std::ops::Range<usize>| {
                    let text = digits.get(range)?;
                    std::str::from_utf8(text).ok()?.parse().ok()
                };
                let number = value(0..DIGITS).unwrap_or(u64::MAX);
                let time = value(DIGITS + 1..DIGITS + 1 + TIME_DIGITS).unwrap_or(0);
                found.push((number, time));
            }
        }
        self.tail.drain(..begin);
        found
    }
}
