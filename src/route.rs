//! Which model a name means, and why. Total and pure: it always answers, reads
//! no clock and opens no file. The caller loads one snapshot and asks.

pub mod path;

use std::collections::HashSet;
use std::sync::Arc;

use crate::config::engine::Use;
use crate::config::suggest;
use crate::model::id::{IdError, Name};
use crate::registry::wildcards::Wildcard;
use crate::registry::{Leads, NotServable, Remote, Served, Snapshot};
use crate::worker::LoadPlan;

/// Most names in a 404.
const SUGGESTIONS: usize = 3;

/// Whether the caller may use the model of this served name. Aliases are judged
/// by the name they lead to.
pub type Permit<'a> = &'a dyn Fn(&str) -> bool;

/// Why a name led to its model: the words of `x-roundhouse-route`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// The key of an entry, or a name of an upstream.
    Exact,
    /// An alias of an entry.
    Alias,
    /// A name of an entry, a colon, and one of its variants.
    Variant,
    /// A cached id that `allow` permits.
    Allowed,
    /// An alias, or a name of an upstream, with a `*` that the name matches.
    Wildcard,
    /// The request named none and `default` is set.
    Default,
    /// A background alias of an entry: see [`others`].
    Background,
    /// The model it led to could not answer, and its entry names an upstream for that.
    Fallback,
    /// It would have waited too long for the model, and its entry names an upstream for that.
    Spill,
}

impl Why {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Exact => "exact",
            Why::Alias => "alias",
            Why::Variant => "variant",
            Why::Allowed => "allowed",
            Why::Wildcard => "wildcard",
            Why::Default => "default",
            Why::Background => "background",
            Why::Fallback => "fallback",
            Why::Spill => "spill",
        }
    }
}

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Answer with this model.
    Serve {
        /// The name's facts.
        served: Arc<Served>,
        /// How the pool brings it up.
        plan: Arc<LoadPlan>,
        /// Why it is this one.
        why: Why,
        /// Which of its variants is meant, however the name led there.
        variant: Option<String>,
    },
    /// An upstream is to answer.
    Away {
        /// Which, and under which name.
        remote: Arc<Remote>,
        /// What was asked for.
        name: String,
        /// Why it is this one.
        why: Why,
    },
    /// 400 `invalid_model_id`: no name at all, or one outside the grammar.
    Invalid(IdError),
    /// 404 `model_not_found`: nothing the caller may use has this name.
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// 404 `model_not_found`: the caller may use it, and it is not there.
    NotServable {
        /// What was asked for.
        name: String,
        /// Not cached, or incomplete, and how.
        reason: NotServable,
    },
}

/// One line of `GET /v1/models`.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The name to ask for.
    pub id: String,
    /// The served name, if `id` is an alias or a variant of it.
    pub alias_of: Option<String>,
    /// What is behind it.
    pub behind: Leads,
}

/// Decides what `model` means: entry, alias, variant of either, cached id that `allow` permits and
/// `deny` does not, alias with a `*`; `default` only if the field is missing. `model` is the
/// decoded string of the request.
pub fn decide(snapshot: &Snapshot, model: Option<&str>, permit: Permit) -> Decision {
    let (text, missing) = match (model, &snapshot.config.default) {
        (Some(text), _) => (text, false),
        (None, Some(default)) => (default.as_str(), true),
        (None, None) => return Decision::Invalid(IdError::Empty),
    };
    let name = match Name::parse(text) {
        Ok(name) => name,
        Err(error) => return Decision::Invalid(error),
    };
    match find(snapshot, &name).filter(|found| found.is_permitted(&name, permit)) {
        Some(Found::Away(remote, why)) => Decision::Away {
            remote,
            name: text.to_owned(),
            why: if missing { Why::Default } else { why },
        },
        Some(Found::Model(served, why, variant)) => match &served.plan {
            Ok(plan) => Decision::Serve {
                plan: Arc::clone(plan),
                why: if missing { Why::Default } else { why },
                variant,
                served,
            },
            Err(reason) => Decision::NotServable {
                name: text.to_owned(),
                reason: reason.clone(),
            },
        },
        None if is_allowed(snapshot, &name) && permit(text) => Decision::NotServable {
            name: text.to_owned(),
            reason: NotServable::NotCached,
        },
        // A name that the caller neither said nor may know.
        None if missing => Decision::Invalid(IdError::Empty),
        None => Decision::Unknown {
            name: text.to_owned(),
        },
    }
}

