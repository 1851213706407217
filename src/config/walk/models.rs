//! `models`: the entries, and what must hold between names.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::request::Given;
use super::values::{Span, Wrong, Zero, quoted};
use super::wildcards::clashes;
use super::{At, MOST_PROBLEMS, Walker, advice, set};
use crate::config::draft::{self, Draft};
use crate::config::engine::OWN;
use crate::config::file::{Node, Pair, Value};
use crate::config::keys::NAME;
use crate::config::kv::KvFormat;
use crate::config::problem::{Place, Problem, both};
use crate::config::request::Rules;
use crate::config::upstream::BaseUrl;
use crate::config::{
    Alias, AliasName, Compute, Config, Entry, LoadSettings, Pattern, Source, suggest,
};
use crate::model::id::{ModelId, Name};

/// What to do about another word than the one that `keep` knows.
const KEEP: &str = "write always, or remove keep";

/// Most `warm_prompts` of an entry.
const MOST_WARM_PROMPTS: usize = 16;

/// Longest of them, bytes.
const LONGEST_WARM_PROMPT: usize = 64 * 1024;

/// Longest wildcard, bytes: no name is longer.
const LONGEST_WILDCARD: usize = 96;

/// Longest tag, bytes.
const LONGEST_TAG: usize = 64;

/// Longest revision, bytes.
const LONGEST_REVISION: usize = 96;

/// Where names were written, for messages that name two places.
#[derive(Default)]
pub(super) struct Places {
    /// Each entry's key.
    pub(super) entries: HashMap<Name, Place>,
    /// Each alias, and each name of an upstream, in the order in which they were read,
    /// with the key that has it.
    pub(super) aliases: Vec<(AliasName, Place, String)>,
    /// Each variant with its entry.
    pub(super) variants: Vec<(String, Place, Name)>,
    /// What entries give to the fields of their requests.
    pub(super) given: Vec<Given>,
    /// Each `fallback` with its entry.
    pub(super) fallbacks: Vec<(Name, Place, Name)>,
    /// Each name of `never_with` with its entry.
    pub(super) rivals: Vec<(Name, Place, Name)>,
    /// Each `draft` that is a model, with its entry.
    pub(super) drafts: Vec<(Name, Place, Name)>,
    /// Each `spill_after` with its entry.
    pub(super) spills: Vec<(Place, Name)>,
    /// Each URL of an upstream, with the upstream.
    pub(super) urls: Vec<(BaseUrl, Place, String)>,
}

/// What an entry says of where its weights come from.
#[derive(Default)]
pub(super) struct Origin {
    repo: Option<ModelId>,
    pub(super) revision: Option<(String, Place)>,
    path: Option<(std::path::PathBuf, Place)>,
    pub(super) base: Option<(Name, Place)>,
    pub(super) adapter: Option<(Source, Place)>,
    /// Something was said and could not be read.
    pub(super) broken: bool,
}

