//! What a key takes, as a value: the words of `docs/CONFIG.md` and the JSON
//! Schema are both made from it. Whether a text really fits is for `walk` to say;
//! the schema may let pass what `walk` refuses, and never the other way round.

use serde_json::{Map, Value, json};

use crate::api::fields::{self, FIELDS};
use crate::config::request;

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// One of several kinds.
    Any(&'static [Kind]),
    /// A list of a kind.
    List(&'static Kind),
    /// This very word.
    Word(&'static str),
    /// `true` or `false`.
    Switch,
    /// A whole number from 1.
    Number,
    /// A number of tokens, from 1.
    Tokens,
    /// `48GB`
    Size,
    /// `40%` of what the words say.
    Percentage(&'static str),
    /// `90s`
    Duration,
    /// A name as requests may say it.
    Name,
    /// A name with what is special about it: `{name, background}`.
    SpecialName,
    /// A name with what an upstream calls it: `{name, as}`.
    RemoteName,
    /// `https://api.example.com/v1`
    Url,
    /// `mlx-community/*`
    Pattern,
    /// `org/name`
    Repository,
    /// A branch, tag or commit.
    Revision,
    /// The path of a folder.
    Folder,
    /// The path of a file.
    File,
    /// `127.0.0.1:11440` or `unix:PATH`
    Address,
    /// `ai.example.internal`
    Host,
    /// `https://chat.example.com`
    Origin,
    /// `10.0.0.1` or `10.0.0.0/8`
    Network,
    /// `0660`
    Mode,
    /// What is logged.
    Filter,
    /// Any text.
    Text,
    /// A word to filter lists by.
    Tag,
    /// The name of a field of requests.
    Field,
    /// Fields of requests with their values.
    Fields,
    /// Fields of requests with the most they may be.
    FieldLimits,
    /// Variables of an environment with their values.
    Variables,
    /// Names after a colon, each with fields and values.
    Variants,
    /// Keys with values, which have rows of their own in the table.
    Mapping,
}

use Kind::{
    Address, Any, Duration, Field, FieldLimits, Fields, File, Filter, Folder, Host, List, Mapping,
    Mode, Name, Network, Number, Origin, Pattern, Percentage, RemoteName, Repository, Revision,
    Size, SpecialName, Switch, Tag, Text, Tokens, Url, Variables, Variants, Word,
};

/// A scalar that looks like a number or a switch is text here, and editors read it
/// as what it looks like.
const ANY_SCALAR: [&str; 3] = ["string", "number", "boolean"];

impl Kind {
    /// The words of the documentation.
    pub fn words(self) -> String {
        match self {
            Any(kinds) => joined(kinds.iter().map(|kind| kind.words()).collect()),
            List(kind) => format!("list of {}", kind.many()),
            Word(word) => format!("`{word}`"),
            Switch => "`true` or `false`".to_owned(),
            Number => "number".to_owned(),
            Tokens => "tokens".to_owned(),
            Size => "size".to_owned(),
            Percentage(of) => format!("percentage of {of}"),
            Duration => "duration".to_owned(),
            Name => "name".to_owned(),
            SpecialName => "`{name, background}`".to_owned(),
            RemoteName => "`{name, as}`".to_owned(),
            Url => "URL".to_owned(),
            Pattern => "pattern".to_owned(),
            Repository => "repository id".to_owned(),
            Revision => "branch, tag or commit".to_owned(),
            Folder => "folder".to_owned(),
            File => "file".to_owned(),
            Address => "address".to_owned(),
            Host => "host".to_owned(),
            Origin => "origin".to_owned(),
            Network => "address or network".to_owned(),
            Mode => "mode such as `0660`".to_owned(),
            Filter => "filter".to_owned(),
            Text => "text".to_owned(),
            Tag => "word".to_owned(),
            Field => "field".to_owned(),
            Fields => "fields with values".to_owned(),
            FieldLimits => "fields with numbers".to_owned(),
            Variables => "variables with values".to_owned(),
            Variants => "names, each with fields and values".to_owned(),
            Mapping => "mapping".to_owned(),
        }
    }

    /// The words for several of them.
    fn many(self) -> String {
        match self {
            Any(kinds) => joined(kinds.iter().map(|kind| kind.many()).collect()),
            Network => "addresses or networks".to_owned(),
            Address => "addresses".to_owned(),
            Name | Pattern | Folder | Host | Origin | Tag | Field | Text => self.words() + "s",
            other => other.words(),
        }
    }

    /// What a JSON Schema says of a value.
    pub fn schema(self) -> Value {
        match self {
            Any(kinds) => any(kinds),
            // A list that is not written out is an empty one.
            List(kind) => json!({"type": ["array", "null"], "items": kind.schema()}),
            Word(word) => json!({"enum": [as_json(word)]}),
            Switch => json!({"type": "boolean"}),
            Number | Tokens => json!({"type": "integer", "minimum": 1}),
            // Names of any kind may look like numbers or switches. Whether a * fits is
            // for the reader to say.
            Name => scalar(
                "^[A-Za-z0-9._:/*-]{1,96}$",
                "expected a name of letters, digits and . _ : / -",
            ),
            SpecialName => json!({
                "type": "object",
                "properties": {"name": Name.schema(), "background": Switch.schema()},
                "required": ["name"],
                "additionalProperties": false,
            }),
            RemoteName => json!({
                "type": "object",
                "properties": {"name": Name.schema(), "as": Text.schema()},
                "required": ["name"],
                "additionalProperties": false,
            }),
            Url => text(
                "^(https://[^/@?#]+|http://(localhost|127\\.[0-9.]+|\\[::1\\])(:[0-9]+)?)(/[^?#]*)?$",
                "expected a URL such as https://api.example.com/v1",
            ),
            Revision => scalar(
                "^[A-Za-z0-9._/-]{1,96}$",
                "expected a branch, tag or commit",
            ),
            // An editor reads 0660 as a number.
            Mode => json!({"type": ["string", "integer"], "pattern": "^0[0-7]{3}$"}),
            Folder | File => text(
                "^[^$]",
                "expected a path; ~ is the home folder, variables are not filled in",
            ),
            Filter => text(".", "expected a level such as info, or target=level"),
            Size => text(
                "^[0-9]+(\\.[0-9]+)? *([kKmMgGtT][iI]?)?[bB]$",
                "expected a size with its unit, such as 48GB or 512MB",
            ),
            Percentage(_) => text("^[0-9]+(\\.[0-9]+)?%$", "expected a percentage such as 40%"),
            Duration => text(
                "^[0-9]+(\\.[0-9]+)? *(ms|s|m|h|d)$",
                "expected a duration with its unit, such as 90s or 10m",
            ),
            Pattern => text(
                "^[A-Za-z0-9._:*-]*/[A-Za-z0-9._:*-]*$",
                "expected a pattern with one /, such as mlx-community/*",
            ),
            Repository => text(
                "^[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*$",
                "expected a repository id such as org/name",
            ),
            Address => text(
                "^(unix:.+|[0-9.]+:[0-9]+|\\[[0-9a-fA-F:.]+\\]:[0-9]+)$",
                "expected an address such as 127.0.0.1:11440 or unix:PATH",
            ),
            Host => text("^[^*/]+$", "expected a host without a port"),
            Origin => text(
                "^[a-z0-9+.-]+://[^/*]+$",
                "expected an origin such as https://chat.example.com",
            ),
            Network => text(
                "^[0-9a-fA-F.:]+(/[0-9]+)?$",
                "expected an address or a network such as 10.0.0.0/8",
            ),
            Text | Field => json!({"type": ANY_SCALAR}),
            Tag => scalar(
                "^[A-Za-z0-9._-]{1,64}$",
                "expected a word of letters, digits and . _ -",
            ),
            // What each field takes is for the reader to say.
            Fields => fields(&request::settable, &json!({})),
            FieldLimits => fields(&request::limitable, &json!({"type": "number"})),
            Variables => json!({
                "type": ["object", "null"],
                "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
                "additionalProperties": Text.schema(),
            }),
            Variants => json!({
                "type": ["object", "null"],
                "propertyNames": {"pattern": "^[A-Za-z0-9._-]{1,94}$"},
                "additionalProperties": Fields.schema(),
            }),
            Mapping => json!({"type": ["object", "null"]}),
        }
    }
}

/// The fields of requests that may stand here.
fn fields(fits: &dyn Fn(&fields::Field) -> bool, value: &Value) -> Value {
    let names = FIELDS.iter().filter(|field| fits(field));
    let properties = names.map(|field| (field.name.to_owned(), value.clone()));
    json!({
        "type": ["object", "null"],
        "properties": properties.collect::<Map<_, _>>(),
        "additionalProperties": false,
    })
}

/// Text of a form. The messages are what the YAML and JSON servers of editors show
/// instead of the pattern or the type; validators pass over them.
fn text(pattern: &str, message: &str) -> Value {
    json!({
        "type": "string",
        "pattern": pattern,
        "patternErrorMessage": message,
        "errorMessage": message,
    })
}

/// Text of a form that may look like something else.
fn scalar(pattern: &str, message: &str) -> Value {
    let mut schema = text(pattern, message);
    schema["type"] = json!(ANY_SCALAR);
    schema
}

/// Words become an `enum`, which editors complete; the rest stays apart.
fn any(kinds: &[Kind]) -> Value {
    let words = kinds.iter().filter_map(|kind| match kind {
        Word(word) => Some(as_json(word)),
        _ => None,
    });
    let words: Vec<Value> = words.collect();
    let others = kinds.iter().filter(|kind| !matches!(kind, Word(_)));
    let mut schemas: Vec<Value> = others.map(|kind| kind.schema()).collect();
    if !words.is_empty() {
        schemas.push(json!({"enum": words}));
    }
    match <[Value; 1]>::try_from(schemas) {
        Ok([only]) => only,
        Err(schemas) => Value::Object(Map::from_iter([("anyOf".to_owned(), schemas.into())])),
    }
}

/// A word as editors read it.
fn as_json(word: &str) -> Value {
    match word {
        "true" => json!(true),
        "false" => json!(false),
        word => json!(word),
    }
}

/// `a, b or c`
fn joined(mut parts: Vec<String>) -> String {
    let last = parts.pop().unwrap_or_default();
    match parts.is_empty() {
        true => last,
        false => format!("{} or {last}", parts.join(", ")),
    }
}