/// What may have been meant by a name that leads nowhere: the nearest that the caller may
/// use, best first; nothing for any other decision. Looks at every name, which a decision
/// does not: for whoever tells a refusal.
pub fn suggestions(snapshot: &Snapshot, decision: &Decision, permit: Permit) -> Vec<String> {
    let name = match decision {
        Decision::Unknown { name } => name,
        // `allow` with a `*` permits every mistyped id too; what leads to a model is meant.
        Decision::NotServable { name, .. } if !leads_somewhere(snapshot, name, permit) => name,
        _ => return Vec::new(),
    };
    nearest(snapshot, name, permit)
}

/// What a request that any model of a kind may answer asks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// What the model is asked, if that is known.
    pub asked: Option<Use>,
    /// It asks in messages, which takes a chat template.
    pub chat: bool,
    /// It has at most so many tokens: its bytes, of which a token has one at least.
    pub tokens: u64,
}

/// The models that may answer a request by a background alias of `served` in its
/// place, as far as they are up: those the caller may use, of the kind that is
/// asked for, and with a context in which the prompt fits if it does in that of
/// `served`. Each load once.
pub fn others(
    snapshot: &Snapshot,
    served: &Served,
    demand: Demand,
    permit: Permit,
) -> Vec<Arc<LoadPlan>> {
    let Ok(own) = &served.plan else {
        return Vec::new();
    };
    let context = demand.tokens.min(u64::from(own.context));
    let fits = |other: &Served, plan: &LoadPlan| {
        demand.asked.is_none_or(|asked| other.uses.contains(&asked))
            && (other.chats || !demand.chat)
            && u64::from(plan.context) >= context
            && permit(&other.name)
    };
    let mut seen = HashSet::from([own.model.as_str()]);
    let servable = snapshot.served.values().filter_map(|other| {
        let plan = other.plan.as_ref().ok()?;
        fits(other, plan).then_some(plan)
    });
    servable
        .filter(|plan| seen.insert(plan.model.as_str()))
        .cloned()
        .collect()
}

/// What `GET /v1/models` shows: the entries, cached or not, and the cached ids
/// that can be served, then the aliases, then the variants, then the exact names of upstreams. Of an id that `allow` merely permits and
/// that is not whole nobody asked to be told.
pub fn list(snapshot: &Snapshot, permit: Permit) -> Vec<Listed> {
    let usable = |served: &Served| (served.entry || served.plan.is_ok()) && permit(&served.name);
    let names = snapshot.served.values().filter(|served| usable(served));
    let aliases = snapshot.aliases.iter().filter(|(_, served)| usable(served));
    let remotes = snapshot.remotes.iter().filter(|(name, _)| permit(name));
    let variants = names.clone().flat_map(|served| {
        let variant = |id| Listed {
            id,
            alias_of: Some(served.name.clone()),
            behind: Leads::Model(Arc::clone(served)),
        };
        served.variant_names().map(variant)
    });
    names
        .map(|served| Listed {
            id: served.name.clone(),
            alias_of: None,
            behind: Leads::Model(Arc::clone(served)),
        })
        .chain(aliases.map(|(alias, served)| Listed {
            id: alias.clone(),
            alias_of: Some(served.name.clone()),
            behind: Leads::Model(Arc::clone(served)),
        }))
        .chain(variants)
        .chain(remotes.map(|(name, remote)| Listed {
            id: name.clone(),
            alias_of: None,
            behind: Leads::Upstream(Arc::clone(remote)),
        }))
        .collect()
}

/// What a name leads to, and by which rule.
enum Found {
    /// A model of this machine, and which of its variants.
    Model(Arc<Served>, Why, Option<String>),
    /// A name of an upstream.
    Away(Arc<Remote>, Why),
}

