//! The request log: lines through a bounded channel to the one task that writes
//! them. A request never waits for it; what finds no room, or no disk, is counted
//! as lost. Where it writes follows the configuration.

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::counters::Counters;
use super::file::{LineFile, Rotation};
use crate::shutdown::{Place, Tasks};
use crate::telemetry::escape;

/// When the log is put aside, and how much of it is kept.
const ROTATION: Rotation = Rotation {
    largest: 64 * 1024 * 1024,
    kept: 4,
};

/// Lines that wait to be written.
const WAITING: usize = 8192;

/// Lines that are written in one go.
const BATCH: usize = 256;

/// A handle to the request log. Cloning gives another one.
#[derive(Clone, Debug)]
pub struct RequestLog {
    lines: mpsc::Sender<String>,
    path: watch::Sender<Option<PathBuf>>,
    counters: Counters,
}

impl RequestLog {
    /// Starts the task that writes; no path switches the log off.
    pub fn start(path: Option<PathBuf>, counters: &Counters, tasks: &Tasks) -> Self {
        let (lines, waiting) = mpsc::channel(WAITING);
        let (path, followed) = watch::channel(path);
        let writer = Writer {
            waiting,
            path: followed,
            counters: counters.clone(),
            tasks: tasks.clone(),
            file: None,
            is_failing: false,
        };
        tasks.spawn(writer.run(tasks.stop_signal()));
        Self {
            lines,
            path,
            counters: counters.clone(),
        }
    }

    /// Whether requests are written down.
    pub fn is_on(&self) -> bool {
        self.path.borrow().is_some()
    }

    /// Goes on in another file, or stops writing.
    pub fn follow(&self, path: Option<PathBuf>) {
        self.path.send_if_modified(|now| {
            let differs = *now != path;
            *now = path;
            differs
        });
    }

    /// Hands a line over without waiting.
    pub fn write(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.counters.lost(1);
        }
    }
}

/// The task that writes.
struct Writer {
    waiting: mpsc::Receiver<String>,
    path: watch::Receiver<Option<PathBuf>>,
    counters: Counters,
    tasks: Tasks,
    file: Option<LineFile>,
    /// Whether the last attempt failed: that is told once.
    is_failing: bool,
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                count = self.waiting.recv_many(&mut batch, BATCH) => match count {
                    0 => return,
                    _ => self.write(&mut batch).await,
                },
                Ok(()) = self.path.changed() => self.file = None,
                () = stop.cancelled(), if !self.waiting.is_closed() => self.waiting.close(),
            }
        }
    }

    /// Writes what has come, on a thread that may wait for the disk.
    async fn write(&mut self, batch: &mut Vec<String>) {
        let lines = std::mem::take(batch);
        let count = lines.len() as u64;
        let Some(path) = self.path.borrow().clone() else {
            return;
        };
        let (file, tasks) = (self.file.take(), self.tasks.clone());
        let written = tokio::task::spawn_blocking(move || {
            tasks.pass(Place::RequestLog);
            append(file, &path, &lines)
        });
        let error = match written.await {
            Ok(Ok(file)) => {
                self.file = Some(file);
                self.is_failing = false;
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                self.counters.panicked(Place::RequestLog.as_str());
                "a panic".to_owned()
            }
        };
        self.counters.lost(count);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(error, "the request log cannot be written");
        }
    }
}

/// Appends lines to the file, which is opened if it is not.
fn append(file: Option<LineFile>, path: &Path, lines: &[String]) -> io::Result<LineFile> {
    let mut file = match file {
        Some(file) => file,
        None => LineFile::open(path, ROTATION)?,
    };
    let text: String = lines
        .iter()
        .flat_map(|line| [escape::json(line), "\n".into()])
        .collect();
    file.append(|_| Ok(text.clone()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn lines_are_written_before_the_end_and_losses_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("requests.jsonl");
        let tasks = Tasks::new();
        let counters = Counters::default();
        let log = RequestLog::start(Some(path.clone()), &counters, &tasks);
        for number in 0..1000 {
            log.write(format!("{{\"number\":{number}}}"));
        }
        assert!(tasks.stop(Duration::from_secs(30)).await);
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text.lines().count(), 1000);
        log.write("late".to_owned());
        let mut registry = prometheus_client::registry::Registry::default();
        counters.register(&mut registry);
        let mut shown = String::new();
        prometheus_client::encoding::text::encode(&mut shown, &registry).expect("text");
        assert!(
            shown.contains("request_log_lost_lines_total 1\n"),
            "{shown}"
        );
    }
}
