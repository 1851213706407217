//! What an engine writes: always read, so that it never waits for a reader; watched for
//! the line that says it is ready; and until it is ready passed on line by line, up to
//! a rate, with the last one kept for whoever asks why it ended. What it writes later
//! may hold what it was asked, and goes nowhere.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, BufReader};
use tokio::process::Child;
use tokio::sync::watch;

use crate::config::engine::ReadySign;
use crate::shutdown::Tasks;
use crate::worker::process::lines;

/// Longest part of a line that is looked at, bytes.
const LONGEST_LINE: usize = 8 * 1024;

/// Most lines that are passed on in a second.
const RATE: u32 = 200;

/// Longest last word that is told, characters.
const LONGEST_WORDS: usize = 300;

/// How long what was written last is waited for after the end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Both outputs of one engine.
pub struct Output {
    kept: Arc<Mutex<Kept>>,
    /// Whether the sign was seen.
    seen: watch::Receiver<bool>,
    tasks: Tasks,
}

/// What is known of the lines so far.
struct Kept {
    last: Option<String>,
    /// Whether it is ready.
    is_closed: bool,
    began: Instant,
    passed: u32,
    left_out: u64,
}

impl Output {
    /// Reads the outputs of a process from now on.
    pub fn of(child: &mut Child, sign: &ReadySign) -> Self {
        let kept = Arc::new(Mutex::new(Kept {
            last: None,
            is_closed: false,
            began: Instant::now(),
            passed: 0,
            left_out: 0,
        }));
        let (found, seen) = watch::channel(false);
        let found = Arc::new(found);
        let tasks = Tasks::new();
        let sign = match sign {
            ReadySign::Line(text) => Some(text.clone()),
            ReadySign::Path(_) => None,
        };
        if let Some(stdout) = child.stdout.take() {
            tasks.spawn(read(stdout, sign.clone(), found.clone(), kept.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            tasks.spawn(read(stderr, sign, found, kept.clone()));
        }
        Self { kept, seen, tasks }
    }

    /// Waits for the line that says that it is ready.
    pub async fn sign(&mut self) {
        if self.seen.wait_for(|seen| *seen).await.is_err() {
            // Both outputs have ended; the end of the process says more.
            std::future::pending::<()>().await;
        }
    }

    /// It is ready: nothing that it writes from here on is passed on.
    pub fn close(&self) {
        if let Ok(mut kept) = self.kept.lock() {
            kept.is_closed = true;
            kept.last = None;
        }
    }

    /// What was written last, when the process has ended and all is read.
    pub async fn last_words(self) -> Option<String> {
        self.tasks.stop(LAST_WORDS).await;
        let kept = self.kept.lock().ok()?;
        let last = kept.last.as_ref()?;
        Some(last.chars().take(LONGEST_WORDS).collect())
    }
}

/// Reads one output to its end.
async fn read(
    stream: impl AsyncRead + Unpin,
    sign: Option<String>,
    found: Arc<watch::Sender<bool>>,
    kept: Arc<Mutex<Kept>>,
) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(line)) = lines::next(&mut stream, LONGEST_LINE).await {
        let line = lines::printable(&line);
        if sign.as_ref().is_some_and(|sign| line.contains(sign)) {
            found.send_replace(true);
        }
        let Ok(mut kept) = kept.lock() else {
            continue;
        };
        if kept.is_closed {
            continue;
        }
        if let Some(text) = kept.pass(&line, Instant::now()) {
            // A router that does not listen is gone, and standard input tells that.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
        if !line.is_empty() {
            kept.last = Some(line);
        }
    }
}

impl Kept {
    /// What of a line is passed on at this moment: itself, or nothing if there were
    /// too many in this second.
    fn pass(&mut self, line: &str, now: Instant) -> Option<String> {
        if now.saturating_duration_since(self.began) >= Duration::from_secs(1) {
            self.began = now;
            self.passed = 0;
        }
        if self.passed >= RATE {
            self.left_out += 1;
            return None;
        }
        self.passed += 1;
        match std::mem::take(&mut self.left_out) {
            0 => Some(line.to_owned()),
            many => Some(format!("… {many} lines left out …\n{line}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_left_out_and_counted() {
        let began = Instant::now();
        let mut kept = Kept {
            last: None,
            is_closed: false,
            began,
            passed: 0,
            left_out: 0,
        };
        let passed = (0..1000).filter_map(|_| kept.pass("x", began)).count();
        assert_eq!(passed, RATE as usize);
        let later = began + Duration::from_secs(1);
        assert_eq!(
            kept.pass("y", later).as_deref(),
            Some("… 800 lines left out …\ny")
        );
        assert_eq!(kept.pass("z", later).as_deref(), Some("z"));
    }
}
