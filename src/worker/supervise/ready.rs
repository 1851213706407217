//! Waiting until an engine can be asked: by a path or by a line that it writes. How
//! long that may take is the router's business.

use std::time::Duration;

use axum::http::Method;
use http_body_util::Empty;

use super::output::Output;
use super::port;
use crate::config::engine::ReadySign;
use crate::worker::client::{Address, Client, Fields};

/// The distance of questions at first; it grows up to the second one.
const EVERY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// How long an answer to one question may take: an engine that loads may accept
/// connections and answer none.
const ANSWER: Duration = Duration::from_secs(5);

/// Why an engine is not the one to ask.
#[derive(Debug)]
pub enum NotReady {
    /// Somebody else answers on its port.
    Stranger,
    /// There is no way to ask.
    Client(String),
}

/// Waits for the sign, and that whoever listens is the engine.
pub async fn wait(
    sign: &ReadySign,
    address: &Address,
    output: &mut Output,
) -> Result<(), NotReady> {
    let client =
        Client::of_engine(address).map_err(|failure| NotReady::Client(failure.to_string()))?;
    let path = match sign {
        ReadySign::Path(path) => path.as_str(),
        ReadySign::Line(_) => {
            output.sign().await;
            // Any answer shows that it listens.
            "/"
        }
    };
    let mut pause = EVERY.0;
    loop {
        let asked = client.send(Method::GET, path, Fields::default(), Empty::new());
        if let Ok(Ok(answer)) = tokio::time::timeout(ANSWER, asked).await {
            if let Address::Port(port) = address
                && !port::is_ours(*port)
            {
                return Err(NotReady::Stranger);
            }
            if matches!(sign, ReadySign::Line(_)) || answer.status().is_success() {
                return Ok(());
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(EVERY.1);
    }
}
