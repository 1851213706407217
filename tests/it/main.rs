//! The whole program from the outside: the true binary on port 0 in a temporary
//! home, true worker processes, a true cache tree. One test binary, each file a
//! subject. Nothing is downloaded, nothing is ignored, no test needs another.

mod harness;
mod sampler;

mod access;
mod clients;
mod command_line;
#[cfg(feature = "mlx")]
mod demo;
mod faults;
mod keys;
mod layers;
mod names;
mod pool;
mod reload;
mod routes;
mod snapshots;
mod soak;
mod stopping;
mod streams;
mod waiting;
