//! The books and the memory of the processes, taken again and again from outside
//! the server while a test goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use roundhouse::platform::footprint;
#[cfg(feature = "mlx")]
use roundhouse::platform::resident_memory;

use super::harness::Server;

/// How far apart two samples lie, beside what taking one takes.
const APART: Duration = Duration::from_millis(5);

/// The books and the processes at one moment.
#[derive(Debug)]
pub struct Sample {
    /// Bytes that the pool has promised.
    pub reserved: u64,
    /// Worker processes alive.
    pub workers: usize,
    /// Which they are.
    pub pids: Vec<u32>,
    /// Bytes of memory that each of them holds for itself, files aside.
    pub private: Vec<u64>,
    /// How many of them have weights mapped.
    #[cfg(feature = "mlx")]
    pub mapping: usize,
    /// Bytes of memory that all of them hold, with every page of a file counted for each.
    #[cfg(feature = "mlx")]
    pub resident: u64,
}

impl Sample {
    /// How many worker processes hold so many bytes for themselves: those that have loaded
    /// a model of that size, and not one that stands by for its load.
    pub fn holding(&self, bytes: u64) -> usize {
        self.private.iter().filter(|held| **held >= bytes).count()
    }

    /// Bytes that all of them hold as the budget counts it where no weights are mapped.
    pub fn held(&self) -> u64 {
        self.private.iter().sum()
    }
}

/// A sampler in a thread of its own.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Sampler {
    /// Ends the sampling: all samples.
    pub fn stop(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("samples")
    }
}

/// Samples a server until told to stop, or for as long as `limit`.
pub fn sample(server: &Server, limit: Duration) -> Sampler {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, control, router) = (stop.clone(), server.control.clone(), server.pid());
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let http = reqwest::Client::builder()
            .unix_socket(control.as_path())
            .build()
            .expect("a client");
        let start = Instant::now();
        let mut samples = Vec::new();
        while !stopped.load(Ordering::Relaxed) && start.elapsed() < limit {
            samples.push(take(&runtime, &http, router));
            std::thread::sleep(APART);
        }
        samples
    });
    Sampler { stop, thread }
}

fn take(runtime: &tokio::runtime::Runtime, http: &reqwest::Client, router: u32) -> Sample {
    let text = runtime.block_on(async {
        let request = http.get("http://localhost/admin/status");
        let answer = request.send().await.expect("an answer");
        answer.text().await.expect("a body")
    });
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let workers = children(router);
    #[cfg(feature = "mlx")]
    let resident = |&pid: &u32| resident_memory(pid).map_or(0, |bytes| bytes.0);
    let private = |&pid: &u32| footprint::of(pid).map_or(0, |held| held.private.0);
    Sample {
        reserved: status["memory"]["reserved_bytes"]
            .as_u64()
            .expect("a number"),
        workers: workers.len(),
        #[cfg(feature = "mlx")]
        resident: workers.iter().map(resident).sum(),
        private: workers.iter().map(private).collect(),
        #[cfg(feature = "mlx")]
        mapping: workers.iter().filter(|pid| maps_weights(**pid)).count(),
        pids: workers,
    }
}

/// Whether a process has a file with weights mapped, by its name in the snapshot or that of
/// the blob which the snapshot links to.
#[cfg(feature = "mlx")]
fn maps_weights(pid: u32) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mut files = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5));
    files.any(|file| file.contains("/blobs/") || file.ends_with(".safetensors"))
}

/// Living children of a process.
pub fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("the processes of a Linux machine");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after_name = stat.rsplit(')').next().unwrap_or_default();
            let mut fields = after_name.split_whitespace();
            fields.next() != Some("Z") && fields.next() == Some(&parent.to_string())
        })
        .collect()
}
