//! What is different between two snapshots, for the pool and for the log. Pure.

mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Served, Snapshot};
use crate::config::{Config, Server};
use crate::worker::LoadPlan;

/// A name or a load, and the keys of its entry that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The served name, or the pool key of the load.
    pub name: String,
    /// The keys; of a load also `snapshot`, if other files are behind it.
    pub keys: Vec<&'static str>,
}

/// The difference between the snapshot before and the one now in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// The generation now in force.
    pub generation: u64,
    /// Served names that are new.
    pub added: Vec<String>,
    /// Served names that are gone.
    pub removed: Vec<String>,
    /// Pool keys that no name leads to any more: unload after the last stream.
    pub gone: Vec<String>,
    /// Pool keys whose plan is another: the next load uses it, and what is
    /// loaded stays as it is until then.
    pub replaced: Vec<Edited>,
    /// Pool keys that are to be in memory now and were not before: loaded at once.
    pub brought_up: Vec<String>,
    /// Names that changed how they are treated (`keep`, `preload`, `idle_unload`,
    /// `request`, `variants`, `tags`, `fallback`).
    pub settings: Vec<Edited>,
    /// The aliases that are new, gone or lead elsewhere.
    pub aliases: Vec<String>,
    /// The models whose pins in the lock file are new, gone or others.
    pub pins: Vec<String>,
    /// Whether the budget is another.
    pub budget: bool,
    /// Parts of the file, beside the models, that differ and hold at once.
    pub live: Vec<&'static str>,
    /// Keys of class R that differ: they wait for a restart.
    pub restart: Vec<&'static str>,
}

impl Change {
    /// Compares two snapshots.
    pub fn between(before: &Snapshot, now: &Snapshot) -> Self {
        let (old_plans, new_plans) = (plans(before), plans(now));
        Self {
            generation: now.generation,
            added: only_in(now, before),
            removed: only_in(before, now),
            gone: old_plans
                .keys()
                .filter(|key| !new_plans.contains_key(*key))
                .map(|key| (*key).to_owned())
                .collect(),
            replaced: new_plans
                .iter()
                .filter_map(|(key, plan)| {
                    let keys = changed_plan(old_plans.get(key)?, plan);
                    edited(key, keys)
                })
                .collect(),
            brought_up: wanted(now).difference(&wanted(before)).cloned().collect(),
            settings: now
                .served
                .values()
                .filter_map(|served| {
                    let old = before.served.get(&served.name)?;
                    edited(&served.name, changed_treatment(old, served))
                })
                .collect(),
            aliases: changed_aliases(before, now),
            pins: changed_pins(before, now),
            budget: before.budget != now.budget,
            live: holds_at_once(before, now),
            restart: needs_restart(before, now),
        }
    }

    /// That nothing is different, and which generation stays in force.
    pub fn none(generation: u64) -> Self {
        Self {
            generation,
            ..Self::default()
        }
    }

    /// Whether anything is different.
    pub fn is_empty(&self) -> bool {
        *self == Self::none(self.generation)
    }
}

/// Every plan by its pool key.
fn plans(snapshot: &Snapshot) -> BTreeMap<&str, &Arc<LoadPlan>> {
    snapshot
        .served
        .values()
        .filter_map(|served| served.plan.as_ref().ok())
        .map(|plan| (plan.model.as_str(), plan))
        .collect()
}

/// Served names of one snapshot that the other lacks.
fn only_in(one: &Snapshot, other: &Snapshot) -> Vec<String> {
    one.served
        .keys()
        .filter(|name| !other.served.contains_key(*name))
        .cloned()
        .collect()
}

/// Something with keys that differ.
fn edited(name: &str, keys: Vec<&'static str>) -> Option<Edited> {
    let is_edited = !keys.is_empty();
    is_edited.then(|| Edited {
        name: name.to_owned(),
        keys,
    })
}

/// The names of what differs.
fn differing<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    let differing = keys
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key));
    differing.collect()
}

/// Pool keys that are to be in memory without anybody asking.
fn wanted(snapshot: &Snapshot) -> BTreeSet<String> {
    let wanted = snapshot.served.values().filter(|served| served.preload);
    wanted
        .filter_map(|served| Some(served.plan.as_ref().ok()?.model.clone()))
        .collect()
}

