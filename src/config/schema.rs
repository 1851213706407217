//! The JSON Schema of `models.yaml`, draft 07, which the YAML servers of editors
//! take: completion, the text of each key, and errors while typing. Made from the
//! table of keys. Pure.
//!
//! Source of the format: <https://json-schema.org/draft-07>; `patternErrorMessage`
//! and `markdownDescription` are those of the JSON language service of Visual
//! Studio Code.

use serde_json::{Map, Value, json};

use super::keys::kind::Kind;
use super::keys::{self, KEYS, Key, NAME, Otherwise};

/// The whole schema.
pub fn schema() -> Value {
    let mut schema = section("");
    let head = [
        ("$schema", json!("http://json-schema.org/draft-07/schema#")),
        (
            "title",
            json!("The configuration of Roundhouse, models.yaml"),
        ),
    ];
    let mut whole = Map::from_iter(head.map(|(key, value)| (key.to_owned(), value)));
    if let Value::Object(section) = &mut schema {
        whole.append(section);
    }
    Value::Object(whole)
}

/// A mapping: `path` is its path in the table of keys.
fn section(path: &str) -> Value {
    let below = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    let children = keys::children(path);
    // Nothing at all is an empty mapping.
    let mut schema = json!({"type": ["object", "null"]});
    if children == [NAME] {
        schema["propertyNames"] = json!({"pattern": "^[A-Za-z0-9_:-][A-Za-z0-9._:/-]{0,95}$"});
        schema["additionalProperties"] = value(&below(NAME));
        return schema;
    }
    let properties = children
        .iter()
        .map(|name| ((*name).to_owned(), value(&below(name))));
    schema["properties"] = Value::Object(properties.collect());
    schema["additionalProperties"] = json!(false);
    schema
}

/// What stands behind a key.
fn value(path: &str) -> Value {
    let key = KEYS.iter().find(|key| key.path == path);
    let mut schema = match key {
        Some(key) if key.kind != Kind::Mapping => key.kind.schema(),
        _ => section(path),
    };
    if let Some(key) = key {
        describe(&mut schema, key);
    }
    schema
}

/// The words that an editor shows beside a key.
fn describe(schema: &mut Value, key: &Key) {
    let default = match key.default {
        Otherwise::Value(value) => format!("\n\nDefault: `{value}`."),
        Otherwise::Words(words) => format!("\n\nDefault: {words}."),
        Otherwise::Absent => String::new(),
    };
    let works = match key.class {
        keys::Class::Live => "A change works with the reload.",
        keys::Class::NextLoad => "A change works when the model is loaded the next time.",
        keys::Class::Restart => "A change works when the server starts again.",
    };
    let text = format!("{}: {}.{default}\n\n{works}", key.kind.words(), key.about);
    schema["description"] = json!(text.replace('`', ""));
    schema["markdownDescription"] = json!(text);
    if let Otherwise::Value(value) = key.default {
        schema["default"] = typed(key.kind, value);
    }
}

/// A default as JSON has it.
fn typed(kind: Kind, text: &str) -> Value {
    let is_text = matches!(kind, Kind::Mode | Kind::Revision);
    match serde_json::from_str(text) {
        Ok(value) if !is_text => value,
        _ => json!(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_table_is_in_the_schema_with_its_words() {
        let schema = schema();
        for key in KEYS {
            let mut at = &schema;
            for part in key.path.split('.') {
                at = match part {
                    NAME => &at["additionalProperties"],
                    part => &at["properties"][part],
                };
            }
            let words = at["markdownDescription"].as_str().unwrap_or_default();
            assert!(words.contains(key.about), "{}: {at}", key.path);
            assert_eq!(
                at.get("default").is_some(),
                matches!(key.default, Otherwise::Value(_)),
                "{}",
                key.path
            );
        }
    }
}
