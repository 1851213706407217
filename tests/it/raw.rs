//! A client that sends exactly the bytes it is told to, and reads what comes.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::harness::PATIENCE;

/// A connection.
pub struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer with a known length.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Raw {
    /// Connects to `http://127.0.0.1:PORT`.
    pub async fn connect(url: &str) -> Self {
        let address = url.strip_prefix("http://").expect("clear text");
        Self::over(TcpStream::connect(address).await.expect("connected"))
    }

    /// Speaks over this socket.
    pub fn over(stream: TcpStream) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// Sends bytes; a server that has closed is no failure here.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// The next answer.
    pub async fn reply(&mut self) -> Reply {
        timeout(PATIENCE, self.next())
            .await
            .expect("an answer in time")
            .expect("an answer")
    }

    /// The next answer; nothing if the connection ends before it.
    async fn next(&mut self) -> Option<Reply> {
        let head = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                break end;
            }
            self.more().await?;
        };
        let text = String::from_utf8_lossy(&self.read[..head]).into_owned();
        let length: usize =
            header(&text, "content-length").map_or(0, |n| n.parse().expect("a length"));
        while self.read.len() < head + 4 + length {
            self.more().await?;
        }
        let rest = self.read.split_off(head + 4 + length);
        let body = String::from_utf8_lossy(&self.read[head + 4..]).into_owned();
        self.read = rest;
        let status = text
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Some(Reply {
            status: status.expect("a status"),
            head: text,
            body,
        })
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    /// Waits until the server closes; answers how long that took.
    pub async fn closed(&mut self) -> Duration {
        let start = Instant::now();
        let until = async { while self.more().await.is_some() {} };
        timeout(PATIENCE, until).await.expect("closed in time");
        start.elapsed()
    }
}

impl Reply {
    /// A header of it.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// `error.code` of a refusal that keeps the contract.
    pub fn code(&self) -> String {
        let body: Value =
            serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"));
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{self:?}"
        );
        assert!(self.header("x-request-id").is_some(), "{self:?}");
        assert!(body["error"]["message"].is_string(), "{self:?}");
        body["error"]["code"].as_str().expect("a code").to_owned()
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
