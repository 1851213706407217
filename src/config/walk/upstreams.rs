//! `upstreams`: services elsewhere, and what entries say of them.

use std::collections::HashSet;
use std::sync::Arc;

use indexmap::IndexMap;

use super::engines::is_variable;
use super::models::Places;
use super::values::{Span, Wrong, quoted};
use super::{At, Walker, join, set};
use crate::config::file::{Node, Pair, Value};
use crate::config::keys::NAME;
use crate::config::problem::{Place, Problem};
use crate::config::upstream::{
    BaseUrl, KeySource, RemoteName, USUAL_KINDS, USUAL_WEIGHT, Upstream, UrlError,
};
use crate::config::{Config, suggest};
use crate::model::id::Name;

/// What an upstream answers to.
const NAMES: &str = "a list of names";

/// Longest name that an upstream is asked for, bytes.
const LONGEST_SENT: usize = 256;

impl Walker<'_> {
    /// `upstreams`
    pub(super) fn upstreams(
        &mut self,
        node: &Node,
        places: &mut Places,
    ) -> IndexMap<String, Arc<Upstream>> {
        let mut upstreams = IndexMap::new();
        for pair in self.unique("upstreams", node) {
            if let Err(error) = Name::parse(&pair.key) {
                let message = format!("upstreams.{}: {error}", quoted(&pair.key));
                self.problem(Problem::at(pair.place, message));
                continue;
            }
            let upstream = self.upstream(pair, places).map(Arc::new);
            upstreams.extend(upstream.map(|upstream| (pair.key.clone(), upstream)));
        }
        upstreams
    }

    /// One upstream.
    fn upstream(&mut self, pair: &Pair, places: &mut Places) -> Option<Upstream> {
        let shown = format!("upstreams.{}", pair.key);
        let (mut url, mut ca, mut models) = (None, None, Vec::new());
        let mut kinds = USUAL_KINDS.to_vec();
        let mut keys: Vec<(KeySource, Place)> = Vec::new();
        let (mut has_url, mut has_models) = (false, false);
        let (mut priority, mut weight, mut roundhouse) = (0, USUAL_WEIGHT, false);
        let before = self.problems.len() + self.untold;
        let (node, place) = (&pair.node, pair.place);
        for pair in self.pairs(&shown, &format!("upstreams.{NAME}"), node) {
            let path = join(&shown, &pair.key);
            let at = At {
                path: &path,
                node: &pair.node,
            };
            match pair.key.as_str() {
                "url" => {
                    has_url = true;
                    url = self.base_url(at);
                    places
                        .urls
                        .extend(url.clone().map(|url| (url, at.node.place, shown.clone())));
                }
                "key_env" => {
                    let key = self.variable(at).map(KeySource::Variable);
                    keys.extend(key.map(|key| (key, pair.place)));
                }
                "key_file" => {
                    let key = self.path(at).map(KeySource::File);
                    keys.extend(key.map(|key| (key, pair.place)));
                }
                "ca" => ca = self.path(at),
                "kinds" => set(&mut kinds, self.kinds(at)),
                "priority" => set(&mut priority, self.number(at, Span::PRIORITY)),
                "weight" => set(&mut weight, self.number(at, Span::WEIGHT)),
                "roundhouse" => set(&mut roundhouse, self.boolean(at)),
                "models" => {
                    has_models = true;
                    models = self.remote_names(at, places);
                }
                _ => {}
            }
        }
        let is_mapping = matches!(node.value, Value::Map(_) | Value::Nothing);
        for (key, is_there, help) in [
            (
                "url",
                has_url,
                "add url: https://HOST/v1, what clients call the base URL",
            ),
            (
                "models",
                has_models,
                "add models: [NAME, \"PREFIX-*\"], the names that it answers",
            ),
        ] {
            if is_mapping && !is_there {
                let message = format!("{shown}: expected {key}, found none");
                self.problem(Problem::at(place, message).help(help));
            }
        }
        if let [_, (_, again)] = keys.as_slice() {
            let message = format!("{shown}: expected key_env or key_file, found both");
            self.problem(Problem::at(*again, message).help("keep one of them"));
        }
        let is_sound = before == self.problems.len() + self.untold;
        is_sound.then_some(Upstream {
            name: pair.key.clone(),
            url: url?,
            key: keys.pop().map(|(key, _)| key),
            ca,
            kinds,
            models,
            priority,
            weight,
            roundhouse,
        })
    }

    /// `url`
    fn base_url(&mut self, at: At) -> Option<BaseUrl> {
        let url = self.read(at, "a URL such as https://api.example.com/v1", |text| {
            BaseUrl::parse(text).map_err(|error| {
                // A user's password is not repeated.
                let found = match error {
                    UrlError::User | UrlError::Address(_) => String::new(),
                    UrlError::Form if text.contains('@') => String::new(),
                    _ => format!(", found {}", quoted(text)),
                };
                Wrong::advised(format!("{error}{found}"), None)
            })
        })?;
        if url.is_secure && cfg!(not(feature = "tls")) {
            let message = format!("{}: expected http, since this build has no TLS", at.path);
            let help = "build with the feature tls";
            self.problem(Problem::at(at.node.place, message).help(help));
            return None;
        }
        Some(url)
    }

    /// `key_env`
    fn variable(&mut self, at: At) -> Option<String> {
        let expected = "the name of a variable, of letters, digits and _";
        self.read(at, expected, |text| match is_variable(text) {
            true => Ok(text.to_owned()),
            // It may be the key itself, which is not repeated.
            false => Err(Wrong::advised(
                format!("expected {expected}"),
                Some(
                    "the key itself stands in the environment or in a file, never here".to_owned(),
                ),
            )),
        })
    }

    /// `models`; their places are kept for the checks between names.
    fn remote_names(&mut self, at: At, places: &mut Places) -> Vec<RemoteName> {
        if let Value::List { items, .. } = &at.node.value
            && items.is_empty()
        {
            self.expected(at.path, at.node, "at least one name");
        }
        let owner = at.path.to_owned();
        let names = self.list(at, NAMES, |walker, at| {
            let name = walker.remote_name(at)?;
            let known = (name.name.clone(), at.node.place, owner.clone());
            places.aliases.push(known);
            Some(name)
        });
        names.unwrap_or_default()
    }

    /// A name or a pattern, or either with what the upstream is asked for instead.
    fn remote_name(&mut self, at: At) -> Option<RemoteName> {
        let (name, sent_as) = self.name_with(at, "as", Self::sent_as)?;
        Some(RemoteName { name, sent_as })
    }

    /// `as`: whatever the upstream calls its model.
    fn sent_as(&mut self, at: At) -> Option<String> {
        let expected = "what the upstream calls the model";
        self.read(at, expected, |text| {
            let fits = text.len() <= LONGEST_SENT && !text.chars().any(char::is_control);
            match fits {
                true => Ok(text.to_owned()),
                false => Err(Wrong::expected(expected, text, None)),
            }
        })
    }

    /// `models.NAME.fallback`: a name that an upstream answers. Which do is known
    /// when all of the file has been read.
    pub(super) fn fallback(&mut self, at: At, entry: &Name, places: &mut Places) -> Option<Name> {
        let name = self.name(at)?;
        let known = (name.clone(), at.node.place, entry.clone());
        places.fallbacks.push(known);
        Some(name)
    }

    /// A fallback leads to an upstream and nowhere else, so that there is one step
    /// and no circle.
    pub(super) fn check_fallbacks(&mut self, config: &Config, places: &Places) {
        let remote = || config.upstreams.values().flat_map(|it| &it.models);
        let exact: HashSet<&str> = remote()
            .filter_map(|it| Some(it.name.exact()?.as_str()))
            .collect();
        for (place, entry) in &places.spills {
            let mut fallbacks = places.fallbacks.iter();
            if !fallbacks.any(|(.., it)| it == entry) {
                let message = format!("models.{entry}.spill_after: expected fallback beside it");
                let help = "add fallback: NAME, the name of an upstream that takes what is spilled";
                self.problem(Problem::at(*place, message).help(help));
            }
        }
        for (name, place, entry) in &places.fallbacks {
            let text = name.as_str();
            let mut patterns = remote().filter_map(|it| it.name.wildcard());
            let is_entry = places.entries.contains_key(name);
            let is_alias = || {
                let mut aliases = config.models.iter().flat_map(|it| &it.aliases);
                aliases.any(|alias| alias.name.exact() == Some(name))
            };
            if exact.contains(text)
                || !is_entry && !is_alias() && patterns.any(|it| it.matches(text))
            {
                continue;
            }
            let found = match is_entry || is_alias() {
                true => "which is a model of this machine",
                false => "which no upstream has",
            };
            let message = format!(
                "models.{entry}.fallback: expected a name of an upstream, found {text:?}, {found}"
            );
            let problem = Problem::at(*place, message);
            let nearest = suggest::nearest(text, exact.iter().copied());
            self.problem(match nearest {
                Some(nearest) => problem.help(format!("did you mean {nearest:?}")),
                None => problem.help("write one of the names that stand under upstreams"),
            });
        }
    }

    /// No upstream may be a listener of this server: what it is asked would come back.
    pub(super) fn check_urls(&mut self, config: &Config, places: &Places) {
        let listens = [
            ("server.listen", &config.server.listen),
            ("server.management", &config.server.management),
        ];
        for (url, place, shown) in &places.urls {
            for (setting, listens) in listens {
                if listens.iter().any(|listen| url.is_listener(listen)) {
                    let message = format!("{shown}.url: {url} is {setting} of this server itself");
                    let help = "what is asked there would come back here without an end";
                    self.problem(Problem::at(*place, message).help(help));
                }
            }
        }
    }

    /// Names of upstreams that `deny` forbids.
    pub(super) fn check_denied(&mut self, config: &Config, places: &Places) {
        for (alias, place, owner) in &places.aliases {
            let Some(name) = alias.exact().filter(|_| owner.starts_with("upstreams.")) else {
                continue;
            };
            let mut deny = config.deny.iter();
            if let Some(pattern) = deny.find(|pattern| pattern.matches(name.as_str())) {
                let message = format!(
                    "{owner}: {:?} is matched by deny: {:?}",
                    name.as_str(),
                    pattern.as_str()
                );
                self.problem(Problem::at(*place, message).help("remove the name or the pattern"));
            }
        }
    }
}
