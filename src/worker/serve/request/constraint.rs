//! What a request says an answer has to be. Several fields may say it, the one way or
//! the other; one of them may at a time.

use serde_json::Value;

use crate::api::error::ApiError;
use crate::api::fields::format::WAYS;
use crate::api::fields::invalid;
use crate::engine::constraint::Constraint;
use crate::worker::serve::fields::Fields;

/// Takes the fields about what the answer has to be: the constraint with the field that
/// says it. The table has let nothing through that is not of the right form.
pub(super) fn read(fields: &mut Fields) -> Result<Option<(String, Constraint)>, ApiError> {
    let mut found: Vec<(String, Constraint)> = Vec::new();
    if let Some(value) = fields.take("response_format")? {
        found.extend(format(&value));
    }
    if let Some(Value::Object(ways)) = fields.take("structured_outputs")? {
        let way = ways
            .into_iter()
            .find(|(way, value)| WAYS.contains(&way.as_str()) && !value.is_null());
        found.extend(way.and_then(|(way, value)| {
            let place = format!("structured_outputs.{way}");
            Some((place, by(&way, value)?))
        }));
    }
    for (name, way) in [
        ("guided_json", "json"),
        ("guided_regex", "regex"),
        ("guided_choice", "choice"),
        ("guided_grammar", "grammar"),
        ("grammar", "grammar"),
    ] {
        let constraint = fields.take(name)?.and_then(|value| by(way, value));
        found.extend(constraint.map(|constraint| (name.to_owned(), constraint)));
    }
    if let [(first, _), (second, _), ..] = found.as_slice() {
        let message = format!("{second}: expected nothing beside {first}, found both");
        return Err(invalid(second.as_str(), message));
    }
    Ok(found.pop())
}

/// What `response_format` says; nothing if any text will do.
fn format(value: &Value) -> Option<(String, Constraint)> {
    let schema = |place: &str, schema: &Value, strict| {
        let constraint = Constraint::Schema {
            schema: schema.clone(),
            strict,
        };
        Some((place.to_owned(), constraint))
    };
    match value["type"].as_str() {
        Some("json_object") => match &value["schema"] {
            Value::Null => Some(("response_format".to_owned(), Constraint::Object)),
            found => schema("response_format.schema", found, false),
        },
        Some("json_schema") => {
            let described = &value["json_schema"];
            let strict = described["strict"].as_bool().unwrap_or(false);
            let place = "response_format.json_schema.schema";
            schema(place, &described["schema"], strict)
        }
        _ => None,
    }
}

/// What is said in one of the [`WAYS`].
fn by(way: &str, value: Value) -> Option<Constraint> {
    Some(match (way, value) {
        ("json", Value::String(text)) => Constraint::Schema {
            schema: serde_json::from_str(&text).ok()?,
            strict: true,
        },
        ("json", schema) => Constraint::Schema {
            schema,
            strict: true,
        },
        ("json_object", _) => Constraint::Object,
        ("regex", Value::String(pattern)) => Constraint::Pattern(pattern),
        ("grammar", Value::String(grammar)) => Constraint::Grammar(grammar),
        ("choice", Value::Array(choices)) => {
            let text = |choice: Value| match choice {
                Value::String(text) => Some(text),
                _ => None,
            };
            Constraint::Choice(choices.into_iter().filter_map(text).collect())
        }
        _ => return None,
    })
}
