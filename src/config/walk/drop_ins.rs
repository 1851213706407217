//! Drop-ins: files beside the main one with more `models`, `allow` and `deny`. They
//! are joined as trees, so that the rules between names hold over all of them and
//! a message about two places names both files. Pure.

use super::values::quoted;
use super::{KEYS_WITH_VALUES, Walker};
use crate::config::file::{Node, Pair, Value};
use crate::config::problem::{Problem, both};
use crate::config::suggest;

/// What may stand in a drop-in.
const KEYS: [&str; 3] = ["models", "allow", "deny"];

impl Walker<'_> {
    /// Adds a drop-in to the tree of the main file.
    pub(super) fn join_in(&mut self, root: &mut Node, drop_in: Node) {
        let pairs = match drop_in.value {
            Value::Map(pairs) => pairs,
            Value::Nothing => return,
            _ => {
                self.expected("", &drop_in, KEYS_WITH_VALUES);
                return;
            }
        };
        if root.value == Value::Nothing {
            root.value = Value::Map(Vec::new());
        }
        let mut seen: Vec<(String, crate::config::problem::Place)> = Vec::new();
        for pair in pairs {
            if !KEYS.contains(&pair.key.as_str()) {
                self.stranger(&pair);
                continue;
            }
            if let Some((_, first)) = seen.iter().find(|(key, _)| *key == pair.key) {
                let message = format!(
                    "{} is there twice: {}",
                    quoted(&pair.key),
                    both(&self.files, *first, pair.place)
                );
                self.problem(Problem::at(pair.place, message).help("keep one of them"));
            }
            seen.push((pair.key.clone(), pair.place));
            self.join_key(root, pair);
        }
    }

    /// A key that belongs in the main file, or nowhere.
    fn stranger(&mut self, pair: &Pair) {
        let main = self.files.first().cloned().unwrap_or_default();
        let message = format!(
            "expected models, allow or deny in a drop-in, found {}",
            quoted(&pair.key)
        );
        let problem = Problem::at(pair.place, message);
        self.problem(match suggest::nearest(&pair.key, KEYS) {
            Some(nearest) => problem.help(format!("did you mean {nearest:?}")),
            None => problem.help(format!("everything else stands in {main}")),
        });
    }

    /// Adds what stands under a key to what the main file has under it. What is of
    /// the wrong kind is told, whichever of them it is.
    fn join_key(&mut self, root: &mut Node, pair: Pair) {
        let Value::Map(pairs) = &mut root.value else {
            return;
        };
        let Some(known) = pairs.iter_mut().find(|known| known.key == pair.key) else {
            pairs.push(pair);
            return;
        };
        match (&mut known.node.value, pair.node.value) {
            (_, Value::Nothing) => {}
            (nothing @ Value::Nothing, value) => *nothing = value,
            (Value::Map(known), Value::Map(more)) if pair.key == "models" => known.extend(more),
            (Value::List { items, .. }, Value::List { items: more, .. })
                if pair.key != "models" =>
            {
                items.extend(more);
            }
            (_, value) => {
                let expected = match pair.key.as_str() {
                    "models" => KEYS_WITH_VALUES,
                    _ => "a list of patterns",
                };
                let node = Node {
                    place: pair.node.place,
                    value,
                };
                self.expected(&pair.key, &node, expected);
            }
        }
    }
}
