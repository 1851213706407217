//! `engines`: the engines that are not ours, and what entries say of them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path};
use std::sync::Arc;

use indexmap::IndexMap;

use super::values::{Wrong, quoted};
use super::{At, Walker, advice, join};
use crate::config::LoadSettings;
use crate::config::engine::{
    Engine, OWN, Placeholder, ReadySign, StopSignal, Template, UnknownPlaceholder, Use,
};
use crate::config::file::{Node, Pair, Value};
use crate::config::keys::NAME;
use crate::config::problem::{Place, Problem};
use crate::config::suggest;
use crate::model::id::Name;

/// Longest text of a command, bytes.
const LONGEST_ARGUMENT: usize = 64 * 1024;

/// What is asked to find out whether an engine can be.
const USUAL_READY: &str = "/health";

/// Keys of an entry that are for the embedded engine alone.
const EMBEDDED_ONLY: [&str; 6] = [
    "kv_format",
    "compute",
    "draft",
    "warmup",
    "warm_prompts",
    "trust_remote_code",
];

/// The engines of the file by name; nothing where a problem has been reported.
pub(super) type Known = HashMap<String, Option<Arc<Engine>>>;

impl Walker<'_> {
    /// `engines`
    pub(super) fn engines(&mut self, node: &Node) -> IndexMap<String, Arc<Engine>> {
        let mut engines = IndexMap::new();
        for pair in self.unique("engines", node) {
            let engine = match engine_name(&pair.key) {
                Ok(()) => self.engine(pair).map(Arc::new),
                Err(message) => {
                    let message = format!("engines.{}: {message}", quoted(&pair.key));
                    self.problem(Problem::at(pair.place, message));
                    None
                }
            };
            self.engines.insert(pair.key.clone(), engine.clone());
            engines.extend(engine.map(|engine| (pair.key.clone(), engine)));
        }
        engines
    }

    /// One engine.
    fn engine(&mut self, pair: &Pair) -> Option<Engine> {
        let shown = format!("engines.{}", pair.key);
        let mut command = None;
        let mut is_commanded = false;
        let mut engine = Engine {
            name: pair.key.clone(),
            command: Vec::new(),
            ready: ReadySign::Path(USUAL_READY.to_owned()),
            kinds: Use::USUAL.to_vec(),
            stop: StopSignal::default(),
            env: BTreeMap::new(),
            model: Template::place(Placeholder::Model),
        };
        let before = self.problems.len() + self.untold;
        let (node, place) = (&pair.node, pair.place);
        for pair in self.pairs(&shown, &format!("engines.{NAME}"), node) {
            let path = join(&shown, &pair.key);
            let at = At {
                path: &path,
                node: &pair.node,
            };
            match pair.key.as_str() {
                "command" => {
                    is_commanded = true;
                    command = self.command(at);
                }
                "ready" => super::set(&mut engine.ready, self.ready_sign(at)),
                "kinds" => super::set(&mut engine.kinds, self.kinds(at)),
                "stop" => {
                    let words = StopSignal::ALL.map(|signal| (signal.as_str(), signal));
                    let expected = "SIGTERM, SIGINT, SIGQUIT, SIGHUP or SIGKILL";
                    super::set(&mut engine.stop, self.choice(at, expected, &words));
                }
                "env" => engine.env = self.variables(at),
                "model" => super::set(&mut engine.model, self.template(at, "a name")),
                _ => {}
            }
        }
        if !is_commanded && matches!(node.value, Value::Map(_) | Value::Nothing) {
            let message = format!("{shown}: expected command, found none");
            let help = "add command: [PROGRAM, ARGUMENT, …, \"{port}\"]";
            self.problem(Problem::at(place, message).help(help));
        }
        engine.command = command?;
        let is_sound = before == self.problems.len() + self.untold;
        if is_sound {
            self.check_engine(&shown, place, &engine);
        }
        is_sound.then_some(engine)
    }

    /// What must hold between the keys of an engine.
    fn check_engine(&mut self, shown: &str, place: Place, engine: &Engine) {
        let uses = |place| engine.uses(place);
        let (message, help) = match (uses(Placeholder::Port), uses(Placeholder::Socket)) {
            (true, true) => (
                "expected {port} or {socket} in the command, found both",
                "an engine is reached in one way; prefer {socket} where it can listen on one",
            ),
            (false, false) => (
                "expected {port} or {socket} in the command, found neither",
                "tell the engine where to listen, on 127.0.0.1 or on a Unix socket",
            ),
            _ => return self.check_model(shown, place, engine),
        };
        self.problem(Problem::at(place, format!("{shown}: {message}")).help(help));
    }

    /// What an engine calls a model does not depend on where it listens.
    fn check_model(&mut self, shown: &str, place: Place, engine: &Engine) {
        if [Placeholder::Port, Placeholder::Socket]
            .into_iter()
            .any(|at| engine.model.has(at))
        {
            let message = format!("{shown}.model: expected no {{port}} and no {{socket}}");
            let help = "what an engine calls its model is {model}, {path}, {file} or a fixed name";
            self.problem(Problem::at(place, message).help(help));
        }
    }

    /// `command`: the program and its arguments.
    fn command(&mut self, at: At) -> Option<Vec<Template>> {
        let expected = "a list of a program and its arguments";
        if let Value::List { items, .. } = &at.node.value
            && items.is_empty()
        {
            self.expected(at.path, at.node, expected);
            return None;
        }
        let around = self.around;
        let mut is_first = true;
        self.list(at, expected, |walker, at| {
            let is_program = std::mem::take(&mut is_first);
            let Some(text) = argument(at.node).filter(|text| !(is_program && text.is_empty()))
            else {
                walker.expected(
                    at.path,
                    at.node,
                    if is_program { "a program" } else { "text" },
                );
                return None;
            };
            // A program without a / is looked for in PATH; any other is a file, and the
            // engine works in a folder of its own.
            let resolved = match is_program && (text.contains('/') || text.starts_with('~')) {
                true => around
                    .resolve(text)
                    .map(|path| path.to_string_lossy().into_owned()),
                false => Some(text.to_owned()),
            };
            walker.template_of(at, &resolved.unwrap_or_else(|| text.to_owned()))
        })
    }

    /// A text with places to fill in.
    fn template(&mut self, at: At, expected: &str) -> Option<Template> {
        let Some(text) = argument(at.node).filter(|text| !text.is_empty()) else {
            self.expected(at.path, at.node, expected);
            return None;
        };
        self.template_of(at, text)
    }

    fn template_of(&mut self, at: At, text: &str) -> Option<Template> {
        let message = if text.contains('\0') {
            "expected text without the character 0".to_owned()
        } else if text.len() > LONGEST_ARGUMENT {
            format!(
                "expected at most {LONGEST_ARGUMENT} bytes, found {}",
                text.len()
            )
        } else {
            match Template::parse(text) {
                Ok(template) => return Some(template),
                Err(error) => {
                    self.unknown_placeholder(at, &error);
                    return None;
                }
            }
        };
        let message = format!("{}: {message}", at.path);
        self.problem(Problem::at(at.node.place, message));
        None
    }

    fn unknown_placeholder(&mut self, at: At, error: &UnknownPlaceholder) {
        let word = &error.word;
        let help = match error.nearest {
            Some(nearest) => format!("did you mean {{{nearest}}}"),
            None => format!("write {{{{{word}}}}} for the text {{{word}}} itself"),
        };
        let message = format!("{}: {error}", at.path);
        self.problem(Problem::at(at.node.place, message).help(help));
    }

    /// `ready`: a path, or part of a line.
    fn ready_sign(&mut self, at: At) -> Option<ReadySign> {
        let expected = "a path such as /health, or part of a line";
        self.read(at, expected, |text| -> Result<ReadySign, Wrong> {
            let fits = |c: char| c.is_ascii_graphic() && c != '#';
            match text.starts_with('/') {
                true if text.chars().all(fits) => Ok(ReadySign::Path(text.to_owned())),
                true => Err(Wrong::expected(expected, text, None)),
                false => Ok(ReadySign::Line(text.to_owned())),
            }
        })
    }

    /// `kinds`: at least one.
    pub(super) fn kinds(&mut self, at: At) -> Option<Vec<Use>> {
        let words = Use::ALL.map(|kind| (kind.as_str(), kind));
        let expected = "chat, completions, embeddings, rerank or audio";
        let mut kinds = self.list(at, "a list of kinds", |walker, at| {
            walker.choice(at, expected, &words)
        })?;
        kinds.sort_unstable();
        kinds.dedup();
        let is_empty = match &at.node.value {
            Value::List { items, .. } => items.is_empty(),
            _ => true,
        };
        if is_empty {
            self.expected(at.path, at.node, "at least one kind");
            return None;
        }
        Some(kinds)
    }

    /// `env`: variables with their values.
    fn variables(&mut self, at: At) -> BTreeMap<String, Template> {
        let mut variables = BTreeMap::new();
        for pair in self.unique(at.path, at.node) {
            let path = join(at.path, &pair.key);
            let inner = At {
                path: &path,
                node: &pair.node,
            };
            if !is_variable(&pair.key) {
                let message = format!(
                    "{}: expected a variable of letters, digits and _, found {}",
                    at.path,
                    quoted(&pair.key)
                );
                self.problem(Problem::at(pair.place, message));
                continue;
            }
            let value = match argument(inner.node) {
                Some("") => Some(Template::literal(String::new())),
                _ => self.template(inner, "text"),
            };
            variables.extend(value.map(|value| (pair.key.clone(), value)));
        }
        variables
    }

    /// `models.NAME.engine`: `mlx`, or one of the file.
    pub(super) fn engine_of_entry(&mut self, at: At) -> Option<Arc<Engine>> {
        let known = self.engines.clone();
        let read = self.read(at, "mlx or an engine of engines", |text| {
            if text == OWN[0] {
                return Ok(None);
            }
            match known.get(text) {
                Some(engine) => Ok(engine.clone()),
                None => {
                    let names = known.keys().map(String::as_str).chain([OWN[0]]);
                    let help = match suggest::nearest(text, names) {
                        Some(nearest) => format!("did you mean {nearest:?}"),
                        None => format!("write engines.{text} with its command, or mlx"),
                    };
                    let message = format!("engines has no {}", quoted(text));
                    Err(Wrong::advised(message, Some(help)))
                }
            }
        });
        read.flatten()
    }

    /// `models.NAME.file`: a file of the snapshot.
    pub(super) fn file_of_entry(&mut self, at: At) -> Option<String> {
        self.read(at, "a file of the snapshot", |text| {
            let mut parts = Path::new(text).components();
            match parts.all(|part| matches!(part, Component::Normal(_))) && !text.contains('\0') {
                true => Ok(text.to_owned()),
                false => Err(Wrong::expected(
                    "a file of the snapshot, as a path inside of it",
                    text,
                    advice::path(text),
                )),
            }
        })
    }

    /// What an entry says that its engine has no use for.
    pub(super) fn check_entry_engine(
        &mut self,
        shown: &str,
        load: &LoadSettings,
        is_foreign: bool,
        written: &[(String, Place)],
    ) {
        for (key, place) in written {
            let (message, help) = match (key.as_str(), &load.engine) {
                ("file", None) if !is_foreign => (
                    "file is for engines that take {file}, and this entry has none".to_owned(),
                    "add engine: NAME of one of engines, or remove file",
                ),
                ("file", Some(engine)) if !engine.uses(Placeholder::File) => (
                    format!("engines.{} takes no {{file}}", engine.name),
                    "remove file, or put {file} into the command",
                ),
                (key, _) if is_foreign && EMBEDDED_ONLY.contains(&key) => (
                    format!("{key} is for the embedded engine"),
                    "remove it; what another engine does stands in its command",
                ),
                _ => continue,
            };
            self.problem(Problem::at(*place, format!("{shown}: {message}")).help(help));
        }
    }
}

/// The text of an argument; numbers and switches are text here.
fn argument(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// What an engine may be called.
fn engine_name(name: &str) -> Result<(), String> {
    match name {
        own if OWN.contains(&own) => {
            Err("an engine of this name comes with the program".to_owned())
        }
        name => Name::parse(name)
            .map(drop)
            .map_err(|error| error.to_string()),
    }
}

/// What POSIX calls a name.
pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
