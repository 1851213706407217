//! The audit: one line for each management effect, on disk before the effect, and
//! one for each management call that was refused; of those refused for their rate
//! one for many. It names who, what and whether it was allowed; never a key, never
//! a prompt. Lines are numbered, also across restarts, files put aside and several
//! servers on one file, so that a missing one shows.

use std::io;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::counters::Counters;
use super::file::{Before, LineFile, Rotation};
use crate::access::Caller;
use crate::shutdown::Tasks;
use crate::telemetry::escape;

mod sums;

use sums::{Kind, Sums};

/// When the audit is put aside, and how much of it is kept.
const ROTATION: Rotation = Rotation {
    largest: 16 * 1024 * 1024,
    kept: 16,
};

/// How often sums are looked at that may be due.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The result of a call that was refused for its rate.
const TOO_MANY: &str = "rate_limit_exceeded";

/// The open audit. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct Audit {
    inner: Arc<Mutex<Inner>>,
    sums: Arc<std::sync::Mutex<Sums>>,
}

#[derive(Debug)]
struct Inner {
    file: LineFile,
    /// The number of the next line, as far as this process knows.
    next: u64,
}

/// One line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// Milliseconds since 1970, for people; the sequence is what orders.
    time_ms: u64,
    sequence: u64,
    #[serde(flatten)]
    call: &'a Call,
}

/// What is written of a call.
#[derive(Debug, Serialize)]
struct Call {
    caller: String,
    peer: String,
    action: String,
    target: String,
    result: String,
    /// How many calls the line stands for, where it is not for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

impl Call {
    fn of(caller: &Caller, action: &str, target: &str, result: &str) -> Self {
        Self {
            caller: caller.id.clone(),
            peer: caller.door.peer(),
            action: action.to_owned(),
            target: target.to_owned(),
            result: result.to_owned(),
            count: None,
        }
    }

    fn too_many(kind: Kind, count: Option<u64>) -> Self {
        Self {
            caller: kind.caller,
            peer: kind.peer,
            action: kind.action,
            target: String::new(),
            result: TOO_MANY.to_owned(),
            count,
        }
    }
}

/// What is read of a line that is there.
#[derive(Deserialize)]
struct Numbered {
    sequence: u64,
}

impl Audit {
    /// Opens the file for appending, 0600. The sequence goes on where the file ends.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::with_rotation(path, ROTATION)
    }

    fn with_rotation(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let file = LineFile::open(path, rotation)?;
        Ok(Self {
            inner: Arc::new(Mutex::new(Inner { file, next: 0 })),
            sums: Arc::default(),
        })
    }

    /// Writes the line of an effect that is allowed, and waits until it is on disk.
    /// Call it before the effect; an effect whose line cannot be written must not
    /// happen.
    pub async fn allowed(&self, caller: &Caller, action: &str, target: &str) -> io::Result<()> {
        let call = Call::of(caller, action, target, "allowed");
        self.write(call, true).await
    }

    /// Writes the line of a call that was refused with this code. Nothing follows
    /// from it, so nobody waits for the disk: a flood of wrong keys must not keep
    /// the owner's own calls waiting.
    pub async fn refused(&self, caller: &Caller, action: &str, code: &str) -> io::Result<()> {
        let call = Call::of(caller, action, "", code);
        self.write(call, false).await
    }

    /// Writes down a call that was refused for its rate. A line for each would fill
    /// the disk: the first of its caller, address and action has one at once,
    /// further ones are counted and get one together.
    pub async fn too_many(&self, caller: &Caller, action: &str) -> io::Result<()> {
        let kind = Kind {
            caller: caller.id.clone(),
            peer: caller.door.peer(),
            action: action.to_owned(),
        };
        let first = self.sums().add(kind, Instant::now());
        match first {
            Some(kind) => self.write(Call::too_many(kind, None), false).await,
            None => Ok(()),
        }
    }

    /// Starts the task that writes the counts of [`Audit::too_many`], the last ones
    /// when the server stops. A count that cannot be written is a failure counted.
    pub fn sum_up(&self, counters: &Counters, tasks: &Tasks) {
        let (audit, counters, stop) = (self.clone(), counters.clone(), tasks.stop_signal());
        tasks.spawn(async move {
            loop {
                let goes_on = tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => true,
                    () = stop.cancelled() => false,
                };
                let counted = match goes_on {
                    true => audit.sums().due(Instant::now()),
                    false => audit.sums().rest(),
                };
                for (kind, count) in counted {
                    let call = Call::too_many(kind, Some(count));
                    if let Err(error) = audit.write(call, false).await {
                        tracing::error!(?error, count, "the audit could not be written");
                        counters.audit_failed();
                    }
                }
                if !goes_on {
                    return;
                }
            }
        });
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, call: Call, is_durable: bool) -> io::Result<()> {
        // One at a time, and not on the threads that serve everybody.
        let mut inner = self.inner.clone().lock_owned().await;
        let written = tokio::task::spawn_blocking(move || {
            inner.write(&call)?;
            match is_durable {
                true => inner.file.sync(),
                false => Ok(()),
            }
        });
        written.await.map_err(io::Error::other)?
    }
}

