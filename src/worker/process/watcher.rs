//! Looking at what a worker holds while it lives, and whether the system ended it
//! for lack of memory. It reports and decides nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use super::Report;
use crate::platform::footprint::{self, Footprint};
use crate::platform::oom;

/// How often a worker is looked at.
const EVERY: Duration = Duration::from_millis(500);

/// A change of less is not reported, bytes.
const NEWS: u64 = 1 << 20;

/// How many counts of ended processes are kept: those of the last ten seconds. A
/// large process takes its time to be gone after it was ended.
const COUNTS: usize = 20;

/// The eye on one worker.
pub struct Watcher {
    process: u32,
    /// Whether what descends from the process counts as well.
    family: bool,
    /// Where the system counts processes that it ended for lack of memory. Found
    /// at the start: of a process that is about to be gone the kernel tells another.
    place: Option<PathBuf>,
    seen: Mutex<Looks>,
}

/// What was seen.
#[derive(Default)]
struct Looks {
    reported: Footprint,
    /// How many processes the system had ended for lack of memory, the newest last.
    ended: VecDeque<u64>,
}

impl Watcher {
    /// An eye on a process that was just started, and on what descends from it if
    /// `family` says so.
    pub fn new(process: u32, family: bool) -> Self {
        let watcher = Self {
            process,
            family,
            place: oom::place(process),
            seen: Mutex::default(),
        };
        watcher.count();
        watcher
    }

    /// Looks again and again.
    pub async fn look_on(&self, report: &impl Fn(Report)) -> Infallible {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tick.tick().await;
            self.count();
            self.look(report);
        }
    }

    /// Looks once and reports what is new.
    pub fn look(&self, report: &impl Fn(Report)) {
        let now = match self.family {
            true => footprint::of_family(self.process),
            false => footprint::of(self.process),
        };
        let Some(now) = now else {
            return;
        };
        let Ok(mut seen) = self.seen.lock() else {
            return;
        };
        let before = seen.reported;
        let pairs = [
            (before.private, now.private),
            (before.mapped, now.mapped),
            (before.peak, now.peak),
        ];
        if pairs.iter().any(|(a, b)| a.0.abs_diff(b.0) >= NEWS) {
            seen.reported = now;
            drop(seen);
            report(Report::Footprint(now));
        }
    }

    /// Whether the system has lately ended a process of this one's cgroup for lack
    /// of memory. Of a worker that was killed, and not by us, this says why.
    pub fn memory_ran_out(&self) -> bool {
        let Ok(seen) = self.seen.lock() else {
            return false;
        };
        let now = self.place.as_deref().and_then(oom::count);
        matches!((seen.ended.front(), now), (Some(before), Some(now)) if now > *before)
    }

    /// Keeps count of ended processes.
    fn count(&self) {
        let Ok(mut seen) = self.seen.lock() else {
            return;
        };
        if let Some(count) = self.place.as_deref().and_then(oom::count) {
            seen.ended.push_back(count);
        }
        if seen.ended.len() > COUNTS {
            seen.ended.pop_front();
        }
    }
}
