//! Waiting for an engine or a client no longer than a limit. A limit that is noticed
//! late says that the router itself stood still (it was stopped, or its machine was
//! frozen), and nobody is cut off for that: the wait begins anew.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::alarm::Alarm;

/// How late a limit is noticed when it was the router that stood still.
const LATE: Duration = Duration::from_millis(100);

/// Nothing came within the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLate;

/// Waits for `what` for as long as `limit`, in which the router was running.
/// Whoever asks pins it: taken by value it would stand twice in the future of whoever waits.
pub async fn within<F: Future + Unpin>(limit: Duration, mut what: F) -> Result<F::Output, TooLate> {
    loop {
        let deadline = Instant::now() + limit;
        match timeout_at(deadline, &mut what).await {
            Ok(came) => return Ok(came),
            Err(_) if Instant::now() >= deadline + LATE => {}
            Err(_) => return Err(TooLate),
        }
    }
}

/// The same for one wait after another, with one timer.
#[derive(Debug, Default)]
pub struct Patience(Alarm);

impl Patience {
    /// Waits for `what` for as long as `limit`, in which the router was running.
    pub async fn within<F: Future>(
        &mut self,
        limit: Duration,
        what: F,
    ) -> Result<F::Output, TooLate> {
        let mut what = pin!(what);
        let mut deadline = None;
        poll_fn(|context| {
            if let Poll::Ready(came) = what.as_mut().poll(context) {
                return Poll::Ready(Ok(came));
            }
            let deadline = deadline.get_or_insert_with(|| Instant::now() + limit);
            loop {
                ready!(self.0.poll_until(*deadline, context));
                let now = Instant::now();
                if now < *deadline + LATE {
                    return Poll::Ready(Err(TooLate));
                }
                *deadline = now + limit;
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_is_waited_for_as_long_as_the_limit() {
        let start = Instant::now();
        let never = std::future::pending::<()>();
        assert_eq!(within(LIMIT, never).await, Err(TooLate));
        assert!(start.elapsed() < LIMIT + LATE);
        let soon = tokio::time::sleep(LIMIT / 2);
        assert_eq!(within(LIMIT, pin!(soon)).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_wait_after_another_has_the_whole_limit() {
        let mut patience = Patience::default();
        for _ in 0..5 {
            let soon = tokio::time::sleep(LIMIT * 2 / 3);
            assert_eq!(patience.within(LIMIT, soon).await, Ok(()));
        }
        let start = Instant::now();
        let never = std::future::pending::<()>;
        assert_eq!(patience.within(LIMIT, never()).await, Err(TooLate));
        assert!((LIMIT..LIMIT + LATE).contains(&start.elapsed()));
        let start = Instant::now();
        assert_eq!(patience.within(LIMIT / 2, never()).await, Err(TooLate));
        assert!((LIMIT / 2..LIMIT).contains(&start.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn f28_what_comes_after_the_router_stood_still_is_in_time() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let stands_still = async {
            // The clock goes on while nothing else does.
            tokio::time::advance(LIMIT * 60).await;
            tokio::time::sleep(LIMIT / 2).await;
            sender.send(1)
        };
        let (came, sent) = tokio::join!(within(LIMIT, receiver), stands_still);
        assert_eq!((came, sent), (Ok(Ok(1)), Ok(())));
        let mut patience = Patience::default();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let stands_still = async {
            tokio::time::advance(LIMIT * 60).await;
            tokio::time::sleep(LIMIT / 2).await;
            sender.send(1)
        };
        let (came, sent) = tokio::join!(patience.within(LIMIT, receiver), stands_still);
        assert_eq!((came, sent), (Ok(Ok(1)), Ok(())));
    }
}
