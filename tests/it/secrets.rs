//! Secrets and what people say stay where they belong (group S): canaries are sent
//! through every way in, at the most talkative level of the log, and then looked
//! for in everything that comes out.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::harness::{Answer, Home, Server, long, question};
use super::records::until_lines;

const PROMPT: &str = "canary-prompt-9c1f";
const COMPLETION: &str = "canary-completion-77d0";
/// Variables of the router's environment that no worker and no output may show.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("HF_TOKEN", "canary-hub-token-31ab"),
    ("OPENAI_API_KEY", "canary-provider-key-55e2"),
    (
        "HTTPS_PROXY",
        "http://canary-proxy-user:canary-proxy-word@127.0.0.1:9",
    ),
];

struct Canaries {
    home: Home,
    inference: String,
    management: String,
    server: Server,
}

/// A server that talks as much as it can, with keys, variables and models.
fn start(level: &str, more: &[&str]) -> Canaries {
    let yaml = format!("log: {level}\nrequest_log: true\nmodels: {{ t/a: {{}}, t/bad: {{}} }}\n");
    let home = Home::new(&yaml);
    let text = format!("{COMPLETION} ");
    home.scripted("t/a", json!({"tokens": 3, "text": text, "chatter": 2}));
    home.scripted("t/bad", json!({"load_fail": "broken"}));
    let inference = home.run(&["keys", "new"]).1.trim().to_owned();
    let management = home
        .run(&["keys", "new", "--management"])
        .1
        .trim()
        .to_owned();
    let mut args = vec![
        "serve",
        "--json",
        "--scripted-engine",
        "--listen",
        "127.0.0.1:0",
        "--management",
        "127.0.0.1:0",
    ];
    args.extend(more);
    let mut command = home.command(&args);
    command.envs(ENVIRONMENT);
    let server = home.start(command);
    Canaries {
        home,
        inference,
        management,
        server,
    }
}

impl Canaries {
    fn ask(&self, path: &str) -> RequestBuilder {
        self.server
            .request(Method::POST, path)
            .header("authorization", format!("Bearer {}", self.inference))
            .header("content-type", "application/json")
    }

    /// Traffic of every kind, well and badly ended. Answers what was refused.
    async fn traffic(&self) -> Vec<Answer> {
        let mut refused = Vec::new();
        let said = |model: &str, stream: bool| {
            let mut body = question(model, PROMPT, stream);
            body["messages"][0]["content"] = json!(PROMPT);
            body
        };
        let mut bodies = Vec::new();
        for stream in [false, true] {
            bodies.push(said("t/a", stream).to_string());
            bodies.push(said("t/bad", stream).to_string());
            bodies.push(said("no/where", stream).to_string());
            for script in [
                json!({"crash": {"at": "token", "token": 1, "how": "abort"}}),
                json!({"crash": {"at": "headers"}}),
                json!({"odd": "half_event"}),
                json!({"odd": "server_error"}),
                json!({"odd": "error_event"}),
                json!({"odd": "html"}),
            ] {
                let mut body = said("t/a", stream);
                body["scripted"] = script;
                bodies.push(body.to_string());
            }
            for (field, value) in [
                ("temperature", json!(PROMPT)),
                ("messages", json!(PROMPT)),
                ("max_tokens", json!([PROMPT])),
                ("stop", json!({PROMPT: 1})),
                ("logit_bias", json!({PROMPT: PROMPT})),
                ("response_format", json!({"type": PROMPT})),
                (PROMPT, json!(PROMPT)),
            ] {
                let mut body = said("t/a", stream);
                body[field] = value;
                bodies.push(body.to_string());
            }
        }
        bodies.push(format!("{{\"messages\": \"{PROMPT}"));
        bodies.push(PROMPT.to_owned());
        bodies.push(format!("{{\"model\":\"t/a\",\"model\":\"{PROMPT}\"}}"));
        for body in bodies {
            let answer = self.ask("/v1/chat/completions").body(body).send().await;
            refused.push(Answer::read(answer.expect("an answer")).await);
        }
        let legacy = json!({"model": "t/a", "prompt": PROMPT}).to_string();
        let answer = self.ask("/v1/completions").body(legacy).send().await;
        refused.push(Answer::read(answer.expect("an answer")).await);
        for place in ["handler", "stream", "pool", "request_log"] {
            let body = said("t/a", place == "stream").to_string();
            let request = self
                .ask("/v1/chat/completions")
                .header("x-roundhouse-fail", place);
            let answer = request.body(body).send().await;
            refused.push(Answer::read(answer.expect("an answer")).await);
        }
        refused.extend(self.misplaced_keys().await);
        refused.retain(|answer| answer.status != 200);
        refused
    }

