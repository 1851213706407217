//! The tree of a `models.yaml` to a [`Config`], or to all of its problems at
//! once. Pure: what the meaning depends on besides the text is passed in. Here
//! is the way down the tree; `values` reads single values, `server` and `models`
//! their parts of it.

mod adapters;
mod advice;
mod drop_ins;
mod engines;
mod meant;
mod models;
mod request;
mod rivals;
mod server;
mod upstreams;
mod values;
mod variants;
mod wildcards;

use std::collections::HashMap;
use std::path::Path;

use super::file::{self, Node, Pair, Value};
use super::problem::{Place, Problem, Problems, Text, both};
use super::standard::Surroundings;
use super::{Config, Pool, keys};
use values::{Span, Zero};

pub use values::{parse_listen, parse_pattern, quoted};

/// What a section is.
const KEYS_WITH_VALUES: &str = "keys with values";

/// Most problems that are told one by one.
const MOST_PROBLEMS: usize = 100;

/// Reads a configuration from one text. An empty text is valid and serves nothing.
pub fn config(
    text: &str,
    source: Option<&Path>,
    around: &Surroundings,
) -> Result<Config, Problems> {
    let text = Text {
        file: source.map(Path::to_owned),
        text: text.to_owned(),
    };
    config_of(&[text], around)
}

/// Reads a configuration from its file and its drop-ins, in this order.
pub fn config_of(texts: &[Text], around: &Surroundings) -> Result<Config, Problems> {
    let parts = texts.iter().enumerate();
    let (mut roots, mut problems) = (Vec::new(), Vec::new());
    for (root, found) in parts.map(|(index, text)| file::parse_part(&text.text, index)) {
        roots.push(root);
        problems.extend(found);
    }
    let mut walker = Walker {
        around,
        problems,
        untold: 0,
        renamed: HashMap::new(),
        engines: engines::Known::new(),
        files: texts.iter().map(Text::name).collect(),
    };
    let mut roots = roots.into_iter();
    let main = roots.next().flatten();
    let config = main.map(|mut root| {
        for drop_in in roots.flatten() {
            walker.join_in(&mut root, drop_in);
        }
        let (root, renamed) = meant::rename(root);
        walker.renamed = renamed;
        walker.top(&root)
    });
    match config {
        Some(config) if walker.problems.is_empty() => {
            let mut files = texts.iter().filter_map(|text| text.file.clone());
            Ok(Config {
                source: files.next(),
                drop_ins: files.collect(),
                ..config
            })
        }
        _ => {
            let unmark = |text: &Text| Text {
                text: text
                    .text
                    .strip_prefix(file::BYTE_ORDER_MARK)
                    .unwrap_or(&text.text)
                    .to_owned(),
                ..text.clone()
            };
            let texts: Vec<_> = texts.iter().map(unmark).collect();
            Err(Problems::new(&texts, walker.told()))
        }
    }
}

/// Walks the tree and gathers what is wrong.
struct Walker<'a> {
    around: &'a Surroundings,
    problems: Vec<Problem>,
    /// How many problems were found beyond those that are told.
    untold: usize,
    /// The keys as they were written, of those that are read as what was meant.
    renamed: HashMap<Place, String>,
    /// The engines of the file.
    engines: engines::Known,
    /// What the files are called, for messages about two of them.
    files: Vec<String>,
}

/// Where a value stands: its key from the top, for messages, and the tree's own.
#[derive(Clone, Copy)]
struct At<'n> {
    /// `models.small.keep`
    path: &'n str,
    node: &'n Node,
}

/// Fills a slot if there is a value; otherwise the problem has been reported.
fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

