//! A timer that is put off far more often than it rings: for each event of a stream,
//! for each read of a connection. Putting it off costs nothing: it goes on to the moment
//! that it was set for, and only then further.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer. It is made when it is needed first.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready at `deadline`, which may be another one each time.
    pub fn poll_until(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        ready!(sleep.as_mut().poll(context));
        if sleep.deadline() < deadline {
            sleep.as_mut().reset(deadline);
            return sleep.as_mut().poll(context);
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_the_last_deadline_it_was_given() {
        let (start, mut alarm) = (Instant::now(), Alarm::default());
        let second = |number| start + Duration::from_secs(number);
        for put_off in [second(10), second(20), second(15)] {
            let polled = poll_fn(|context| Poll::Ready(alarm.poll_until(put_off, context)));
            assert!(polled.await.is_pending());
        }
        for (deadline, at) in [(15, 15), (30, 30), (20, 30), (40, 40)] {
            poll_fn(|context| alarm.poll_until(second(deadline), context)).await;
            assert_eq!(start.elapsed().as_secs(), at);
        }
    }
}
