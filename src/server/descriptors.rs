//! File descriptors: as many as the system allows this process, and how many of
//! them connections may take, so that workers, files and management keep theirs.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What macOS grants where the hard limit says "unlimited" (`OPEN_MAX`).
const UNLIMITED_MEANS: u64 = 10_240;

/// Descriptors that inference never takes: listeners, files, pipes of workers, and
/// the connections of management.
const RESERVED: u64 = 128;

/// Most descriptors that are kept for connections to workers: one for each request
/// that runs or waits for its model, not for idle connections.
const FOR_WORKERS: u64 = 4096;

/// Least room for connections, whatever the limit.
const LEAST: u64 = 16;

/// Who the room is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// One of so many listeners for inference.
    Inference(usize),
    /// Management, or the control socket.
    Management,
}

/// Raises the soft limit to the hard one; answers what holds now.
pub fn raise() -> u64 {
    let before = getrlimit(Resource::Nofile);
    let wanted = before.maximum.unwrap_or(UNLIMITED_MEANS);
    let raised = Rlimit {
        current: Some(wanted),
        maximum: before.maximum,
    };
    if before.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(?error, "the limit of open files could not be raised");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Most connections of a listener under this limit.
pub fn room(limit: u64, share: Share) -> usize {
    let room = match share {
        Share::Inference(listeners) => {
            let kept = RESERVED + (limit / 4).min(FOR_WORKERS);
            limit.saturating_sub(kept) / u64::try_from(listeners).unwrap_or(1).max(1)
        }
        Share::Management => (limit / 8).min(RESERVED / 4),
    };
    usize::try_from(room.max(LEAST)).unwrap_or(usize::MAX)
}

/// Whether this process can still open something. Asks the system by opening a
/// descriptor and closing it again.
pub fn is_one_free() -> bool {
    let opened = std::io::stderr().as_fd().try_clone_to_owned();
    let none = [Errno::MFILE, Errno::NFILE].map(|error| error.raw_os_error());
    // Whatever else is wrong with standard error is no want of descriptors.
    opened.map_or_else(
        |error| {
            !error
                .raw_os_error()
                .is_some_and(|error| none.contains(&error))
        },
        |_| true,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shares_together_leave_room_for_files_and_workers() {
        for limit in [256, 1024, 4096, 1_048_576] {
            let inference = room(limit, Share::Inference(1)) as u64;
            let two = room(limit, Share::Inference(2)) as u64;
            let management = room(limit, Share::Management) as u64;
            assert!(two * 2 <= inference, "{limit}");
            // Management and the control socket.
            let taken = inference + (limit / 4).min(4096) + management * 2;
            assert!(taken + 32 <= limit, "{limit}: {taken}");
        }
        assert_eq!(room(0, Share::Inference(1)), 16);
        assert_eq!(room(20_000, Share::Inference(0)), 15_776);
        assert_eq!(room(256, Share::Inference(1)), 64);
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = raise();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current.unwrap_or(u64::MAX), limit);
        assert!(now.maximum.is_none() || now.current == now.maximum);
    }
}
