//! What is different between two snapshots, for the pool and for the log. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;

use super::{Served, Snapshot};
use crate::config::request::Rules;
use crate::config::{Config, Server};
use crate::worker::LoadPlan;

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
    pub replaced: Vec<Arc<LoadPlan>>,
    /// How many names kept their plan and changed how they are treated
    /// (`keep`, `preload`, `idle_unload`, `request`,
    /// `variants`, `tags`).
    pub settings: usize,
    /// How many aliases are new, gone or lead elsewhere.
    pub aliases: usize,
    /// How many pins of the lock file are new, gone or others.
    pub pins: usize,
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
                .filter(|(key, plan)| old_plans.get(*key).is_some_and(|old| old != *plan))
                .map(|(_, plan)| Arc::clone(plan))
                .collect(),
            settings: now
                .served
                .values()
                .filter(|served| {
                    before
                        .served
                        .get(&served.name)
                        .is_some_and(|old| treatment(old) != treatment(served))
                })
                .count(),
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

impl fmt::Display for Change {
    /// `reload 7: +1 model, 2 aliases changed, 0 unloads`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "reload {}: nothing changed", self.generation);
        }
        let mut words = Vec::new();
        let mut count = |sign: &str, number: usize, noun: &str, what: &str| {
            if number > 0 {
                words.push(format!("{sign}{}{what}", counted(number, noun)));
            }
        };
        count("+", self.added.len(), "model", "");
        count("-", self.removed.len(), "model", "");
        count("", self.aliases, "alias", " changed");
        count("", self.settings, "setting", " changed");
        count(
            "",
            self.replaced.len(),
            "model",
            " changed from the next load on",
        );
        count("", self.pins, "pin", " changed");
        if self.budget {
            words.push("another memory budget".to_owned());
        }
        if !self.live.is_empty() {
            words.push(format!("{} changed", self.live.join(" and ")));
        }
        if !self.restart.is_empty() {
            words.push(format!("{} after a restart", self.restart.join(" and ")));
        }
        words.push(counted(self.gone.len(), "unload"));
        write!(f, "reload {}: {}", self.generation, words.join(", "))
    }
}

/// `1 alias`, `2 aliases`.
fn counted(number: usize, noun: &str) -> String {
    let ending = match (number, noun) {
        (1, _) => "",
        (_, "alias") => "es",
        _ => "s",
    };
    format!("{number} {noun}{ending}")
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

/// What changes at once: how long it stays, what becomes of its requests, its tags.
type Treatment<'s> = (
    (bool, bool, Option<std::time::Duration>),
    &'s Rules,
    &'s IndexMap<String, Arc<Rules>>,
    &'s [String],
);

/// What changes at once and without a load.
fn treatment(served: &Served) -> Treatment<'_> {
    let Served {
        keep,
        preload,
        idle_unload,
        request,
        variants,
        tags,
        ..
    } = served;
    ((*keep, *preload, *idle_unload), request, variants, tags)
}

/// Aliases that are new, gone, lead elsewhere or became something else.
fn changed_aliases(before: &Snapshot, now: &Snapshot) -> usize {
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
            let (pattern, model) = (wildcard.pattern.as_str(), &wildcard.served.name);
            (pattern.to_owned(), (model.clone(), wildcard.background))
        });
        all.collect::<BTreeMap<_, _>>()
    };
    let (old, new) = (wildcards(before), wildcards(now));
    let patterns: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let moved = patterns
        .into_iter()
        .filter(|it| old.get(*it) != new.get(*it));
    new_or_moved.count() + gone.count() + moved.count()
}

/// Pins that are new, gone or others.
fn changed_pins(before: &Snapshot, now: &Snapshot) -> usize {
    let pins = |snapshot: &Snapshot| {
        let lock = snapshot.config.lock.clone();
        lock.unwrap_or_default().pins
    };
    let (old, new) = (pins(before), pins(now));
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let changed = names.into_iter().filter(|it| old.get(*it) != new.get(*it));
    changed.count()
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
    [
        ("allow", old.allow != new.allow),
        ("deny", old.deny != new.deny),
        ("default", old.default != new.default),
        ("cache", old.cache != new.cache),
        ("pool", old.pool != new.pool),
        ("server", server(old) != server(new)),
        ("log", old.log != new.log),
        ("request_log", old.request_log != new.request_log),
        // Each pin is told; this is whether anything is pinned at all.
        ("models.lock", old.lock.is_some() != new.lock.is_some()),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}

/// Keys of class R that differ.
fn needs_restart(before: &Snapshot, now: &Snapshot) -> Vec<&'static str> {
    let (old, new) = (&before.config, &now.config);
    [
        ("server.listen", old.server.listen != new.server.listen),
        (
            "server.management",
            old.server.management != new.server.management,
        ),
        ("keys_file", old.keys_file != new.keys_file),
        ("audit", old.audit != new.audit),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}
