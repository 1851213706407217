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

/// Slowest body on average, bytes a second, once `body_idle` has passed; that of
/// Kestrel (`MinRequestBodyDataRate`).
const SLOWEST: u64 = 240;

/// Room that a body of unknown length begins with, bytes.
const FIRST_ROOM: usize = 8 * 1024;

/// Room that is added when there is no more, bytes. Pieces of one size leave no
/// holes in the heap, which growing buffers do.
const MORE_ROOM: usize = 64 * 1024;

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

/// Reads the whole body, or refuses it as soon as it is known to be too large, too
/// slow, or more than the memory for bodies has left.
pub async fn take(
    headers: &HeaderMap,
    mut body: Body,
    limits: &Limits,
    bodies: &Bodies,
) -> Result<Bytes, ApiError> {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let too_large = || {
        let message = format!("the body has more than {}", limits.body);
        ApiError::new(Code::RequestTooLarge, message)
    };
    if declared.is_some_and(|length| length > limits.body.0) {
        return Err(too_large());
    }
    let most = declared.unwrap_or(limits.body.0);
    let mut held = bodies.hold_nothing();
    let mut pieces = Pieces::default();
    let began = Instant::now();
    let mut last = began;
    loop {
        let deadline = deadline(began, last, pieces.length, limits.body_idle);
        let frame = timeout_at(deadline, body.frame()).await.map_err(|_| {
            let message = format!(
                "the body came too slowly: nothing for {:?}, or less than {SLOWEST} bytes a second",
                limits.body_idle
            );
            ApiError::new(Code::RequestTimeout, message)
        })?;
        let data = match frame {
            None => break,
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
        last = Instant::now();
        let mut data = &data[..];
        if pieces.length + data.len() as u64 > limits.body.0 {
            return Err(too_large());
        }
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
    use crate::units::ByteSize;

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
