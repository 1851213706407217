//! A memory cgroup for a server and its workers, of either version. A kernel or a
//! container that gives none has the test skipped, which it says in its output.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A cgroup, removed when its last process is gone.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A cgroup with room for so many bytes; nothing where none can be made.
    pub fn of(limit: u64) -> Option<Self> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("roundhouse-test-{}-{number}", std::process::id());
        let versions = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        let made = versions.into_iter().find_map(|(mounted, file)| {
            let folder = Path::new(mounted).join(&name);
            fs::create_dir(&folder).ok()?;
            let made = Self(folder);
            fs::write(made.0.join(file), limit.to_string()).ok()?;
            Some(made)
        });
        if made.is_none() {
            eprintln!("skipped: this system lets nobody here make a memory cgroup");
        }
        if let Some(Self(folder)) = &made {
            // Without these it would swap and not end, where there is swap.
            for (file, value) in [("memory.swappiness", "0"), ("memory.swap.max", "0")] {
                let _ = fs::write(folder.join(file), value);
            }
        }
        made
    }

    /// The shell command that puts the shell into it.
    pub fn enter(&self) -> String {
        format!("echo $$ > {}", self.0.join("cgroup.procs").display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Whoever was in it may take a moment to be gone.
        let start = Instant::now();
        while fs::remove_dir(&self.0).is_err() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
