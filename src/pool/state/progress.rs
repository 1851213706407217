//! A load that says how far it is: it is shown, and its limit counts from its last
//! step. An engine that says nothing has the limit for all of its load.

use std::time::Instant;

use super::slot::Phase;
use super::{Generation, Machine};
use crate::engine::progress::Progress;

impl Machine {
    /// A load has come further.
    pub(super) fn progressed(&mut self, generation: Generation, so_far: Progress, now: Instant) {
        let limit = self.settings.load_time;
        let Some((_, slot)) = self.worker(generation) else {
            return;
        };
        if let Some(worker) = &mut slot.running
            && let Phase::Loading { deadline, .. } = &mut worker.phase
        {
            *deadline = now + limit;
            worker.progress = Some(so_far);
        }
    }
}
