//! Taking in the body of a request: its size, its pace, and the memory that the
//! bodies of all requests share. What was taken is given back when the last
//! copy of the body is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::error::{ApiError, Code};
use crate::config::Limits;
use crate::units::ByteSize;

/// Slowest body on average, bytes a second, once `body_idle` has passed; that of
/// Kestrel (`MinRequestBodyDataRate`).
const SLOWEST: u64 = 240;

/// Room that a body of unknown length begins with, bytes.
const FIRST_ROOM: usize = 8 * 1024;

/// Room that is added when there is no more, bytes. Pieces of one size leave no
/// holes in the heap, which growing buffers do.
const MORE_ROOM: usize = 96 * 1024;

/// The memory that all bodies share. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct Bodies {
    taken: Arc<AtomicU64>,
}

/// Memory that a body holds.
#[derive(Debug)]
struct Held {
    bodies: Bodies,
    bytes: u64,
}

impl Bodies {
    /// Bytes that are taken now.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn hold_nothing(&self) -> Held {
        Held {
            bodies: self.clone(),
            bytes: 0,
        }
    }
}

impl Held {
    /// Holds so many more bytes, if there is room under the limit.
    fn grow(&mut self, more: u64, limit: u64) -> Result<(), ApiError> {
        let fits = |taken: u64| taken.checked_add(more).filter(|sum| *sum <= limit);
        let taken = &self.bodies.taken;
        match taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits) {
            Ok(_) => {
                self.bytes += more;
                Ok(())
            }
            Err(_) => Err(ApiError::new(
                Code::Overloaded,
                "the bodies of running requests fill server.limits.bodies",
            )),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bodies.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// A body with the memory it holds.
struct Taken {
    bytes: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for Taken {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body on its way in: how much of it there is, and at what pace it comes.
#[derive(Debug)]
pub struct Inflow {
    body: Body,
    bodies: Bodies,
    /// Most bytes it may have.
    largest: ByteSize,
    /// Most bytes that all bodies may hold.
    room: ByteSize,
    idle: Duration,
    declared: Option<u64>,
    received: u64,
    /// Since when it has been asked for without a break, and what it had then.
    began: (Instant, u64),
    last: Instant,
    held: Vec<u8>,
    memory: Held,
}

impl Inflow {
    /// A body of which nothing has been read.
    ///
    /// # Errors
    /// It says itself that it is too large.
    pub fn of(
        headers: &HeaderMap,
        body: Body,
        limits: &Limits,
        bodies: &Bodies,
    ) -> Result<Self, ApiError> {
        let declared = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let now = Instant::now();
        let inflow = Self {
            body,
            bodies: bodies.clone(),
            largest: limits.body,
            room: limits.bodies,
            idle: limits.body_idle,
            declared,
            received: 0,
            began: (now, 0),
            last: now,
            held: Vec::new(),
            memory: bodies.hold_nothing(),
        };
        match declared.is_some_and(|length| length > limits.body.0) {
            true => Err(inflow.too_large()),
            false => Ok(inflow),
        }
    }

    /// How long it says that it is.
    pub fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// The time until now was not the client's.
    pub fn go_on(&mut self) {
        self.last = Instant::now();
        self.began = (self.last, self.received);
    }

    /// The next bytes; nothing at the end.
    ///
    /// # Errors
    /// They come too slowly, are too many, or are not well framed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let (began, before) = self.began;
            let deadline = deadline(began, self.last, self.received - before, self.idle);
            let frame = timeout_at(deadline, self.body.frame()).await.map_err(|_| {
                let message = format!(
                    "the body came too slowly: nothing for {:?}, or less than {SLOWEST} bytes a second",
                    self.idle
                );
                ApiError::new(Code::RequestTimeout, message)
            })?;
            let data = match frame {
                None => return Ok(None),
                Some(Err(_)) => {
                    return Err(ApiError::new(
                        Code::BadRequest,
                        "the body broke off or is not well framed",
                    ));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_) => continue,
                },
            };
            self.last = Instant::now();
            self.received += data.len() as u64;
            if self.received > self.largest.0 {
                return Err(self.too_large());
            }
            return Ok(Some(data));
        }
    }

    /// The next bytes, of which a copy is kept; nothing at the end.
    ///
    /// # Errors
    /// As those of [`Self::next`], and when the memory for bodies is full.
    pub async fn hold_next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let Some(data) = self.next().await? else {
            return Ok(None);
        };
        self.memory.grow(data.len() as u64, self.room.0)?;
        self.held.extend_from_slice(&data);
        Ok(Some(data))
    }

