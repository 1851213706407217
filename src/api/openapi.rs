//! The description of both ports, as OpenAPI 3.1. What a path asks of its caller
//! comes from the table of routes, what a field may hold from the table of
//! fields; what is written by hand is what an operation is for and what it
//! answers. A test holds the operations against the routes, both ways.

use serde_json::{Map, Value, json};

use super::table::Route;
use crate::access::Access;

pub mod inference;
pub mod management;
mod schemas;

/// What is told of one method of one path.
pub struct Operation {
    /// In capitals.
    pub method: &'static str,
    /// As the table of routes writes it.
    pub path: &'static str,
    /// What it is for.
    pub summary: &'static str,
    /// The schema of the JSON body it takes.
    pub takes: Option<&'static str>,
    /// Statuses that are no refusals, each with what comes with it.
    pub answers: &'static [(u16, Answer)],
    /// Whether a model answers: on terms of waiting, and in a stream if asked to.
    pub generates: bool,
    /// Statuses of refusals beside those that every operation has.
    pub refusals: &'static [u16],
}

/// The body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is none.
    Empty,
    /// JSON of this schema.
    Json(&'static str),
    /// Text of this media type.
    Text(&'static str),
}

/// Paths that are passed on, as far as they are described: words with slashes between.
const PLAIN: &str = "^[a-z]{3,20}(/[a-z]{3,20})?$";

/// Refusals before a request is looked at: its framing, its Host and Origin, its
/// pace, how often it comes; and a fault of ours. 414 and 431 have no body.
const ALWAYS: &[u16] = &[400, 403, 408, 414, 429, 431, 500, 503];

/// Refusals of whoever may not come in.
const GUARDED: &[u16] = &[401];

/// Refusals of a body before it is read.
const OF_A_BODY: &[u16] = &[413, 415];

/// The document of a port: `routes` says which paths there are, `operations` what
/// they do, `schemas` what the bodies look like.
pub fn document(
    title: &str,
    routes: &[Route],
    operations: &[Operation],
    schemas: Map<String, Value>,
) -> Value {
    let mut paths = Map::new();
    for route in routes {
        let mut item = Map::new();
        for operation in operations.iter().filter(|known| known.path == route.path) {
            let described = describe(operation, route.access);
            item.insert(operation.method.to_lowercase(), described);
        }
        paths.insert(path(route.path), item.into());
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": title, "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    })
}

/// A path of the table as OpenAPI writes it.
fn path(pattern: &str) -> String {
    pattern.replace("{*", "{")
}

fn describe(operation: &Operation, access: Access) -> Value {
    let mut described = json!({
        "summary": operation.summary,
        "responses": responses(operation, access),
        "security": match access {
            Access::Open => json!([]),
            _ => json!([{"bearer": []}, {"header": []}]),
        },
    });
    if let Some(schema) = operation.takes {
        described["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": reference(schema)}},
        });
    }
    let mut parameters = in_path(operation.path);
    parameters.extend(in_query(operation.path));
    if operation.generates {
        parameters.extend(terms());
    }
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    described
}

/// The named parts of a path.
fn in_path(path: &str) -> Vec<Value> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let (name, schema) = match name.strip_prefix('*') {
                Some("rest") => ("rest", json!({"type": "string", "pattern": PLAIN})),
                Some(name) => (name, schemas::name()),
                None => (name, json!({"type": "string", "minLength": 1})),
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect()
}

/// On what terms a request waits for its model.
fn terms() -> [Value; 3] {
    [
        json!({
            "name": "autoload",
            "in": "query",
            "description": "Whether a model that is not up may be loaded.",
            "schema": {"enum": ["true", "false"]},
        }),
        json!({
            "name": "x-priority",
            "in": "header",
            "schema": {"enum": ["high", "normal", "low"]},
        }),
        json!({
            "name": "x-roundhouse-explain",
            "in": "header",
            "description": "Whether the answer says what was done for it, in a header of this name.",
            "schema": {"enum": ["1"]},
        }),
    ]
}

/// What a path takes after its question mark, beside the terms of waiting.
fn in_query(path: &str) -> Vec<Value> {
    let words: &[(&str, &str)] = match path {
        "/admin/explain" => &[
            ("model", "A name as requests say it."),
            ("request", "The id of a request that waits or is answered."),
        ],
        "/admin/swaps" => &[(
            "since",
            "Milliseconds since 1970, or how long ago, such as 1h.",
        )],
        "/v1/models" | "/v1/models/" | "/admin/models" => &[(
            "tag",
            "Only models with this tag; with all of them if it stands more than once.",
        )],
        _ => &[],
    };
    let described = words.iter().map(|(name, description)| {
        json!({
            "name": name,
            "in": "query",
            "description": description,
            "schema": {"type": "string"},
        })
    });
    described.collect()
}

fn responses(operation: &Operation, access: Access) -> Map<String, Value> {
    let guarded = match access {
        Access::Open => &[],
        _ => GUARDED,
    };
    let of_a_body = match operation.takes {
        None => &[],
        Some(_) => OF_A_BODY,
    };
    let mut statuses = [ALWAYS, guarded, of_a_body, operation.refusals].concat();
    statuses.sort_unstable();
    let mut responses = Map::new();
    for status in statuses {
        let refusal = match status {
            414 | 431 => Answer::Empty,
            _ => Answer::Json("Error"),
        };
        responses.insert(status.to_string(), response("refused", refusal, operation));
    }
    for (status, answer) in operation.answers {
        let mut response = response("answered", *answer, operation);
        if operation.generates {
            // A schema here would be one for each event, or for all of them: readers differ.
            response["content"]["text/event-stream"] = json!({});
        }
        responses.insert(status.to_string(), response);
    }
    responses
}

fn response(description: &str, answer: Answer, operation: &Operation) -> Value {
    let mut response = json!({
        "description": description,
        "headers": {"x-request-id": {"schema": {"type": "string"}}},
    });
    match answer {
        // The body of a refusal stays away like any other.
        _ if operation.method == "HEAD" => {}
        Answer::Empty => {}
        Answer::Json(schema) => {
            response["content"]["application/json"]["schema"] = reference(schema);
        }
        Answer::Text(kind) => response["content"][kind]["schema"] = json!({"type": "string"}),
    }
    response
}

/// A schema by its name.
fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

#[cfg(test)]
mod tests;
