//! The audit: one line for each management effect, on disk before the effect.
//! It names who, what and whether it was allowed; never a key, never a prompt.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::Caller;

/// The open audit file.
#[derive(Debug)]
pub struct Audit {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    sequence: u64,
}

/// One line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// Milliseconds since 1970, for people; the sequence is what orders.
    time_ms: u64,
    sequence: u64,
    caller: &'a str,
    peer: &'a str,
    action: &'a str,
    target: &'a str,
    result: &'a str,
}

impl Audit {
    /// Opens the file for appending, 0600. The sequence goes on where the file ends.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let sequence = match fs::read(path) {
            Ok(bytes) => bytes.iter().filter(|&&byte| byte == b'\n').count() as u64,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self {
            inner: Mutex::new(Inner { file, sequence }),
        })
    }

    /// Writes one line and waits until it is on disk. Call it before the effect;
    /// an effect whose line cannot be written must not happen.
    pub fn record(
        &self,
        caller: &Caller,
        action: &str,
        target: &str,
        result: &str,
    ) -> std::io::Result<()> {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // A poisoned lock only means that another line failed half-way.
        let mut inner = self
            .inner
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let line = Line {
            time_ms: time.as_millis() as u64,
            sequence: inner.sequence,
            caller: &caller.id,
            peer: &caller.peer,
            action,
            target,
            result,
        };
        let mut text = serde_json::to_string(&line)?;
        text.push('\n');
        inner.file.write_all(text.as_bytes())?;
        inner.file.sync_data()?;
        inner.sequence += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_across_restarts_and_control_characters_escaped() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let caller = Caller::keyless("key-1", &crate::access::Door::UnixSocket);
        for target in ["a/b", "c\n\u{1b}[2J"] {
            let audit = Audit::open(&path).expect("opened");
            audit
                .record(&caller, "unload", target, "allowed")
                .expect("written");
        }
        let text = fs::read_to_string(&path).expect("text");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("json"))
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["sequence"], 1);
        assert_eq!(lines[1]["caller"], "key-1");
        assert!(!text.contains('\u{1b}'));
    }
}
