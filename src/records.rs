//! What is written down of what happens: the audit of management actions, the
//! request log and the counters. Never a prompt, an answer or a key. What goes to
//! standard error is the business of `telemetry`.

pub mod audit;
pub mod body;
pub mod counters;
pub mod entry;
pub mod events;
pub mod file;
pub mod private;
pub mod redact;
pub mod requests;
pub mod usage;

use counters::Counters;
use events::Events;
use requests::RequestLog;

/// Where requests are written down.
#[derive(Debug)]
pub struct Records {
    /// What is counted, for the metrics.
    pub counters: Counters,
    /// One line for each request, if it is switched on.
    pub requests: RequestLog,
    /// What happens, for whoever looks on.
    pub events: Events,
}
