//! `engines.NAME`: an engine that is not ours. Anything that speaks OpenAI's HTTP
//! on a port or a socket of this machine is one: here is how it is started, how one
//! sees that it is ready, what it may be asked. Pure; `worker/supervise` runs it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::suggest;

/// Names that an engine cannot have: those that come with the program.
pub const OWN: [&str; 2] = ["mlx", "scripted"];

/// An engine of the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Engine {
    /// Its key under `engines`.
    pub name: String,
    /// `command`: the program and its arguments, each one argument whatever is
    /// filled in. No shell reads them.
    pub command: Vec<Template>,
    /// `ready`: how it says that it can be asked.
    pub ready: ReadySign,
    /// `kinds`: what it may be asked, in the order of [`Use::ALL`].
    pub kinds: Vec<Use>,
    /// `stop`: how it is asked to end.
    pub stop: StopSignal,
    /// `env`: variables beside those that every worker gets.
    pub env: BTreeMap<String, Template>,
    /// `model`: what it calls the model that it serves.
    pub model: Template,
}

/// How an engine says that it can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadySign {
    /// `GET` of this path is answered with 2xx.
    Path(String),
    /// It writes a line with this text in it, on standard output or error.
    Line(String),
}

/// The signal that asks an engine to end. Whoever does not is killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StopSignal {
    /// `SIGTERM`
    #[default]
    Terminate,
    /// `SIGINT`
    Interrupt,
    /// `SIGQUIT`
    Quit,
    /// `SIGHUP`
    HangUp,
    /// `SIGKILL`: it is not asked.
    Kill,
}

impl StopSignal {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Terminate,
        Self::Interrupt,
        Self::Quit,
        Self::HangUp,
        Self::Kill,
    ];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::HangUp => "SIGHUP",
            Self::Kill => "SIGKILL",
        }
    }
}

/// What an engine may be asked: each kind stands for paths of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/rerank`
    Rerank,
    /// `/v1/audio/transcriptions`, `/v1/audio/translations`, `/v1/audio/speech`
    Audio,
}

impl Use {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Chat,
        Self::Completions,
        Self::Embeddings,
        Self::Rerank,
        Self::Audio,
    ];

    /// What an engine is asked whose kinds are not written.
    pub const USUAL: [Self; 2] = [Self::Chat, Self::Completions];

    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Rerank => "rerank",
            Self::Audio => "audio",
        }
    }
}

/// A text with places that are filled in when an engine is started.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Template(Vec<Part>);

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Part {
    Text(String),
    Place(Placeholder),
}

/// What can be filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placeholder {
    /// A free port of 127.0.0.1.
    Port,
    /// The path of a Unix socket in a private folder.
    Socket,
    /// The snapshot folder.
    Path,
    /// The one file with the weights.
    File,
    /// The name that the pool has for the model.
    Model,
}

impl Placeholder {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Port,
        Self::Socket,
        Self::Path,
        Self::File,
        Self::Model,
    ];

    /// The word between the braces.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Socket => "socket",
            Self::Path => "path",
            Self::File => "file",
            Self::Model => "model",
        }
    }
}

/// A word in braces that stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{{{word}}} stands for nothing here; known are {}", known())]
pub struct UnknownPlaceholder {
    /// What stands between the braces.
    pub word: String,
    /// The nearest one that is known.
    pub nearest: Option<&'static str>,
}

fn known() -> String {
    let words = Placeholder::ALL.map(|place| format!("{{{}}}", place.as_str()));
    words.join(", ")
}

impl Template {
    /// Reads a text. `{port}` and the others are filled in later; `{{port}}` stands
    /// for `{port}` itself. Braces around anything but one word of small letters, as
    /// in JSON, are text.
    ///
    /// # Errors
    /// A word in braces that is no [`Placeholder`].
    pub fn parse(text: &str) -> Result<Self, UnknownPlaceholder> {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            plain.push_str(&rest[..at]);
            rest = &rest[at..];
            let Some((word, is_literal)) = word_in_braces(rest) else {
                plain.push('{');
                rest = &rest[1..];
                continue;
            };
            let length = word.len() + if is_literal { 4 } else { 2 };
            if is_literal {
                plain.push_str(&rest[1..length - 1]);
            } else {
                let mut all = Placeholder::ALL.into_iter();
                let Some(place) = all.find(|place| place.as_str() == word) else {
                    let words = Placeholder::ALL.map(Placeholder::as_str);
                    return Err(UnknownPlaceholder {
                        word: word.to_owned(),
                        nearest: suggest::nearest(word, words),
                    });
                };
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(Part::Place(place));
            }
            rest = &rest[length..];
        }
        plain.push_str(rest);
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// A text in which nothing is filled in.
    pub fn literal(text: String) -> Self {
        Self(vec![Part::Text(text)])
    }

