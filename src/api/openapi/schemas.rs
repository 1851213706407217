//! What bodies look like, as JSON Schema. Requests come from the table of fields
//! and the counts in force; answers are told as far as clients may rely on them.

use serde_json::{Map, Value, json};

use crate::api::fields::{Endpoint, FIELDS, Field, Shape, Takes, format};
use crate::config::Counts;

/// The schemas of the inference port.
pub(super) fn inference(counts: &Counts) -> Map<String, Value> {
    let list = json!({"type": "array", "items": {"$ref": "#/components/schemas/Model"}});
    let mut schemas = common();
    for (name, schema) in [
        (
            "Health",
            json!({
                "type": "object",
                "required": ["status"],
                "properties": {"status": {"enum": ["ok", "degraded"]}},
            }),
        ),
        (
            "Model",
            object(&["id", "object", "created", "owned_by", "state", "cached"]),
        ),
        (
            "ModelList",
            json!({
                "type": "object",
                "required": ["object", "data"],
                "properties": {"object": {"const": "list"}, "data": list},
            }),
        ),
        ("ChatRequest", request(Endpoint::Chat, counts)),
        ("CompletionRequest", request(Endpoint::Completions, counts)),
        ("EmbeddingRequest", request(Endpoint::Embeddings, counts)),
        ("RerankRequest", request(Endpoint::Rerank, counts)),
        ("SpeechRequest", request(Endpoint::Speech, counts)),
        ("OtherRequest", request(Endpoint::Other, counts)),
        ("Ranks", object(&["results"])),
        ("Embeddings", embeddings()),
        ("ChatCompletion", answer("chat.completion")),
        ("Completion", answer("text_completion")),
    ] {
        schemas.insert(name.to_owned(), schema);
    }
    schemas
}

/// The schemas of the management port.
pub(super) fn management() -> Map<String, Value> {
    let target = |more: Value| {
        let mut properties = json!({"model": name()});
        if let (Value::Object(to), Value::Object(more)) = (&mut properties, more) {
            to.extend(more);
        }
        json!({
            "type": "object",
            "required": ["model"],
            "properties": properties,
            "additionalProperties": false,
        })
    };
    let mode = json!({"mode": {"enum": ["idle", "drain", "now", null]}});
    let status = [
        "version",
        "process",
        "uptime_seconds",
        "ready",
        "configuration",
        "memory",
        "requests",
        "counters",
        "models",
    ];
    let mut schemas = common();
    for (name, schema) in [
        ("LoadRequest", target(json!({}))),
        ("UnloadRequest", target(mode)),
        (
            "ClearRequest",
            json!({
                "type": "object",
                "properties": {"model": {"type": ["string", "null"]}},
                "additionalProperties": false,
            }),
        ),
        ("Prompts", object(&["models"])),
        ("Status", object(&status)),
        ("Models", object(&["models"])),
        ("Queue", object(&["waiting"])),
        ("Requests", object(&["requests"])),
        ("Cancelled", object(&["success", "id", "requests"])),
        (
            "Swaps",
            object(&["all", "kept", "sum", "by_caller", "by_name", "swaps"]),
        ),
        ("Explanation", object(&["name", "path", "served"])),
        ("Settings", object(&["generation", "config", "keys"])),
        ("Reloaded", object(&["generation", "change", "details"])),
        ("Candidate", candidate()),
        (
            "Considered",
            object(&[
                "file",
                "generation",
                "changes",
                "change",
                "details",
                "unloads",
            ]),
        ),
        ("Released", object(&["success", "models"])),
        ("KeyList", object(&["keys"])),
        ("KeyRequest", key_request()),
        ("Key", object(&["id", "class", "key"])),
        ("Revoked", object(&["success", "id"])),
    ] {
        schemas.insert(name.to_owned(), schema);
    }
    schemas
}

/// A text that could stand in the configuration's place.
fn candidate() -> Value {
    json!({
        "type": "object",
        "required": ["text"],
        "properties": {"text": {"type": "string"}},
        "additionalProperties": false,
    })
}

