//! The one place through which long-lived tasks are started, stopped and
//! waited for. It knows nothing of what the tasks do.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod fail_points;

pub use fail_points::{FailPoints, Place};

/// Starts tasks and ends them. Cloning gives another handle to the same group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
    fail_points: FailPoints,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty group whose tasks can be made to panic.
    pub fn with_fail_points(fail_points: FailPoints) -> Self {
        Self {
            fail_points,
            ..Self::default()
        }
    }

    /// Makes the next pass through the place of this name panic, if this is a test.
    pub fn arm(&self, name: &str) {
        self.fail_points.arm(name);
    }

    /// Where a test may make a task panic.
    pub fn pass(&self, place: Place) {
        self.fail_points.pass(place);
    }

    /// Fires when the group is told to stop.
    pub fn stop_signal(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task that [`Tasks::stop`] will wait for. The task ends by itself
    /// when it sees the stop signal.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Tells all tasks to stop and waits for them. Answers whether all ended
    /// within `patience`.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(patience, self.tracker.wait())
            .await
            .is_ok()
    }
}
