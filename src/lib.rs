//! Roundhouse: one binary that serves many language models on one machine.
//!
//! The modules stand in the order in which a request meets them; see
//! `docs/ARCHITECTURE.md` for the map, the borders and three walk-throughs.

pub mod access;
pub mod admin;
pub mod alarm;
pub mod api;
pub mod cli;
pub mod config;
pub mod dispatch;
pub mod doctor;
pub mod engine;
pub mod follow;
pub mod model;
pub mod platform;
pub mod pool;
pub mod records;
pub mod registry;
pub mod route;
pub mod secret;
pub mod server;
pub mod service;
pub mod shutdown;
pub mod simulate;
pub mod telemetry;
pub mod units;
pub mod upstream;
pub mod worker;
