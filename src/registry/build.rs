//! Configuration and cache in, snapshot out. Reads nothing itself: what is on
//! the disk is told by a [`Catalogue`].

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use indexmap::{IndexMap, IndexSet};

use super::catalogue::{Catalogue, Found, Role};
use super::wildcards::Wildcard;
use super::{Adapter, Fallback, Leads, Machine, NotServable, Served, Snapshot, pins, remote};
use crate::config;
use crate::config::engine::{Placeholder, Use};
use crate::config::problem::Problems;
use crate::config::request::{Rules, fill};
use crate::config::{AliasName, Budget, Config, Entry, LoadSettings, Source};
use crate::engine::speculation::Draft;
use crate::model::id::{ModelId, Name};
use crate::units::ByteSize;
use crate::worker::{EngineKind, LoadPlan, PlannedEngine, Spawned};

/// Sequences at once, where the entry does not say.
pub const PARALLEL: u32 = 8;

/// Most tokens of a sequence where neither the entry nor the checkpoint says.
pub const USUAL_CONTEXT: u32 = 4096;

/// Longest sequence, tokens, that the default room for caches holds.
const KV_TOKENS: u32 = 32_768;

/// The default room for caches is at most this part of the budget.
const KV_PART: u64 = 4;

/// Makes the snapshot after that one: resolves the budget, finds each model, gives
/// equal loads one plan.
pub fn snapshot(
    config: Config,
    machine: &Machine,
    catalogue: &dyn Catalogue,
    before: Option<&Snapshot>,
) -> Result<Snapshot, Problems> {
    let budget = budget(&config, machine)?;
    let mut builder = Builder {
        config: &config,
        scripted: machine.scripted,
        budget,
        catalogue,
        before,
        plans: HashMap::new(),
        adapters: HashMap::new(),
    };
    builder.find_adapters();
    let served = builder.served();
    let cached = cached(catalogue);
    let named = || {
        let models = config.models.iter();
        models.flat_map(|entry| entry.aliases.iter().map(move |alias| (alias, entry)))
    };
    let aliases = named()
        .filter_map(|(alias, entry)| {
            let served = served.get(entry.name.as_str())?;
            Some((alias.name.exact()?.to_string(), Arc::clone(served)))
        })
        .collect();
    let wildcards = named().filter_map(|(alias, entry)| {
        Some(Wildcard {
            pattern: alias.name.wildcard()?.clone(),
            leads: Leads::Model(Arc::clone(served.get(entry.name.as_str())?)),
            background: alias.background,
        })
    });
    let remotes = remote::all(&config);
    let away = remotes.iter().filter_map(|(name, remote)| {
        Some(Wildcard {
            pattern: name.wildcard()?.clone(),
            leads: Leads::Upstream(Arc::clone(remote)),
            background: false,
        })
    });
    let wildcards = wildcards.chain(away).collect();
    let remotes = remotes.iter().filter_map(|(name, remote)| {
        let exact = name.exact()?.to_string();
        Some((exact, Arc::clone(remote)))
    });
    let remotes = remotes.collect();
    let background = named().filter(|(alias, _)| alias.background);
    let background = background
        .filter_map(|(alias, _)| alias.name.exact().map(ToString::to_string))
        .collect();
    Ok(Snapshot {
        generation: before.map_or(1, |before| before.generation + 1),
        config: Arc::new(config),
        budget,
        served,
        aliases,
        remotes,
        wildcards,
        background,
        cached,
        strangers: catalogue.strangers(),
    })
}

/// Every id in the cache with its size or what is wrong with it.
fn cached(catalogue: &dyn Catalogue) -> IndexMap<String, Result<ByteSize, NotServable>> {
    let state = |id: &ModelId| {
        let role = Role::Model(LoadSettings::default());
        let found = catalogue.repository(id, None, &role);
        found.map(|found| found.size)
    };
    let ids = catalogue.ids();
    ids.iter().map(|id| (id.to_string(), state(id))).collect()
}

/// `memory` in bytes.
fn budget(config: &Config, machine: &Machine) -> Result<ByteSize, Problems> {
    let bytes = match config.memory {
        Budget::Auto => machine.memory.auto,
        Budget::Size(size) => size,
        Budget::Share(share) => ByteSize((machine.memory.total.0 as f64 * share) as u64),
    };
    if bytes == ByteSize::ZERO {
        let message =
            "memory: this machine's memory could not be found out; expected a size such as 8GB";
        return Err(Problems::whole(config.source.as_deref(), message));
    }
    Ok(bytes)
}