/// What the next load does in another way.
fn changed_plan(old: &LoadPlan, new: &LoadPlan) -> Vec<&'static str> {
    let keys = differing([
        (
            "snapshot",
            (&old.dir, &old.commit) != (&new.dir, &new.commit),
        ),
        ("engine", old.engine != new.engine),
        ("context", old.context != new.context),
        ("parallel", old.parallel != new.parallel),
        ("kv", old.kv != new.kv),
        ("kv_format", old.kv_format != new.kv_format),
        ("compute", old.compute != new.compute),
        ("adapters", old.adapters != new.adapters),
        ("draft", old.draft != new.draft),
        (
            "memory",
            (old.memory, old.estimated) != (new.memory, new.estimated),
        ),
        ("warmup", old.warmup != new.warmup),
        ("warm_prompts", old.warm_prompts != new.warm_prompts),
    ]);
    // What no key of the entry decides comes from the files.
    match keys.is_empty() && old != new {
        true => vec!["snapshot"],
        false => keys,
    }
}

/// What changes at once and without a load.
fn changed_treatment(old: &Served, new: &Served) -> Vec<&'static str> {
    differing([
        ("adapter", old.adapter != new.adapter),
        ("keep", old.keep != new.keep),
        ("preload", old.preload != new.preload),
        ("idle_unload", old.idle_unload != new.idle_unload),
        ("request", old.request != new.request),
        ("variants", old.variants != new.variants),
        ("tags", old.tags != new.tags),
        ("never_with", old.never_with != new.never_with),
        ("fallback", old.fallback != new.fallback),
    ])
}

/// Aliases that are new, gone, lead elsewhere or became something else.
fn changed_aliases(before: &Snapshot, now: &Snapshot) -> Vec<String> {
    let target = |snapshot: &Snapshot, alias: &str| {
        let served = snapshot.aliases.get(alias)?;
        Some((served.name.clone(), snapshot.background.contains(alias)))
    };
    let new_or_moved = now
        .aliases
        .keys()
        .filter(|alias| target(before, alias) != target(now, alias));
    let gone = before
        .aliases
        .keys()
        .filter(|alias| !now.aliases.contains_key(*alias));
    // A wildcard is where it leads and what it is, all in one.
    let wildcards = |snapshot: &Snapshot| {
        let all = snapshot.wildcards.iter().map(|wildcard| {
            let pattern = wildcard.pattern.as_str().to_owned();
            (pattern, (wildcard.leads.words(), wildcard.background))
        });
        all.collect::<BTreeMap<_, _>>()
    };
    let (old, new) = (wildcards(before), wildcards(now));
    let patterns: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let moved = patterns
        .into_iter()
        .filter(|it| old.get(*it) != new.get(*it));
    new_or_moved.chain(gone).chain(moved).cloned().collect()
}

/// Pins that are new, gone or others.
fn changed_pins(before: &Snapshot, now: &Snapshot) -> Vec<String> {
    let pins = |snapshot: &Snapshot| {
        let lock = snapshot.config.lock.clone();
        lock.unwrap_or_default().pins
    };
    let (old, new) = (pins(before), pins(now));
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let changed = names.into_iter().filter(|it| old.get(*it) != new.get(*it));
    changed.cloned().collect()
}

/// Parts of the file that differ and hold at once; what becomes of models and aliases
/// is told on its own.
fn holds_at_once(before: &Snapshot, now: &Snapshot) -> Vec<&'static str> {
    let (old, new) = (&before.config, &now.config);
    // What of the server waits for a restart is told as that.
    let server = |config: &Config| Server {
        listen: Vec::new(),
        management: Vec::new(),
        ..config.server.clone()
    };
    differing([
        ("allow", old.allow != new.allow),
        ("deny", old.deny != new.deny),
        ("default", old.default != new.default),
        ("cache", old.cache != new.cache),
        ("upstreams", old.upstreams != new.upstreams),
        ("pool", old.pool != new.pool),
        ("server", server(old) != server(new)),
        ("log", old.log != new.log),
        ("request_log", old.request_log != new.request_log),
        // Each pin is told; this is whether anything is pinned at all.
        ("models.lock", old.lock.is_some() != new.lock.is_some()),
    ])
}

/// Keys of class R that differ.
fn needs_restart(before: &Snapshot, now: &Snapshot) -> Vec<&'static str> {
    let (old, new) = (&before.config, &now.config);
    differing([
        ("server.listen", old.server.listen != new.server.listen),
        (
            "server.management",
            old.server.management != new.server.management,
        ),
        ("keys_file", old.keys_file != new.keys_file),
        ("audit", old.audit != new.audit),
    ])
}
