//! Where each value in force comes from: the file with its line, the environment,
//! the command line, or nowhere, which is the default. Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::Value;

use super::file::{self, Node};
use super::keys::{KEYS, NAME};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The configuration, at a line.
    File {
        /// As it is called.
        file: String,
        /// From 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment(&'static str),
    /// An option of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { file, line } => write!(f, "{file}:{line}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value in force.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce {
    /// From the top, with dots.
    pub key: String,
    /// As it could be written in the file.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// Every value of a shown configuration with where it comes from. `over` are the
/// keys that something besides the file decides.
pub fn in_force(
    shown: &Value,
    file: &str,
    text: &str,
    over: &BTreeMap<&'static str, Origin>,
) -> Vec<InForce> {
    let mut lines = HashMap::new();
    if let (Some(root), _) = file::parse(text) {
        gather(&root, "", &mut lines);
    }
    let mut values = Vec::new();
    flatten(shown, "", "", &mut values);
    values
        .into_iter()
        .map(|(key, value)| {
            let written = lines.get(key.as_str()).map(|line| Origin::File {
                file: file.to_owned(),
                line: *line,
            });
            let origin = match over.get(key.as_str()) {
                // A flag wins over the file, a variable only stands in for it.
                Some(flag @ Origin::Flag(_)) => flag.clone(),
                other => written.or(other.cloned()).unwrap_or(Origin::Default),
            };
            InForce { key, value, origin }
        })
        .collect()
}

/// The line of each key that is written.
fn gather(node: &Node, path: &str, lines: &mut HashMap<String, usize>) {
    let file::Value::Map(pairs) = &node.value else {
        return;
    };
    for pair in pairs {
        let path = join(path, &pair.key);
        lines.insert(path.clone(), pair.place.line);
        gather(&pair.node, &path, lines);
    }
}

/// Goes down to the keys of the table. `row` is the path there, `path` the one
/// with the names of entries.
fn flatten(value: &Value, path: &str, row: &str, values: &mut Vec<(String, Value)>) {
    let is_key = KEYS.iter().any(|key| key.path == row);
    let entry = format!("models.{NAME}");
    match value {
        Value::Object(below) if !is_key || row == entry => {
            for (name, value) in below {
                let row = match row {
                    "models" => join(row, NAME),
                    row => join(row, name),
                };
                flatten(value, &join(path, name), &row, values);
            }
        }
        // What an entry does not say is the pool's or the checkpoint's.
        Value::Null if row.starts_with(&entry) => {}
        value => values.push((path.to_owned(), value.clone())),
    }
}

fn join(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_value_says_where_it_comes_from() {
        let text = "memory: 8GB\nmodels:\n  a/b:\n    keep: always\nserver:\n  listen: x\n";
        let shown = json!({
            "memory": "8.0 GB",
            "log": "info",
            "cache": ["/hub"],
            "models": {"a/b": {"keep": "always", "preload": false, "kv": null}},
            "server": {"listen": ["y"], "limits": {"stops": 16}},
        });
        let over = BTreeMap::from([
            ("cache", Origin::Environment("HF_HOME")),
            ("memory", Origin::Environment("UNUSED")),
            ("server.listen", Origin::Flag("--listen")),
        ]);
        let found = in_force(&shown, "m.yaml", text, &over);
        let found: Vec<_> = found
            .iter()
            .map(|value| format!("{} {}", value.key, value.origin))
            .collect();
        assert_eq!(
            found,
            [
                "memory m.yaml:1",
                "log default",
                "cache environment HF_HOME",
                "models.a/b.keep m.yaml:4",
                "models.a/b.preload default",
                "server.listen flag --listen",
                "server.limits.stops default",
            ]
        );
    }
}