/// What makes two loads the same load.
type LoadKey = (Source, LoadSettings);

/// A plan and what it was made from, or why there is none.
type Planned = Result<(Arc<LoadPlan>, Arc<Found>), NotServable>;

/// The state of one build.
struct Builder<'a> {
    config: &'a Config,
    scripted: bool,
    budget: ByteSize,
    catalogue: &'a dyn Catalogue,
    before: Option<&'a Snapshot>,
    /// Plans made so far, so that equal loads share one.
    plans: HashMap<LoadKey, Planned>,
    /// The adapters of all entries, by where they come from.
    adapters: HashMap<Source, Result<Found, NotServable>>,
}

impl Builder<'_> {
    /// Every name that may be asked for.
    fn served(&mut self) -> IndexMap<String, Arc<Served>> {
        let config = self.config;
        let mut served = IndexMap::new();
        for entry in &config.models {
            served.insert(entry.name.to_string(), Arc::new(self.entry(entry)));
        }
        let aliases: HashSet<&str> = config
            .models
            .iter()
            .flat_map(|entry| entry.aliases.iter())
            .map(|alias| &alias.name)
            .chain(
                config
                    .upstreams
                    .values()
                    .flat_map(|it| it.models.iter().map(|it| &it.name)),
            )
            .filter_map(|name| name.exact().map(Name::as_str))
            .collect();
        for id in self.catalogue.ids() {
            // An alias of the same spelling wins, so the id could never be asked for.
            let is_taken = served.contains_key(id.as_str()) || aliases.contains(id.as_str());
            if config.permits(id.as_str()) && !is_taken {
                served.insert(id.to_string(), Arc::new(self.allowed(&id)));
            }
        }
        served
    }

    /// A name with an entry of its own.
    fn entry(&mut self, entry: &Entry) -> Served {
        let idle_unload = match (entry.keep, entry.idle_unload) {
            (true, _) => None,
            (false, Some(own)) => own,
            (false, None) => self.config.pool.idle_unload,
        };
        let names = |of: fn(&AliasName) -> Option<String>| {
            let names = entry.aliases.iter().map(|alias| &alias.name);
            names.filter_map(of).collect()
        };
        Served {
            entry: true,
            keep: entry.keep,
            preload: entry.preload || entry.keep,
            idle_unload,
            aliases: names(|name| Some(name.exact()?.to_string())),
            request: Arc::new(entry.request.clone()),
            variants: variants(entry),
            tags: entry.tags.clone(),
            never_with: entry.never_with.iter().map(ToString::to_string).collect(),
            spill_after: entry.spill_after,
            fallback: entry.fallback.as_ref().and_then(|name| {
                let remote = remote::find(self.config, name.as_str())?;
                let name = name.to_string();
                Some(Fallback { name, remote })
            }),
            wildcards: names(|name| Some(name.wildcard()?.as_str().to_owned())),
            ..self.adapted(entry)
        }
    }

    /// A name with nothing said about it but its load and its adapter.
    fn adapted(&mut self, entry: &Entry) -> Served {
        let served = self.plain(entry.name.as_str(), &entry.source, &entry.load);
        let Some(adapted) = &entry.adapter else {
            return served;
        };
        let found = match self.adapters.get(&adapted.source) {
            Some(found) => found.clone(),
            None => Err(NotServable::NotCached),
        };
        let found = found.and_then(|found| match served.uses.contains(&Use::Completions) {
            true => Ok(found),
            false => Err(NotServable::Settings(
                "adapters stand beside models that make text, and its base is none".to_owned(),
            )),
        });
        // What is wrong with the base is told first.
        let plan = served.plan.clone();
        let plan = plan.and_then(|plan| found.as_ref().map(|_| plan).map_err(Clone::clone));
        let adapter = found.ok().map(|found| Adapter::new(adapted, &found));
        Served {
            size: match &adapter {
                Some(adapter) => served.size.saturating_add(adapter.size),
                None => served.size,
            },
            adapter: adapter.map(Arc::new),
            plan,
            ..served
        }
    }

    /// Looks at the adapters of all entries.
    fn find_adapters(&mut self) {
        for adapted in self
            .config
            .models
            .iter()
            .filter_map(|it| it.adapter.as_ref())
        {
            let source = &adapted.source;
            if !self.adapters.contains_key(source) {
                let found = self.found(source, &Role::Adapter);
                let found = found.map_err(|reason| of_adapter(reason, source));
                self.adapters.insert(source.clone(), found);
            }
        }
    }

    /// Bytes that the adapters beside a load take if all of them are held.
    fn room_for_adapters(&self, source: &Source, load: &LoadSettings) -> ByteSize {
        let entries = self.config.models.iter();
        let entries = entries.filter(|entry| entry.source == *source && entry.load == *load);
        let adapters = entries.filter_map(|entry| Some(&entry.adapter.as_ref()?.source));
        let adapters: HashSet<&Source> = adapters.collect();
        let held = adapters.into_iter().filter_map(|adapter| {
            let found = self.adapters.get(adapter)?.as_ref().ok()?;
            Some(found.needs.held)
        });
        held.fold(ByteSize::ZERO, ByteSize::saturating_add)
    }

    /// A cached id that `allow` permits, with default settings.
    fn allowed(&mut self, id: &ModelId) -> Served {
        let source = Source::Repository {
            id: id.clone(),
            revision: None,
        };
        self.plain(id.as_str(), &source, &LoadSettings::default())
    }

    /// A name with nothing said about it but its load.
    fn plain(&mut self, name: &str, source: &Source, load: &LoadSettings) -> Served {
        let planned = self.planned(source, load);
        let found = planned.as_ref().ok().map(|(_, found)| found);
        Served {
            name: name.to_owned(),
            entry: false,
            source: source.clone(),
            adapter: None,
            keep: false,
            preload: false,
            idle_unload: self.config.pool.idle_unload,
            aliases: Vec::new(),
            wildcards: Vec::new(),
            request: Arc::default(),
            variants: IndexMap::new(),
            tags: Vec::new(),
            never_with: Vec::new(),
            fallback: None,
            spill_after: None,
            modified: found.and_then(|found| found.modified),
            size: found.map_or(ByteSize::ZERO, |found| found.size),
            uses: found.map(|found| found.uses.clone()).unwrap_or_default(),
            chats: found.is_some_and(|found| found.chats),
            plan: planned.map(|(plan, _)| plan),
        }
    }

    /// The plan of a load, made once.
    fn planned(&mut self, source: &Source, load: &LoadSettings) -> Planned {
        let key = (source.clone(), load.clone());
        if let Some(planned) = self.plans.get(&key) {
            return planned.clone();
        }
        let planned = self.make(source, load);
        self.plans.insert(key, planned.clone());
        planned
    }

    /// Whether any entry of this load wants it warmed up.
    fn is_warmed_up(&self, source: &Source, load: &LoadSettings) -> bool {
        let mut entries = self.config.models.iter();
        entries.any(|entry| entry.warmup && entry.source == *source && entry.load == *load)
    }

    /// The prompts that entries of this load want read for everybody, each once.
    fn warm_prompts(&self, source: &Source, load: &LoadSettings) -> Arc<[String]> {
        let entries = self.config.models.iter();
        let entries = entries.filter(|entry| entry.source == *source && entry.load == *load);
        let prompts: IndexSet<&String> = entries.flat_map(|entry| &entry.warm_prompts).collect();
        prompts.into_iter().cloned().collect()
    }

    /// The commit that was served before, if it is as whole as it was: a download moves
    /// a branch before the new files are there, and nobody is cut off by an update.
    fn still_there(&self, source: &Source, role: &Role) -> Option<Found> {
        let Source::Repository { id, .. } = source else {
            return None;
        };
        let mut before = self.before?.served.values();
        let commit = match role {
            Role::Model(_) => {
                let served = before.find(|it| it.source == *source && it.plan.is_ok())?;
                served.plan.as_ref().ok()?.commit.clone()?
            }
            Role::Adapter => {
                let mut adapters = before.filter_map(|served| served.adapter.as_ref());
                adapters.find(|it| it.source == *source)?.commit.clone()?
            }
        };
        self.catalogue.repository(id, Some(&commit), role).ok()
    }

    /// What a source holds, by the pins if there are any.
    fn found(&self, source: &Source, role: &Role) -> Result<Found, NotServable> {
        match &self.config.lock {
            Some(lock) => pins::pinned(self.config, lock, source, role, self.catalogue),
            None => pins::latest(source, role, self.catalogue)
                .or_else(|error| self.still_there(source, role).ok_or(error)),
        }
    }

    /// What guesses a model's next tokens: the snapshot of the one that does, held as that
    /// model is. Its needs come on top; a process is counted twice, which is little.
    fn draft(&self, load: &LoadSettings, model: &Found) -> Result<Draft<Found>, NotServable> {
        let name = match &load.draft {
            None => return Ok(Draft::Nothing),
            Some(config::draft::Draft::Prompt) => return Ok(Draft::Prompt),
            Some(config::draft::Draft::Model(name)) => name,
        };
        let refused = |reason: String| NotServable::Settings(format!("draft {name}: {reason}"));
        let (source, own) = self
            .config
            .draft_source(name)
            .ok_or_else(|| refused("there is no such model".to_owned()))?;
        let own = LoadSettings {
            compute: load.compute,
            kv_format: load.kv_format,
            ..own
        };
        let role = Role::Model(own);
        let found = match &self.config.lock {
            Some(lock) => pins::pinned(self.config, lock, &source, &role, self.catalogue),
            None => pins::latest(&source, &role, self.catalogue),
        };
        let found = found.map_err(|error| refused(error.to_string()))?;
        if found.scripted || !found.uses.contains(&Use::Completions) {
            return Err(refused("it makes no text".to_owned()));
        }
        match self.catalogue.stranger_to(model, &found) {
            Some(difference) => Err(refused(difference)),
            None => Ok(Draft::Network(found)),
        }
    }

    /// Finds the snapshot and settles what the entry leaves open.
    fn make(&self, source: &Source, load: &LoadSettings) -> Planned {
        let found = self.found(source, &Role::Model(load.clone()))?;
        if found.scripted && !self.scripted {
            let reason = "it is for the scripted engine, which serves tests only";
            return Err(NotServable::Snapshot {
                reason: reason.to_owned(),
                remedy: None,
            });
        }
        let context = context(load.context, found.context)?;
        let draft = self.draft(load, &found)?;
        let smaller = match &draft {
            Draft::Network(smaller) => Some(smaller),
            Draft::Nothing | Draft::Prompt => None,
        };
        let per_token = smaller.map_or(ByteSize::ZERO, |it| it.needs.kv_per_token);
        let per_token = found.needs.kv_per_token.saturating_add(per_token);
        let held = smaller.map_or(ByteSize::ZERO, |it| it.needs.held);
        let held = found.needs.held.saturating_add(held);
        let kv = load
            .kv
            .map(|kv| kv.of(self.budget))
            .unwrap_or_else(|| usual_kv(context, per_token, self.budget));
        let adapters = self.room_for_adapters(source, load);
        let model = pool_key(self.config, source, load);
        let engine = planned_engine(load, &found, &model)?;
        let plan = LoadPlan {
            standby: engine.standby(),
            model,
            dir: found.dir.clone(),
            commit: found.commit.clone(),
            engine,
            weights: found.size,
            context,
            parallel: load.parallel.unwrap_or(PARALLEL),
            kv,
            compute: load.compute,
            kv_format: load.kv_format,
            adapters,
            draft: match draft {
                Draft::Nothing => Draft::Nothing,
                Draft::Prompt => Draft::Prompt,
                Draft::Network(smaller) => Draft::Network(smaller.dir),
            },
            warmup: self.is_warmed_up(source, load),
            warm_prompts: self.warm_prompts(source, load),
            estimated: load.memory.is_none(),
            memory: load
                .memory
                .map(|memory| memory.of(self.budget))
                .unwrap_or_else(|| held.saturating_add(kv.saturating_add(adapters))),
        };
        Ok((Arc::new(plan), Arc::new(found)))
    }
}