impl Inner {
    fn write(&mut self, call: &Call) -> io::Result<()> {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let next = self.next;
        let mut sequence = next;
        self.file.append(|before| {
            sequence = next;
            if let Before::Others(text) = before {
                sequence = sequence.max(last_number(&text).map_or(0, |last| last + 1));
            }
            let line = serde_json::to_string(&Line {
                time_ms: time.as_millis() as u64,
                sequence,
                call,
            })?;
            Ok(format!("{}\n", escape::json(&line)).into())
        })?;
        self.next = sequence + 1;
        Ok(())
    }
}

/// The number of the last line that has one.
fn last_number(text: &str) -> Option<u64> {
    let mut lines = text.lines().rev();
    lines.find_map(|line| Some(serde_json::from_str::<Numbered>(line).ok()?.sequence))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn caller() -> Caller {
        Caller::keyless("key-1", &crate::access::Door::UnixSocket)
    }

    fn sequences(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).expect("text");
        let number = |line: &str| last_number(line).expect("a numbered line");
        text.lines().map(number).collect()
    }

    /// Those of the file and of everything put aside.
    fn all_sequences(path: &Path) -> Vec<u64> {
        let mut all = Vec::new();
        for entry in fs::read_dir(path.parent().expect("a folder")).expect("a folder") {
            all.extend(sequences(&entry.expect("an entry").path()));
        }
        all.sort_unstable();
        all
    }

    struct Place {
        _folder: tempfile::TempDir,
        path: PathBuf,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        Place {
            _folder: folder,
            path,
        }
    }

    async fn write(audit: &Audit, target: &str) {
        let written = audit.allowed(&caller(), "unload", target).await;
        written.expect("written");
    }

    #[tokio::test]
    async fn lines_are_numbered_across_restarts_and_steer_no_terminal() {
        let place = place();
        for target in ["a/b", "c\n\u{1b}[2J\u{9b}\u{202e}"] {
            let audit = Audit::open(&place.path).expect("opened");
            write(&audit, target).await;
        }
        let text = fs::read_to_string(&place.path).expect("text");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("json"))
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["sequence"], 1);
        assert_eq!(lines[1]["caller"], "key-1");
        assert_eq!(lines[1]["target"], "c\n\u{1b}[2J\u{9b}\u{202e}");
        assert!(text.is_ascii(), "{text}");
    }

    #[tokio::test]
    async fn o02_the_sequence_goes_on_over_files_put_aside_and_restarts() {
        let place = place();
        let rotation = Rotation {
            largest: 300,
            kept: 50,
        };
        for _ in 0..4 {
            let audit = Audit::with_rotation(&place.path, rotation).expect("opened");
            for _ in 0..5 {
                write(&audit, "a/b").await;
            }
        }
        assert_eq!(all_sequences(&place.path), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn o02_what_was_cut_away_leaves_a_gap() {
        let place = place();
        let audit = Audit::open(&place.path).expect("opened");
        for _ in 0..3 {
            write(&audit, "a/b").await;
        }
        fs::write(&place.path, "").expect("cut");
        write(&audit, "a/b").await;
        assert_eq!(sequences(&place.path), [3]);
        fs::remove_file(&place.path).expect("removed");
        write(&audit, "a/b").await;
        assert_eq!(sequences(&place.path), [4]);
    }

    #[tokio::test]
    async fn o02_two_servers_on_one_file_share_its_numbers() {
        let place = place();
        let rotation = Rotation {
            largest: 2000,
            kept: 100,
        };
        let open = |()| Audit::with_rotation(&place.path, rotation).expect("opened");
        let [one, other] = [(); 2].map(open);
        let many = |audit: Audit| async move {
            for _ in 0..200 {
                write(&audit, "a/b").await;
            }
        };
        tokio::join!(many(one), many(other));
        assert_eq!(all_sequences(&place.path), (0..400).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn o02_a_file_moved_away_by_others_is_gone_on_from() {
        let place = place();
        let [one, other] = [(); 2].map(|()| Audit::open(&place.path).expect("opened"));
        write(&one, "a/b").await;
        write(&other, "a/b").await;
        fs::rename(&place.path, place.path.with_extension("old")).expect("moved");
        write(&one, "a/b").await;
        write(&other, "a/b").await;
        assert_eq!(sequences(&place.path), [2, 3]);
    }
}
