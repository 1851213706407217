//! An engine that plays a file: a true backend of the worker role that takes the
//! time, the memory and the missteps which `scripted.json` in the model folder
//! asks for. It runs only when the command line of the worker says so, and it
//! knows no HTTP: what an odd stream looks like on the wire is told by the worker.
//!
//! Every chunk says who made it (the request's nonce, the model as the worker
//! knows it from its own folder, the process id), so that routing can be proven
//! from the worker's side.

mod loading;
pub mod play;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::engine::EngineError;
use crate::engine::progress::Progress;
use crate::model::id::ModelId;

/// The file in the model folder.
pub const SCRIPT: &str = "scripted.json";

/// The `model_type` of `config.json` in a folder that this engine plays.
pub const MODEL_TYPE: &str = "scripted";

/// Memory is touched once for each page of at least this size, bytes.
const PAGE: usize = 4096;

/// What `scripted.json` may say. A request may change the part that is about
/// answers, by a field `scripted` of its body.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// How long loading takes, milliseconds.
    pub load_ms: u64,
    /// How much of the load is told of while it lasts, thousandths: 0 is an engine
    /// that says nothing of it, and with a `hang` one that comes so far.
    pub load_told: u16,
    /// Loading fails, with this reason.
    pub load_fail: Option<String>,
    /// How much memory is taken and really touched, bytes.
    pub memory_bytes: u64,
    /// How much more is taken and touched with each answer and kept, bytes.
    pub grow_bytes: u64,
    /// How much is taken and touched for as long as an answer is played, bytes.
    pub work_bytes: u64,
    /// From the request to the first chunk, milliseconds.
    pub first_token_ms: u64,
    /// From chunk to chunk, milliseconds.
    pub token_ms: u64,
    /// How many chunks an answer has.
    pub tokens: u64,
    /// What is said, word by word and again from the start, instead of the proof
    /// of who says it.
    pub text: Option<String>,
    /// Bytes of filling added to each chunk.
    pub chunk_bytes: usize,
    /// Where the process ends itself.
    pub crash: Option<Crash>,
    /// Where it stands still for ever.
    pub hang: Option<Point>,
    /// Whether SIGTERM has no effect.
    pub ignore_sigterm: bool,
    /// Whether a child process is started that does not end by itself.
    pub spawn_child: bool,
    /// Lines written to standard error when loading and for each request.
    pub chatter: u64,
    /// A stream that is not as it should be.
    pub odd: Option<Odd>,
    /// How large the odd part is, bytes or events.
    pub odd_size: usize,
    /// A file, relative to the model folder, that gets a line for every
    /// `started`, `finished` and `cancelled` answer.
    pub journal: Option<PathBuf>,
    /// A file, relative to the model folder, that holds the body of the last
    /// request as it came.
    pub last_body: Option<PathBuf>,
    /// How many words of prompts are kept, for each caller apart, so that the usage of
    /// a later prompt tells how much of it was there.
    pub prompt_cache: u64,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            load_ms: 0,
            load_told: 1000,
            load_fail: None,
            memory_bytes: 0,
            grow_bytes: 0,
            work_bytes: 0,
            first_token_ms: 0,
            token_ms: 0,
            tokens: 8,
            text: None,
            chunk_bytes: 0,
            crash: None,
            hang: None,
            ignore_sigterm: false,
            spawn_child: false,
            chatter: 0,
            odd: None,
            odd_size: 64 * 1024 * 1024,
            journal: None,
            last_body: None,
            prompt_cache: 0,
        }
    }
}

/// A place in the life of a worker.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Which kind of place.
    pub at: At,
    /// Before which chunk, from 0.
    #[serde(default)]
    pub token: u64,
}

/// A kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// Before it may be loaded.
    Prepare,
    /// While the model is loaded.
    Load,
    /// When a request has come and nothing has been answered.
    Headers,
    /// Before a chunk.
    Token,
}