    /// How many bytes are kept.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// What is kept, with the memory that it holds.
    pub fn take_held(&mut self) -> Bytes {
        Bytes::from_owner(Taken {
            bytes: std::mem::take(&mut self.held),
            _held: std::mem::replace(&mut self.memory, self.bodies.hold_nothing()),
        })
    }

    fn too_large(&self) -> ApiError {
        let message = format!("the body has more than {}", self.largest);
        ApiError::new(Code::RequestTooLarge, message)
    }
}

/// Reads the whole body, or refuses it as soon as it is known to be too large, too
/// slow, or more than the memory for bodies has left.
pub async fn take(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
    bodies: &Bodies,
) -> Result<Bytes, ApiError> {
    let mut inflow = Inflow::of(headers, body, limits, bodies)?;
    let most = inflow.declared().unwrap_or(limits.body.0);
    let mut held = bodies.hold_nothing();
    let mut pieces = Pieces::default();
    while let Some(data) = inflow.next().await? {
        let mut data = &data[..];
        while !data.is_empty() {
            if pieces.room() == 0 {
                let room = room(pieces.length, most);
                // Counted before it is there, and exactly as much.
                held.grow(room as u64, limits.bodies.0)?;
                pieces.list.push(Vec::with_capacity(room));
            }
            data = pieces.fill(data);
        }
    }
    Ok(Bytes::from_owner(Taken {
        bytes: pieces.join(),
        _held: held,
    }))
}

/// A body as it comes in.
#[derive(Default)]
struct Pieces {
    list: Vec<Vec<u8>>,
    length: u64,
}

impl Pieces {
    fn room(&self) -> usize {
        self.list
            .last()
            .map_or(0, |last| last.capacity() - last.len())
    }

    /// Puts in what there is room for; answers the rest.
    fn fill<'d>(&mut self, data: &'d [u8]) -> &'d [u8] {
        let (fits, rest) = data.split_at(self.room().min(data.len()));
        if let Some(last) = self.list.last_mut() {
            last.extend_from_slice(fits);
        }
        self.length += fits.len() as u64;
        rest
    }

    fn join(mut self) -> Vec<u8> {
        match self.list.len() {
            0 | 1 => self.list.pop().unwrap_or_default(),
            _ => self.list.concat(),
        }
    }
}

/// When the next bytes have to be there.
fn deadline(began: Instant, last: Instant, received: u64, idle: Duration) -> Instant {
    let slowest = Duration::from_millis(received.saturating_mul(1000) / SLOWEST);
    (last + idle).min(began + idle + slowest)
}

