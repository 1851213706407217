//! The processes that descend from one. On Linux by `/proc/PID/task/*/children` (man 5
//! proc); elsewhere none are found, and a process group is all that is known.

use std::collections::HashSet;

use rustix::process::{Pid, Signal};

/// Most processes that are looked at: an engine has a handful.
const MOST: usize = 4096;

/// All that descend from a process, without itself; parents before children.
pub fn descendants(process: u32) -> Vec<u32> {
    let mut seen = HashSet::from([process]);
    let mut found = vec![process];
    let mut next = 0;
    while next < found.len() && found.len() < MOST {
        for child in children(found[next]) {
            if seen.insert(child) {
                found.push(child);
            }
        }
        next += 1;
    }
    found.remove(0);
    found
}

/// Kills all that descend from a process. Answers whether there were any.
pub fn kill_descendants(process: u32) -> bool {
    let found = descendants(process);
    for descendant in &found {
        let pid = i32::try_from(*descendant).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // Gone is what is wanted.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
    !found.is_empty()
}

/// Takes in whoever loses its parent among the descendants of this process, so that
/// none of them gets away by ending its own.
#[cfg(target_os = "linux")]
pub fn adopt_orphans() {
    // Where the kernel cannot, those who left the process group get away.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// See the Linux side.
#[cfg(not(target_os = "linux"))]
pub fn adopt_orphans() {}

/// The children of a process that live; those of all its threads.
fn children(process: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    let texts = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("children"));
        text.ok()
    });
    let children = texts.flat_map(|text| {
        let numbers = text.split_ascii_whitespace();
        numbers
            .filter_map(|number| number.parse().ok())
            .collect::<Vec<u32>>()
    });
    children.filter(|child| lives(*child)).collect()
}

/// Whether a process has not ended; one that nobody has reaped yet has.
fn lives(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    // After the name in parentheses comes the state.
    stat.is_ok_and(|stat| {
        let state = stat.rsplit(')').next().unwrap_or_default();
        !state.trim_start().starts_with(['Z', 'X'])
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn grandchildren_are_found_and_killed() {
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "setsid sleep 1000 & sleep 1000 & wait"])
            .spawn()
            .expect("started");
        while descendants(child.id()).len() < 2 {
            std::thread::yield_now();
        }
        assert!(kill_descendants(child.id()));
        while !descendants(child.id()).is_empty() {
            std::thread::yield_now();
        }
        child.wait().expect("its children are gone");
        assert!(!kill_descendants(child.id()));
    }
}
