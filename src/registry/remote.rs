//! Names that are answered elsewhere, and what a pattern leads to. Pure.

use std::sync::Arc;

use super::Served;
use crate::config::Config;
use crate::config::upstream::{RemoteName, Upstream};

/// A name, or a pattern, that an upstream answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// As it stands in the file: what it is counted under, whatever was asked for.
    pub name: String,
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
    fn of(upstream: &Arc<Upstream>, name: &RemoteName) -> Self {
        Self {
            name: name.name.as_str().to_owned(),
            upstream: Arc::clone(upstream),
            sent_as: name.sent_as.clone(),
        }
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
            Self::Upstream(remote) => format!("the upstream {}", remote.upstream.name),
        }
    }
}

/// All of them, in the order of the file, each with its name or pattern.
pub fn all(config: &Config) -> impl Iterator<Item = (&RemoteName, Arc<Remote>)> {
    let upstreams = config.upstreams.values();
    upstreams.flat_map(|upstream| {
        let names = upstream.models.iter();
        names.map(move |name| (name, Arc::new(Remote::of(upstream, name))))
    })
}

/// What answers a name of an upstream: the exact one, else the pattern that says most.
pub fn find(config: &Config, name: &str) -> Option<Arc<Remote>> {
    let exact =
        all(config).find(|(known, _)| known.name.exact().is_some_and(|it| it.as_str() == name));
    let patterns = all(config).filter_map(|(known, remote)| {
        let pattern = known.name.wildcard()?;
        pattern
            .matches(name)
            .then_some((pattern.literals(), remote))
    });
    let (_, remote) = exact
        .map(|(_, remote)| (0, remote))
        .or_else(|| patterns.max_by_key(|(literals, _)| *literals))?;
    Some(remote)
}
