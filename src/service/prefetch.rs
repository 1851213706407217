//! The task that has the weights read of the model that will probably be loaded next, while
//! nothing else is loaded. It asks the pool for nothing, so no model comes or goes for it;
//! which model that is, and whether there is memory, is told by `pool/prefetch`.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::platform::pressure::{self, Level};
use crate::platform::read_ahead;
use crate::pool::prefetch::{Transitions, room};
use crate::pool::swaps::Happened;
use crate::pool::{ModelState, ModelView, Pool};
use crate::records::counters::{Counters, Guessed};
use crate::registry::Registry;
use crate::shutdown::Tasks;
use crate::worker::{LoadPlan, PlannedEngine};

/// What the task works with.
pub struct Prefetch {
    /// Where loads are followed.
    pub pool: Pool,
    /// Says whether it is wanted.
    pub registry: Arc<Registry>,
    /// Where guesses are counted.
    pub counters: Counters,
}

/// A guess that has not been proved or disproved yet.
struct Guess {
    model: String,
    /// Ends the reading.
    _reading: DropGuard,
}

impl Prefetch {
    /// Starts the task.
    pub fn start(self, tasks: &Tasks) {
        let own = tasks.clone();
        tasks.spawn(async move { self.follow(&own).await });
    }

    async fn follow(self, tasks: &Tasks) {
        let stop = tasks.stop_signal();
        let mut happened = self.pool.book().follow();
        let mut transitions = Transitions::default();
        let mut guess: Option<Guess> = None;
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = happened.recv() => event,
            };
            match event {
                Ok(Happened::Loads(model)) => {
                    // Whatever it was: the disk is for the load now.
                    if let Some(guess) = guess.take() {
                        let guessed = match *guess.model == *model {
                            true => Guessed::Right,
                            false => Guessed::Wrong,
                        };
                        self.counters.guessed(guessed);
                    }
                    transitions.loads(&model);
                }
                Ok(Happened::Ready(last)) => {
                    guess = transitions
                        .next()
                        .and_then(|model| self.read(model, &last, &stop, tasks));
                }
                Ok(Happened::Swap(_) | Happened::Exit(_)) => {}
                // A transition is missed, and perhaps a wrong one made of it.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Begins to have a model's weights read, if that is wanted, nothing is being loaded and
    /// there is memory for all of them. `last` is up now, which the view may not show yet.
    fn read(
        &self,
        model: &str,
        last: &str,
        stop: &CancellationToken,
        tasks: &Tasks,
    ) -> Option<Guess> {
        if !self.registry.load().config.pool.prefetch {
            return None;
        }
        let view = self.pool.view();
        let loads = |it: &ModelView| it.state == ModelState::Loading && it.model != last;
        if view.models.iter().any(loads) {
            return None;
        }
        let known = view.model(model)?;
        if known.state != ModelState::Unloaded {
            return None;
        }
        let plan = known.plan.clone();
        if !has_room(&self.pool, &plan) {
            self.counters.guessed(Guessed::NoRoom);
            return None;
        }
        let reading = stop.child_token();
        let stopped = reading.clone();
        let (pool, registry) = (self.pool.clone(), self.registry.clone());
        let counters = self.counters.clone();
        tasks.spawn(tokio::task::spawn_blocking(move || {
            let goes_on = || registry.load().config.pool.prefetch && !stopped.is_cancelled();
            let model = plan.model.as_str();
            let mut bytes = 0;
            for path in weight_files(&plan) {
                // Asked before each file and not before each piece: on a Mac it takes a process.
                if !has_room(&pool, &plan) {
                    break;
                }
                match read_ahead::read_ahead(&path, goes_on) {
                    Ok(read) => bytes += read,
                    Err(error) => {
                        tracing::debug!(model, ?path, ?error, "a file cannot be read ahead");
                    }
                }
            }
            counters.prefetched(bytes);
            tracing::debug!(model, bytes, "read ahead: {model} is probably next");
        }));
        Some(Guess {
            model: model.to_owned(),
            _reading: reading.drop_guard(),
        })
    }
}

/// Whether all of a model's weights find memory that is free and promised to nobody.
fn has_room(pool: &Pool, plan: &LoadPlan) -> bool {
    let pressure = pressure::now();
    let figures = pressure.free.zip(pressure.total);
    pressure.level == Level::Normal
        && figures.is_some_and(|(free, total)| room(free, total, &pool.view()) >= plan.weights)
}

/// The files with a model's weights, in the order of their names.
fn weight_files(plan: &LoadPlan) -> Vec<PathBuf> {
    if let PlannedEngine::Spawned(spawned) = &plan.engine
        && let Some(file) = &spawned.file
    {
        return vec![file.clone()];
    }
    let entries = std::fs::read_dir(&plan.dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| {
        let extension = path.extension().and_then(|it| it.to_str());
        matches!(extension, Some("safetensors" | "gguf"))
    });
    paths.sort();
    paths
}
