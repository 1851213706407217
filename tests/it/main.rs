//! The whole program from the outside: the true binary on port 0 in a temporary
//! home, true worker processes, a true cache tree. One test binary, each file a
//! subject. Nothing is downloaded, nothing is ignored, no test needs another.

mod cgroup;
mod harness;
mod raw;
mod rerank;
mod sampler;

mod access;
mod adapters;
mod background;
mod bodies;
mod browser;
#[cfg(feature = "mlx")]
mod calls;
mod checking;
mod clients;
mod command_line;
mod connections;
mod counts;
mod crowds;
mod delivery;
#[cfg(feature = "mlx")]
mod demo;
mod doctor;
mod documents;
mod editing;
mod edits;
mod embeddings;
#[cfg(feature = "mlx")]
mod endurance;
mod engines;
mod explains;
mod exposure;
mod faults;
mod framing;
mod fuzz;
mod gallery;
#[cfg(target_os = "linux")]
mod hostile;
mod keys;
mod layers;
mod lock;
mod memory;
mod metrics;
mod names;
mod openapi;
mod panics;
mod pool;
#[cfg(target_os = "linux")]
mod prefetch;
mod profiles;
mod prompts;
mod proxies;
mod races;
mod rates;
mod records;
mod reload;
mod replies;
mod residency;
mod routes;
mod rules;
mod schema;
mod secrets;
mod simulate;
mod snapshots;
mod soak;
mod standby;
mod stopping;
mod streams;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod upstreams;
mod waiting;
#[cfg(feature = "mlx")]
mod warm;
mod web;
mod workers;
