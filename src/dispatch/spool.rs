//! The spool between the half that reads the engine and the half that writes to
//! the client: it grows on demand, at most [`PER_STREAM`] a stream and a shared
//! budget for all. A slow client holds nothing but its spool; only a full spool
//! makes the reading half wait.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Most bytes that wait for one client.
pub const PER_STREAM: usize = 1024 * 1024;

/// Most bytes that wait for all clients together.
pub const FOR_ALL: usize = 256 * 1024 * 1024;

/// The budget that all spools share.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(FOR_ALL)))
    }
}

/// Some bytes with their place in the budgets, given back when they are taken.
struct Parcel {
    bytes: Bytes,
    /// Nothing for a last parcel, which counts against no budget.
    _places: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

/// The end that is written to.
#[derive(Debug)]
pub struct Writer {
    parcels: mpsc::UnboundedSender<Parcel>,
    stream: Arc<Semaphore>,
    all: Budget,
}

/// The end that is read.
pub struct Reader {
    parcels: mpsc::UnboundedReceiver<Parcel>,
}

/// The client is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

/// A spool for one stream.
pub fn spool(budget: &Budget) -> (Writer, Reader) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let writer = Writer {
        parcels: sender,
        stream: Arc::new(Semaphore::new(PER_STREAM)),
        all: budget.clone(),
    };
    (writer, Reader { parcels: receiver })
}

impl Writer {
    /// Puts bytes in, waiting only while there is no room.
    pub async fn write(&self, bytes: Bytes) -> Result<(), Gone> {
        // Larger parcels than the spool count as a full one.
        let size = bytes.len().clamp(1, PER_STREAM) as u32;
        let stream = self.places(&self.stream, size).await?;
        let all = self.places(&self.all.0, size).await?;
        self.parcels
            .send(Parcel {
                bytes,
                _places: Some((stream, all)),
            })
            .map_err(|_| Gone)
    }

    /// So many places, at once if they are free.
    async fn places(&self, of: &Arc<Semaphore>, size: u32) -> Result<OwnedSemaphorePermit, Gone> {
        if let Ok(places) = of.clone().try_acquire_many_owned(size) {
            return Ok(places);
        }
        tokio::select! {
            places = of.clone().acquire_many_owned(size) => places.map_err(|_| Gone),
            () = self.parcels.closed() => Err(Gone),
        }
    }

    /// Puts the last bytes in, whether or not there is room: a short word about
    /// why the stream ends.
    pub fn write_last(&self, bytes: Bytes) {
        // A reader that is gone needs no last word.
        let _ = self.parcels.send(Parcel {
            bytes,
            _places: None,
        });
    }
}

impl Reader {
    /// The next bytes; nothing once the writer is gone and all is taken.
    pub fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let taken = self.parcels.poll_recv(context);
        taken.map(|parcel| parcel.map(|parcel| parcel.bytes))
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
