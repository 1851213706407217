//! The task that gives memory back when requests have ended: once the server has rested for
//! a moment after some, and once after its start. While there are requests it does nothing,
//! since they would need the memory again.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::dispatch::live::Live;
use crate::platform::allocator;
use crate::shutdown::Tasks;

/// How often it is looked, and so the shortest rest that counts.
const LOOKS: Duration = Duration::from_secs(1);

/// What was seen at the last look.
#[derive(Debug, Default)]
struct Seen {
    /// How many requests had begun, ever.
    begun: Option<u64>,
    /// The same when memory was given back last.
    given_back: Option<u64>,
}

impl Seen {
    /// Whether memory is to be given back now.
    fn look(&mut self, begun: u64, is_running: bool) -> bool {
        let has_rested = self.begun.replace(begun) == Some(begun) && !is_running;
        has_rested && self.given_back.replace(begun) != Some(begun)
    }
}

/// Starts the task.
pub fn start(live: Live, tasks: &Tasks) {
    let stop = tasks.stop_signal();
    tasks.spawn(async move {
        let mut seen = Seen::default();
        let mut tick = tokio::time::interval(LOOKS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            if seen.look(live.begun(), live.is_running()) {
                // It cannot fail; whoever waits for the end does not wait for it.
                let _ = tokio::task::spawn_blocking(allocator::give_back).await;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_each_time_of_work() {
        let mut seen = Seen::default();
        let mut check = |begun, is_running, expected| {
            assert_eq!(
                seen.look(begun, is_running),
                expected,
                "{begun} {is_running}"
            );
        };
        check(0, false, false);
        check(0, false, true);
        check(0, false, false);
        // One came and went between two looks.
        check(1, false, false);
        check(1, false, true);
        check(1, false, false);
        check(9, true, false);
        check(9, true, false);
        check(9, false, true);
        check(9, false, false);
    }
}