/// The process ends itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    /// Which kind of place.
    pub at: At,
    /// Before which chunk, from 0.
    #[serde(default)]
    pub token: u64,
    /// In which way.
    #[serde(default)]
    pub how: How,
    /// A file, relative to the model folder, that is made before the crash. When
    /// it is there already, there is no crash: so a model can crash once.
    pub once: Option<PathBuf>,
}

/// A way to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// With an exit code of 17.
    Exit,
    /// By SIGABRT.
    Abort,
    /// By SIGKILL, as the kernel does it when memory runs out.
    #[default]
    Kill,
    /// By saying that memory ran out; while it loads.
    #[serde(rename = "oom")]
    OutOfMemory,
}

/// A stream that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Odd {
    /// It ends without a finish reason and without `[DONE]`.
    NoDone,
    /// It ends inside an event.
    HalfEvent,
    /// It ends inside a character.
    HalfCharacter,
    /// It has an error event in the middle.
    ErrorEvent,
    /// It has a line of `odd_size` bytes.
    HugeLine,
    /// It has `odd_size` empty events.
    EmptyEvents,
    /// The whole answer is a page of HTML.
    Html,
    /// The whole answer is empty.
    Empty,
    /// The whole answer is a 500 with JSON that names inner things.
    ServerError,
    /// The whole answer says that it is compressed.
    Gzip,
    /// The answer has headers that must not be passed on.
    Headers,
}

/// A loaded script.
pub struct Scripted {
    script: Script,
    dir: PathBuf,
    name: String,
    journal: Option<Arc<File>>,
    slots: Arc<Semaphore>,
    parallel: u32,
    waiting: AtomicU64,
    tokens: AtomicU64,
    memory: Vec<u8>,
    /// What answers have left behind.
    grown: Mutex<Vec<Vec<u8>>>,
    child: Option<Child>,
}

/// The model as a worker knows it from its own folder: the repository id of a
/// snapshot inside a hub cache, else the folder's name.
pub fn name_of(dir: &Path) -> String {
    let id = dir
        .ancestors()
        .filter_map(|folder| folder.file_name()?.to_str())
        .find_map(ModelId::from_folder);
    let folder = dir.file_name().map(|name| name.to_string_lossy());
    match (id, folder) {
        (Some(id), _) => id.as_str().to_owned(),
        (None, Some(folder)) => folder.into_owned(),
        (None, None) => String::new(),
    }
}

impl Script {
    /// Reads the script of the model folder.
    ///
    /// # Errors
    /// If the folder is for another engine, or its script is missing or wrong.
    pub fn read(dir: &Path) -> Result<Self, EngineError> {
        let config: serde_json::Value = parse(dir, "config.json")?;
        match config.get("model_type").and_then(|kind| kind.as_str()) {
            Some(MODEL_TYPE) => parse(dir, SCRIPT),
            other => Err(EngineError::Unsupported(format!(
                "the scripted engine plays folders whose model_type is \"{MODEL_TYPE}\", found {other:?}"
            ))),
        }
    }

    /// What comes before the load.
    ///
    /// # Errors
    /// If the script asks for one.
    pub fn prepare(&self, dir: &Path) -> Result<(), EngineError> {
        self.befall(dir, At::Prepare)
    }

    /// Lets happen what is to happen at a place that is passed once.
    fn befall(&self, dir: &Path, at: At) -> Result<(), EngineError> {
        if let Some(crash) = &self.crash
            && crash.at == at
        {
            crash.happen(dir)?;
        }
        if self.hang.as_ref().is_some_and(|hang| hang.at == at) {
            loop {
                std::thread::park();
            }
        }
        Ok(())
    }
}

fn parse<T: for<'a> Deserialize<'a>>(dir: &Path, file: &str) -> Result<T, EngineError> {
    let bad = |reason: String| EngineError::BadFile {
        file: file.to_owned(),
        reason,
    };
    let text = std::fs::read(dir.join(file)).map_err(|error| bad(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))
}

