//! The spool between the half that reads the engine and the half that writes to
//! the client: it grows on demand, at most [`PER_STREAM`] a stream and a shared
//! budget for all. A slow client holds nothing but its spool; only a full spool
//! makes the reading half wait. A stream that keeps up holds next to nothing, since there
//! are thousands of those at once.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::Semaphore;

/// Most bytes that wait for one client.
pub const PER_STREAM: usize = 1024 * 1024;

/// Most bytes that wait for all clients together.
pub const FOR_ALL: usize = 256 * 1024 * 1024;

/// Parcels for which an empty spool keeps a place.
const KEPT: usize = 16;

/// The budget that all spools share.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(FOR_ALL)))
    }
}

/// Some bytes, with how many of them count in the budgets: none of a last parcel's.
#[derive(Debug)]
struct Parcel {
    bytes: Bytes,
    places: usize,
}

/// What both ends share.
#[derive(Debug)]
struct Spool {
    held: Mutex<Held>,
    all: Budget,
}

#[derive(Debug, Default)]
struct Held {
    parcels: VecDeque<Parcel>,
    /// Places of this stream that are taken.
    taken: usize,
    /// Whether more may come, and whether anybody takes it.
    is_written: bool,
    is_read: bool,
    /// Whoever waits for something to take, and for room or for the end.
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The end that is written to.
#[derive(Debug)]
pub struct Writer(Arc<Spool>);

/// The end that is read.
#[derive(Debug)]
pub struct Reader(Arc<Spool>);

/// The client is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

/// Why bytes were not put in at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotNow {
    /// There is no room for these now.
    Full(Bytes),
    /// There is nobody to take them.
    Gone,
}

/// A spool for one stream.
pub fn spool(budget: &Budget) -> (Writer, Reader) {
    let held = Held {
        is_written: true,
        is_read: true,
        ..Held::default()
    };
    let spool = Arc::new(Spool {
        held: Mutex::new(held),
        all: budget.clone(),
    });
    (Writer(spool.clone()), Reader(spool))
}

impl Spool {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing that can panic is done with it.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Puts a parcel in and says whom to wake.
    fn put(&mut self, bytes: Bytes, places: usize) -> Option<Waker> {
        self.parcels.push_back(Parcel { bytes, places });
        self.reader.take()
    }
}

/// How much of the budgets bytes take. Larger ones than the spool count as a full one.
fn places(bytes: &Bytes) -> usize {
    bytes.len().clamp(1, PER_STREAM)
}

