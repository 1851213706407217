//! A home for one server, and the server in it. A failure prints the server's log.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

mod terminal;

/// The commit under which the harness lays its snapshots.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How long anything may take before the test fails: far more than it needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A temporary home with a cache and a configuration.
pub struct Home {
    folder: TempDir,
}

/// A running server; ended with the value.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`
    pub inference: String,
    /// `http://127.0.0.1:PORT`
    pub management: String,
    /// The control socket.
    pub control: PathBuf,
    http: Client,
    log: Arc<Mutex<String>>,
}

impl Home {
    /// A home whose `models.yaml` says `yaml`.
    pub fn new(yaml: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("rh")
            .tempdir()
            .expect("a folder");
        let home = Self { folder };
        std::fs::create_dir_all(home.cache()).expect("a cache");
        home.configure(yaml);
        home
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The hub cache in it.
    pub fn cache(&self) -> PathBuf {
        self.path().join("hub")
    }

    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.path().join("models.yaml")
    }

    /// Replaces the configuration.
    pub fn configure(&self, yaml: &str) {
        std::fs::write(self.config(), yaml).expect("written");
    }

    /// Lays a model of the scripted engine into the cache, as the hub's client
    /// would: blobs, a snapshot of links, a ref. Answers its snapshot folder.
    pub fn scripted(&self, id: &str, script: Value) -> PathBuf {
        let repository = self
            .cache()
            .join(format!("models--{}", id.replace('/', "--")));
        let snapshot = repository.join("snapshots").join(COMMIT);
        for folder in [
            repository.join("blobs"),
            repository.join("refs"),
            snapshot.clone(),
        ] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        std::fs::write(repository.join("refs/main"), COMMIT).expect("written");
        let config = json!({"model_type": "scripted", "max_position_embeddings": 4096});
        for (name, content) in [("config.json", config), ("scripted.json", script)] {
            let blob = repository.join("blobs").join(format!("blob-{name}"));
            std::fs::write(&blob, content.to_string()).expect("written");
            let link = snapshot.join(name);
            if link.symlink_metadata().is_err() {
                let target = Path::new("../../blobs").join(format!("blob-{name}"));
                std::os::unix::fs::symlink(target, link).expect("linked");
            }
        }
        snapshot
    }

    /// A command of the program in this home: no variable of the outside reaches it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_roundhouse"));
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("XDG_RUNTIME_DIR", self.path())
            .env("HF_HUB_CACHE", self.cache())
            .current_dir(self.path());
        // Coverage runs tell their processes where to write.
        if let Some(profile) = std::env::var_os("LLVM_PROFILE_FILE") {
            command.env("LLVM_PROFILE_FILE", profile);
        }
        command
    }

    /// Runs a command to its end: exit code, standard output, standard error.
    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.command(args).output().expect("started");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (
            output.status.code().unwrap_or(-1),
            text(output.stdout),
            text(output.stderr),
        )
    }

    /// Starts the server with the scripted engine allowed.
    pub fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    /// Starts the server with more arguments and waits until it is ready.
    pub fn serve_with(&self, more: &[&str]) -> Server {
        let mut args = vec!["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"];
        args.extend(more);
        self.serve_as(&args, &[])
    }

    /// Starts the server with these arguments and variables alone and waits until
    /// it is ready.
    pub fn serve_as(&self, more: &[&str], environment: &[(&str, &str)]) -> Server {
        let mut args = vec!["serve", "--json", "--scripted-engine"];
        args.extend(more);
        let mut command = self.command(&args);
        command.envs(environment.iter().copied());
        self.start(command)
    }

    /// Starts the server from a shell that runs these commands before, such as `ulimit`.
    pub fn serve_after(&self, commands: &str) -> Server {
        let plain = self.command(&[]);
        let mut command = Command::new("sh");
        let environment = plain.get_envs();
        command
            .args(["-c", &format!("{commands}; exec \"$0\" \"$@\"")])
            .arg(plain.get_program())
            .args(["serve", "--json", "--scripted-engine"])
            .args(["--listen", "127.0.0.1:0", "--management", "127.0.0.1:0"])
            .env_clear()
            .envs(environment.filter_map(|(name, value)| Some((name, value?))))
            .current_dir(self.path());
        self.start(command)
    }

    /// Starts a command that ends up as the server, with `--json` among its
    /// arguments, and waits until it is ready.
    pub fn start(&self, mut command: Command) -> Server {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let log = follow(child.stderr.take().expect("piped"));
        let mut first = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        out.read_line(&mut first).expect("a line");
        let Ok(listening) = serde_json::from_str::<Value>(&first) else {
            let status = child.wait().expect("waited");
            panic!(
                "the server did not start: {status}\n{}",
                log.lock().expect("log")
            );
        };
        let url = |key: &str| listening[key].as_str().unwrap_or_default().to_owned();
        Server {
            child,
            inference: url("inference"),
            management: url("management"),
            control: self.path().join("roundhouse.sock"),
            http: Client::new(),
            log,
        }
    }
}