    /// Just the one place.
    pub fn place(place: Placeholder) -> Self {
        Self(vec![Part::Place(place)])
    }

    /// Whether something is filled in at this place.
    pub fn has(&self, place: Placeholder) -> bool {
        self.0.contains(&Part::Place(place))
    }

    /// The text with all places filled in. What is filled in is not looked into.
    pub fn fill<'v>(&self, value: impl Fn(Placeholder) -> &'v str) -> String {
        let pieces = self.0.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Place(place) => value(*place),
        });
        pieces.collect()
    }

    /// The same with those places filled in that are known by now.
    pub fn settle(&self, value: impl Fn(Placeholder) -> Option<String>) -> Self {
        let parts = self.0.iter().map(|part| match part {
            Part::Place(place) => value(*place).map_or_else(|| part.clone(), Part::Text),
            Part::Text(_) => part.clone(),
        });
        Self(parts.collect())
    }
}

impl std::fmt::Display for Template {
    /// As it can be written in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in &self.0 {
            match part {
                Part::Place(place) => write!(f, "{{{}}}", place.as_str())?,
                Part::Text(text) => {
                    let mut rest = text.as_str();
                    while let Some(at) = rest.find('{') {
                        f.write_str(&rest[..at])?;
                        rest = &rest[at..];
                        let length = match word_in_braces(rest) {
                            Some((word, false)) => {
                                write!(f, "{{{{{word}}}}}")?;
                                word.len() + 2
                            }
                            _ => {
                                f.write_str("{")?;
                                1
                            }
                        };
                        rest = &rest[length..];
                    }
                    f.write_str(rest)?;
                }
            }
        }
        Ok(())
    }
}

/// The word of `{word}`, or of `{{word}}`, with which a text begins, and whether the
/// braces are doubled.
fn word_in_braces(text: &str) -> Option<(&str, bool)> {
    let is_literal = text.starts_with("{{");
    let inside = &text[1 + usize::from(is_literal)..];
    let end = inside.find(|c: char| !(c.is_ascii_lowercase() || c == '_'))?;
    let closing = if is_literal { "}}" } else { "}" };
    let closes = end > 0 && inside[end..].starts_with(closing);
    closes.then_some((&inside[..end], is_literal))
}

impl Engine {
    /// Whether anything of its command line or its variables has this place.
    pub fn uses(&self, place: Placeholder) -> bool {
        let texts = self.command.iter().chain(self.env.values());
        texts.chain([&self.model]).any(|text| text.has(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_in_and_what_is_filled_in_is_not_looked_into() {
        let check = |text: &str, expected: &str| {
            let template = Template::parse(text).expect("known places");
            let filled = template.fill(|place| match place {
                Placeholder::Port => "81",
                Placeholder::Path => "/a b/{port}",
                other => other.as_str(),
            });
            assert_eq!(filled, expected, "{text}");
            assert_eq!(template.to_string(), text, "as it was written");
        };
        check("", "");
        check("--port", "--port");
        check("{port}", "81");
        check("http://127.0.0.1:{port}/", "http://127.0.0.1:81/");
        check("{port}{port}", "8181");
        check("--model={path}", "--model=/a b/{port}");
        check("{socket}:{file}:{model}", "socket:file:model");
        check("{{port}}", "{port}");
        check("{\"a\": {\"port\": 1}}", "{\"a\": {\"port\": 1}}");
        check("{ port } {} {1} {Port} {", "{ port } {} {1} {Port} {");
        check("$HOME `x` ; rm -rf *", "$HOME `x` ; rm -rf *");
    }

    #[test]
    fn an_unknown_place_is_refused_with_the_nearest_known() {
        let check = |text: &str, word: &str, nearest: Option<&str>| {
            let error = Template::parse(text).expect_err("unknown");
            assert_eq!((error.word.as_str(), error.nearest), (word, nearest));
        };
        check("{prot}", "prot", Some("port"));
        check("x{modle}y", "modle", Some("model"));
        check("{host}", "host", None);
    }
}
