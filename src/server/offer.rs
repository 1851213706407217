//! HTTP/2 has a flow control of its own: a client may leave an answer untaken
//! without any write to the socket standing still. Here each stream's task
//! notes what is offered to its client, and ends when that is not taken in time.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::alarm::Alarm;

tokio::task_local! {
    static OFFER: Arc<Offer>;
}

/// Since when something is offered; nothing while the client waits for us.
#[derive(Debug, Default)]
struct Offer(Mutex<Option<Instant>>);

impl Offer {
    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// Notes whether there is something to take, if this runs under [`until_stalled`].
pub(super) fn note(offered: bool) {
    // Elsewhere the socket itself tells.
    let _ = OFFER.try_with(|offer| offer.set(offered.then(Instant::now)));
}

/// Runs a stream to its end, or until its client took nothing of what was offered
/// for so long.
#[cfg_attr(
    not(any(feature = "tls", test)),
    expect(dead_code, reason = "HTTP/2 is spoken within TLS alone")
)]
pub(super) async fn until_stalled<F: Future>(stream: F, patience: Duration) {
    let offer = Arc::new(Offer::default());
    let stream = OFFER.scope(offer.clone(), stream);
    tokio::pin!(stream);
    let mut timer = Alarm::default();
    poll_fn(|context| {
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        match offer.since() {
            Some(since) => timer.poll_until(since + patience, context),
            None => Poll::Pending,
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn l03_a_stream_ends_when_what_is_offered_is_not_taken() {
        let start = Instant::now();
        let stream = async {
            note(true);
            tokio::time::sleep(Duration::from_secs(50)).await;
            note(true);
            tokio::time::sleep(Duration::from_secs(3600)).await;
        };
        until_stalled(stream, PATIENCE).await;
        assert_eq!(start.elapsed().as_secs(), 110);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_us_is_not_slow() {
        let start = Instant::now();
        let stream = async {
            note(true);
            note(false);
            tokio::time::sleep(Duration::from_secs(3600)).await;
        };
        until_stalled(stream, PATIENCE).await;
        assert_eq!(start.elapsed().as_secs(), 3600);
        // Outside of a stream it is nobody's business.
        note(true);
    }
}
