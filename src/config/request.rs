//! What the file says about the requests to an entry: `models.NAME.request` and
//! the parameters of `models.NAME.variants`. How a request is changed by them is
//! the business of `dispatch/rules.rs`.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use crate::api::fields::{Field, Takes};

/// Fields of a request with their values.
pub type Parameters = Map<String, Value>;

/// The field that bounds an answer. Here it stands for [`NEWER_BOUND`] as well.
pub const BOUND: &str = "max_tokens";

/// The newer spelling of [`BOUND`].
pub const NEWER_BOUND: &str = "max_completion_tokens";

/// Fields that the router itself acts on, or that make up the request: no rule
/// changes them, but for a limit of `n`.
pub const OWN: [&str; 11] = [
    "model",
    "messages",
    "prompt",
    "input",
    "query",
    "documents",
    "encoding_format",
    "stream",
    "n",
    "ttl",
    "keep_alive",
];

/// Whether a rule or a variant may give the field a value.
pub fn settable(field: &Field) -> bool {
    let is_own = OWN.contains(&field.name) || field.name == NEWER_BOUND;
    !is_own && !matches!(field.takes, Takes::Nothing(..))
}

/// Whether a rule may limit the field.
pub fn limitable(field: &Field) -> bool {
    let is_number = matches!(field.takes, Takes::Whole(..) | Takes::Number(..));
    is_number && (settable(field) || field.name == "n")
}

/// `models.NAME.request`: what becomes of the fields of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// `defaults`: what holds where a request does not say.
    pub defaults: Parameters,
    /// `limits`: the most that a number may be.
    pub limits: BTreeMap<String, Number>,
    /// `set`: what holds whatever a request says.
    pub set: Parameters,
    /// `strip`: fields that are taken out first.
    pub strip: Vec<String>,
    /// `system_prefix`: what stands before the system prompt of a chat.
    pub system_prefix: Option<String>,
    /// `prompt_cache`: who may go on from whose prompts.
    pub prompt_cache: PromptCache,
}

/// Who may go on from prompts that were read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromptCache {
    /// Each caller from their own.
    #[default]
    Private,
    /// Everybody who may use the model from everybody's.
    Shared,
    /// Nobody: prompts are not kept.
    Off,
}

impl PromptCache {
    /// All of them, with the words of the file.
    pub const ALL: [(&'static str, Self); 3] = [
        ("private", Self::Private),
        ("shared", Self::Shared),
        ("off", Self::Off),
    ];

    /// The word of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Off => "off",
        }
    }
}

impl Rules {
    /// Whether bodies go on as they came.
    pub fn is_empty(&self) -> bool {
        let Self {
            defaults,
            limits,
            set,
            strip,
            system_prefix,
            prompt_cache: _,
        } = self;
        let fields = defaults.is_empty() && limits.is_empty() && set.is_empty();
        fields && strip.is_empty() && system_prefix.is_none()
    }
}

/// Puts `more` into `values`, member by member where both are objects. What is
/// there stays.
pub fn fill(values: &mut Parameters, more: &Parameters) {
    for (name, value) in more {
        match (values.get_mut(name), value) {
            (None, value) => {
                values.insert(name.clone(), value.clone());
            }
            (Some(Value::Object(inner)), Value::Object(more)) => fill(inner, more),
            (Some(_), _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_there_stays_and_objects_are_filled_member_by_member() {
        let check = |values: Value, more: Value, expected: Value| {
            let (Value::Object(mut values), Value::Object(more)) = (values, more) else {
                panic!("objects");
            };
            fill(&mut values, &more);
            assert_eq!(Value::Object(values), expected);
        };
        check(json!({}), json!({"a": 1}), json!({"a": 1}));
        check(json!({"a": 2}), json!({"a": 1}), json!({"a": 2}));
        check(
            json!({"a": {"b": 1}}),
            json!({"a": {"b": 2, "c": 3}}),
            json!({"a": {"b": 1, "c": 3}}),
        );
        check(json!({"a": 2}), json!({"a": {"b": 1}}), json!({"a": 2}));
    }
}