/// Collects what a process says while it runs.
fn follow(stream: impl std::io::Read + Send + 'static) -> Arc<Mutex<String>> {
    let log = Arc::new(Mutex::new(String::new()));
    let kept = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut log = kept.lock().expect("log");
            log.push_str(&line);
            log.push('\n');
        }
    });
    log
}

impl Server {
    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    /// Waits until the log has a line with these words in it, and answers that line.
    pub fn logged(&self, words: &[&str]) -> String {
        let start = Instant::now();
        loop {
            let log = self.log();
            let mut lines = log.lines();
            let found = lines.find(|line| words.iter().all(|word| line.contains(word)));
            if let Some(line) = found {
                return line.to_owned();
            }
            assert!(start.elapsed() < PATIENCE, "never logged {words:?}\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A request to the inference port.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.inference))
            .timeout(PATIENCE)
    }

    /// Posts JSON to the inference port.
    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.request(Method::POST, path)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .expect("an answer")
    }

    /// Gets JSON from the inference port.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        split(
            self.request(Method::GET, path)
                .send()
                .await
                .expect("an answer"),
        )
        .await
    }

    /// Asks a model a question; answers status, headers and body.
    pub async fn chat(&self, body: &Value) -> Answer {
        Answer::read(self.post("/v1/chat/completions", body).await).await
    }

    /// Calls the control socket, as the owner of the file.
    pub async fn control(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let http = Client::builder()
            .unix_socket(self.control.as_path())
            .build()
            .expect("a client");
        let mut request = http
            .request(method, format!("http://localhost{path}"))
            .timeout(PATIENCE);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_string());
        }
        split(request.send().await.expect("an answer")).await
    }

    /// `GET /admin/status`
    pub async fn status(&self) -> Value {
        let (status, body) = self.control(Method::GET, "/admin/status", None).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Waits until the status says so; fails with the last status and the log.
    pub async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let status = self.status().await;
            if holds(&status) {
                return status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "never {what}: {status:#}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("sent");
    }

    /// Waits for the end; answers the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waited") {
                return status.code();
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the server does not end\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the server ---\n{}", self.log());
        }
        // An orderly end lets coverage be written; a stuck server is killed.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(rustix::process::Signal::TERM);
            let start = Instant::now();
            while matches!(self.child.try_wait(), Ok(None))
                && start.elapsed() < Duration::from_secs(15)
            {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    /// Reads a response to its end.
    pub async fn read(response: Response) -> Self {
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.text().await.expect("a whole body"),
        }
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// `error.code` of a refusal that keeps the contract.
    pub fn code(&self) -> String {
        let body = self.json();
        assert!(self.status >= 400, "not refused: {self:?}");
        for field in ["message", "type", "code"] {
            assert!(body["error"][field].is_string(), "{field}: {self:?}");
        }
        assert!(
            body["error"]
                .as_object()
                .expect("an object")
                .contains_key("param"),
            "{self:?}"
        );
        assert!(self.header("x-request-id").is_some(), "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{self:?}"
        );
        body["error"]["code"].as_str().expect("a string").to_owned()
    }

    /// The `data:` payloads of a stream, in order.
    pub fn events(&self) -> Vec<String> {
        self.text
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: ").map(str::to_owned))
            .collect()
    }

    /// The text of a chat answer, streamed or not.
    pub fn content(&self) -> String {
        if self
            .header("content-type")
            .is_some_and(|kind| kind.starts_with("text/event-stream"))
        {
            let events = self.events();
            let chunks = events
                .iter()
                .filter_map(|event| serde_json::from_str::<Value>(event).ok());
            return chunks
                .filter_map(|chunk| {
                    chunk["choices"][0]["delta"]["content"]
                        .as_str()
                        .map(str::to_owned)
                })
                .collect();
        }
        self.json()["choices"][0]["message"]["content"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// What the scripted worker itself says in its first piece of text: nonce,
    /// model folder and process. This is how routing is proven.
    pub fn told(&self) -> Value {
        let content = self.content();
        let mut pieces = serde_json::Deserializer::from_str(&content).into_iter::<Value>();
        pieces
            .next()
            .and_then(Result::ok)
            .unwrap_or_else(|| panic!("no pieces: {self:?}"))
    }
}

async fn split(response: Response) -> (u16, Value) {
    let answer = Answer::read(response).await;
    (
        answer.status,
        serde_json::from_str(&answer.text).unwrap_or(Value::Null),
    )
}

/// A question to a model.
pub fn question(model: &str, nonce: &str, stream: bool) -> Value {
    json!({
        "model": model,
        "stream": stream,
        "nonce": nonce,
        "messages": [{"role": "user", "content": "hello"}],
    })
}

/// Whether a process exists (a zombie does not count as living).
pub fn lives(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => {
            // Not Linux, or gone.
            let pid = rustix::process::Pid::from_raw(pid as i32);
            cfg!(not(target_os = "linux"))
                && pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
        }
    }
}

/// Whether cases run at their whole size, as `make test-long` asks, or at one that
/// every run of the tests can bear.
pub fn long() -> bool {
    std::env::var_os("ROUNDHOUSE_LONG").is_some()
}