impl Scripted {
    /// Loads as the script says: takes its time and its memory, or fails, or
    /// ends the process; tells how far that is. `parallel` answers are played at
    /// once. Blocks.
    ///
    /// # Errors
    /// What the script asks for, or what is wrong with it.
    pub fn load(
        dir: &Path,
        script: Script,
        parallel: u32,
        loading: impl Fn(Progress),
    ) -> Result<Self, EngineError> {
        chatter(script.chatter);
        loading::take_time(&script, loading);
        script.befall(dir, At::Load)?;
        if let Some(reason) = &script.load_fail {
            return Err(EngineError::Unsupported(reason.clone()));
        }
        let journal = script.journal.as_ref().map(|path| {
            let opened = OpenOptions::new()
                .create(true)
                .append(true)
                .open(dir.join(path));
            opened.map(Arc::new).map_err(|error| EngineError::BadFile {
                file: "journal".to_owned(),
                reason: error.to_string(),
            })
        });
        Ok(Self {
            name: name_of(dir),
            dir: dir.to_owned(),
            journal: journal.transpose()?,
            slots: Arc::new(Semaphore::new(parallel.max(1) as usize)),
            parallel: parallel.max(1),
            waiting: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            memory: touched(script.memory_bytes)?,
            grown: Mutex::default(),
            child: script.spawn_child.then(lasting_child).transpose()?,
            script,
        })
    }

    /// The script as it was loaded.
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// The model as this worker knows it from its own folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes taken and touched.
    pub fn bytes_held(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Answers that are played now, and answers that wait for their turn.
    pub fn sequences(&self) -> (u64, u64) {
        let free = self.slots.available_permits() as u64;
        let running = u64::from(self.parallel).saturating_sub(free);
        (running, self.waiting.load(Ordering::Relaxed))
    }

    /// Chunks played since the start.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// The child process of the script, if it has one.
    pub fn child(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Keeps the body of a request, if the script asks for it.
    pub fn keep(&self, body: &[u8]) {
        if let Some(path) = &self.script.last_body {
            // What cannot be written is seen by the test that reads it.
            let _ = std::fs::write(self.dir.join(path), body);
        }
    }

    fn note(&self, line: &str) {
        // One write, so that lines of several writers do not mix. A journal that
        // cannot be written is seen by the test that reads it.
        if let Some(mut file) = self.journal.as_deref() {
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
    }
}

impl Crash {
    /// Ends the process, unless it is to happen once and has happened.
    ///
    /// # Errors
    /// If that is the way in which it is to end.
    fn happen(&self, dir: &Path) -> Result<(), EngineError> {
        if let Some(mark) = &self.once {
            let made = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(dir.join(mark));
            if made.is_err() {
                return Ok(());
            }
        }
        match self.how {
            How::OutOfMemory => Err(EngineError::OutOfMemory("as the script says".to_owned())),
            How::Exit => std::process::exit(17),
            How::Abort => std::process::abort(),
            How::Kill => {
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
                loop {
                    std::thread::park();
                }
            }
        }
    }
}

/// Memory of `bytes` bytes that the system has really given.
fn touched(bytes: u64) -> Result<Vec<u8>, EngineError> {
    let none_left = || EngineError::OutOfMemory(format!("{bytes} bytes cannot be had"));
    let length = usize::try_from(bytes).map_err(|_| none_left())?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(length).map_err(|_| none_left())?;
    memory.resize(length, 0);
    for page in memory.chunks_mut(PAGE) {
        page[0] = 1;
    }
    Ok(memory)
}

/// A process that stays in this one's group and does not end by itself.
fn lasting_child() -> Result<Child, EngineError> {
    Command::new("sleep")
        .arg("3600")
        .stdin(std::process::Stdio::null())
        .spawn()
        .map_err(|error| EngineError::Device(error.to_string()))
}

fn chatter(lines: u64) {
    for line in 0..lines {
        tracing::info!(line, "the scripted engine talks");
    }
}

#[cfg(test)]
mod tests;