/// Why an entry cannot be served whose adapter cannot.
fn of_adapter(reason: NotServable, source: &Source) -> NotServable {
    match (reason, source) {
        (NotServable::NotCached, Source::Repository { id, .. }) => NotServable::Snapshot {
            reason: "not_cached: its adapter is not cached".to_owned(),
            remedy: Some(format!("hf download {id}")),
        },
        (NotServable::Snapshot { reason, remedy }, _) => NotServable::Snapshot {
            reason: format!("{reason} (its adapter)"),
            remedy,
        },
        (reason, _) => reason,
    }
}

/// What runs a model, with what there is to fill in.
fn planned_engine(
    load: &LoadSettings,
    found: &Found,
    model: &str,
) -> Result<PlannedEngine, NotServable> {
    let Some(engine) = &load.engine else {
        return Ok(match found.scripted {
            true => EngineKind::Scripted.into(),
            false => EngineKind::Mlx.into(),
        });
    };
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        let refusal = || NotServable::Settings("its path is not UTF-8".to_owned());
        text.ok_or_else(refusal)
    };
    let dir = text(&found.dir)?;
    let file = found.file.as_deref().map(text).transpose()?;
    let name = engine.model.fill(|place| match place {
        Placeholder::Path => &dir,
        Placeholder::File => file.as_deref().unwrap_or_default(),
        Placeholder::Model => model,
        // The reader of the file refuses them here.
        Placeholder::Port | Placeholder::Socket => "",
    });
    let spawned = Spawned::new(Arc::clone(engine), found.file.clone(), name);
    Ok(PlannedEngine::Spawned(Arc::new(spawned)))
}

