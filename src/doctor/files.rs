//! Files and folders: who may read and write them, whether they can be made. Pure.

use std::time::{Duration, SystemTime};

use super::{Facts, Finding, Kind, PathFact, Setup};
use crate::access::keys::KeyError;
use crate::units::ByteSize;

/// Mode bits of everybody who is not the owner.
const OTHERS: u32 = 0o077;

/// The mode bit that lets everybody write.
const EVERYBODY_WRITES: u32 = 0o002;

/// A clock before this was never set: 2026-01-01, older than this program.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);

/// Less room than this does not last for the audit.
const ROOM: ByteSize = ByteSize(16_000_000);

/// The state folder, the disk under it, and the clock that its lines go by.
pub fn state(facts: &Facts) -> Vec<Finding> {
    let state = &facts.state;
    let shown = state.path.display();
    let mut found = Vec::new();
    if state.kind != Kind::Missing && state.kind != Kind::Folder {
        found.push(
            Finding::fault("state-folder-blocked", format!("{shown} is no folder"))
                .mend(format!("mv {shown} {shown}.old")),
        );
    } else if !state.writable {
        let message = format!("{shown} cannot be written, and keys and audit belong there");
        found.push(Finding::fault("state-folder-unwritable", message));
    } else if state.mode & EVERYBODY_WRITES != 0 {
        let message = format!("{shown} may be written by everybody, who could replace the keys");
        let fault = Finding::fault("state-folder-open", message);
        found.push(fault.mend(format!("chmod 700 {shown}")));
    }
    if let Some(free) = facts.free.filter(|free| *free < ROOM) {
        let message = format!(
            "{free} are left on the disk of {shown}; what cannot be written to the audit is not done"
        );
        found.push(Finding::fault("disk-full", message));
    }
    if facts.now < SystemTime::UNIX_EPOCH + EARLIEST {
        let message = "the clock is before 2026; the audit and the expiry of keys go by it";
        found.push(Finding::fault("clock", message).mend("set the system's clock"));
    }
    found
}

/// What the configuration names.
pub fn configured(setup: &Setup) -> Vec<Finding> {
    let mut found = Vec::new();
    let file = &setup.file;
    if file.mode & EVERYBODY_WRITES != 0 {
        let shown = file.path.display();
        let message = format!("{shown} may be written by everybody, and it is the allowlist");
        let fault = Finding::fault("configuration-open", message);
        found.push(fault.mend(format!("chmod o-w {shown}")));
    }
    if let Err(error) = &setup.keys {
        found.push(keys(error));
    }
    found.extend(audit(&setup.audit));
    found.extend(setup.caches.iter().filter_map(cache));
    found
}

fn keys(error: &KeyError) -> Finding {
    let message = error.to_string();
    match error {
        KeyError::TooOpen { path, .. } => {
            Finding::fault("keys-file-open", message).mend(format!("chmod 600 {}", path.display()))
        }
        KeyError::Malformed { path, .. } => Finding::fault("keys-file-malformed", message).mend(
            format!("mv {0} {0}.old, then make keys anew", path.display()),
        ),
        KeyError::Weak { .. } => {
            Finding::fault("key-weak", message).mend("a key such as `openssl rand -hex 32` prints")
        }
        KeyError::Both(..) | KeyError::Equal(..) | KeyError::GivenFile { .. } => {
            Finding::fault("key-environment", message)
        }
        _ => Finding::fault("keys-file-unreadable", message),
    }
}

fn audit(audit: &PathFact) -> Option<Finding> {
    let shown = audit.path.display();
    if !matches!(audit.kind, Kind::Missing | Kind::File) {
        let message = format!("{shown} is no file, and the audit belongs there");
        return Some(Finding::fault("audit-unwritable", message));
    }
    if !audit.writable {
        let message = format!("{shown} cannot be written; without the audit nothing is done");
        return Some(Finding::fault("audit-unwritable", message));
    }
    (audit.mode & OTHERS != 0).then(|| {
        let message = format!("{shown} may be read by others (mode {:o})", audit.mode);
        Finding::fault("audit-open", message).mend(format!("chmod 600 {shown}"))
    })
}

fn cache(cache: &PathFact) -> Option<Finding> {
    let shown = cache.path.display();
    match cache.kind {
        Kind::Missing => {
            let message = format!("there is no cache folder {shown}");
            let mend = "change cache in the configuration, or bring a model with `hf download`";
            Some(Finding::fault("cache-missing", message).mend(mend))
        }
        Kind::Folder if cache.readable => None,
        Kind::Folder => {
            let message = format!("the cache folder {shown} cannot be read");
            Some(Finding::fault("cache-unreadable", message))
        }
        _ => {
            let message = format!("{shown} is no folder, and the configuration calls it a cache");
            Some(Finding::fault("cache-blocked", message))
        }
    }
}
