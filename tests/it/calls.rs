//! Reasoning and calls of tools through the true binary with the embedded engine, as the
//! official client reads them.

use std::path::Path;

use serde_json::json;

use super::clients::run;
use super::demo::{self, FOUR};
use super::harness::Home;

/// A folder with the demo model and another chat template: one of a model that reasons and
/// calls tools.
fn thinker(folder: &Path) {
    let repository = demo::cache().join(format!("models--{}", FOUR.replace('/', "--")));
    let commit = std::fs::read_to_string(repository.join("refs/main")).expect("a commit");
    let snapshot = repository.join("snapshots").join(commit.trim());
    std::fs::create_dir(folder).expect("a folder");
    for entry in std::fs::read_dir(snapshot).expect("a snapshot") {
        let path = entry.expect("a file").path();
        let name = path.file_name().expect("a name");
        std::fs::copy(&path, folder.join(name)).expect("copied");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let template = root.join("tests/reference/templates/qwen.jinja");
    std::fs::copy(template, folder.join("chat_template.jinja")).expect("copied");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_openai_client_calls_tools() {
    let home = Home::new("");
    let folder = home.path().join("thinker");
    thinker(&folder);
    home.configure(&format!(
        "cache: [{}]\nmodels: {{ {FOUR}: {{}}, t/thinker: {{path: {}}} }}\n",
        json!(demo::cache()),
        json!(folder)
    ));
    let server = home.serve();
    let inference = server.inference.clone();
    let client = move || run("tools_client.py", &[&inference, FOUR, "t/thinker"]);
    tokio::task::spawn_blocking(client)
        .await
        .expect("the client's script");
}