/// The rules of the variants: what each gives counts before the entry's defaults.
fn variants(entry: &Entry) -> IndexMap<String, Arc<Rules>> {
    let variants = entry.variants.iter().map(|(name, given)| {
        let mut rules = entry.request.clone();
        let defaults = std::mem::replace(&mut rules.defaults, given.clone());
        fill(&mut rules.defaults, &defaults);
        (name.clone(), Arc::new(rules))
    });
    variants.collect()
}

/// What is asked for, else what the checkpoint says; never more than that.
fn context(asked: Option<u32>, checkpoint: Option<u32>) -> Result<u32, NotServable> {
    match (asked, checkpoint) {
        (Some(asked), Some(most)) if asked > most => Err(NotServable::Settings(format!(
            "context is {asked} and the checkpoint ends at {most} tokens"
        ))),
        (Some(asked), _) => Ok(asked),
        // A context of nothing would be a broken checkpoint's.
        (None, Some(most)) => Ok(most.max(1)),
        (None, None) => Ok(USUAL_CONTEXT),
    }
}

/// The default room for caches: one sequence of the context or 32k tokens,
/// whichever is less, at most a quarter of the budget.
fn usual_kv(context: u32, per_token: ByteSize, budget: ByteSize) -> ByteSize {
    let tokens = u64::from(context.min(KV_TOKENS));
    ByteSize(per_token.0.saturating_mul(tokens).min(budget.0 / KV_PART))
}

