//! The request log: lines through a bounded channel to the one task that writes
//! them. A request never waits for it; what finds no room, or no disk, is counted
//! as lost. Each line brings the file along that the configuration named when it was
//! said, so that lines can wait for each other and share the way to the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc;
use tokio::time::timeout;
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
const BATCH: usize = 1024;

/// How long the task rests after writing. A line that comes alone is written at once;
/// those that come meanwhile are written together.
const REST: Duration = Duration::from_millis(10);

/// A handle to the request log. Cloning gives another one.
#[derive(Clone, Debug)]
pub struct RequestLog {
    lines: mpsc::Sender<Line>,
    path: Arc<ArcSwapOption<PathBuf>>,
    counters: Counters,
}

/// A line, and where it belongs.
#[derive(Debug)]
struct Line {
    path: Arc<PathBuf>,
    text: String,
}

impl RequestLog {
    /// Starts the task that writes; no path switches the log off.
    pub fn start(path: Option<PathBuf>, counters: &Counters, tasks: &Tasks) -> Self {
        let (lines, waiting) = mpsc::channel(WAITING);
        let writer = Writer {
            waiting,
            counters: counters.clone(),
            tasks: tasks.clone(),
            open: None,
            is_failing: false,
        };
        tasks.spawn(writer.run(tasks.stop_signal()));
        Self {
            lines,
            path: Arc::new(ArcSwapOption::from_pointee(path)),
            counters: counters.clone(),
        }
    }

    /// Goes on in another file, or stops writing.
    pub fn follow(&self, path: Option<PathBuf>) {
        self.path.store(path.map(Arc::new));
    }

    /// Hands a line over without waiting, if requests are written down.
    pub fn write(&self, line: impl FnOnce() -> String) {
        if let Some(path) = self.path.load_full() {
            let text = line();
            if self.lines.try_send(Line { path, text }).is_err() {
                self.counters.lost(1);
            }
        }
    }
}

/// The task that writes.
struct Writer {
    waiting: mpsc::Receiver<Line>,
    counters: Counters,
    tasks: Tasks,
    /// The file that was written to last.
    open: Option<(Arc<PathBuf>, LineFile)>,
    /// Whether the last attempt failed: that is told once.
    is_failing: bool,
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) {
        let mut lines = Vec::new();
        loop {
            tokio::select! {
                count = self.waiting.recv_many(&mut lines, BATCH) => match count {
                    0 => return,
                    _ => {
                        self.write_all(&mut lines).await;
                        let _ = timeout(REST, stop.cancelled()).await;
                    }
                },
                () = stop.cancelled(), if !self.waiting.is_closed() => self.waiting.close(),
            }
        }
    }

    /// Writes what has come, each line where it belongs.
    async fn write_all(&mut self, lines: &mut Vec<Line>) {
        let mut lines = lines.drain(..).peekable();
        while let Some(first) = lines.next() {
            let path = first.path;
            let mut batch = vec![first.text];
            while let Some(next) = lines.next_if(|next| next.path == path) {
                batch.push(next.text);
            }
            self.write(path, batch).await;
        }
    }

    /// Writes lines of one file, on a thread that may wait for the disk.
    async fn write(&mut self, path: Arc<PathBuf>, lines: Vec<String>) {
        let count = lines.len() as u64;
        let open = self.open.take().filter(|(open, _)| *open == path);
        let (tasks, to) = (self.tasks.clone(), path.clone());
        let written = tokio::task::spawn_blocking(move || {
            tasks.pass(Place::RequestLog);
            append(open.map(|(_, file)| file), &to, &lines)
        });
        let error = match written.await {
            Ok(Ok(file)) => {
                self.open = Some((path, file));
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
    // At once as long as it will be, but for what has to be escaped.
    let length = lines.iter().map(|line| line.len() + 1).sum();
    let mut text = String::with_capacity(length);
    for line in lines {
        text.push_str(&escape::json(line));
        text.push('\n');
    }
    file.append(|_| Ok(text.as_str().into()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_written_before_the_end_and_losses_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("requests.jsonl");
        let tasks = Tasks::new();
        let counters = Counters::default();
        let log = RequestLog::start(Some(path.clone()), &counters, &tasks);
        for number in 0..1000 {
            log.write(|| format!("{{\"number\":{number}}}"));
        }
        assert!(tasks.stop(Duration::from_secs(30)).await);
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text.lines().count(), 1000);
        log.write(|| "late".to_owned());
        let mut registry = prometheus_client::registry::Registry::default();
        counters.register(&mut registry);
        let mut shown = String::new();
        prometheus_client::encoding::text::encode(&mut shown, &registry).expect("text");
        assert!(
            shown.contains("request_log_lost_lines_total 1\n"),
            "{shown}"
        );
    }

    #[tokio::test]
    async fn a_line_goes_to_the_file_of_its_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let tasks = Tasks::new();
        let log = RequestLog::start(None, &Counters::default(), &tasks);
        for (path, line) in [(None, "0"), (Some(&first), "1"), (Some(&second), "2")] {
            log.follow(path.cloned());
            log.write(|| line.to_owned());
        }
        log.follow(Some(first.clone()));
        log.write(|| "3".to_owned());
        log.follow(None);
        log.write(|| "4".to_owned());
        assert!(tasks.stop(Duration::from_secs(30)).await);
        let read = |path| std::fs::read_to_string(path).expect("text");
        assert_eq!(
            (read(first).as_str(), read(second).as_str()),
            ("1\n3\n", "2\n")
        );
    }
}
