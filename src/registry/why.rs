//! Why a model is served or not, and what mends it: one line for each entry, each
//! cached id, and whatever else lies in the cache folders. Pure.

use std::collections::HashMap;

use super::{NotServable, Served, Snapshot};
use crate::config::Source;
use crate::model::cache::Stranger;
use crate::units::ByteSize;
use crate::worker::LoadPlan;

/// One entry, one cached id, or one thing that is neither.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Explained {
    /// The entry's name, the id, or the name of the folder.
    pub id: String,
    /// Bytes of its weights, where they are complete.
    pub bytes: Option<u64>,
    /// The names it is served by; empty if it is not.
    pub served_as: Vec<String>,
    /// Words to filter lists by.
    pub tags: Vec<String>,
    /// Why it is not served, or why it cannot be loaded.
    pub reason: Option<String>,
    /// The command or the edit that mends it.
    pub mend: Option<String>,
}

/// The entries in the order of the file, then every other cached id, sorted, then
/// what is no model, by its folder.
pub fn explain(snapshot: &Snapshot) -> Vec<Explained> {
    let entries = snapshot.served.values().filter(|served| served.entry);
    let cached = snapshot
        .cached
        .iter()
        .filter(|(id, _)| !snapshot.served.get(*id).is_some_and(|served| served.entry));
    let names = names(snapshot);
    let mut strangers: Vec<_> = snapshot.strangers.iter().map(stranger).collect();
    strangers.sort_by(|one, other| one.id.cmp(&other.id));
    entries
        .map(|served| entry(snapshot, served))
        .chain(cached.map(|(id, state)| cached_id(snapshot, &names, id, state)))
        .chain(strangers)
        .collect()
}

/// A folder that is no model. Its path is told by its last part alone.
fn stranger(stranger: &Stranger) -> Explained {
    let name = stranger
        .path
        .file_name()
        .unwrap_or(stranger.path.as_os_str());
    Explained {
        id: name.to_string_lossy().into_owned(),
        bytes: None,
        served_as: Vec::new(),
        tags: Vec::new(),
        reason: Some(stranger.why.clone()),
        mend: Some("give its snapshot an entry with path, or remove the folder".to_owned()),
    }
}

/// Why a complete model could not be loaded, and what would make it fit.
fn too_large(snapshot: &Snapshot, plan: &LoadPlan) -> Option<(String, String)> {
    let (needs, budget) = (plan.memory, snapshot.budget);
    (needs > budget).then(|| {
        let reason = format!("it needs {needs} and the budget is {budget}");
        let mend = format!(
            "a larger memory, or a smaller kv or context for it, in {}",
            file(snapshot)
        );
        (reason, mend)
    })
}

/// An entry of the file.
fn entry(snapshot: &Snapshot, served: &Served) -> Explained {
    let names = || {
        std::iter::once(&served.name)
            .chain(&served.aliases)
            .chain(&served.wildcards)
            .cloned()
            .chain(served.variant_names())
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
            // The pinned commit, whatever the branch has become.
            let pin = snapshot.config.lock.as_ref();
            let pin = pin.and_then(|lock| lock.pin(&served.source)?.commit.as_deref());
            Some(download(id.as_str(), pin.or(revision.as_deref())))
        }
        (NotServable::NotCached, Source::Path(_)) => None,
    });
    let plan = served.plan.as_ref().ok();
    let (too_large, smaller) = plan.and_then(|plan| too_large(snapshot, plan)).unzip();
    Explained {
        id: served.name.clone(),
        bytes: reason.is_none().then_some(served.size.0),
        served_as: match reason {
            None => names().collect(),
            Some(_) => Vec::new(),
        },
        tags: served.tags.clone(),
        reason: reason.map(NotServable::to_string).or(too_large),
        mend: mend.or(smaller),
    }
}

/// An id in the cache without an entry of that name.
fn cached_id(
    snapshot: &Snapshot,
    names: &Names<'_>,
    id: &str,
    state: &Result<ByteSize, NotServable>,
) -> Explained {
    let served_as = names.get(id).cloned().unwrap_or_default();
    let plan = snapshot.served.get(id).map(|served| &served.plan);
    let (plan, refused) = match plan {
        Some(Ok(plan)) => (Some(plan), None),
        Some(Err(reason)) => (None, Some(reason)),
        None => (None, None),
    };
    let config = &snapshot.config;
    let denied = config.deny.iter().find(|pattern| pattern.matches(id));
    let (reason, mend) = match (state, denied) {
        _ if !served_as.is_empty() => plan.and_then(|plan| too_large(snapshot, plan)).unzip(),
        (_, Some(pattern)) => (
            Some(format!("deny has {:?}", pattern.as_str())),
            Some(format!(
                "remove the pattern from deny in {}",
                file(snapshot)
            )),
        ),
        (Err(reason), None) => (Some(reason.to_string()), reason.remedy().map(str::to_owned)),
        (Ok(_), None) if let Some(reason) = refused => {
            (Some(reason.to_string()), reason.remedy().map(str::to_owned))
        }
        (Ok(_), None) => (
            Some("allow does not permit it".to_owned()),
            Some(format!("roundhouse allow {id}")),
        ),
    };
    Explained {
        id: id.to_owned(),
        bytes: state.as_ref().ok().map(|size| size.0),
        served_as,
        tags: Vec::new(),
        reason,
        mend,
    }
}

/// The names by which each cached id can be asked for now.
type Names<'a> = HashMap<&'a str, Vec<String>>;

fn names(snapshot: &Snapshot) -> Names<'_> {
    let mut names = Names::new();
    for served in snapshot
        .served
        .values()
        .filter(|served| served.plan.is_ok())
    {
        if let Source::Repository { id, .. } = &served.source {
            let of_id = names.entry(id.as_str()).or_default();
            of_id.push(served.name.clone());
        }
    }
    names
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
        let shelf = Shelf::of(&ids)
            .broken("a/broken")
            .stranger("/hub/models--gpt2");
        let snapshot = snapshot(text, &shelf);
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
            "models--gpt2 [] its name is not models--org--repo with a valid id | give its snapshot an entry with path, or remove the folder",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_never_fits_the_budget_says_so() {
        let text = "memory: 4GB\nallow: ['a/*']\nmodels: {small: {repo: b/one, memory: 1GB}, large: {repo: b/one}}";
        let snapshot = snapshot(text, &Shelf::of(&["a/one", "b/one"]));
        let lines = explain(&snapshot);
        let shown: Vec<_> = lines
            .iter()
            .map(|line| (line.id.as_str(), line.reason.is_some(), line.mend.is_some()))
            .collect();
        let expected = [
            ("small", false, false),
            ("large", true, true),
            ("a/one", true, true),
            ("b/one", false, false),
        ];
        assert_eq!(shown, expected, "{lines:?}");
        assert_eq!(
            lines[1].reason.as_deref(),
            Some("it needs 6.0 GB and the budget is 4.0 GB")
        );
        assert_eq!(lines[2].served_as, ["a/one"], "it can be asked for");
    }
}
