//! `base` and `adapter` of an entry: the weights of another entry, and what stands beside
//! them.

use super::models::{Origin, Places};
use super::values::Wrong;
use super::{At, Walker, advice};
use crate::config::problem::{Place, Problem};
use crate::config::{Adapted, Entry, LoadSettings, Source, suggest};
use crate::model::id::{ModelId, Name};

/// Keys that say how weights are loaded, and what is read then: those of the base count.
const OF_THE_BASE: [&str; 13] = [
    "repo",
    "path",
    "engine",
    "file",
    "context",
    "parallel",
    "kv",
    "kv_format",
    "compute",
    "draft",
    "memory",
    "trust_remote_code",
    "warm_prompts",
];

/// What an entry with an adapter has from its base, and the adapter.
pub(super) struct Based {
    pub(super) source: Source,
    pub(super) load: LoadSettings,
    pub(super) adapted: Adapted,
}

impl Walker<'_> {
    /// `models.NAME.adapter`: a repository id, or a folder.
    pub(super) fn adapter(&mut self, at: At) -> Option<Source> {
        let around = self.around;
        let expected = "a repository id such as org/name, or a folder that begins with /, ~/ or ./";
        self.read(at, expected, |text| {
            if text.starts_with(['/', '~', '.']) {
                let path = text.strip_prefix("./").unwrap_or(text);
                let resolved = match advice::path(text) {
                    None => around.resolve(path),
                    Some(_) => None,
                };
                let refused = || Wrong::expected(expected, text, advice::path(text));
                return resolved.map(Source::Path).ok_or_else(refused);
            }
            let id = ModelId::parse(text)
                .map_err(|error| Wrong::advised(error.to_string(), advice::repository(text)))?;
            Ok(Source::Repository { id, revision: None })
        })
    }

    /// What an entry has that says `base` or `adapter`, at `place`; nothing if that is a
    /// problem. `known` are the entries that it may stand on, `written` its keys.
    pub(super) fn adapted(
        &mut self,
        shown: &str,
        place: Place,
        origin: Origin,
        written: &[(String, Place)],
        places: &Places,
        known: &[(usize, Entry)],
    ) -> Option<Based> {
        if origin.broken {
            return None;
        }
        let (Some((base, base_place)), Some((mut source, adapter_place))) =
            (origin.base, origin.adapter)
        else {
            let message = format!("{shown}: expected base and adapter, found one of the two");
            let help = "base names an entry or a repository, adapter what stands beside it";
            self.problem(Problem::at(place, message).help(help));
            return None;
        };
        for (key, place) in written {
            if OF_THE_BASE.contains(&key.as_str()) {
                let message = format!("{shown}: {key} is that of its base {base}");
                let help = format!("write it at models.{base}, or remove it");
                self.problem(Problem::at(*place, message).help(help));
            }
        }
        if let Some((revision, place)) = origin.revision {
            match &mut source {
                Source::Repository { revision: own, .. } => {
                    *own = Some(revision).filter(|revision| revision != "main");
                }
                Source::Path(_) => {
                    let message = format!(
                        "{shown}: a folder has no revisions, found revision and a folder as adapter"
                    );
                    let help = "remove revision; that of the base is written there";
                    self.problem(Problem::at(place, message).help(help));
                    return None;
                }
            }
        }
        let (weights, load) = self.base(shown, &base, base_place, places, known)?;
        if let Some(engine) = &load.engine {
            let message = format!(
                "{shown}: adapters are for the embedded engine, and {base} has engine {}",
                engine.name
            );
            let help = "another engine is given its adapters in its command";
            self.problem(Problem::at(adapter_place, message).help(help));
            return None;
        }
        Some(Based {
            source: weights,
            load,
            adapted: Adapted { base, source },
        })
    }

    /// Where the weights of a base come from, and how they are loaded.
    fn base(
        &mut self,
        shown: &str,
        base: &Name,
        place: Place,
        places: &Places,
        known: &[(usize, Entry)],
    ) -> Option<(Source, LoadSettings)> {
        let mut plain = known.iter().map(|(_, entry)| entry);
        let mut refuse = |message: String, help: String| {
            self.problem(Problem::at(place, format!("{shown}: {message}")).help(help));
            None
        };
        match plain.find(|entry| entry.name == *base) {
            Some(entry) if entry.adapter.is_none() => {
                return Some((entry.source.clone(), entry.load.clone()));
            }
            Some(_) => {
                return refuse(
                    format!("its base {base} has a base of its own"),
                    "one adapter stands beside a model; name the model itself".to_owned(),
                );
            }
            // What is wrong with it has been told.
            None if places.entries.contains_key(base) => return None,
            None => {}
        }
        if let Some(id) = base.as_id() {
            let source = Source::Repository { id, revision: None };
            return Some((source, LoadSettings::default()));
        }
        let names = known.iter().map(|(_, entry)| entry.name.as_str());
        let help = match suggest::nearest(base.as_str(), names) {
            Some(nearest) => format!("did you mean {nearest:?}"),
            None => "base names another entry, or a repository such as org/name".to_owned(),
        };
        refuse(format!("its base {base} is no entry"), help)
    }
}