impl Found {
    /// Whether the caller may use it. A name of an upstream is judged as it was said.
    fn is_permitted(&self, name: &Name, permit: Permit) -> bool {
        match self {
            Self::Model(served, ..) => permit(&served.name),
            Self::Away(..) => permit(name.as_str()),
        }
    }
}

/// The name with a `*` that has this one; `deny` holds for what leaves the machine too.
fn wildcard<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s Wildcard> {
    let found = snapshot.wildcards.find(name)?;
    let is_denied = || {
        let mut deny = snapshot.config.deny.iter();
        deny.any(|pattern| pattern.matches(name))
    };
    match found.leads {
        Leads::Upstream(_) if is_denied() => None,
        _ => Some(found),
    }
}

/// The table that has the name, in the order of the rules.
fn find(snapshot: &Snapshot, name: &Name) -> Option<Found> {
    let plain = |served: &Arc<Served>, why| Some(Found::Model(Arc::clone(served), why, None));
    let (exact, alias) = (
        snapshot.served.get(name.as_str()),
        snapshot.aliases.get(name.as_str()),
    );
    match (exact, alias) {
        (Some(served), _) if served.entry => plain(served, Why::Exact),
        (_, Some(served)) => {
            let why = match snapshot.background.contains(name.as_str()) {
                true => Why::Background,
                false => Why::Alias,
            };
            plain(served, why)
        }
        (Some(served), None) => plain(served, Why::Allowed),
        (None, None) => {
            if let Some(remote) = snapshot.remotes.get(name.as_str()) {
                return Some(Found::Away(Arc::clone(remote), Why::Exact));
            }
            if let Some((served, variant)) = variant(snapshot, name) {
                return Some(Found::Model(served, Why::Variant, Some(variant)));
            }
            let wildcard = wildcard(snapshot, name.as_str())?;
            let served = match &wildcard.leads {
                Leads::Model(served) => served,
                Leads::Upstream(remote) => {
                    return Some(Found::Away(Arc::clone(remote), Why::Wildcard));
                }
            };
            let why = match wildcard.background {
                true => Why::Background,
                false => Why::Wildcard,
            };
            plain(served, why)
        }
    }
}

/// The entry of which the name says a variant, by its key or an alias, and which.
fn variant(snapshot: &Snapshot, name: &Name) -> Option<(Arc<Served>, String)> {
    let (base, variant) = name.as_str().rsplit_once(':')?;
    let served = snapshot.served.get(base);
    let served = served.or_else(|| snapshot.aliases.get(base))?;
    let is_known = served.variants.contains_key(variant);
    is_known.then(|| (Arc::clone(served), variant.to_owned()))
}

/// Whether any table has the name, for this caller.
fn leads_somewhere(snapshot: &Snapshot, name: &str, permit: Permit) -> bool {
    let Ok(name) = Name::parse(name) else {
        return false;
    };
    find(snapshot, &name).is_some_and(|found| found.is_permitted(&name, permit))
}

/// Whether the name is an id that the file permits, cached or not.
fn is_allowed(snapshot: &Snapshot, name: &Name) -> bool {
    name.as_id()
        .is_some_and(|id| snapshot.config.permits(id.as_str()))
}

/// The nearest names that the caller may use and that can be served.
fn nearest(snapshot: &Snapshot, text: &str, permit: Permit) -> Vec<String> {
    let usable = |served: &Served| served.plan.is_ok() && permit(&served.name);
    let names = snapshot.served.values().filter(|served| usable(served));
    let aliases = snapshot.aliases.iter().filter(|(_, served)| usable(served));
    let variants = names.clone().flat_map(|served| served.variant_names());
    let variants: Vec<String> = variants.collect();
    let remotes = snapshot.remotes.keys().filter(|name| permit(name));
    let known = names
        .map(|served| served.name.as_str())
        .chain(aliases.map(|(alias, _)| alias.as_str()))
        .chain(variants.iter().map(String::as_str))
        .chain(remotes.map(String::as_str));
    let nearest = suggest::nearest_names(text, known, SUGGESTIONS);
    nearest.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
