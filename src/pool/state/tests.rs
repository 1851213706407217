//! Stories about the machine: the bugs that users of other routers met, each by
//! its name, and what this one promises.

mod asking;
mod background;
mod explaining;
mod failing;
mod holding;
mod memory;
mod residency;
mod rivals;
mod rollback;
mod serving;
mod standby;
mod terms;
mod turns;

use std::time::Duration;

use super::world::{World, plan, resident, settings};
use super::{Event, back_off};
use crate::pool::{ModelState, Refused, UnloadError, UnloadMode};
use crate::units::ByteSize;

const SECOND: Duration = Duration::from_secs(1);
