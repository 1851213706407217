//! What holds where the file says nothing, and what the file's meaning depends
//! on besides its text.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;

use super::{
    Budget, Config, Contention, Counts, Heartbeat, Limits, Listen, MinResidency, Pool, Server,
};
use crate::units::ByteSize;

/// The inference port.
pub const INFERENCE_PORT: u16 = 11440;

/// The management port.
pub const MANAGEMENT_PORT: u16 = 11441;

/// `server.limits.address_rate`: more than local programs ask, less than a flood.
const ADDRESS_RATE: NonZeroU32 = NonZeroU32::new(100_000).expect("more than nothing");

/// `server.limits.wrong_keys`: more than a program with an old key asks.
const WRONG_KEYS: NonZeroU32 = NonZeroU32::new(100).expect("more than nothing");

/// Folders that the meaning of a file depends on. Read from the environment by
/// `read`, given by tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// What relative paths are relative to: the file's own folder.
    pub folder: PathBuf,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
    /// The hub's cache as its own client would find it.
    pub hub_cache: PathBuf,
    /// Where this program keeps its state.
    pub state: PathBuf,
}

impl Surroundings {
    /// A path as it is typed in the file: `~` and relative ones resolved, without
    /// asking the disk.
    pub fn resolve(&self, typed: &str) -> Option<PathBuf> {
        match typed.strip_prefix('~') {
            Some("") => self.home.clone(),
            Some(rest) => Some(self.home.as_ref()?.join(rest.strip_prefix('/')?)),
            None => Some(self.folder.join(Path::new(typed))),
        }
    }
}

impl Config {
    /// The configuration of an empty file: it serves nothing.
    pub fn standard(around: &Surroundings) -> Self {
        Self {
            source: None,
            drop_ins: Vec::new(),
            digest: None,
            lock: None,
            memory: Budget::Auto,
            server: Server::standard(),
            cache: vec![around.hub_cache.clone()],
            pool: Pool::standard(),
            allow: Vec::new(),
            deny: Vec::new(),
            default: None,
            engines: IndexMap::new(),
            upstreams: IndexMap::new(),
            models: Vec::new(),
            keys_file: around.state.join("keys.json"),
            audit: around.state.join("audit.jsonl"),
            log: "info".to_owned(),
            request_log: None,
        }
    }
}

impl Server {
    fn standard() -> Self {
        let local = |port| vec![Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))];
        Self {
            listen: local(INFERENCE_PORT),
            management: local(MANAGEMENT_PORT),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            tls: None,
            socket_mode: 0o600,
            drain: Duration::from_secs(10),
            heartbeat_after: Duration::from_secs(3),
            heartbeat_every: Duration::from_secs(10),
            heartbeat: Heartbeat::Comment,
            limits: Limits::standard(),
        }
    }
}

impl Limits {
    fn standard() -> Self {
        Self {
            body: ByteSize(32_000_000),
            bodies: ByteSize(512_000_000),
            header_time: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            idle: Duration::from_secs(120),
            load_time: Duration::from_secs(600),
            first_token: Duration::from_secs(600),
            between_tokens: Duration::from_secs(120),
            write_stall: Duration::from_secs(60),
            connections: 16_384,
            address_rate: Some(ADDRESS_RATE),
            wrong_keys: WRONG_KEYS,
            counts: Counts::standard(),
        }
    }
}

impl Counts {
    /// What holds without a word in the file.
    pub fn standard() -> Self {
        Self {
            values: 1_000_000,
            messages: 4096,
            images: 64,
            image_size: ByteSize(20_000_000),
            tools: 1024,
            tool_calls: 4096,
            inputs: 2048,
            stops: 16,
            choices: 8,
            answers: 64,
        }
    }
}

impl Pool {
    fn standard() -> Self {
        Self {
            max_models: None,
            idle_unload: Some(Duration::from_secs(900)),
            switch_after: Duration::from_secs(30),
            min_residency: MinResidency::Auto,
            queue: 64,
            queue_per_caller: None,
            queue_timeout: Duration::from_secs(600),
            contention: Contention::Wait,
            autoload: true,
            prefetch: true,
            lease_ceiling: Duration::from_secs(3600),
            prompts_on_disk: Some(ByteSize(8_000_000_000)),
            prompts_on_disk_per_model: ByteSize(4_000_000_000),
        }
    }
}