/// A key that is asked for.
fn key_request() -> Value {
    json!({
        "type": "object",
        "required": ["class"],
        "properties": {
            "class": {"enum": ["inference", "management"]},
            "name": {"type": ["string", "null"]},
            "scope": {"type": "object"},
        },
        "additionalProperties": false,
    })
}

/// A residency lease that is asked for.
fn lease_request() -> Value {
    json!({
        "type": "object",
        "required": ["model"],
        "properties": {
            "model": name(),
            "seconds": {"type": ["integer", "null"], "minimum": 1},
        },
        "additionalProperties": false,
    })
}

/// A residency lease that is given back.
fn lease_id() -> Value {
    json!({
        "type": "object",
        "required": ["id"],
        "properties": {"id": {"type": "string"}},
        "additionalProperties": false,
    })
}

/// What both ports have.
fn common() -> Map<String, Value> {
    let error = json!({
        "type": "object",
        "required": ["error"],
        "properties": {"error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }},
    });
    let description = object(&["openapi", "info", "paths", "components"]);
    [
        ("Error", error),
        ("Description", description),
        ("LeaseRequest", lease_request()),
        ("LeaseId", lease_id()),
        ("Lease", object(&["id", "model", "seconds", "limited"])),
        ("Done", object(&["success", "model"])),
    ]
    .map(|(name, schema)| (name.to_owned(), schema))
    .into_iter()
    .collect()
}

/// An object that has at least these.
fn object(required: &[&str]) -> Value {
    json!({"type": "object", "required": required})
}

/// What the engine answers when it does not stream.
fn answer(kind: &str) -> Value {
    json!({
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": kind},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "minItems": 1, "items": {"type": "object"}},
            "usage": object(&["prompt_tokens", "completion_tokens", "total_tokens"]),
        },
    })
}

/// Vectors, in the order of the texts.
fn embeddings() -> Value {
    let written = json!({"type": ["array", "string"], "items": {"type": "number"}});
    let vector = json!({
        "type": "object",
        "required": ["object", "index", "embedding"],
        "properties": {
            "object": {"const": "embedding"},
            "index": {"type": "integer"},
            "embedding": written,
        },
    });
    json!({
        "type": "object",
        "required": ["object", "data", "model", "usage"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "minItems": 1, "items": vector},
            "model": {"type": "string"},
            "usage": object(&["prompt_tokens", "total_tokens"]),
        },
    })
}

/// The name of a model.
pub(super) fn name() -> Value {
    json!({"type": "string", "pattern": "^[A-Za-z0-9._:/-]{1,96}$"})
}

/// A request: every field of the table that is known there.
fn request(endpoint: Endpoint, counts: &Counts) -> Value {
    let fields = FIELDS.iter().filter(|field| field.on.contains(&endpoint));
    let properties: Map<String, Value> = fields
        .map(|field| (field.name.to_owned(), property(field, counts)))
        .collect();
    let input = match endpoint {
        Endpoint::Chat => "messages",
        Endpoint::Completions => "prompt",
        Endpoint::Rerank => "query",
        // Uploads are described where they are taken.
        _ => "input",
    };
    json!({"type": "object", "required": ["model", input], "properties": properties})
}

/// What a field may hold.
fn property(field: &Field, counts: &Counts) -> Value {
    match (field.name, &field.takes) {
        ("messages", _) => messages(counts),
        ("tools", _) => json!({
            "type": ["array", "null"],
            "maxItems": counts.tools,
            "items": {"type": "object"},
        }),
        ("n", Takes::Whole(least, _)) => json!({
            "type": ["integer", "null"],
            "minimum": least,
            "maximum": counts.choices,
        }),
        (_, Takes::Name) => name(),
        (_, Takes::Text) => json!({"type": "string"}),
        (_, Takes::Whole(least, most)) => json!({
            "type": ["integer", "null"],
            "minimum": least,
            "maximum": most,
        }),
        (_, Takes::Number(least, most)) => json!({
            "type": ["number", "null"],
            "minimum": least,
            "maximum": most,
        }),
        (_, Takes::Flag) => json!({"type": ["boolean", "null"]}),
        (_, Takes::Object) => json!({"type": ["object", "null"]}),
        (_, Takes::Array) => json!({"type": ["array", "null"]}),
        (_, Takes::Words(words, why)) => {
            let words: Vec<_> = words.iter().copied().map(Value::from).collect();
            only(words, why)
        }
        (_, Takes::Nothing(harmless, why)) => {
            let values = harmless
                .iter()
                .filter_map(|text| serde_json::from_str(text).ok());
            only(values.collect(), why)
        }
        (_, Takes::Shape(shape)) => shaped(*shape, counts),
    }
}

