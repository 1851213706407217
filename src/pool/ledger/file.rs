//! The ledger on the disk: one JSON file of its owner alone, replaced as a whole.
//! What it teaches can be learnt again, so nothing that is wrong with it keeps a
//! server from starting: it is told in the log and put aside.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use super::{Ledger, NoLedger};
use crate::records::private;
use crate::shutdown::Tasks;

/// Largest file that is read, bytes: more than the most lines take.
const LARGEST: u64 = 8 << 20;

/// The least time from one writing to the next.
const PAUSE: Duration = Duration::from_millis(500);

/// Why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system does not give it.
    #[error("{0}")]
    System(#[from] io::Error),
    /// It is something else.
    #[error("{0}")]
    NoLedger(#[from] NoLedger),
}

/// A ledger and, unless it is for a test, where it is written down.
#[derive(Debug, Default)]
pub struct Notebook {
    /// What was read.
    pub ledger: Ledger,
    writer: Option<watch::Sender<Ledger>>,
}

/// Reads a file; nothing that is there is an empty ledger.
pub fn read(path: &Path) -> Result<Ledger, ReadError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
        Err(error) => return Err(error.into()),
    };
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text)?;
    Ok(Ledger::parse(&text)?)
}

impl Notebook {
    /// Reads the file and starts the task that writes it. The task ends when this
    /// value is dropped, after it has written the last state.
    pub fn open(path: PathBuf, tasks: &Tasks) -> Self {
        let ledger = read(&path).unwrap_or_else(|error| {
            let reason = error.to_string();
            put_aside(&path);
            tracing::warn!(?path, reason, "the memory ledger is begun anew");
            Ledger::default()
        });
        let (writer, state) = watch::channel(ledger.clone());
        tasks.spawn(write_down(path, state));
        Self {
            ledger,
            writer: Some(writer),
        }
    }

    /// Has a new state written down, soon.
    pub fn write(&self, ledger: Ledger) {
        if let Some(writer) = &self.writer {
            writer.send_replace(ledger);
        }
    }
}

/// Keeps what somebody may want to look at.
fn put_aside(path: &Path) {
    let aside = path.with_extension("json.broken");
    if let Err(error) = fs::rename(path, aside) {
        tracing::warn!(?path, ?error, "it could not be put aside");
    }
}

/// Writes each new state, the last one too.
async fn write_down(path: PathBuf, mut state: watch::Receiver<Ledger>) {
    let mut is_told = false;
    while state.changed().await.is_ok() {
        let ledger = state.borrow_and_update().clone();
        let path = path.clone();
        let shown = path.clone();
        let written = tokio::task::spawn_blocking(move || write(&path, &ledger)).await;
        match written {
            Ok(Err(error)) if !is_told => {
                // Once: what is not written is learnt again.
                is_told = true;
                tracing::warn!(path = ?shown, ?error, "the memory ledger cannot be written");
            }
            Ok(Ok(())) => is_told = false,
            _ => {}
        }
        // A last state is not kept waiting.
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = closed(&state) => {}
        }
    }
}

/// Waits until nobody can send a new state.
async fn closed(state: &watch::Receiver<Ledger>) {
    let mut state = state.clone();
    while state.changed().await.is_ok() {}
}

/// Writes the file, 0600, whole or not at all.
fn write(path: &Path, ledger: &Ledger) -> io::Result<()> {
    let text = ledger.text().map_err(io::Error::other)?;
    private::replace(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::pool::state::{plan, ready};

    const NAME: &str = "ledger.json";

    fn some() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.loaded(&plan("a", 10), &ready(5), Duration::from_secs(1));
        ledger
    }

    #[tokio::test]
    async fn the_last_state_is_written_and_its_owner_alone_reads_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state").join(NAME);
        let tasks = Tasks::new();
        let notebook = Notebook::open(path.clone(), &tasks);
        assert_eq!(notebook.ledger, Ledger::default());
        notebook.write(Ledger::default());
        notebook.write(some());
        drop(notebook);
        assert!(tasks.stop(Duration::from_secs(20)).await);
        assert_eq!(read(&path).expect("read"), some());
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn what_is_broken_or_foreign_is_put_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(NAME);
        let tasks = Tasks::new();
        for text in ["{\"version\":1,", "{\"version\":9,\"entries\":[]}", "[]"] {
            fs::write(&path, text).expect("written");
            let notebook = Notebook::open(path.clone(), &tasks);
            assert_eq!(notebook.ledger, Ledger::default(), "{text}");
            let aside = folder.path().join("ledger.json.broken");
            assert_eq!(fs::read_to_string(aside).expect("kept"), text);
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn where_nothing_can_be_written_the_server_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(NAME);
        fs::create_dir(&path).expect("a folder in the way");
        let tasks = Tasks::new();
        let notebook = Notebook::open(path.clone(), &tasks);
        fs::create_dir_all(path.join("full")).expect("a folder in the way");
        notebook.write(some());
        drop(notebook);
        assert!(tasks.stop(Duration::from_secs(20)).await);
        assert!(path.is_dir());
    }
}