/// Room to add to a body that has so many bytes and can have `most` of them.
fn room(length: u64, most: u64) -> usize {
    let left = usize::try_from(most.saturating_sub(length)).unwrap_or(usize::MAX);
    let usual = if length == 0 && most > MORE_ROOM as u64 {
        FIRST_ROOM
    } else {
        MORE_ROOM
    };
    // A body longer than it said is refused by whoever frames it.
    left.min(usual).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::standard::Surroundings;

    fn limits() -> Limits {
        let around = Surroundings {
            folder: "/etc".into(),
            home: None,
            hub_cache: "/hub".into(),
            state: "/state".into(),
        };
        let mut limits = Config::standard(&around).server.limits;
        limits.body = ByteSize(1000);
        limits.bodies = ByteSize(1500);
        limits
    }

    /// A body of these pieces, each after so many seconds.
    fn slowly(pieces: Vec<(u64, Vec<u8>)>) -> Body {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Vec<u8>>(1);
        #[expect(clippy::disallowed_methods, reason = "ends with the test")]
        tokio::spawn(async move {
            for (wait, piece) in pieces {
                tokio::time::sleep(Duration::from_secs(wait)).await;
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
        });
        let next = |mut receiver: tokio::sync::mpsc::Receiver<Vec<u8>>| async {
            let piece = receiver.recv().await?;
            Some((Ok::<_, std::io::Error>(Bytes::from(piece)), receiver))
        };
        Body::from_stream(futures_util::stream::unfold(receiver, next))
    }

    async fn code(headers: &HeaderMap, body: Body, bodies: &Bodies) -> Result<usize, Code> {
        let taken = take(headers, body, &limits(), bodies).await;
        taken.map(|bytes| bytes.len()).map_err(|error| error.code)
    }

    #[tokio::test]
    async fn l06_the_cap_is_the_largest_body_with_and_without_a_length() {
        let bodies = Bodies::default();
        for size in [0, 1, 999, 1000, 1001, 5000] {
            let expected = if size <= 1000 {
                Ok(size)
            } else {
                Err(Code::RequestTooLarge)
            };
            let body = || vec![b'x'; size];
            let none = HeaderMap::new();
            let chunked = slowly(vec![(0, body())]);
            assert_eq!(code(&none, chunked, &bodies).await, expected, "{size}");
            let mut length = HeaderMap::new();
            length.insert(header::CONTENT_LENGTH, size.into());
            assert_eq!(
                code(&length, Body::from(body()), &bodies).await,
                expected,
                "{size}"
            );
        }
        assert_eq!(bodies.taken(), 0);
    }

    #[tokio::test]
    async fn l09_bodies_share_a_budget_and_give_back_what_they_held() {
        let bodies = Bodies::default();
        let (none, limits) = (HeaderMap::new(), limits());
        let body = || Body::from(vec![b'x'; 700]);
        let first = take(&none, body(), &limits, &bodies).await.expect("room");
        assert!((700..=1000).contains(&bodies.taken()), "{}", bodies.taken());
        assert_eq!(code(&none, body(), &bodies).await, Err(Code::Overloaded));
        let copy = first.slice(10..20);
        drop(first);
        assert!(bodies.taken() >= 700, "a part of it is still there");
        drop(copy);
        assert_eq!(bodies.taken(), 0);
        assert_eq!(code(&none, body(), &bodies).await, Ok(700));
    }

    #[tokio::test(start_paused = true)]
    async fn l02_a_body_that_stops_or_creeps_is_given_up() {
        let bodies = Bodies::default();
        let none = HeaderMap::new();
        let start = Instant::now();
        let stops = slowly(vec![(0, vec![b'x'; 10]), (3600, vec![b'x'])]);
        assert_eq!(code(&none, stops, &bodies).await, Err(Code::RequestTimeout));
        assert_eq!(start.elapsed().as_secs(), 30);
        let start = Instant::now();
        let creeps = slowly((0..900).map(|_| (1, vec![b'x'])).collect());
        assert_eq!(
            code(&none, creeps, &bodies).await,
            Err(Code::RequestTimeout)
        );
        assert_eq!(start.elapsed().as_secs(), 30);
        let steady = slowly((0..4).map(|_| (20, vec![b'x'; 250])).collect());
        assert_eq!(
            code(&none, steady, &bodies).await,
            Err(Code::RequestTimeout)
        );
        let enough = slowly((0..2).map(|_| (14, vec![b'x'; 250])).collect());
        assert_eq!(code(&none, enough, &bodies).await, Ok(500));
        assert_eq!(bodies.taken(), 0);
    }
}