    /// Keys where they do not belong: none of them opens anything.
    async fn misplaced_keys(&self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for (key, base, path) in [
            (&self.inference, &self.server.inference, "/v1/models"),
            (&self.management, &self.server.management, "/admin/status"),
        ] {
            let basic = base64(format!("user:{key}").as_bytes());
            let http = reqwest::Client::new();
            for request in [
                http.get(format!("{base}{path}?key={key}&api_key={key}")),
                http.get(format!("{base}/{key}{path}")),
                http.get(format!("{base}{path}/{key}")),
                http.get(format!("{base}{path}"))
                    .header("referer", format!("http://x/?k={key}")),
                http.get(format!("{base}{path}"))
                    .header("authorization", format!("Basic {basic}")),
                http.get(format!("{base}{path}"))
                    .header("authorization", format!("Token {key}")),
                http.get(format!("{base}{path}"))
                    .header("cookie", format!("key={key}")),
                http.post(format!("{base}{path}?key={key}"))
                    .body(key.clone()),
            ] {
                let answer = Answer::read(request.send().await.expect("an answer")).await;
                assert!([401, 404, 405].contains(&answer.status), "{answer:?}");
                answers.push(answer);
            }
        }
        answers
    }

    /// Everything that came out, with where it was found.
    async fn outputs(&self) -> Vec<(String, String)> {
        let state = self.home.path().join(".local/state/roundhouse");
        until_lines(&state.join("requests.jsonl"), 10).await;
        let mut found = vec![("log".to_owned(), self.server.log())];
        for path in [
            "/metrics",
            "/admin/status",
            "/admin/models",
            "/admin/config",
        ] {
            let request = reqwest::Client::new()
                .get(format!("{}{path}", self.server.management))
                .header("x-api-key", &self.management);
            let answer = Answer::read(request.send().await.expect("an answer")).await;
            assert_eq!(answer.status, 200, "{path}");
            found.push((path.to_owned(), answer.text));
        }
        for path in files(self.home.path()) {
            // The cache holds the script, which says the completion.
            if path.starts_with(self.home.cache()) {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            found.push((path.display().to_string(), text));
        }
        found
    }
}

/// RFC 4648, without line breaks.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let whole = part
            .iter()
            .fold(0u32, |sum, byte| sum << 8 | u32::from(*byte))
            << (8 * (3 - part.len()));
        for place in 0..4 {
            let letter = LETTERS[(whole >> (18 - 6 * place) & 63) as usize];
            text.push(if place > part.len() {
                '='
            } else {
                char::from(letter)
            });
        }
    }
    text
}

/// All files below a folder; sockets are none.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let kind = entry.file_type().expect("a kind");
            match kind.is_dir() {
                true => folders.push(entry.path()),
                false if kind.is_file() => found.push(entry.path()),
                false => {}
            }
        }
    }
    found
}

/// Whether a text has so many hexadecimal digits in a row: the secret of a worker
/// is 64 of them, and so is a key.
fn has_long_number(text: &str) -> bool {
    let mut run = 0;
    text.bytes().any(|byte| {
        run = if byte.is_ascii_hexdigit() { run + 1 } else { 0 };
        run >= 64
    })
}