impl Walker<'_> {
    /// The whole file.
    fn top(&mut self, root: &Node) -> Config {
        let mut config = Config::standard(self.around);
        let mut default = None;
        let mut places = models::Places::default();
        let pairs = self.pairs("", "", root);
        // Entries speak of them, wherever they stand.
        for pair in pairs.iter().filter(|pair| pair.key == "engines") {
            config.engines = self.engines(&pair.node);
        }
        for pair in pairs {
            let at = At {
                path: &pair.key,
                node: &pair.node,
            };
            match pair.key.as_str() {
                "memory" => set(&mut config.memory, self.budget(at)),
                "allow" => set(&mut config.allow, self.patterns(at)),
                "deny" => set(&mut config.deny, self.patterns(at)),
                "default" => {
                    config.default = self.name(at);
                    default = Some(at);
                }
                "cache" => set(&mut config.cache, self.folders(at)),
                "models" => config.models = self.models(&pair.node, &mut places),
                "upstreams" => config.upstreams = self.upstreams(&pair.node, &mut places),
                "pool" => self.pool(&pair.node, &mut config.pool),
                "server" => self.server(&pair.node, &mut config.server),
                "keys_file" => set(&mut config.keys_file, self.path(at)),
                "audit" => set(&mut config.audit, self.path(at)),
                "log" => set(&mut config.log, self.filter(at)),
                "request_log" => set(&mut config.request_log, self.request_log(at)),
                _ => {}
            }
        }
        self.check_names(&config, &places);
        self.check_stops(config.server.limits.counts.stops, &places.given);
        if let Some(at) = default {
            self.check_default(&config, &places, at);
        }
        config
    }

    /// `pool`
    fn pool(&mut self, node: &Node, pool: &mut Pool) {
        for pair in self.pairs("pool", "pool", node) {
            let path = format!("pool.{}", pair.key);
            let at = At {
                path: &path,
                node: &pair.node,
            };
            match pair.key.as_str() {
                "max_models" => set(&mut pool.max_models, self.number_or_unlimited(at)),
                "idle_unload" => set(&mut pool.idle_unload, self.duration_or_never(at)),
                "switch_after" => set(&mut pool.switch_after, self.duration(at, Zero::Fits)),
                "min_residency" => set(&mut pool.min_residency, self.min_residency(at)),
                "queue" => set(&mut pool.queue, self.number(at, Span::COUNT)),
                "queue_per_caller" => {
                    pool.queue_per_caller = self.number(at, Span::COUNT);
                }
                "queue_timeout" => set(&mut pool.queue_timeout, self.duration(at, Zero::Refused)),
                "contention" => set(&mut pool.contention, self.contention(at)),
                "autoload" => set(&mut pool.autoload, self.boolean(at)),
                "prefetch" => set(&mut pool.prefetch, self.boolean(at)),
                "lease_ceiling" => set(&mut pool.lease_ceiling, self.duration(at, Zero::Refused)),
                "prompts_on_disk" => set(&mut pool.prompts_on_disk, self.size_or_off(at)),
                "prompts_on_disk_per_model" => {
                    set(&mut pool.prompts_on_disk_per_model, self.size(at));
                }
                _ => {}
            }
        }
    }

    /// The known keys of a mapping, each once. Unknown ones and duplicates are
    /// reported. `shown` is the mapping's path for messages, `section` its path
    /// in the table of keys. Nothing at all is an empty mapping.
    fn pairs<'n>(&mut self, shown: &str, section: &str, node: &'n Node) -> Vec<&'n Pair> {
        let pairs = self.unique(shown, node);
        let known = keys::children(section);
        pairs
            .into_iter()
            .filter(|pair| {
                let is_known = known.contains(&pair.key.as_str());
                if !is_known || self.renamed.contains_key(&pair.place) {
                    self.unknown(shown, &known, pair);
                }
                is_known
            })
            .collect()
    }

    /// The pairs of a mapping. Duplicates are reported, and read all the same, so
    /// that what is wrong in them is told as well.
    fn unique<'n>(&mut self, shown: &str, node: &'n Node) -> Vec<&'n Pair> {
        let pairs = match &node.value {
            Value::Map(pairs) => pairs.as_slice(),
            Value::Nothing => &[],
            _ => {
                self.expected(shown, node, KEYS_WITH_VALUES);
                &[]
            }
        };
        let mut first: HashMap<&str, Place> = HashMap::new();
        pairs
            .iter()
            // Reported by the reader of the text.
            .filter(|pair| pair.key != "<<")
            .inspect(|pair| match first.get(pair.key.as_str()) {
                Some(place) => {
                    let message = format!(
                        "{} is there twice: {}",
                        quoted(&join(shown, &pair.key)),
                        both(&self.files, *place, pair.place)
                    );
                    self.problem(Problem::at(pair.place, message).help("keep one of them"));
                }
                None => {
                    first.insert(&pair.key, pair.place);
                }
            })
            .collect()
    }

    /// Reports an unknown key with the nearest known one, or with where it belongs.
    fn unknown(&mut self, shown: &str, known: &[&str], pair: &Pair) {
        if self.problems.len() >= MOST_PROBLEMS {
            // It is counted and not told, so nothing nearer is looked for.
            self.untold += 1;
            return;
        }
        let written = self.renamed.get(&pair.place).unwrap_or(&pair.key);
        let section = match shown {
            "" => String::new(),
            _ => format!(" in {shown}"),
        };
        let message = format!("unknown key {}{section}", quoted(written));
        let problem = Problem::at(pair.place, message);
        self.problem(problem.help(meant::help(written, shown, known)));
    }

    /// Reports a value of the wrong kind.
    fn expected(&mut self, path: &str, node: &Node, expected: &str) {
        let found = match &node.value {
            Value::Refused => return,
            Value::Nothing => "nothing".to_owned(),
            Value::Text(text) => quoted(text),
            Value::List { items, .. } if items.is_empty() => "an empty list".to_owned(),
            Value::List { .. } => "a list".to_owned(),
            Value::Map(_) => "keys with values".to_owned(),
        };
        let path = match path {
            "" => String::new(),
            path => format!("{path}: "),
        };
        let message = format!("{path}expected {expected}, found {found}");
        let problem = Problem::at(node.place, message);
        let help = match expected {
            KEYS_WITH_VALUES => meant::value(path.trim_end_matches(": "), node),
            _ => None,
        };
        self.problem(match (&node.value, help) {
            (Value::Text(_), _) if expected.starts_with("a list") => {
                problem.help(format!("write [{found}]"))
            }
            (_, Some(help)) => problem.help(help),
            _ => problem,
        });
    }

    fn problem(&mut self, problem: Problem) {
        match self.problems.len() < MOST_PROBLEMS {
            true => self.problems.push(problem),
            false => self.untold += 1,
        }
    }

    /// The problems, with a word on those that are not told.
    fn told(mut self) -> Vec<Problem> {
        if self.untold > 0 {
            let message = format!("and {} more problems", self.untold);
            self.problems.push(Problem::whole(message));
        }
        self.problems
    }
}

/// `pool` and `queue` to `pool.queue`.
fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

#[cfg(test)]
mod tests;
