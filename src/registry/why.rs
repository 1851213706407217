//! Why a model is served or not, and what mends it: one line for each cached id
//! and each entry. Pure.

use super::{NotServable, Served, Snapshot};
use crate::config::Source;
use crate::units::ByteSize;

/// One cached id or one entry.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Explained {
    /// The id, or the entry's name.
    pub id: String,
    /// Bytes of its weights, where they are complete.
    pub bytes: Option<u64>,
    /// The names it is served by; empty if it is not.
    pub served_as: Vec<String>,
    /// Why it is not served.
    pub reason: Option<String>,
    /// The command or the edit that mends it.
    pub mend: Option<String>,
}

/// The entries in the order of the file, then every other cached id, sorted.
pub fn explain(snapshot: &Snapshot) -> Vec<Explained> {
    let entries = snapshot.served.values().filter(|served| served.entry);
    let cached = snapshot
        .cached
        .iter()
        .filter(|(id, _)| !snapshot.served.get(*id).is_some_and(|served| served.entry));
    entries
        .map(|served| entry(snapshot, served))
        .chain(cached.map(|(id, state)| cached_id(snapshot, id, state)))
        .collect()
}

/// An entry of the file.
fn entry(snapshot: &Snapshot, served: &Served) -> Explained {
    let names = || {
        std::iter::once(&served.name)
            .chain(&served.aliases)
            .chain(&served.wildcards)
            .cloned()
    };
    let reason = served.plan.as_ref().err();
    let mend = reason.and_then(|reason| match (reason, &served.source) {
        (NotServable::Settings(_), _) => Some(format!(
            "change models.{} in {}",
            served.name,
            file(snapshot)
        )),
        (NotServable::Snapshot { remedy, .. }, _) => remedy.clone(),
        (NotServable::NotCached, Source::Repository { id, revision }) => {
            Some(download(id.as_str(), revision.as_deref()))
        }
        (NotServable::NotCached, Source::Path(_)) => None,
    });
    Explained {
        id: served.name.clone(),
        bytes: reason.is_none().then_some(served.size.0),
        served_as: match reason {
            None => names().collect(),
            Some(_) => Vec::new(),
        },
        reason: reason.map(NotServable::to_string),
        mend,
    }
}

/// An id in the cache without an entry of that name.
fn cached_id(snapshot: &Snapshot, id: &str, state: &Result<ByteSize, NotServable>) -> Explained {
    let served_as = names_of(snapshot, id);
    let config = &snapshot.config;
    let denied = config.deny.iter().find(|pattern| pattern.matches(id));
    let (reason, mend) = match (state, denied) {
        _ if !served_as.is_empty() => (None, None),
        (_, Some(pattern)) => (
            Some(format!("deny has {:?}", pattern.as_str())),
            Some(format!(
                "remove the pattern from deny in {}",
                file(snapshot)
            )),
        ),
        (Err(reason), None) => (Some(reason.to_string()), remedy(reason)),
        (Ok(_), None) => (
            Some("allow does not permit it".to_owned()),
            Some(format!("roundhouse allow {id}")),
        ),
    };
    Explained {
        id: id.to_owned(),
        bytes: state.as_ref().ok().map(|size| size.0),
        served_as,
        reason,
        mend,
    }
}

/// The names by which a cached id can be asked for now.
fn names_of(snapshot: &Snapshot, id: &str) -> Vec<String> {
    let leads_here = |served: &&std::sync::Arc<Served>| {
        served.plan.is_ok()
            && matches!(&served.source, Source::Repository { id: of, .. } if of.as_str() == id)
    };
    snapshot
        .served
        .values()
        .filter(leads_here)
        .map(|served| served.name.clone())
        .collect()
}

/// What mends a snapshot in the cache.
fn remedy(reason: &NotServable) -> Option<String> {
    match reason {
        NotServable::Snapshot { remedy, .. } => remedy.clone(),
        NotServable::NotCached | NotServable::Settings(_) => None,
    }
}

/// What brings a repository into the cache: the hub's own client, since nothing here downloads.
fn download(id: &str, revision: Option<&str>) -> String {
    match revision {
        Some(revision) => format!("hf download {id} --revision {revision}"),
        None => format!("hf download {id}"),
    }
}

/// The file, for advice.
fn file(snapshot: &Snapshot) -> String {
    let source = snapshot.config.source.as_ref();
    source.map_or_else(
        || "models.yaml".to_owned(),
        |file| file.display().to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fixture::{Shelf, snapshot};

    #[test]
    fn each_cached_model_is_served_or_says_why_not() {
        let text = "
allow: ['a/*']
deny: [a/denied]
models:
  coder: { repo: c/coder, aliases: [code] }
  c/gone: { revision: v1 }
  a/long: { context: 100000 }
";
        let ids = ["a/one", "a/denied", "a/long", "b/other", "c/coder"];
        let snapshot = snapshot(text, &Shelf::of(&ids).broken("a/broken"));
        let shown: Vec<String> = explain(&snapshot)
            .into_iter()
            .map(|line| {
                let reason = line.reason.unwrap_or_default();
                let mend = line.mend.unwrap_or_default();
                format!("{} {:?} {reason} | {mend}", line.id, line.served_as)
            })
            .collect();
        let expected = [
            "coder [\"coder\", \"code\"]  | ",
            "c/gone [] it is not cached | hf download c/gone --revision v1",
            "a/long [] context is 100000 and the checkpoint ends at 40960 tokens | change models.a/long in models.yaml",
            "a/broken [] incomplete: model.safetensors is missing | hf download a/broken",
            "a/denied [] deny has \"a/denied\" | remove the pattern from deny in models.yaml",
            "a/one [\"a/one\"]  | ",
            "b/other [] allow does not permit it | roundhouse allow b/other",
            "c/coder [\"coder\"]  | ",
        ];
        assert_eq!(shown, expected);
    }
}
