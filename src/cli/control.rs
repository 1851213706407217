//! Questions to the server that runs, over its control socket: the owner of the
//! file needs no key.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::platform::Folders;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody listens on the socket.
    #[error("no server runs: nothing listens on {0}")]
    NoServer(String),
    /// It refused, in these words.
    #[error("{message}")]
    Refused {
        /// The status.
        status: u16,
        /// What a person reads.
        message: String,
    },
    /// Something broke on the way.
    #[error("the server did not answer: {0}")]
    Broken(String),
}

/// Gets JSON from the management API.
pub fn get(path: &str) -> Result<Value, NoAnswer> {
    let broken = |error: &dyn std::fmt::Display| NoAnswer::Broken(error.to_string());
    let folders = Folders::from_environment();
    let folders = folders.ok_or_else(|| NoAnswer::Broken("there is no home folder".to_owned()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| broken(&error))?;
    runtime.block_on(ask(&folders.control_socket(), path))
}

async fn ask(socket: &Path, path: &str) -> Result<Value, NoAnswer> {
    let broken = |error: reqwest::Error| match error.is_connect() {
        true => NoAnswer::NoServer(socket.display().to_string()),
        false => NoAnswer::Broken(error.to_string()),
    };
    let client = reqwest::Client::builder()
        .unix_socket(socket)
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .map_err(broken)?;
    let response = client.get(format!("http://localhost{path}")).send().await;
    let response = response.map_err(broken)?;
    let status = response.status();
    let bytes = response.bytes().await.map_err(broken)?;
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|error| NoAnswer::Broken(error.to_string()))?;
    if status.is_success() {
        return Ok(value);
    }
    let message = value["error"]["message"].as_str().unwrap_or("it refused");
    Err(NoAnswer::Refused {
        status: status.as_u16(),
        message: message.to_owned(),
    })
}