/// A text with something in it, or null.
fn text(longest: usize) -> Value {
    json!({"type": ["string", "null"], "minLength": 1, "maxLength": longest})
}

/// One of these values, or null.
fn only(mut values: Vec<Value>, why: &str) -> Value {
    values.push(Value::Null);
    json!({"enum": values, "description": why})
}

fn shaped(shape: Shape, counts: &Counts) -> Value {
    match shape {
        Shape::Stops => json!({
            "type": ["string", "array", "null"],
            "maxLength": 1024,
            "maxItems": counts.stops,
            "items": {"type": "string", "maxLength": 1024},
        }),
        Shape::Biases => json!({
            "type": ["object", "null"],
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        }),
        Shape::StreamOptions => json!({
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": ["boolean", "null"]}},
        }),
        Shape::Format => json!({
            "type": ["object", "null"],
            "required": ["type"],
            "properties": {
                "type": {"enum": ["text", "json_object", "json_schema"]},
                "json_schema": {
                    "type": "object",
                    "required": ["schema"],
                    "properties": {
                        "schema": {"type": ["object", "boolean"]},
                        "strict": {"type": ["boolean", "null"]},
                    },
                },
            },
        }),
        Shape::Schema => json!({"type": ["object", "boolean", "null"]}),
        Shape::Pattern => text(format::LONGEST_PATTERN),
        Shape::Grammar => text(format::LONGEST_GRAMMAR),
        Shape::Choice => json!({
            "type": ["array", "null"],
            "minItems": 1,
            "maxItems": format::MOST_CHOICES,
            "items": {"type": "string", "minLength": 1},
        }),
        Shape::Structured => json!({
            "type": ["object", "null"],
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": false,
            "properties": {
                "json": {"type": "object"},
                "json_object": {"const": true},
                "regex": text(format::LONGEST_PATTERN),
                "choice": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
                "grammar": text(format::LONGEST_GRAMMAR),
            },
        }),
        Shape::ToolChoice => json!({"anyOf": [
            {"enum": ["auto", "none", "required", null]},
            {
                "type": "object",
                "required": ["type", "function"],
                "properties": {
                    "type": {"const": "function"},
                    "function": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}},
                    },
                },
            },
        ]}),
        Shape::Seconds => json!({"type": ["number", "null"], "minimum": 0}),
        Shape::Duration => json!({
            "type": ["string", "number", "null"],
            "pattern": "^-?([0-9]{1,6}|([0-9]{1,6}(ms|s|m|h)){1,3})$",
        }),
        Shape::Texts => json!({"anyOf": [
            {"type": "string"},
            {
                "type": "array",
                "minItems": 1,
                "maxItems": counts.inputs,
                "items": {"type": "string"},
            },
        ]}),
        Shape::Prompt => {
            let tokens = json!({"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX}});
            let text = json!({"type": "string", "minLength": 1});
            json!({"anyOf": [
                text,
                {"type": "array", "minItems": 1, "maxItems": counts.answers, "items": text},
                tokens,
                {"type": "array", "minItems": 1, "maxItems": counts.answers, "items": tokens},
            ]})
        }
    }
}

fn messages(counts: &Counts) -> Value {
    let text = json!({
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    });
    let content = json!({"anyOf": [
        {"type": "string"},
        {"type": "array", "items": text},
    ]});
    json!({
        "type": "array",
        "minItems": 1,
        "maxItems": counts.messages,
        "items": {
            "type": "object",
            "required": ["role", "content"],
            "properties": {
                "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
                "content": content,
            },
        },
    })
}
