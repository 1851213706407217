//! The way from a name to its model, rule by rule, for people who ask why. What
//! holds is decided by [`super::decide`]; here is only what each rule found.

use serde::Serialize;

use crate::model::id::Name;
use crate::registry::{Leads, Snapshot};

/// One rule, in the order in which they are asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The rule.
    pub rule: &'static str,
    /// Whether it has the name.
    pub found: bool,
    /// What it says of it.
    pub says: String,
}

/// What each rule says of a name, up to the first that has it. Nothing means that
/// the request names none.
pub fn path(snapshot: &Snapshot, name: Option<&str>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut step = |rule, found, says: String| {
        steps.push(Step { rule, found, says });
        found
    };
    let name = match (name, &snapshot.config.default) {
        (Some(name), _) => name,
        (None, Some(default)) => {
            step("default", true, format!("no name means {default}"));
            default.as_str()
        }
        (None, None) => {
            step("default", false, "no name means nothing".to_owned());
            return steps;
        }
    };
    let id = match Name::parse(name) {
        Ok(name) => name,
        Err(error) => {
            step("name", false, error.to_string());
            return steps;
        }
    };
    let served = snapshot.served.get(name);
    let entry = served.is_some_and(|served| served.entry);
    let says = if entry {
        "models has it"
    } else {
        "models has no such key"
    };
    if step("entry", entry, says.to_owned()) {
        return steps;
    }
    let (alias, remote) = (snapshot.aliases.get(name), snapshot.remotes.get(name));
    let says = match (alias, remote) {
        (Some(served), _) => format!("an alias of {}", served.name),
        (None, Some(remote)) => format!("a name of {}", remote.words()),
        (None, None) => "no entry has such an alias".to_owned(),
    };
    if step("alias", alias.is_some() || remote.is_some(), says) {
        return steps;
    }
    let variant = super::variant(snapshot, &id);
    let says = match &variant {
        Some((served, variant)) => format!("the variant {variant} of {}", served.name),
        None => "no entry has such a variant".to_owned(),
    };
    if step("variant", variant.is_some(), says) {
        return steps;
    }
    let config = &snapshot.config;
    let wildcard = super::wildcard(snapshot, name);
    let denied = config.deny.iter().find(|pattern| pattern.matches(name));
    let allowed = config.allow.iter().find(|pattern| pattern.matches(name));
    let (found, says) = match (id.as_id(), denied, allowed) {
        (None, ..) => (false, "it is no id of a repository".to_owned()),
        (_, Some(pattern), _) => (false, format!("deny has {:?}", pattern.as_str())),
        (_, None, None) => (false, "allow has no pattern for it".to_owned()),
        (Some(_), None, Some(pattern)) => {
            let cached = match served {
                Some(_) => "and it is cached",
                None => "and it is not cached",
            };
            let says = format!("allow has {:?}, {cached}", pattern.as_str());
            (served.is_some() || wildcard.is_none(), says)
        }
    };
    if step("allow", found, says) {
        return steps;
    }
    let says = match wildcard {
        Some(wildcard) => {
            let pattern = wildcard.pattern.as_str();
            match &wildcard.leads {
                Leads::Model(served) => {
                    format!("it matches {pattern:?}, an alias of {}", served.name)
                }
                Leads::Upstream(remote) => {
                    format!("it matches {pattern:?}, a name of {}", remote.words())
                }
            }
        }
        None => "it matches no alias with a *".to_owned(),
    };
    step("wildcard", wildcard.is_some(), says);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fixture::{Shelf, snapshot};

    #[test]
    fn each_rule_is_asked_until_one_has_the_name() {
        let text = "
allow: [a/*]
deny: ['*/*-bf16']
default: small
models: { a/entry: { aliases: [small, 'a/un*', 'gpt-*'], variants: { cold: { temperature: 0 } } } }
";
        let shelf = Shelf::of(&["a/entry", "a/cached", "a/old-bf16"]);
        let snapshot = snapshot(text, &shelf);
        let check = |name: Option<&str>, expected: &[(&str, bool)], says: &str| {
            let steps = path(&snapshot, name);
            let found: Vec<_> = steps.iter().map(|step| (step.rule, step.found)).collect();
            assert_eq!(found, expected, "{name:?}: {steps:?}");
            let said = steps.iter().any(|step| step.says.contains(says));
            assert!(said, "{name:?}: {steps:?}");
        };
        let (no_entry, no_alias) = (("entry", false), ("alias", false));
        let no_variant = ("variant", false);
        let (no_id, no_wildcard) = (("allow", false), ("wildcard", false));
        check(Some("bad name"), &[("name", false)], "");
        check(Some("a/entry"), &[("entry", true)], "models has it");
        check(Some("small"), &[no_entry, ("alias", true)], "of a/entry");
        check(
            Some("small:cold"),
            &[no_entry, no_alias, ("variant", true)],
            "the variant cold of a/entry",
        );
        check(
            None,
            &[("default", true), no_entry, ("alias", true)],
            "of a/entry",
        );
        check(
            Some("a/cached"),
            &[no_entry, no_alias, no_variant, ("allow", true)],
            "\"a/*\", and it is cached",
        );
        check(
            Some("a/missing"),
            &[no_entry, no_alias, no_variant, ("allow", true)],
            "not cached",
        );
        let refused = [no_entry, no_alias, no_variant, no_id, no_wildcard];
        check(Some("a/old-bf16"), &refused, "deny has \"*/*-bf16\"");
        check(Some("b/other"), &refused, "allow has no pattern");
        check(Some("word"), &refused, "no id");
        let matched = [no_entry, no_alias, no_variant, no_id, ("wildcard", true)];
        check(Some("gpt-4.1"), &matched, "\"gpt-*\", an alias of a/entry");
        check(Some("a/unknown"), &matched, "\"a/un*\"");
    }
}
