//! `models.NAME.never_with`: entries that are never in memory together.

use std::collections::HashSet;

use super::models::Places;
use super::values::quoted;
use super::{At, Walker};
use crate::config::problem::Problem;
use crate::config::{Config, suggest};
use crate::model::id::Name;

impl Walker<'_> {
    /// The names; whether they are entries is known when all have been read.
    pub(super) fn rivals(&mut self, at: At, entry: &Name, places: &mut Places) -> Vec<Name> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        self.list(at, "a list of names of entries", |walker, at| {
            let name = walker.name(at)?;
            if !seen.insert(name.clone()) {
                let message = format!("{}: {} is there twice", at.path, quoted(name.as_str()));
                walker.problem(Problem::at(at.node.place, message));
                return None;
            }
            let known = (name.clone(), at.node.place, entry.clone());
            places.rivals.push(known);
            found.push(name);
            Some(())
        });
        found
    }

    /// A rival is another entry, and neither of the two stays for good.
    pub(super) fn check_rivals(&mut self, config: &Config, places: &Places) {
        let kept = config.models.iter().filter(|it| it.keep);
        let kept: HashSet<&Name> = kept.map(|it| &it.name).collect();
        for (name, place, entry) in &places.rivals {
            let shown = format!("models.{entry}.never_with");
            let text = name.as_str();
            let problem = |message: String| Problem::at(*place, format!("{shown}: {message}"));
            if name == entry {
                let message = format!("{text:?} is the entry itself");
                self.problem(problem(message).help("remove it"));
            } else if !places.entries.contains_key(name) {
                let problem = problem(format!("expected the name of an entry, found {text:?}"));
                let names = places.entries.keys().map(Name::as_str);
                self.problem(match suggest::nearest(text, names) {
                    Some(nearest) => problem.help(format!("did you mean {nearest:?}")),
                    None => problem,
                });
            } else if let Some((stays, other)) = [(name, entry), (entry, name)]
                .into_iter()
                .find(|(one, _)| kept.contains(one))
            {
                let message = format!(
                    "{:?} is always kept, so {:?} could never be loaded",
                    stays.as_str(),
                    other.as_str()
                );
                self.problem(problem(message).help("remove keep: always, or the name from here"));
            }
        }
    }
}
