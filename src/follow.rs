//! Following a file that others write: a small poller of what the system says
//! about it. Polling survives editors that rename, links that are swapped and
//! folders that are mounted over, where watching misses one of them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often a file is looked at.
pub const EVERY: Duration = Duration::from_millis(500);

/// What tells one state of a file from another: where it is on the disk, its
/// size, and when its content and its rights were changed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity(Option<[i128; 5]>);

impl Identity {
    /// The identity of what a path leads to, links followed. A file that is not
    /// there, or that nothing may be asked about, has one too.
    pub fn of(path: &Path) -> Self {
        let nanoseconds =
            |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self(std::fs::metadata(path).ok().map(|facts| {
            [
                i128::from(facts.dev()),
                i128::from(facts.ino()),
                i128::from(facts.size()),
                nanoseconds(facts.mtime(), facts.mtime_nsec()),
                nanoseconds(facts.ctime(), facts.ctime_nsec()),
            ]
        }))
    }
}

/// Calls `changed` after each change of the file until told to stop. `seen` is
/// the identity at the last reading, taken before it: a change during the reading
/// is seen as one more. Looking and calling happen off the runtime's threads.
pub async fn follow(
    path: PathBuf,
    mut seen: Identity,
    every: Duration,
    stop: CancellationToken,
    changed: impl Fn() + Clone + Send + 'static,
) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let (path, changed) = (path.clone(), changed.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let now = Identity::of(&path);
            if now != seen {
                changed();
            }
            now
        });
        // A panic in `changed` has been told; the file is followed on.
        if let Ok(now) = looked.await {
            seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::shutdown::Tasks;

    #[test]
    fn every_way_of_changing_a_file_changes_its_identity() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let mut last = Identity::of(&path);
        let mut changed = |what: &str| {
            let now = Identity::of(&path);
            assert_ne!(now, last, "{what}");
            assert_eq!(now, Identity::of(&path), "nothing changed after {what}");
            last = now;
        };
        std::fs::write(&path, "a").expect("written");
        changed("making it");
        std::fs::write(&path, "ab").expect("written");
        changed("writing to it");
        let other = folder.path().join("other");
        std::fs::write(&other, "cd").expect("written");
        std::fs::rename(&other, &path).expect("renamed");
        changed("renaming another over it");
        std::fs::write(&other, "ef").expect("written");
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(&other, &path).expect("linked");
        changed("a link in its place");
        std::fs::remove_file(&other).expect("removed");
        changed("removing what it leads to");
    }

    #[tokio::test]
    async fn each_change_is_told_and_the_end_is_prompt() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let told = Arc::new(AtomicUsize::new(0));
        let (tasks, counted) = (Tasks::new(), told.clone());
        tasks.spawn(follow(
            path.clone(),
            Identity::of(&path),
            Duration::from_millis(5),
            tasks.stop_signal(),
            move || {
                counted.fetch_add(1, Ordering::SeqCst);
            },
        ));
        for expected in 1..=3 {
            std::fs::write(&path, "x".repeat(expected)).expect("written");
            let patience = tokio::time::Instant::now() + Duration::from_secs(20);
            while told.load(Ordering::SeqCst) < expected {
                assert!(tokio::time::Instant::now() < patience, "never told");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(tasks.stop(Duration::from_secs(20)).await);
    }
}
