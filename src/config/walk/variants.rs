//! `models.NAME.variants`: names after a colon, with fields of a request.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::models::Places;
use super::request::Given;
use super::{At, Walker, join};
use crate::config::problem::{Problem, both};
use crate::config::request::Parameters;
use crate::config::{Config, Entry};
use crate::model::id::Name;

impl Walker<'_> {
    /// `variants`: a name without a colon for each.
    pub(super) fn variants(
        &mut self,
        at: At,
        entry: &Name,
        places: &mut Places,
        given: &mut Vec<Given>,
    ) -> IndexMap<String, Parameters> {
        let mut variants = IndexMap::new();
        for pair in self.unique(at.path, at.node) {
            let path = join(at.path, &pair.key);
            let name = Name::parse(&format!("{entry}:{}", pair.key));
            let message = match (pair.key.contains([':', '/']), name) {
                _ if pair.key.is_empty() => {
                    "expected a name after the colon, found none".to_owned()
                }
                (true, _) => "a variant has no : and no / in its name".to_owned(),
                (false, Err(error)) => error.to_string(),
                (false, Ok(_)) => {
                    let node = &pair.node;
                    let parameters = self.parameters(At { path: &path, node }, false, given);
                    let known = (pair.key.clone(), pair.place, entry.clone());
                    places.variants.push(known);
                    variants.insert(pair.key.clone(), parameters);
                    continue;
                }
            };
            self.problem(Problem::at(pair.place, format!("{path}: {message}")));
        }
        variants
    }

    /// No variant may be called as an entry or an alias is.
    pub(super) fn check_variants(&mut self, config: &Config, places: &Places) {
        if places.variants.is_empty() {
            return;
        }
        let aliases = places
            .aliases
            .iter()
            .filter_map(|(alias, place, _)| Some((alias.exact()?.as_str(), ("an alias", *place))));
        let entries = places.entries.iter();
        let entries = entries.map(|(name, place)| (name.as_str(), ("an entry", *place)));
        let taken: HashMap<_, _> = aliases.chain(entries).collect();
        for (variant, place, entry) in &places.variants {
            let entry_of_it = config.models.iter().find(|other| other.name == *entry);
            let names = entry_of_it.into_iter().flat_map(Entry::exact_names);
            for name in names.map(|name| format!("{name}:{variant}")) {
                let Some((what, other)) = taken.get(name.as_str()) else {
                    continue;
                };
                let places = both(&self.files, *other, *place);
                let message = format!(
                    "models.{entry}.variants.{variant}: {name:?} is already {what}: {places}"
                );
                self.problem(Problem::at(*place, message).help("a name leads to one model only"));
            }
        }
    }
}