#[tokio::test]
async fn s01_s03_s05_no_secret_and_nothing_said_is_in_any_output() {
    let levels: &[&str] = match long() {
        true => &[
            "error",
            "warn",
            "info",
            "debug",
            "trace",
            "trace,roundhouse=trace",
        ],
        false => &["info", "trace"],
    };
    for level in levels {
        let canaries = start(level, &[]);
        let refused = canaries.traffic().await;
        assert!(refused.len() > 20, "{}", refused.len());
        let mut outputs = canaries.outputs().await;
        let told = refused
            .iter()
            .map(|answer| ("an answer".to_owned(), answer.text.clone()));
        let hidden = [&canaries.inference, &canaries.management];
        let secrets = hidden.map(String::as_str).into_iter();
        let words = ["canary-hub", "canary-provider", "canary-proxy", COMPLETION];
        for (place, text) in told {
            for secret in secrets.clone().chain(words) {
                assert!(
                    !text.contains(secret),
                    "{level}: {secret} in {place}: {text}"
                );
            }
            assert!(!has_long_number(&text), "{text}");
        }
        let keys_file = canaries
            .home
            .path()
            .join(".local/state/roundhouse/keys.json");
        for (place, text) in &mut outputs {
            for secret in secrets.clone().chain(words).chain([PROMPT]) {
                assert!(
                    !text.contains(secret),
                    "{level}: {secret} in {place}: {text}"
                );
            }
            // Hashes of keys are of that length.
            let is_keys_file = *place == keys_file.display().to_string();
            assert!(is_keys_file || !has_long_number(text), "{place}: {text}");
        }
        if level.contains("trace") {
            canaries.server.logged(&["answered"]);
        }
    }
}

#[tokio::test]
async fn s03_bodies_are_logged_only_when_asked_for_and_that_is_announced() {
    let canaries = start("info", &["--log-bodies"]);
    canaries.server.logged(&["WARN", "--log-bodies"]);
    canaries.traffic().await;
    for said in [PROMPT, COMPLETION] {
        canaries.server.logged(&[said]);
    }
    let log = canaries.server.log();
    for key in [&canaries.inference, &canaries.management] {
        assert!(!log.contains(key.as_str()), "a key is in the log");
    }
    let outputs = canaries.outputs().await;
    for (place, text) in outputs.iter().filter(|(place, _)| place != "log") {
        assert!(
            !text.contains(PROMPT) && !text.contains(COMPLETION),
            "{place}"
        );
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn s02_a_worker_inherits_nothing() {
    let home = Home::new("models: { t/a: {} }\n");
    home.scripted("t/a", json!({"tokens": 1}));
    let marker = home.path().join("inherited");
    std::fs::write(&marker, "").expect("written");
    let exported: String = ENVIRONMENT
        .iter()
        .map(|(name, value)| format!("export {name}={value}; "))
        .collect();
    // A file, a pipe and a device, as a build tool or a service manager leaves them.
    let server = home.serve_after(&format!(
        "{exported} mkfifo pipe; cat pipe >/dev/null 2>&1 & exec 7<inherited 8>pipe 9<>/dev/zero"
    ));
    let told = server.chat(&question("t/a", "n", false)).await.told();
    let pid = told["pid"].as_u64().expect("a pid");
    let read = |name: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{name}")).expect("readable");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    for name in ["environ", "cmdline"] {
        assert!(!read(name).contains("canary"), "{name}");
        assert!(!has_long_number(&read(name)), "{name}: {}", read(name));
    }
    let open = |pid: u64| -> Vec<(u32, String)> {
        let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("readable");
        folder
            .flatten()
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                let target = std::fs::read_link(entry.path()).ok()?;
                Some((number, target.to_string_lossy().into_owned()))
            })
            .collect()
    };
    let router = open(u64::from(server.pid()));
    assert!(
        router
            .iter()
            .any(|(_, target)| target.ends_with("inherited")),
        "{router:?}"
    );
    let worker = open(pid);
    let pipes = |open: &[(u32, String)]| -> Vec<String> {
        let pipes = open
            .iter()
            .filter(|(_, target)| target.starts_with("pipe:"));
        pipes.map(|(_, target)| target.clone()).collect()
    };
    let passed_to_router: Vec<_> = router
        .iter()
        .filter(|(number, _)| [7, 8, 9].contains(number))
        .map(|(_, target)| target.clone())
        .collect();
    assert_eq!(passed_to_router.len(), 3, "{router:?}");
    for (number, target) in &worker {
        assert!(
            !passed_to_router.contains(target) || *number < 3,
            "{worker:?}"
        );
    }
    // Standard input, output and error, and nothing else that is a pipe.
    assert_eq!(pipes(&worker).len(), 3, "{worker:?}");
    let status = read("status");
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    assert_eq!(umask.map(str::trim), Some("0077"));
}

