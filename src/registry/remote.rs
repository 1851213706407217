//! Names that are answered elsewhere, and what a pattern leads to. Pure.

use std::sync::Arc;

use indexmap::IndexMap;

use super::Served;
use crate::config::engine::Use;
use crate::config::upstream::{RemoteName, Upstream};
use crate::config::{AliasName, Config};

/// A name, or a pattern, that upstreams answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// As it stands in the file: what it is counted under, whatever was asked for.
    pub name: String,
    /// Who answers it, in the order of the file; one at least.
    pub targets: Vec<Target>,
}

/// One of those that answer a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Who answers.
    pub upstream: Arc<Upstream>,
    /// What that is asked for, if it is not the name.
    pub sent_as: Option<String>,
}

/// What answers in the place of a model that could not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The name of the upstream's.
    pub name: String,
    /// What it means.
    pub remote: Arc<Remote>,
}

/// What a name leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Leads {
    /// To a model of this machine.
    Model(Arc<Served>),
    /// To an upstream.
    Upstream(Arc<Remote>),
}

impl Remote {
    /// What they may be asked, together.
    pub fn kinds(&self) -> Vec<Use> {
        let is_asked = |kind: &Use| self.serves(Some(*kind));
        Use::ALL.into_iter().filter(is_asked).collect()
    }

    /// Whether any of them may be asked for this.
    pub fn serves(&self, asked: Option<Use>) -> bool {
        self.targets.iter().any(|target| target.serves(asked))
    }

    /// The names of the upstreams.
    pub fn upstreams(&self) -> Vec<&str> {
        let targets = self.targets.iter();
        targets.map(|it| it.upstream.name.as_str()).collect()
    }

    /// Who they are, for people: `the upstream cloud`.
    pub fn words(&self) -> String {
        match self.targets.as_slice() {
            [target] => format!("the upstream {}", target.upstream.name),
            _ => format!("the upstreams {}", self.upstreams().join(", ")),
        }
    }
}

impl Target {
    /// Whether it may be asked for this; nothing is what nobody here knows.
    pub fn serves(&self, asked: Option<Use>) -> bool {
        asked.is_none_or(|asked| self.upstream.kinds.contains(&asked))
    }

    /// What the upstream is asked for where a request says `asked`.
    pub fn model<'n>(&'n self, asked: &'n str) -> &'n str {
        self.sent_as.as_deref().unwrap_or(asked)
    }
}

impl Leads {
    /// Who answers, for people.
    pub fn words(&self) -> String {
        match self {
            Self::Model(served) => served.name.clone(),
            Self::Upstream(remote) => remote.words(),
        }
    }
}

/// All of them, in the order in which the file names them first, each with its name or
/// pattern. What several upstreams have is one.
pub fn all(config: &Config) -> Vec<(&AliasName, Arc<Remote>)> {
    let mut found: IndexMap<&str, (&AliasName, Vec<Target>)> = IndexMap::new();
    for upstream in config.upstreams.values() {
        for RemoteName { name, sent_as } in &upstream.models {
            let (_, targets) = found.entry(name.as_str()).or_insert((name, Vec::new()));
            targets.push(Target {
                upstream: Arc::clone(upstream),
                sent_as: sent_as.clone(),
            });
        }
    }
    let remote = |(name, (known, targets)): (&str, _)| {
        let name = name.to_owned();
        (known, Arc::new(Remote { name, targets }))
    };
    found.into_iter().map(remote).collect()
}

/// What answers a name of an upstream: the exact one, else the pattern that says most.
pub fn find(config: &Config, name: &str) -> Option<Arc<Remote>> {
    let all = all(config);
    let is_exact = |known: &AliasName| known.exact().is_some_and(|it| it.as_str() == name);
    let exact = all.iter().find(|(known, _)| is_exact(known));
    let patterns = all.iter().filter_map(|(known, remote)| {
        let pattern = known.wildcard()?;
        let matches = pattern.matches(name);
        matches.then_some((pattern.literals(), remote))
    });
    let (_, remote) = exact
        .map(|(_, remote)| (0, remote))
        .or_else(|| patterns.max_by_key(|(literals, _)| *literals))?;
    Some(Arc::clone(remote))
}