impl Walker<'_> {
    /// `models`
    pub(super) fn models(&mut self, node: &Node, places: &mut Places) -> Vec<Entry> {
        let mut entries = Vec::new();
        // What stands on another entry is read after that.
        let pairs = self.unique("models", node).into_iter().enumerate();
        let (based, plain): (Vec<_>, Vec<_>) = pairs.partition(|(_, pair)| is_based(&pair.node));
        for (index, pair) in plain.into_iter().chain(based) {
            match Name::parse(&pair.key) {
                Ok(name) => {
                    places.entries.insert(name.clone(), pair.place);
                    let entry = self.entry(name, pair, places, &entries);
                    entries.extend(entry.map(|entry| (index, entry)));
                }
                Err(error) => {
                    let message = format!("models.{}: {error}", quoted(&pair.key));
                    let problem = Problem::at(pair.place, message);
                    self.problem(match advice::name(&pair.key) {
                        Some(advice) => problem.help(advice),
                        None => problem,
                    });
                }
            }
        }
        entries.sort_by_key(|(index, _)| *index);
        entries.into_iter().map(|(_, entry)| entry).collect()
    }

    /// One entry. Nothing and `{}` are entries with default settings. `known` are those
    /// that it may stand on.
    fn entry(
        &mut self,
        name: Name,
        pair: &Pair,
        places: &mut Places,
        known: &[(usize, Entry)],
    ) -> Option<Entry> {
        let shown = format!("models.{name}");
        let mut origin = Origin {
            // What is no mapping is told once.
            broken: !matches!(pair.node.value, Value::Map(_) | Value::Nothing),
            ..Origin::default()
        };
        let mut load = LoadSettings::default();
        let (mut keep, mut preload, mut warmup, mut idle_unload) = (false, false, false, None);
        let (mut aliases, mut never_with) = (Vec::new(), Vec::new());
        let mut warm_prompts = Vec::new();
        let (mut idle_place, mut fallback, mut spill_after) = (None, None, None);
        let (mut request, mut given, mut tags) = (Rules::default(), Vec::new(), Vec::new());
        let mut variants = IndexMap::new();
        let (mut written, mut is_foreign) = (Vec::new(), false);
        for pair in self.pairs(&shown, &format!("models.{NAME}"), &pair.node) {
            let path = format!("{shown}.{}", pair.key);
            let at = At {
                path: &path,
                node: &pair.node,
            };
            written.push((pair.key.clone(), pair.place));
            match pair.key.as_str() {
                "engine" => {
                    load.engine = self.engine_of_entry(at);
                    // What it names counts, however broken that is.
                    is_foreign = matches!(&pair.node.value, Value::Text(text) if text != OWN[0]);
                }
                "file" => load.file = self.file_of_entry(at),
                "repo" | "revision" | "path" | "base" | "adapter" => {
                    self.origin_key(&mut origin, pair, at)
                }
                "aliases" => aliases = self.aliases(at, &name, places),
                "keep" => keep = self.keep(at),
                "preload" => set(&mut preload, self.boolean(at)),
                "warmup" => set(&mut warmup, self.boolean(at)),
                "warm_prompts" => warm_prompts = self.warm_prompts(at),
                "request" => request = self.rules(at, &mut given),
                "tags" => tags = self.tags(at),
                "never_with" => never_with = self.rivals(at, &name, places),
                "fallback" => fallback = self.fallback(at, &name, places),
                "draft" => load.draft = self.draft(at, &name, places),
                "spill_after" => {
                    spill_after = self.duration(at, Zero::Fits);
                    places.spills.push((pair.place, name.clone()));
                }
                "variants" => variants = self.variants(at, &name, places, &mut given),
                "idle_unload" => {
                    idle_unload = self.duration_or_never(at);
                    idle_place = Some(pair.place);
                }
                _ => self.load_key(&mut load, &pair.key, at),
            }
        }
        if let (true, Some(place)) = (keep, idle_place) {
            let message =
                format!("{shown}: keep: always is never unloaded, found idle_unload as well");
            self.problem(Problem::at(place, message).help("remove one of them"));
        }
        self.check_rules(&request, &given);
        places.given.append(&mut given);
        let (source, adapter) = match origin.base.is_some() || origin.adapter.is_some() {
            true => {
                let base = self.adapted(&shown, pair.place, origin, &written, places, known)?;
                load = base.load;
                (base.source, Some(base.adapted))
            }
            false => {
                self.check_entry_engine(&shown, &load, is_foreign, &written);
                (self.source(&name, &shown, pair.place, origin)?, None)
            }
        };
        Some(Entry {
            source,
            adapter,
            name,
            load,
            keep,
            preload,
            warmup,
            warm_prompts,
            idle_unload,
            aliases,
            request,
            variants,
            tags,
            never_with,
            fallback,
            spill_after,
            line: pair.place.line,
        })
    }

    /// `context`, `parallel`, `kv`, `kv_format`, `compute`, `memory`, `trust_remote_code`
    fn load_key(&mut self, load: &mut LoadSettings, key: &str, at: At) {
        match key {
            "context" => load.context = self.number(at, Span::TOKENS),
            "parallel" => load.parallel = self.number(at, Span::PARALLEL),
            "kv" => load.kv = self.amount(at),
            "memory" => load.memory = self.amount(at),
            "trust_remote_code" => set(&mut load.trust_remote_code, self.boolean(at)),
            "compute" => {
                let words = Compute::ALL.map(|compute| (compute.as_str(), compute));
                let expected = "auto, float32, float16 or bfloat16";
                set(&mut load.compute, self.choice(at, expected, &words));
            }
            "kv_format" => {
                let words = KvFormat::ALL.map(|format| (format.as_str(), format));
                set(
                    &mut load.kv_format,
                    self.choice(at, "auto, 8bit or 4bit", &words),
                );
            }
            _ => {}
        }
    }

    /// `repo`, `revision`, `path`, `base`, `adapter`
    fn origin_key(&mut self, origin: &mut Origin, pair: &Pair, at: At) {
        let read = match pair.key.as_str() {
            "repo" => {
                origin.repo = self.repository(at);
                origin.repo.is_some()
            }
            "revision" => {
                let revision = self.read(at, "a branch, tag or commit", revision);
                origin.revision = revision.map(|revision| (revision, pair.place));
                origin.revision.is_some()
            }
            "base" => {
                origin.base = self.name(at).map(|name| (name, pair.place));
                origin.base.is_some()
            }
            "adapter" => {
                origin.adapter = self.adapter(at).map(|source| (source, pair.place));
                origin.adapter.is_some()
            }
            _ => {
                origin.path = self.path(at).map(|path| (path, pair.place));
                origin.path.is_some()
            }
        };
        origin.broken |= !read;
    }

    /// Where the weights come from: `path`, else `repo`, else the name itself.
    fn source(&mut self, name: &Name, shown: &str, place: Place, origin: Origin) -> Option<Source> {
        let mut refuse = |place, message: String, help: &str| {
            self.problem(Problem::at(place, format!("{shown}: {message}")).help(help));
        };
        match origin {
            Origin { broken: true, .. } => None,
            Origin {
                repo: Some(_),
                path: Some((_, place)),
                ..
            } => {
                let message = "expected repo or path, found both".to_owned();
                refuse(place, message, "remove one of them");
                None
            }
            Origin {
                revision: Some((_, place)),
                path: Some(_),
                ..
            } => {
                let message = "a folder has no revisions, found path and revision".to_owned();
                refuse(place, message, "remove one of them");
                None
            }
            Origin {
                path: Some((path, _)),
                ..
            } => Some(Source::Path(path)),
            Origin { repo, revision, .. } => match repo.or_else(|| name.as_id()) {
                Some(id) => Some(Source::Repository {
                    id,
                    // What it would be anyway: the same load as without it.
                    revision: revision
                        .map(|(revision, _)| revision)
                        .filter(|revision| revision != "main"),
                }),
                None => {
                    let message = "the name is no repository id and there is no repo or path";
                    refuse(
                        place,
                        message.to_owned(),
                        "add repo: org/name or path: FOLDER",
                    );
                    None
                }
            },
        }
    }

    /// `draft`: `prompt`, or a name; its place is kept for the checks between names.
    fn draft(&mut self, at: At, entry: &Name, places: &mut Places) -> Option<Draft> {
        if matches!(&at.node.value, Value::Text(text) if text == draft::PROMPT) {
            return Some(Draft::Prompt);
        }
        let name = self.name(at)?;
        let place = (name.clone(), at.node.place, entry.clone());
        places.drafts.push(place);
        Some(Draft::Model(name))
    }

    /// A draft is another model that may be served.
    fn check_drafts(&mut self, config: &Config, places: &Places) {
        for (name, place, entry) in &places.drafts {
            let shown = name.as_str();
            let own = config.models.iter().find(|own| own.name == *entry);
            let message = match config.draft_source(name) {
                None => format!("{shown:?} is no entry, no alias and no repository id"),
                Some((_, load)) if load.engine.is_some() => {
                    format!("{shown:?} is not for the embedded engine")
                }
                Some((source, _)) if own.is_some_and(|own| own.source == source) => {
                    format!("{shown:?} is the model itself")
                }
                Some((Source::Repository { id, .. }, _))
                    if config.deny.iter().any(|deny| deny.matches(id.as_str())) =>
                {
                    format!("{shown:?} is matched by deny")
                }
                Some(_) => continue,
            };
            let message = format!("models.{entry}.draft: {message}");
            let help = "name a smaller model with the same tokenizer, or write prompt";
            self.problem(Problem::at(*place, message).help(help));
        }
    }

    /// `keep`: `always` is the only word.
    fn keep(&mut self, at: At) -> bool {
        let read = self.read(at, "always", |text| match text {
            "always" => Ok(()),
            _ => Err(Wrong::expected("always", text, Some(KEEP.to_owned()))),
        });
        read.is_some()
    }

    /// `tags`: words of which none stands twice.
    fn tags(&mut self, at: At) -> Vec<String> {
        let expected = "a word of letters, digits and . _ -";
        let mut tags: Vec<String> = Vec::new();
        self.list(at, "a list of words", |walker, at| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            let tag = walker.read(at, expected, |text| match text.bytes().all(fits) {
                true if text.len() > LONGEST_TAG => Err(format!(
                    "expected at most {LONGEST_TAG} bytes, found {}",
                    text.len()
                )),
                true if tags.iter().any(|tag| tag == text) => {
                    Err(format!("{} is there twice", quoted(text)))
                }
                true => Ok(text.to_owned()),
                false => Err(format!("expected {expected}, found {}", quoted(text))),
            });
            tags.extend(tag);
            Some(())
        });
        tags
    }

    /// `warm_prompts`
    fn warm_prompts(&mut self, at: At) -> Vec<String> {
        let mut count = 0;
        let prompts = self.list(at, "a list of texts", |walker, at| {
            count += 1;
            walker.read(at, "a text", |text| match text.len() {
                _ if count > MOST_WARM_PROMPTS => {
                    Err(format!("expected at most {MOST_WARM_PROMPTS} of them"))
                }
                0 => Err("expected a text, found nothing in it".to_owned()),
                1..=LONGEST_WARM_PROMPT => Ok(text.to_owned()),
                length => Err(format!(
                    "expected at most {LONGEST_WARM_PROMPT} bytes, found {length}"
                )),
            })
        });
        prompts.unwrap_or_default()
    }

    /// `aliases`; their places are kept for the checks between names.
    fn aliases(&mut self, at: At, entry: &Name, places: &mut Places) -> Vec<Alias> {
        let aliases = self.list(at, "a list of names", |walker, at| {
            let alias = walker.alias(at)?;
            let owner = format!("models.{entry}.aliases");
            places
                .aliases
                .push((alias.name.clone(), at.node.place, owner));
            Some(alias)
        });
        aliases.unwrap_or_default()
    }

    /// A name, or a name with what is special about it.
    fn alias(&mut self, at: At) -> Option<Alias> {
        let (name, background) = self.name_with(at, "background", Self::boolean)?;
        Some(Alias {
            name,
            background: background.unwrap_or_default(),
        })
    }

    /// A name or a pattern, or a mapping of it and of `key`, which is read by `read`.
    pub(super) fn name_with<T>(
        &mut self,
        at: At,
        key: &str,
        read: impl Fn(&mut Self, At) -> Option<T>,
    ) -> Option<(AliasName, Option<T>)> {
        if !matches!(at.node.value, Value::Map(_)) {
            return Some((self.alias_name(at)?, None));
        }
        let shown = at.path;
        let (mut name, mut more) = (None, None);
        let pairs = self.unique(at.path, at.node);
        let is_named = pairs.iter().any(|pair| pair.key == "name");
        for pair in pairs {
            let path = format!("{shown}.{}", pair.key);
            let at = At {
                path: &path,
                node: &pair.node,
            };
            match pair.key.as_str() {
                "name" => name = self.alias_name(at),
                written if written == key => more = read(self, at),
                _ => self.unknown(shown, &["name", key], pair),
            }
        }
        if !is_named {
            let message = format!("{}: expected name, found none", at.path);
            self.problem(Problem::at(at.node.place, message));
        }
        Some((name?, more))
    }

    /// A name, or a pattern if it has a `*`.
    pub(super) fn alias_name(&mut self, at: At) -> Option<AliasName> {
        match &at.node.value {
            Value::Text(text) if text.contains('*') => {}
            _ => return self.name(at).map(AliasName::Exact),
        }
        self.read(at, "a name", |text| match text.len() {
            0..=LONGEST_WILDCARD => Pattern::parse(text).map(AliasName::Wildcard),
            length => Err(format!(
                "expected at most {LONGEST_WILDCARD} bytes, as a name has, found {length}"
            )),
        })
    }

    /// Where two wildcards that say equally much could match the same name, it would
    /// be a matter of chance which has it.
    fn check_wildcards(&mut self, places: &Places) {
        let wildcards = places.aliases.iter().filter_map(|(alias, place, owner)| {
            let pattern = alias.wildcard()?;
            Some((pattern, place, owner))
        });
        let wildcards: Vec<_> = wildcards.collect();
        let patterns: Vec<_> = wildcards.iter().map(|(pattern, ..)| *pattern).collect();
        for (later, earlier) in clashes(&patterns, MOST_PROBLEMS) {
            let ((one, place, owner), (other, other_place, _)) =
                (wildcards[later], wildcards[earlier]);
            let message = format!(
                "{owner}: {:?} and {:?} say equally much of a name that both match: {}",
                other.as_str(),
                one.as_str(),
                both(&self.files, *other_place, *place)
            );
            let help = "make one of them longer, or write such names as aliases of their own";
            self.problem(Problem::at(*place, message).help(help));
        }
    }

    /// No alias may be an entry or another alias, and no entry may be denied.
    pub(super) fn check_names(&mut self, config: &Config, places: &Places) {
        self.check_wildcards(places);
        self.check_variants(config, places);
        self.check_rivals(config, places);
        self.check_drafts(config, places);
        self.check_fallbacks(config, places);
        self.check_urls(config, places);
        self.check_denied(config, places);
        let mut seen: HashMap<&str, (Place, &str)> = HashMap::new();
        for (alias, place, owner) in &places.aliases {
            let entry_of_it = alias.exact().and_then(|name| places.entries.get(name));
            let (what, other) = match (entry_of_it, seen.get(alias.as_str())) {
                (Some(other), _) => ("an entry", other),
                // Several upstreams may answer one name.
                (None, Some((_, before))) if are_upstreams(owner, before) => continue,
                (None, Some((other, _))) => ("an alias", other),
                (None, None) => {
                    seen.insert(alias.as_str(), (*place, owner));
                    continue;
                }
            };
            let message = format!(
                "{owner}: {:?} is already {what}: {}",
                alias.as_str(),
                both(&self.files, *other, *place)
            );
            self.problem(Problem::at(*place, message).help("a name leads to one model only"));
        }
        for entry in &config.models {
            let own = entry.name.as_str();
            let names = [&entry.source, entry.own()].map(|source| match source {
                Source::Repository { id, .. } => id.as_str(),
                Source::Path(_) => own,
            });
            let names = [own, names[0], names[1]];
            let denied = config
                .deny
                .iter()
                .find(|pattern| names.iter().any(|name| pattern.matches(name)));
            if let (Some(pattern), Some(place)) = (denied, places.entries.get(&entry.name)) {
                let message = format!(
                    "models.{}: matched by deny: {:?}",
                    entry.name,
                    pattern.as_str()
                );
                self.problem(Problem::at(*place, message).help("remove the entry or the pattern"));
            }
        }
    }

    /// `default` must lead somewhere; that the entry itself is broken is told there.
    pub(super) fn check_default(&mut self, config: &Config, places: &Places, at: At) {
        let Some(name) = &config.default else {
            return;
        };
        let aliases = || places.aliases.iter().map(|(alias, ..)| alias);
        let names = places
            .entries
            .keys()
            .chain(aliases().filter_map(AliasName::exact));
        let permitted = name.as_id().is_some_and(|id| config.permits(id.as_str()));
        let mut wildcards = aliases().filter_map(AliasName::wildcard);
        let matched = wildcards.any(|pattern| pattern.matches(name.as_str()));
        let is_variant = || {
            let mut models = config.models.iter();
            models.any(|entry| entry.has_variant(name.as_str()))
        };
        if permitted || matched || is_variant() || names.clone().any(|known| known == name) {
            return;
        }
        let message = format!(
            "default: {:?} is no entry, no alias and no id that allow permits",
            name.as_str()
        );
        let problem = Problem::at(at.node.place, message);
        let nearest = suggest::nearest(name.as_str(), names.map(Name::as_str));
        self.problem(match nearest {
            Some(nearest) => problem.help(format!("did you mean {nearest:?}")),
            None => problem.help("give it an entry under models, or permit it with allow"),
        });
    }
}

/// Whether an entry stands on another one.
fn is_based(node: &Node) -> bool {
    match &node.value {
        Value::Map(pairs) => pairs.iter().any(|pair| pair.key == "base"),
        _ => false,
    }
}

/// Whether two keys that have names belong to two upstreams.
fn are_upstreams(one: &str, other: &str) -> bool {
    let is_upstream = |owner: &str| owner.starts_with("upstreams.");
    is_upstream(one) && is_upstream(other) && one != other
}

/// A branch, tag or commit: what may be a path under `refs` and nothing above it.
fn revision(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
    let is_plain = text.len() <= LONGEST_REVISION
        && text.bytes().all(fits)
        && !text.split('/').any(|part| matches!(part, "" | "." | ".."));
    match is_plain {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "expected a branch, tag or commit of letters, digits and . _ / -, found {}",
            quoted(text)
        )),
    }
}