/// The pool's key of a load. One load of a repository has the repository's id:
/// that of the entry named so, else the default one if `allow` permits the id,
/// else the first entry's. Every other load has the name of its first entry, so
/// that adding an entry does not move the keys of the others.
fn pool_key(config: &Config, source: &Source, load: &LoadSettings) -> String {
    let first_of = |source: &Source, load: &LoadSettings| {
        config
            .models
            .iter()
            .find(|entry| entry.source == *source && entry.load == *load)
            .map(|entry| entry.name.to_string())
    };
    let Source::Repository { id, .. } = source else {
        return first_of(source, load).unwrap_or_default();
    };
    let is_owner = match owner(config, id) {
        Some(entry) => entry.source == *source && entry.load == *load,
        None => {
            let plain = Source::Repository {
                id: id.clone(),
                revision: None,
            };
            *source == plain && *load == LoadSettings::default()
        }
    };
    match (is_owner, first_of(source, load)) {
        (false, Some(name)) => name,
        _ => id.to_string(),
    }
}

/// The entry whose load has the id as its key; nothing if it is the default load.
fn owner<'a>(config: &'a Config, id: &ModelId) -> Option<&'a Entry> {
    let named = config
        .models
        .iter()
        .find(|entry| entry.name.as_str() == id.as_str());
    let leads_here =
        |entry: &&Entry| matches!(&entry.source, Source::Repository { id: of, .. } if of == id);
    match named {
        Some(entry) => Some(entry),
        None if config.permits(id.as_str()) => None,
        None => config.models.iter().find(leads_here),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_is_asked_for_or_the_checkpoints_and_never_more() {
        let check = |asked, checkpoint, expected: Option<u32>| {
            assert_eq!(context(asked, checkpoint).ok(), expected);
        };
        check(None, Some(8192), Some(8192));
        check(Some(100), Some(8192), Some(100));
        check(Some(8193), Some(8192), None);
        check(Some(50_000), None, Some(50_000));
        check(None, None, Some(USUAL_CONTEXT));
    }
}