#[test]
fn s06_files_that_others_may_use_are_closed_or_refused() {
    let state = |home: &Home, name: &str| home.path().join(".local/state/roundhouse").join(name);
    let mode = |path: &Path| {
        let about = std::fs::metadata(path).expect("it is there");
        about.permissions().mode() & 0o777
    };
    let open = |path: &Path, mode: u32| {
        let open = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, open).expect("a mode");
    };
    let home = Home::new("request_log: true\n");
    home.run(&["keys", "new"]);
    // Whatever is new is its owner's alone, whatever the umask says.
    drop(home.serve_after("umask 0"));
    let names = ["audit.jsonl", "keys.json"];
    for name in names {
        assert_eq!(mode(&state(&home, name)), 0o600, "{name}");
    }
    let folder = home.path().join(".local/state/roundhouse");
    assert_eq!(mode(&folder) & 0o022, 0, "{:o}", mode(&folder));
    for wrong in [0o644, 0o620, 0o606] {
        let audit = state(&home, "audit.jsonl");
        open(&audit, wrong);
        let server = home.serve();
        assert_eq!(mode(&audit), 0o600, "repaired");
        server.logged(&["others had rights", "audit.jsonl"]);
    }
    for wrong in [0o664, 0o646, 0o666] {
        open(&home.config(), wrong);
        let server = home.serve();
        assert_eq!(mode(&home.config()), 0o644, "repaired");
        server.logged(&["others had rights", "models.yaml"]);
    }
    let keys = state(&home, "keys.json");
    for wrong in [0o644, 0o640, 0o660] {
        open(&keys, wrong);
        let (code, _, error) = home.run(&["serve", "--json"]);
        assert_eq!(code, 78, "{error}");
        assert!(error.contains("chmod 600"), "{error}");
    }
}

#[tokio::test]
async fn s07_the_configuration_is_read_without_secrets_and_never_written() {
    let canaries = start("info", &[]);
    let request = |method: Method| {
        reqwest::Client::new()
            .request(
                method,
                format!("{}/admin/config", canaries.server.management),
            )
            .header("x-api-key", &canaries.management)
            .header("content-type", "application/json")
    };
    let shown = Answer::read(request(Method::GET).send().await.expect("an answer")).await;
    let body = shown.json();
    assert_eq!(body["keys"], json!({"inference": 1, "management": 1}));
    assert_eq!(body["config"]["pool"]["switch_after"], "30s");
    for secret in [&canaries.inference, &canaries.management] {
        assert!(!shown.text.contains(secret.as_str()));
    }
    assert!(!has_long_number(&shown.text) && !shown.text.contains("canary"));
    let before = std::fs::read(canaries.home.config()).expect("a file");
    for method in [Method::PUT, Method::POST, Method::PATCH, Method::DELETE] {
        let answer = request(method).body(shown.text.clone()).send().await;
        let answer = Answer::read(answer.expect("an answer")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (405, "method_not_allowed")
        );
    }
    assert_eq!(
        std::fs::read(canaries.home.config()).expect("a file"),
        before
    );
    // Every key of the file has its place, so that none is forgotten here.
    let missing: Vec<_> = roundhouse::config::keys::KEYS
        .iter()
        .filter(|key| {
            !["models.", "engines.", "upstreams."]
                .iter()
                .any(|of| key.path.starts_with(of))
        })
        .filter(|key| {
            let pointer = format!("/config/{}", key.path.replace('.', "/"));
            body.pointer(&pointer).is_none()
        })
        .map(|key| key.path)
        .collect();
    assert!(missing.is_empty(), "{missing:?} are not shown");
}
