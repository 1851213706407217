//! The way of log lines to standard error: a bounded channel and a thread of its
//! own. A terminal that was stopped or a pipe that nobody reads then holds up that
//! thread alone, and costs lines, which are counted. A line that comes alone is
//! written at once; while more come, several go out in one write.

use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver, Sender};

use super::escape;

/// Lines that wait to be written.
const WAITING: usize = 4096;

/// Most bytes of several lines in one write: a pipe takes so many as a whole, also
/// where others write to it (POSIX, `PIPE_BUF` of Linux).
const AT_ONCE: usize = 4096;

/// How long the thread rests after writing. Whoever writes a line meanwhile need not
/// wake it.
const REST: Duration = Duration::from_millis(10);

/// What the thread is told.
enum Said {
    Line(Vec<u8>),
    /// Answer when everything before this has been written.
    Flush(SyncSender<()>),
}

/// A handle to the thread.
#[derive(Clone, Debug)]
pub(super) struct Outlet(Sender<Said>);

impl Outlet {
    /// Starts the thread, which ends with the last handle.
    pub fn start(
        out: impl Write + Send + 'static,
        lost: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        // It has room as lines come; the standard library's takes all of it at once, an eighth
        // of a megabyte.
        let (lines, said) = mpsc::channel(WAITING);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write(out, said, lost))?;
        Ok(Self(lines))
    }

    /// Waits until what was said so far has been written, at most this long.
    pub fn flush(&self, patience: Duration) {
        let (done, written) = sync_channel(1);
        if self.0.try_send(Said::Flush(done)).is_ok() {
            // A reader that does not read gets no more time than that.
            let _ = written.recv_timeout(patience);
        }
    }
}

fn write(mut out: impl Write, mut said: Receiver<Said>, lost: impl Fn()) {
    let mut together = Together::default();
    while let Some(first) = said.blocking_recv() {
        let rest = std::iter::from_fn(|| said.try_recv().ok());
        for said in std::iter::once(first).chain(rest) {
            match said {
                Said::Line(line) => together.add(&line, &mut out, &lost),
                Said::Flush(done) => {
                    together.write(&mut out, &lost);
                    let _ = done.send(());
                }
            }
        }
        together.write(&mut out, &lost);
        std::thread::sleep(REST);
    }
}

/// Lines that go out in one write.
#[derive(Default)]
struct Together {
    text: Vec<u8>,
    lines: usize,
}

impl Together {
    fn add(&mut self, line: &[u8], out: &mut impl Write, lost: &impl Fn()) {
        if self.text.len() + line.len() > AT_ONCE {
            self.write(out, lost);
        }
        self.text.extend_from_slice(line);
        self.lines += 1;
    }

    fn write(&mut self, out: &mut impl Write, lost: &impl Fn()) {
        if self.lines > 0 && out.write_all(&self.text).is_err() {
            (0..self.lines).for_each(|_| lost());
        }
        self.text.clear();
        self.text.shrink_to(AT_ONCE);
        self.lines = 0;
    }
}

/// What a line is written to; each comes whole.
pub(super) struct Lines<L> {
    pub outlet: Outlet,
    /// Whether to escape what JSON leaves as it is.
    pub is_json: bool,
    pub lost: L,
}

impl<L: Fn()> Write for &Lines<L> {
    /// Never fails: who writes a line of the log has nowhere to complain.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = match self.is_json && !escape::is_plain(bytes.trim_ascii_end()) {
            true => {
                let text = String::from_utf8_lossy(bytes);
                let line = text.strip_suffix('\n').unwrap_or(&text);
                format!("{}\n", escape::json(line)).into_bytes()
            }
            false => bytes.to_vec(),
        };
        if self.outlet.0.try_send(Said::Line(line)).is_err() {
            (self.lost)();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A writer whose bytes can be looked at.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_stays_one_line() {
        let shared = Shared::default();
        let lost = || panic!("nothing was lost");
        let outlet = Outlet::start(shared.clone(), lost).expect("started");
        let mut lines = &Lines {
            outlet: outlet.clone(),
            is_json: true,
            lost,
        };
        let line = "{\"a\":\"\u{9b}31m\u{202e}\u{2028}\"}\n";
        assert_eq!(lines.write(line.as_bytes()).expect("written"), line.len());
        assert_eq!(lines.write(b"{\"plain\":1}\n").expect("written"), 12);
        outlet.flush(Duration::from_secs(60));
        let bytes = shared.0.lock().expect("not poisoned").clone();
        let text = String::from_utf8(bytes).expect("text");
        assert_eq!(
            text,
            "{\"a\":\"\\u009b31m\\u202e\\u2028\"}\n{\"plain\":1}\n"
        );
    }

    #[test]
    fn lines_that_come_together_go_out_in_few_writes() {
        /// Counts the writes, each of which has to end a line.
        #[derive(Clone, Default)]
        struct Writes(Arc<Mutex<Vec<usize>>>);
        impl Write for Writes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                assert!(bytes.ends_with(b"\n"), "half a line");
                self.0.lock().expect("not poisoned").push(bytes.len());
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let writes = Writes::default();
        let (lines, said) = mpsc::channel(WAITING);
        for length in [AT_ONCE / 2 - 1; 5].into_iter().chain([2 * AT_ONCE, 1]) {
            let mut line = vec![b'x'; length];
            line.push(b'\n');
            assert!(lines.try_send(Said::Line(line)).is_ok(), "room");
        }
        drop(lines);
        write(writes.clone(), said, || panic!("nothing was lost"));
        let lengths = writes.0.lock().expect("not poisoned").clone();
        let (half, most) = (AT_ONCE / 2, 2 * AT_ONCE + 1);
        assert_eq!(lengths, [AT_ONCE, AT_ONCE, half, most, 2]);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let count = Arc::new(AtomicU64::new(0));
        let counted = count.clone();
        let lost = move || {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let outlet = Outlet::start(Full, lost.clone()).expect("started");
        let mut lines = &Lines {
            outlet: outlet.clone(),
            is_json: false,
            lost,
        };
        for _ in 0..3 {
            assert_eq!(lines.write(b"line\n").expect("no failure"), 5);
        }
        outlet.flush(Duration::from_secs(60));
        assert_eq!(count.load(Ordering::SeqCst), 3);
    }
}
