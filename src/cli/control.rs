//! Questions to the server that runs, over its control socket: the owner of the
//! file needs no key.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, header};
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
    call(Method::GET, path, None)
}

/// Posts JSON to the management API; answers its answer.
pub fn post(path: &str, body: &Value) -> Result<Value, NoAnswer> {
    call(Method::POST, path, Some(body))
}

fn call(method: Method, path: &str, body: Option<&Value>) -> Result<Value, NoAnswer> {
    let broken = |error: &dyn std::fmt::Display| NoAnswer::Broken(error.to_string());
    let folders = Folders::from_environment();
    let folders = folders.ok_or_else(|| NoAnswer::Broken("there is no home folder".to_owned()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| broken(&error))?;
    runtime.block_on(ask(&folders.control_socket(), method, path, body))
}

async fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, NoAnswer> {
    // Without a server nothing is prepared for one.
    if !socket.exists() {
        return Err(NoAnswer::NoServer(socket.display().to_string()));
    }
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
    let mut request = client.request(method, format!("http://localhost{path}"));
    if let Some(body) = body {
        request = request
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.to_string());
    }
    let response = request.send().await.map_err(broken)?;
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