impl Writer {
    /// Puts bytes in if there is room for them now.
    ///
    /// # Errors
    /// There is none, or nobody takes them.
    pub fn try_write(&self, bytes: Bytes) -> Result<(), NotNow> {
        let Spool { all, .. } = &*self.0;
        let places = places(&bytes);
        let mut held = self.0.held();
        if !held.is_read {
            return Err(NotNow::Gone);
        }
        if held.taken + places > PER_STREAM {
            return Err(NotNow::Full(bytes));
        }
        match all.0.try_acquire_many(places as u32) {
            // Given back by whoever takes the parcel.
            Ok(permit) => permit.forget(),
            Err(_) => return Err(NotNow::Full(bytes)),
        }
        held.taken += places;
        let waker = held.put(bytes, places);
        drop(held);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Puts bytes in, waiting only while there is no room.
    ///
    /// # Errors
    /// Nobody takes them.
    pub async fn write(&self, bytes: Bytes) -> Result<(), Gone> {
        let places = places(&bytes);
        poll_fn(|context| self.poll_room(places, context)).await?;
        let all = &self.0.all.0;
        let permit = tokio::select! {
            permit = all.acquire_many(places as u32) => permit.map_err(|_| Gone)?,
            gone = poll_fn(|context| self.poll_room(PER_STREAM + 1, context)) => return gone,
        };
        permit.forget();
        // There is one writer, so the room that it saw is still there.
        let mut held = self.0.held();
        held.taken += places;
        let waker = held.put(bytes, places);
        drop(held);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Waits for so many places of this stream; for more than it has, until the reader is
    /// gone.
    fn poll_room(&self, places: usize, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let mut held = self.0.held();
        if !held.is_read {
            return Poll::Ready(Err(Gone));
        }
        if held.taken + places <= PER_STREAM {
            return Poll::Ready(Ok(()));
        }
        held.writer = Some(context.waker().clone());
        Poll::Pending
    }

    /// Puts the last bytes in, whether or not there is room: a short word about
    /// why the stream ends.
    pub fn write_last(&self, bytes: Bytes) {
        // A reader that is gone needs no last word.
        let waker = self.0.held().put(bytes, 0);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut held = self.0.held();
        held.is_written = false;
        let waker = held.reader.take();
        drop(held);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Reader {
    /// The next bytes; nothing once the writer is gone and all is taken.
    pub fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut held = self.0.held();
        let Some(Parcel { bytes, places }) = held.parcels.pop_front() else {
            if !held.is_written {
                return Poll::Ready(None);
            }
            if !held
                .reader
                .as_ref()
                .is_some_and(|waker| waker.will_wake(context.waker()))
            {
                held.reader = Some(context.waker().clone());
            }
            return Poll::Pending;
        };
        held.taken -= places;
        if held.parcels.is_empty() {
            held.parcels.shrink_to(KEPT);
        }
        let waker = held.writer.take();
        drop(held);
        waker.into_iter().for_each(Waker::wake);
        self.0.all.0.add_permits(places);
        Poll::Ready(Some(bytes))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut held = self.0.held();
        held.is_read = false;
        let waker = held.writer.take();
        drop(held);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What nobody took.
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.all.0.add_permits(held.taken);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    impl Reader {
        async fn read(&mut self) -> Option<Bytes> {
            std::future::poll_fn(|context| self.poll_read(context)).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_spool_waits_until_something_is_taken() {
        let (writer, mut reader) = spool(&Budget::default());
        let half = Bytes::from(vec![0u8; PER_STREAM / 2]);
        writer.write(half.clone()).await.expect("room");
        writer.write(half.clone()).await.expect("room");
        let third = tokio::time::timeout(Duration::from_secs(1), writer.write(half.clone()));
        assert!(third.await.is_err(), "a full spool took more");
        assert_eq!(
            reader.read().await.map(|bytes| bytes.len()),
            Some(half.len())
        );
        writer.write(half).await.expect("room again");
    }

    #[tokio::test]
    async fn what_is_in_it_outlives_the_writer() {
        let (writer, mut reader) = spool(&Budget::default());
        writer.write(Bytes::from_static(b"a")).await.expect("room");
        drop(writer);
        assert_eq!(reader.read().await, Some(Bytes::from_static(b"a")));
        assert_eq!(reader.read().await, None);
    }

    #[tokio::test]
    async fn a_writer_learns_that_the_reader_left() {
        let (writer, reader) = spool(&Budget::default());
        drop(reader);
        assert_eq!(writer.write(Bytes::from_static(b"a")).await, Err(Gone));
    }

    #[tokio::test]
    async fn what_nobody_takes_is_given_back() {
        let budget = Budget(Arc::new(Semaphore::new(10)));
        let (writer, mut reader) = spool(&budget);
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        assert_eq!(writer.try_write(bytes("12345678")), Ok(()));
        assert_eq!(
            writer.try_write(bytes("1234")),
            Err(NotNow::Full(bytes("1234")))
        );
        assert_eq!(reader.read().await, Some(bytes("12345678")));
        assert_eq!(writer.try_write(bytes("1234")), Ok(()));
        writer.write_last(bytes("last"));
        assert_eq!(budget.0.available_permits(), 6);
        drop(reader);
        assert_eq!(writer.try_write(bytes("1")), Err(NotNow::Gone));
        drop(writer);
        assert_eq!(budget.0.available_permits(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_room_learns_that_the_reader_left() {
        for budget in [
            Budget::default(),
            Budget(Arc::new(Semaphore::new(PER_STREAM))),
        ] {
            let (writer, reader) = spool(&budget);
            let (other, _other_reader) = spool(&budget);
            let most = Bytes::from(vec![0u8; PER_STREAM]);
            let full = if budget.0.available_permits() > PER_STREAM {
                &writer
            } else {
                &other
            };
            full.write(most.clone()).await.expect("room");
            let leaves = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                drop(reader);
            };
            let (written, ()) = tokio::join!(writer.write(most), leaves);
            assert_eq!(written, Err(Gone));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_shared_budget_bounds_all_streams_together() {
        let budget = Budget(Arc::new(Semaphore::new(10)));
        let (first, mut first_reader) = spool(&budget);
        let (second, _second_reader) = spool(&budget);
        first
            .write(Bytes::from_static(b"12345678"))
            .await
            .expect("room");
        let waits = tokio::time::timeout(
            Duration::from_secs(1),
            second.write(Bytes::from_static(b"1234")),
        );
        assert!(waits.await.is_err(), "the shared budget was passed");
        first_reader.read().await;
        second
            .write(Bytes::from_static(b"1234"))
            .await
            .expect("room");
    }
}
