//! The one way in for every dialect: snapshot, route, lease, answer.

pub mod peek;
pub mod relay;
pub mod spool;
